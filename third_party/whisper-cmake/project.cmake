# What whisper.cpp's CMake files need to be told and an environment variable cannot say.
# CMake includes this after each `project()` (CMAKE_PROJECT_INCLUDE, set in .cargo/config.toml). whisper-rs-sys runs
# CMake and hands on every variable that begins with WHISPER_, GGML_ or CMAKE_.

# WHISPER_CUBLAS=1 was whisper.cpp's switch for CUDA, and people still set it. Version 1.8.3 ends the build when it sees
# it. The cargo feature `cuda` decides here; build.rs says so when the two disagree.
unset(WHISPER_CUBLAS CACHE)
unset(WHISPER_CUBLAS)

# whisper-rs has no OpenCL feature. Our feature `opencl` switches on `whisper-rs-sys/force-debug`, which is nothing but
# a marker: cargo passes it here, and its two effects (debug log lines, a build with debug information) are taken back.
# Being a feature of that crate it also gives the OpenCL build a folder of its own, so that nothing goes stale.
if(DEFINED ENV{CARGO_FEATURE_FORCE_DEBUG})
    set(GGML_OPENCL ON CACHE BOOL "" FORCE)
    string(REPLACE "-DWHISPER_DEBUG" "" CMAKE_CXX_FLAGS "${CMAKE_CXX_FLAGS}")
    set(CMAKE_CXX_FLAGS "${CMAKE_CXX_FLAGS}" CACHE STRING "" FORCE)
    set(CMAKE_BUILD_TYPE Release CACHE STRING "" FORCE)
    # On by default; with them ggml refuses Intel's GPUs.
    if(NOT DEFINED GGML_OPENCL_USE_ADRENO_KERNELS AND NOT CMAKE_SYSTEM_PROCESSOR MATCHES "aarch64|ARM64")
        set(GGML_OPENCL_USE_ADRENO_KERNELS OFF CACHE BOOL "")
    endif()
else()
    # On without the feature it would leave calls to a library that nobody links.
    set(GGML_OPENCL OFF CACHE BOOL "" FORCE)
endif()

# Vulkan headers older than 1.3.272 (Debian 12, Ubuntu 22.04) lack a few names that ggml uses.
if(GGML_VULKAN)
    include_directories(BEFORE "${CMAKE_CURRENT_LIST_DIR}/../vulkan-compat")
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

if(PROJECT_NAME STREQUAL "ggml")
    include("${CMAKE_CURRENT_LIST_DIR}/weights.cmake")
endif()
