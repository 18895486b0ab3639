#!/usr/bin/env bash
# What scripts/gpu.sh finds on machines that are not here: each case is a folder that plays the machine's files and a
# PATH of stubs.  tests/gpu_scripts.sh      Exit code: 0 good, 1 failed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
ROOT=$PWD
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failures=0
cases=0

# machine: a new one, with nothing in it. The tools that the script itself uses are the real ones.
machine() {
    M=$work/$((cases += 1))
    mkdir -p "$M/bin" "$M/etc" "$M/dev" "$M/sys/bus/pci/devices"
    local tool
    for tool in bash cat grep sort timeout; do ln -s "$(command -v "$tool")" "$M/bin/$tool"; done
    stub uname 'echo Linux'
    stub id 'echo 1000'
    stub c++ 'exit 1'
}
# stub NAME BODY: a program of that name.
stub() {
    mkdir -p "$(dirname "$M/bin/$1")"
    printf '#!%s\n%s\n' "$(command -v bash)" "$2" >"$M/bin/$1"
    chmod +x "$M/bin/$1"
}
distribution() { printf 'ID=%s\nID_LIKE="%s"\n' "$1" "${2:-}" >"$M/etc/os-release"; }
# pci VENDOR [CLASS]: a device on the bus; a display controller unless told otherwise.
pci() {
    local device=$M/sys/bus/pci/devices/$1
    mkdir -p "$device"
    echo "${2:-0x030000}" >"$device/class"
    echo "$1" >"$device/vendor"
}
nvidia_smi() { stub nvidia-smi 'echo "GPU 0: NVIDIA RTX 4090 (UUID: GPU-1)"'; }
headers() { stub c++ 'exit 0'; }
# in_there COMMAND: runs a function of scripts/gpu.sh on that machine; gives its output and `rc=N`.
in_there() {
    # shellcheck disable=SC2016 # expanded there
    env -i PATH="$M/bin" GPU_ROOT="$M" LANG="${LANGUAGE_THERE:-C}" "${VARIABLES[@]}" bash -c '
        has() { command -v "$1" >/dev/null 2>&1; }
        say() { case "$LANG" in ja*) echo "$2" ;; *) echo "$1" ;; esac; }
        . "$1"/scripts/gpu.sh
        shift
        rc=0
        "$@" 2>&1 || rc=$?
        echo "rc=$rc"' there "$ROOT" "$@"
}
VARIABLES=()
# expect WHAT WANTED COMMAND…: WANTED is a pattern of bash over the whole output, its lines joined by `|`.
expect() {
    local what=$1 wanted=$2 got
    shift 2
    got=$(in_there "$@" | tr '\n' '|')
    # shellcheck disable=SC2053 # a pattern on purpose
    if [[ $got != $wanted ]]; then
        echo "FAILED: $what"
        echo "   got      $got"
        echo "   expected $wanted"
        failures=$((failures + 1))
    fi
}

# Which backend fits.
machine
expect "no GPU at all" "rc=1|" gpu_detect
machine; pci 0x8086 0x020000
expect "a network card of Intel's is no GPU" "rc=1|" gpu_detect
machine; pci 0x1002
expect "AMD" "vulkan|rc=0|" gpu_detect
machine; pci 0x8086; pci 0x1002
expect "AMD beside Intel" "vulkan|rc=0|" gpu_detect
machine; pci 0x10de
expect "NVIDIA without its driver" "vulkan|rc=0|" gpu_detect
machine; pci 0x10de; nvidia_smi; stub nvcc ''
expect "NVIDIA with driver and toolkit" "cuda|rc=0|" gpu_detect
machine; pci 0x10de; nvidia_smi; mkdir -p "$M/opt/cuda/bin"; cp "$M/bin/c++" "$M/opt/cuda/bin/nvcc"
expect "a toolkit outside PATH" "cuda|rc=0|" gpu_detect
machine; pci 0x10de; nvidia_smi; headers; stub glslc ''
expect "NVIDIA without a toolkit, where Vulkan can be built" "The CUDA toolkit is not installed*|vulkan|rc=0|" gpu_detect
machine; pci 0x10de; nvidia_smi
expect "NVIDIA without a toolkit or Vulkan: the toolkit is asked for" "cuda|rc=0|" gpu_detect
machine; pci 0x10de; stub nvidia-smi 'echo "NVIDIA-SMI has failed"; exit 9'; stub nvcc ''
expect "a driver that fails" "vulkan|rc=0|" gpu_detect
machine; touch "$M/dev/dxg"
expect "WSL 2 without NVIDIA" "vulkan|rc=0|" gpu_detect
machine; touch "$M/dev/dxg"; nvidia_smi; headers; stub glslc ''
expect "WSL 2 with NVIDIA: CUDA, whose Vulkan is not there" "cuda|rc=0|" gpu_detect
machine; stub uname 'echo Darwin'
expect "a Mac" "metal|rc=0|" gpu_detect

# What is missing, by distribution.
missing() { # missing DISTRIBUTION LIKE BACKEND PATTERN
    machine; distribution "$1" "$2"
    expect "what $3 needs on $1" "$4" gpu_check_needs "$3"
}
missing debian "" cuda "missing: the CUDA toolkit*; run: sudo apt install nvidia-cuda-toolkit|rc=1|"
missing linuxmint "ubuntu debian" vulkan "missing: the Vulkan headers*sudo apt install libvulkan-dev|missing: the shader compiler glslc; run: sudo apt install glslc|rc=1|"
missing fedora "" vulkan "*sudo dnf install vulkan-loader-devel|*sudo dnf install glslc|rc=1|"
missing rocky "rhel centos fedora" cuda "*sudo dnf install cuda-toolkit|rc=1|"
missing manjaro arch vulkan "*sudo pacman -S vulkan-headers vulkan-icd-loader|*sudo pacman -S shaderc|rc=1|"
missing arch "" hip "*sudo pacman -S rocm-hip-sdk hipblas rocblas|rc=1|"
missing opensuse-tumbleweed "opensuse suse" opencl "*sudo zypper install opencl-headers ocl-icd-devel|*sudo zypper install python3|rc=1|"
missing alpine "" opencl "*sudo apk add opencl-headers opencl-icd-loader-dev|*sudo apk add python3|rc=1|"
missing nixos "" vulkan "missing: the Vulkan headers and loader|missing: the shader compiler glslc|rc=1|"
machine; distribution debian; stub id 'echo 0'
expect "root needs no sudo" "*run: apt install nvidia-cuda-toolkit|rc=1|" gpu_check_needs cuda
machine; distribution debian; LANGUAGE_THERE=ja_JP.UTF-8
expect "the same in Japanese" "不足: CUDA ツールキット*実行してください: sudo apt install nvidia-cuda-toolkit|rc=1|" gpu_check_needs cuda
LANGUAGE_THERE=
machine; distribution debian; touch "$M/dev/dxg"
expect "ROCm under WSL 2" "*note: WSL 2 has no /dev/kfd*./build.sh vulkan may|rc=1|" gpu_check_needs hip
machine
expect "a backend that nobody knows" "unknown GPU backend*cuda, vulkan, opencl, hip, metal|rc=2|" gpu_check_needs directx

# Nothing is said when everything is there.
machine; headers; stub glslc ''; stub python3 ''; stub nvcc ''; stub hipcc ''
for backend in cuda vulkan opencl hip; do expect "$backend with all it needs" "rc=0|" gpu_check_needs "$backend"; done
machine; mkdir -p "$M/toolkit/bin"; cp "$M/bin/c++" "$M/toolkit/bin/nvcc"; VARIABLES=("CUDA_PATH=$M/toolkit")
expect "CUDA_PATH" "rc=0|" gpu_check_needs cuda
machine; mkdir -p "$M/sdk/bin" "$M/sdk/include/vulkan"; cp "$M/bin/c++" "$M/sdk/bin/glslc"; touch "$M/sdk/include/vulkan/vulkan.hpp"
VARIABLES=("VULKAN_SDK=$M/sdk")
expect "VULKAN_SDK" "rc=0|" gpu_check_needs vulkan
VARIABLES=()

# What the GPU tests can be built for.
machine
expect "tests without a compiler for shaders" "rc=1|" gpu_test_features
machine; headers; stub glslc ''
expect "tests without a software driver" "rc=1|" gpu_test_features
mkdir -p "$M/usr/share/vulkan/icd.d"; touch "$M/usr/share/vulkan/icd.d/lvp_icd.x86_64.json"
expect "tests on lavapipe" "vulkan|rc=0|" gpu_test_features
mkdir -p "$M/etc/OpenCL/vendors"; touch "$M/etc/OpenCL/vendors/pocl.icd"
expect "tests on lavapipe and PoCL" "vulkan,opencl|rc=0|" gpu_test_features

# How cargo is called.
machine
expect "hip is cargo's hipblas" "--features hipblas|rc=0|" gpu_cargo_args hip
expect "vulkan" "--features vulkan|rc=0|" gpu_cargo_args vulkan

[ "$failures" -eq 0 ] || { echo "== $failures failed"; exit 1; }
echo "== good: $cases machines"
