#!/usr/bin/env bash
# From a fresh clone to a running server:  ./run.sh [cpu|gpu] [dev] [options of `serve`]
#   cpu, gpu   what to build for; without it the last build's kind, at first the GPU if this machine is ready for one
#   dev        quick build with debug messages
# Everything after that goes to the server: ./run.sh --port 8081 --model small
set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cd "$ROOT"
# shellcheck source=scripts/setup.sh
. scripts/setup.sh
# shellcheck disable=SC1091
if [ -r scripts/gpu.sh ]; then . scripts/gpu.sh; fi

kind=auto
profile=release
while [ $# -gt 0 ]; do
    case "$1" in
        cpu | gpu) kind=$1 ;;
        dev) profile=dev ;;
        -h | --help | help)
            sed -n '2,5s/^# *//p' "${BASH_SOURCE[0]}"
            exit 0
            ;;
        *) break ;;
    esac
    shift
done

setup_build

target_dir=${CARGO_TARGET_DIR:-target}
case "$profile" in
    release) folder=$target_dir/release ;;
    dev)
        folder=$target_dir/debug
        export RUST_LOG=${RUST_LOG:-info,whisper_backend_api=debug}
        ;;
esac
# Remembers what the binary in this folder was built for, so that a plain `./run.sh` never rebuilds it for another device.
built_for=$folder/.built-for

# Prints the cargo arguments of a GPU build; fails, with the reason on stderr, when this machine is not ready for one.
gpu_args() {
    local backend
    backend=$(gpu_detect) && gpu_check_needs "$backend" >&2 && gpu_cargo_args "$backend"
}

features=
case "$kind" in
    cpu) ;;
    gpu)
        features=$(gpu_args) || die \
            "the GPU cannot be used yet (reason above); ./run.sh cpu runs on the processor" \
            "GPU はまだ使えません (理由は上のとおり)。./run.sh cpu なら CPU で動きます"
        ;;
    auto)
        if [ -f "$built_for" ]; then
            features=$(cat "$built_for")
        else
            features=$(gpu_args 2>/dev/null) || features=
        fi
        ;;
esac

build() {
    # shellcheck disable=SC2086 # words on purpose: `--features cuda`
    cargo build --profile "$profile" --locked $features
}

if ! build; then
    if [ "$kind" != auto ] || [ -z "$features" ]; then
        die "the build failed; the compiler's message is above" "ビルドに失敗しました。コンパイラのメッセージは上にあります"
    fi
    say "The GPU build failed; building for the processor. ./run.sh gpu shows the failure again." \
        "GPU 用のビルドに失敗したため CPU 用にビルドします。./run.sh gpu で失敗の内容をもう一度見られます。"
    features=
    build || die "the build failed; the compiler's message is above" "ビルドに失敗しました。コンパイラのメッセージは上にあります"
fi
echo "$features" >"$built_for"
exec "$folder/WhisperBackendAPI" serve "$@"
