# Settings that depend on what CMake finds out; the others are in build/main.rs. CMake includes this after each `project()`.

# Vulkan headers older than 1.3.272 (Debian 12, Ubuntu 22.04) lack a few names that ggml uses.
if(GGML_VULKAN)
    include_directories(BEFORE "${CMAKE_CURRENT_LIST_DIR}/vulkan-compat")
endif()

if(GGML_CUDA)
    # The toolkit is often installed outside PATH.
    if(NOT DEFINED CMAKE_CUDA_COMPILER AND NOT DEFINED ENV{CUDACXX})
        find_program(NVCC nvcc
            HINTS "$ENV{CUDA_PATH}/bin" "$ENV{CUDA_HOME}/bin"
            PATHS /usr/local/cuda/bin /opt/cuda/bin /usr/lib/cuda/bin /usr/lib/nvidia-cuda-toolkit/bin)
        if(NVCC)
            set(CMAKE_CUDA_COMPILER "${NVCC}" CACHE FILEPATH "")
        else()
            message(FATAL_ERROR
                "Feature `cuda`: no CUDA toolkit was found (nvcc). Install it (Debian, Ubuntu: apt install nvidia-cuda-toolkit; "
                "Fedora, RHEL: dnf install cuda-toolkit; Arch: pacman -S cuda), or point CUDA_PATH at its folder.")
        endif()
    endif()
    # ggml would ask for `native`, which is nothing sensible on a machine without a GPU, and a container has none while
    # it is built. Machine code for the GPUs that are here; else a list that serves every card since Turing.
    if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES AND NOT DEFINED ENV{CUDAARCHS})
        execute_process(
            COMMAND nvidia-smi --query-gpu=compute_cap --format=csv,noheader
            RESULT_VARIABLE SMI_FAILED OUTPUT_VARIABLE SMI_LIST ERROR_QUIET TIMEOUT 10)
        string(REGEX MATCHALL "[0-9]+\\.[0-9]" SMI_LIST "${SMI_LIST}")
        if(SMI_FAILED OR NOT SMI_LIST)
            set(SMI_LIST 75-virtual 80-virtual 86-real 89-real 90-real)
        endif()
        string(REPLACE "." "" SMI_LIST "${SMI_LIST}")
        list(REMOVE_DUPLICATES SMI_LIST)
        set(CMAKE_CUDA_ARCHITECTURES "${SMI_LIST}" CACHE STRING "")
    endif()
    # Without the driver's own memory calls the binary does not refer to libcuda.so.1, and starts where there is none.
    if(NOT DEFINED GGML_CUDA_NO_VMM)
        set(GGML_CUDA_NO_VMM ON CACHE BOOL "")
    endif()
endif()

# The user's own include, which whisper-rs-sys would have handed on.
if(USERS_PROJECT_INCLUDE)
    include("${USERS_PROJECT_INCLUDE}")
endif()
