#!/usr/bin/env bash
# The OpenCL build against PoCL, OpenCL on the processor: it builds, links, starts with and without libOpenCL.so.1, and
# when ggml refuses the device, the report names it and the CPU serves.  tests/opencl_pocl.sh
# Needs: opencl-headers ocl-icd-opencl-dev pocl-opencl-icd (Debian, Ubuntu) and models/ggml-tiny.en.bin.
# PROFILE=release builds for release. Exit code: 0 good, 1 failed, 77 skipped: something is missing.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

skip() { echo "skipped: $1"; exit 77; }
fail() { echo "FAILED: $1"; exit 1; }
# shellcheck source=scripts/gpu.sh
. scripts/gpu.sh
gpu_check_needs opencl || skip "the OpenCL headers are missing"
compgen -G '/etc/OpenCL/vendors/pocl*.icd' >/dev/null || skip "PoCL is missing (apt install pocl-opencl-icd)"
MODEL=${MODEL:-models/ggml-tiny.en.bin}
[ -e "$MODEL" ] || skip "\`$MODEL\` is missing (WhisperBackendAPI models pull tiny.en)"

folder=debug
[ "${PROFILE:-dev}" = release ] && folder=release
# shellcheck disable=SC2046 # words on purpose
cargo build --profile "${PROFILE:-dev}" $(gpu_cargo_args opencl)
binary=${CARGO_TARGET_DIR:-target}/$folder/WhisperBackendAPI

echo "== libraries the binary needs to start"
readelf -d "$binary" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p'
! readelf -d "$binary" | grep -q libOpenCL || fail "the binary needs libOpenCL.so to start"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
printf '[server]\nlocale = "en"\n[whisper]\nmodel_path = "%s"\nauto_download = false\n' "$(realpath "$MODEL")" >"$work/config.toml"
advice_ids() {
    "$binary" --config "$work/config.toml" doctor --json 2>"$work/log" | tee "$work/report.json" |
        python3 -c 'import json, sys; print(*(one["id"] for one in json.load(sys.stdin)["gpu"]["advice"]))'
}
transcript() { "$binary" --config "$work/config.toml" transcribe tests/fixtures/jfk.wav 2>>"$work/log" | tr '[:upper:]' '[:lower:]'; }

echo "== with PoCL: the device is refused by name"
ids=$(advice_ids)
python3 -c 'import json; gpu = json.load(open("'"$work"'/report.json"))["gpu"]; print(gpu["reason"]); print(*gpu["recommendations"], sep="\n")'
[[ $ids == opencl-device-refused* ]] || fail "advice: $ids"
[[ $(transcript) == *"ask what you can do for your country"* ]] || fail "transcript on the CPU: $(cat "$work/log")"

echo "== without any OpenCL driver"
ids=$(OCL_ICD_VENDORS=/nowhere advice_ids)
[ -n "$ids" ] || fail "no advice"
echo "$ids"
[[ $(OCL_ICD_VENDORS=/nowhere transcript) == *"ask what you can do for your country"* ]] || fail "transcript without a driver"

echo "== with a selector that matches nothing, at which ggml ends the engine process"
ids=$(GGML_OPENCL_PLATFORM=nobody advice_ids)
echo "$ids"
[[ $(GGML_OPENCL_PLATFORM=nobody transcript) == *"ask what you can do for your country"* ]] || fail "transcript with a wrong selector"
echo "== good"
