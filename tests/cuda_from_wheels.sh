#!/usr/bin/env bash
# The CUDA build without a CUDA installation: the toolkit comes from PyPI (about 840 MB under .cuda/venv,
# git-ignored), one architecture is compiled, and the binary is started where there is no driver, and on drivers that do
# not work (tests/cuda_driver.c).
#   tests/cuda_from_wheels.sh [toolkit|build|check]     (nothing: all three; the build takes an hour and more on two cores)
# ARCHITECTURE=89-real chooses another GPU generation, PROFILE=release a release build, FEATURES=cuda,opencl more backends.
# Exit code: 0 good, 1 failed, 77 skipped: something is missing.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
ROOT=$PWD
VENV=$ROOT/.cuda/venv
TOOLKIT=$ROOT/.cuda/toolkit

skip() { echo "skipped: $1"; exit 77; }
fail() { echo "FAILED: $1"; exit 1; }

# One folder in the shape of an installed toolkit, of links into the wheels.
toolkit() {
    [ "$(uname -sm)" = "Linux x86_64" ] || skip "the wheels are taken for Linux on x86-64"
    python3 -c 'import ensurepip, venv' 2>/dev/null || skip "python3-venv is missing"
    if [ ! -x "$VENV/bin/pip" ]; then python3 -m venv "$VENV"; fi
    "$VENV/bin/pip" install --quiet nvidia-cuda-nvcc==13.0.88 nvidia-nvvm==13.0.88 nvidia-cuda-crt==13.0.88 \
        nvidia-cuda-runtime==13.0.96 nvidia-cuda-cccl==13.0.85 nvidia-cublas==13.0.2.14
    local wheels
    wheels=$(echo "$VENV"/lib/python3*/site-packages/nvidia/cu13)
    [ -x "$wheels/bin/nvcc" ] || fail "the wheels hold no nvcc at $wheels"
    rm -rf "$TOOLKIT"
    cp -al "$wheels" "$TOOLKIT"
    ln -s lib "$TOOLKIT/lib64"
    local library
    for library in cudart cublas cublasLt; do ln -sf "lib$library.so.13" "$TOOLKIT/lib/lib$library.so"; done
    # whisper-rs-sys names these two to the linker although nothing in this build refers to them.
    ar cr "$TOOLKIT/lib/libculibos.a"
    mkdir -p "$TOOLKIT/lib/stubs"
    echo 'int unused_stub;' | "${CC:-cc}" -xc -shared -fPIC -Wl,-soname,libcuda.so.1 -o "$TOOLKIT/lib/stubs/libcuda.so" -
}

FEATURES=${FEATURES:-cuda}
folder=debug
[ "${PROFILE:-dev}" = release ] && folder=release
binary=${CARGO_TARGET_DIR:-target}/$folder/WhisperBackendAPI

# WHISPER_CUBLAS=1 is how people have always asked for it; it must not be in the way.
build() {
    CUDA_PATH=$TOOLKIT CUDACXX=$TOOLKIT/bin/nvcc CMAKE_CUDA_ARCHITECTURES=${ARCHITECTURE:-90-real} WHISPER_CUBLAS=1 \
        cargo build --profile "${PROFILE:-dev}" --features "$FEATURES"
}

check() {
    [ -x "$binary" ] || skip "\`$binary\` is not built"
    MODEL=${MODEL:-models/ggml-tiny.en.bin}
    [ -e "$MODEL" ] || skip "\`$MODEL\` is missing (WhisperBackendAPI models pull tiny.en)"
    echo "== libraries the binary needs to start"
    readelf -d "$binary" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p'
    ! readelf -d "$binary" | grep -E 'NEEDED.*lib(cuda|cudart|cublas)' || fail "the binary needs CUDA's libraries to start"
    local work report
    work=$(mktemp -d)
    printf '[server]\nlocale = "en"\n[whisper]\nmodel_path = "%s"\nauto_download = false\n' "$(realpath "$MODEL")" >"$work/config.toml"
    report=$("$binary" --config "$work/config.toml" doctor --json 2>/dev/null)
    python3 -c 'import json, sys
gpu = json.load(sys.stdin)["gpu"]
print(gpu["reason"])
print(*gpu["recommendations"], sep="\n")
print("toolkit", gpu["build"]["cuda_toolkit"], "architectures", gpu["build"]["cuda_architectures"])
assert ",".join(gpu["compiled_backends"]) == "'"$FEATURES"'", gpu["compiled_backends"]
assert gpu["build"]["cuda_toolkit"] and gpu["build"]["cuda_architectures"], gpu["build"]
assert gpu["gpu_actually_enabled"] or gpu["recommendations"], "neither a GPU nor advice"' <<<"$report" || fail "the report"
    "$binary" --config "$work/config.toml" transcribe tests/fixtures/jfk.wav 2>/dev/null | tee "$work/text"
    grep -qi "ask what you can do for your country" "$work/text" || fail "the transcript"
    drivers "$work"
    rm -rf "$work"
    echo "== good"
}

# drivers FOLDER: what is said, and that the CPU serves, where the driver is there and does not work.
drivers() {
    "${CC:-cc}" -shared -fPIC -Wl,-soname,libcuda.so.1 -o "$1/libcuda.so.1" tests/cuda_driver.c
    on_driver() { # on_driver VARIABLE=VALUE COMMAND…
        env LD_LIBRARY_PATH="$1" OCL_ICD_VENDORS=/nowhere VK_DRIVER_FILES=/nowhere.json "$2" "$binary" --config "$1/config.toml" "${@:3}" 2>/dev/null
    }
    local case setting expected first
    # CUresult, or the setting that leads there, and the advice that must come first.
    for case in \
        DRIVER_ANSWERS=100:cuda-no-device DRIVER_ANSWERS=999:cuda-unknown-error DRIVER_ANSWERS=803:nvidia-version-mismatch \
        DRIVER_ANSWERS=34:cuda-stub-library DRIVER_ANSWERS=804:cuda-compatibility-library \
        DRIVER_ANSWERS=802:cuda-fabric-manager DRIVER_ANSWERS=46:cuda-device-busy DRIVER_ANSWERS=304:cuda-start-failed \
        DRIVER_VERSION=11040:nvidia-driver-too-old DRIVER_CRASHES=1:gpu-search-ended; do
        setting=${case%%:*} expected=${case#*:}
        first=$(on_driver "$1" "$setting" doctor --json | python3 -c 'import json, sys
print(json.load(sys.stdin)["gpu"]["advice"][0]["id"])')
        # In a container the mismatch has a name of its own.
        [[ $first == "$expected" || $first == "$expected-in-container" ]] || fail "$setting: $first, expected $expected"
        echo "$setting: $first"
    done
    on_driver "$1" DRIVER_CRASHES=1 transcribe tests/fixtures/jfk.wav | grep -qi "ask what you can do for your country" ||
        fail "the transcript on a driver that crashes"
}

case "${1:-all}" in
    toolkit | build | check) "$1" ;;
    all)
        toolkit
        build
        check
        ;;
    *)
        sed -n '2,7s/^# *//p' "${BASH_SOURCE[0]}" >&2
        exit 2
        ;;
esac
