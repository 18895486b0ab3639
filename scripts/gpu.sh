# shellcheck shell=bash
# GPU builds: which backend fits this machine, what it needs, how cargo is called.
# Sourced by build.sh, never run. Uses `say` and `has` of scripts/setup.sh when they are there.
# Where this machine's files are looked for; a folder in tests/gpu_scripts.sh.
GPU_ROOT=${GPU_ROOT:-}

if ! declare -F has >/dev/null; then has() { command -v "$1" >/dev/null 2>&1; }; fi
if ! declare -F say >/dev/null; then say() { printf '%s\n' "$1"; }; fi

# gpu_distribution: debian, fedora, arch, alpine, suse, macos or other.
gpu_distribution() {
    [ "$(uname -s)" = Darwin ] && { echo macos; return; }
    local names=""
    # shellcheck source=/dev/null
    [ -r "$GPU_ROOT/etc/os-release" ] && names=$(. "$GPU_ROOT/etc/os-release" && echo "${ID:-} ${ID_LIKE:-}")
    case " $names " in
        *debian* | *ubuntu*) echo debian ;;
        *fedora* | *rhel* | *centos*) echo fedora ;;
        *arch*) echo arch ;;
        *alpine*) echo alpine ;;
        *suse*) echo suse ;;
        *) echo other ;;
    esac
}

# gpu_missing ENGLISH JAPANESE DEBIAN FEDORA ARCH ALPINE SUSE: one missing thing and how it is installed here.
gpu_missing() {
    local line
    case "$(gpu_distribution)" in
        debian) line="sudo apt install $3" ;;
        fedora) line="sudo dnf install $4" ;;
        arch) line="sudo pacman -S $5" ;;
        alpine) line="sudo apk add $6" ;;
        suse) line="sudo zypper install $7" ;;
        *) line="" ;;
    esac
    [ "$(id -u)" -eq 0 ] && line=${line#sudo }
    if [ -n "$line" ]; then
        say "missing: $1; run: $line" "不足: $2。実行してください: $line" >&2
    else
        say "missing: $1" "不足: $2" >&2
    fi
}

# gpu_vendors: the makers of the GPUs on the PCI bus, one a line: nvidia, amd, intel.
gpu_vendors() {
    local device class vendor
    for device in "$GPU_ROOT"/sys/bus/pci/devices/*; do
        [ -r "$device/class" ] || continue
        read -r class <"$device/class"
        [[ $class == 0x03* ]] || continue
        read -r vendor <"$device/vendor"
        case "$vendor" in
            0x10de) echo nvidia ;;
            0x1002) echo amd ;;
            0x8086) echo intel ;;
        esac
    done | sort -u
}

# gpu_nvidia_answers: the NVIDIA driver lists a GPU. Three seconds suffice for a healthy one.
gpu_nvidia_answers() {
    local smi=nvidia-smi
    has "$smi" || smi=$GPU_ROOT/usr/lib/wsl/lib/nvidia-smi
    has "$smi" && timeout 3 "$smi" -L 2>/dev/null | grep -q '^GPU'
}

# gpu_nvcc: where the CUDA compiler is; the same places as patches/whisper-rs-sys/settings.cmake.
gpu_nvcc() {
    local place
    if [ -n "${CUDACXX:-}" ]; then
        command -v "$CUDACXX" && return
    fi
    for place in "${CUDA_PATH:-}" "${CUDA_HOME:-}"; do
        [ -n "$place" ] && [ -x "$place/bin/nvcc" ] && { echo "$place/bin/nvcc"; return; }
    done
    command -v nvcc && return
    for place in /usr/local/cuda /opt/cuda /usr/lib/cuda /usr/lib/nvidia-cuda-toolkit; do
        place=$GPU_ROOT$place
        [ -x "$place/bin/nvcc" ] && { echo "$place/bin/nvcc"; return; }
    done
    return 1
}

# gpu_detect: prints the backend to build for this machine; fails when there is no GPU.
# CUDA where NVIDIA's driver works and its toolkit is there; Vulkan for everything else, for it needs no toolkit at run
# time and knows AMD's and Intel's integrated GPUs as well; but WSL 2 has no Vulkan driver of NVIDIA's. ROCm and OpenCL
# are built when asked for by name.
gpu_detect() {
    local vendors
    vendors=$(gpu_vendors)
    if [ "$(uname -s)" = Darwin ]; then
        echo metal
    elif gpu_nvidia_answers; then
        if gpu_nvcc >/dev/null || ! gpu_can_build_vulkan || [ -e "$GPU_ROOT/dev/dxg" ]; then
            echo cuda
        else
            say "The CUDA toolkit is not installed; building for Vulkan, which also uses the NVIDIA GPU." \
                "CUDA ツールキットがないため、NVIDIA の GPU も使える Vulkan 用にビルドします。" >&2
            echo vulkan
        fi
    elif [ -n "$vendors" ] || [ -e "$GPU_ROOT/dev/dxg" ]; then
        echo vulkan
    else
        return 1
    fi
}

gpu_header() { echo "#include <$1>" | "${CXX:-c++}" -x c++ -E - >/dev/null 2>&1; }

gpu_can_build_vulkan() {
    has glslc || [ -x "${VULKAN_SDK:-/nowhere}/bin/glslc" ] || return 1
    gpu_header vulkan/vulkan.hpp || [ -e "${VULKAN_SDK:-/nowhere}/include/vulkan/vulkan.hpp" ]
}

# gpu_software_driver: Mesa's Vulkan driver for the processor is installed (lavapipe), on which the GPU tests run.
gpu_software_driver() { compgen -G "$GPU_ROOT/usr/share/vulkan/icd.d/lvp_icd*.json" >/dev/null; }

# gpu_test_features: cargo's features for the GPU tests that this machine can build and run; nothing when none.
# OpenCL comes along when PoCL is there: one compilation of whisper.cpp serves both.
gpu_test_features() {
    gpu_can_build_vulkan && gpu_software_driver || return 1
    if gpu_header CL/cl.h && compgen -G "$GPU_ROOT/etc/OpenCL/vendors/pocl*.icd" >/dev/null; then
        echo vulkan,opencl
    else
        echo vulkan
    fi
}

# gpu_check_needs BACKEND: silent when everything is there; else one line for each missing thing, and failure.
gpu_check_needs() {
    local missing=0
    case "$1" in
        cuda)
            if ! gpu_nvcc >/dev/null; then
                gpu_missing "the CUDA toolkit (nvcc; CUDA_PATH may point at its folder)" \
                    "CUDA ツールキット(nvcc。場所は CUDA_PATH で指定できます)" \
                    nvidia-cuda-toolkit cuda-toolkit cuda "(no package: use Vulkan)" cuda-toolkit
                missing=1
            fi
            ;;
        vulkan)
            if ! gpu_header vulkan/vulkan.hpp && [ ! -e "${VULKAN_SDK:-/nowhere}/include/vulkan/vulkan.hpp" ]; then
                gpu_missing "the Vulkan headers and loader" "Vulkan のヘッダーとローダー" \
                    libvulkan-dev vulkan-loader-devel "vulkan-headers vulkan-icd-loader" \
                    "vulkan-headers vulkan-loader-dev" vulkan-devel
                missing=1
            fi
            if ! has glslc && [ ! -x "${VULKAN_SDK:-/nowhere}/bin/glslc" ]; then
                gpu_missing "the shader compiler glslc" "シェーダーコンパイラー glslc" \
                    glslc glslc shaderc shaderc shaderc
                missing=1
            fi
            ;;
        opencl)
            if ! gpu_header CL/cl.h; then
                gpu_missing "the OpenCL headers and loader" "OpenCL のヘッダーとローダー" \
                    "opencl-headers ocl-icd-opencl-dev" "opencl-headers ocl-icd-devel" "opencl-headers ocl-icd" \
                    "opencl-headers opencl-icd-loader-dev" "opencl-headers ocl-icd-devel"
                missing=1
            fi
            if ! has python3; then
                gpu_missing "Python 3 (it embeds the kernels)" "Python 3(カーネルの埋め込みに使います)" \
                    python3 python3 python python3 python3
                missing=1
            fi
            ;;
        hip)
            if ! has hipcc && [ ! -x "${ROCM_PATH:-$GPU_ROOT/opt/rocm}/bin/hipcc" ]; then
                gpu_missing "ROCm with hipcc, hipBLAS and rocBLAS" "ROCm(hipcc、hipBLAS、rocBLAS)" \
                    "hipcc libhipblas-dev librocblas-dev" "rocm-hip-devel hipblas-devel rocblas-devel" \
                    "rocm-hip-sdk hipblas rocblas" "(no package: use Vulkan)" \
                    "https://rocm.docs.amd.com"
                missing=1
            fi
            if [ ! -e "$GPU_ROOT/dev/kfd" ] && [ -e "$GPU_ROOT/dev/dxg" ]; then
                say "note: WSL 2 has no /dev/kfd, so a ROCm build cannot run here; ./build.sh vulkan may" \
                    "注意: WSL 2 には /dev/kfd がないため、ROCm 版はここでは動きません。./build.sh vulkan なら動く可能性があります" >&2
            fi
            ;;
        metal)
            if ! xcode-select -p >/dev/null 2>&1; then
                say "missing: Xcode's command-line tools; run: xcode-select --install" \
                    "不足: Xcode のコマンドラインツール。実行してください: xcode-select --install" >&2
                missing=1
            fi
            ;;
        *)
            say "unknown GPU backend \`$1\`; known: cuda, vulkan, opencl, hip, metal" \
                "GPU バックエンド \`$1\` は不明です。指定できるもの: cuda, vulkan, opencl, hip, metal" >&2
            return 2
            ;;
    esac
    return "$missing"
}

# cpu_cargo_args: cargo's arguments for the processor. This program's own engine has kernels for AVX2 and better; there
# the build leaves whisper.cpp out, which takes longer to compile than everything else.
cpu_cargo_args() {
    case "$(uname -m)" in
        x86_64 | amd64)
            if grep -qw avx2 "$GPU_ROOT/proc/cpuinfo" 2>/dev/null; then
                echo "--no-default-features"
            fi
            ;;
    esac
}

# gpu_cargo_args BACKEND: cargo's arguments. Every backend is a feature of whisper-rs-sys, so cargo keeps their builds
# apart in one target folder.
gpu_cargo_args() {
    case "$1" in
        hip) echo "--features hipblas" ;;
        cuda | vulkan | opencl | metal) echo "--features $1" ;;
        *) return 2 ;;
    esac
}
