#!/usr/bin/env bash
# Mutants of every encoding against a server of its own, beside ordinary requests; prints the figures.
#
#   scripts/hostile_uploads.sh [MUTANTS [ORDINARY]]      PORT, MODEL and PROFILE may be set
#
# Needs ffmpeg, sox, python3 and a model.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
mutants=${1:-10000} ordinary=${2:-200}
port=${PORT:-21050} model=${MODEL:-models/ggml-tiny.en.bin} profile=${PROFILE:-release}
work=$(mktemp -d)
server=
# shellcheck disable=SC2317 # called by the trap
finish() {
    if [ -n "$server" ]; then
        kill "$server" 2>/dev/null || true
        wait "$server" 2>/dev/null || true
    fi
    rm -rf "$work"
}
trap finish EXIT

folder=target/$profile
[ "$profile" = release ] && flag=--release || flag=
if [ "${BUILD:-yes}" = yes ]; then
    # shellcheck disable=SC2086
    cargo build --locked $flag --bin WhisperBackendAPI --example hostile_uploads
fi
# A second of speech in every encoding: whole clips would only keep the model busy.
sox tests/fixtures/jfk.wav "$work/clip.wav" trim 0 1
python3 tests/audio/matrix.py "$work/clip.wav" "$work/matrix"

printf '' > "$work/config.toml"
"$folder/WhisperBackendAPI" --config "$work/config.toml" --port "$port" --model "$model" > "$work/log" 2>&1 &
server=$!
for _ in $(seq 600); do
    if curl -sf "http://127.0.0.1:$port/health" > /dev/null; then break; fi
    kill -0 "$server" || { cat "$work/log"; exit 1; }
    sleep 0.1
done
status=0
"$folder/examples/hostile_uploads" --port "$port" --pid "$server" --specimens "$work/matrix" \
    --clip tests/fixtures/jfk.wav --mutants "$mutants" --ordinary "$ordinary" || status=$?
printf 'in the log         %s decoders ended over their recording, %s were replaced, %s errors\n' \
    "$(grep -c 'a recording ended its decoder' "$work/log" || true)" \
    "$(grep -c 'a decoder was lost' "$work/log" || true)" "$(grep -c 'ERROR' "$work/log" || true)"
left=$(pgrep -c -P "$server" || true)
printf 'children           %s (engine, and decoders that stand ready)\n' "$left"
exit "$status"
