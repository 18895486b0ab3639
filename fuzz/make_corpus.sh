#!/bin/sh
# Fills corpus/sniff and corpus/decode with every encoding of the test matrix, a third of a second long each, and
# corpus/realtime_event with sessions of a client.
# Needs ffmpeg, sox and python3.
set -eu
cd "$(dirname "$0")"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
sox ../tests/fixtures/jfk.wav "$work/clip.wav" trim 1 0.34
python3 ../tests/audio/matrix.py "$work/clip.wav" "$work/matrix"
mkdir -p corpus/sniff corpus/decode
cut -f1 "$work/matrix/manifest.tsv" | while IFS= read -r name; do
    cp "$work/matrix/$name" corpus/decode/
    head -c 4096 "$work/matrix/$name" > "corpus/sniff/$name"
done
# What broke something once stays in the corpus.
if [ -d ../tests/fixtures/audio-regressions ]; then
    cp ../tests/fixtures/audio-regressions/* corpus/decode/
fi
du -sh corpus/decode

mkdir -p corpus/realtime_event
audio=$(head -c 3000 ../tests/fixtures/jfk.wav | base64 -w 0)
append='{"type":"input_audio_buffer.append","audio":"'"$audio"'"}'
commit='{"type":"input_audio_buffer.commit","event_id":"a"}'
number=0
for input in '"turn_detection":null' '"turn_detection":{"type":"server_vad","threshold":0.2,"silence_duration_ms":200,"idle_timeout_ms":5000}' \
    '"turn_detection":{"type":"semantic_vad","eagerness":"high"}' '"format":{"type":"audio/pcmu"}' '"format":{"type":"audio/pcm","rate":24000}' \
    '"transcription":{"model":"whisper-1","language":"en-US","prompt":"p","keywords":["k"],"languages":["en","ja"],"delay":"minimal"}'; do
    number=$((number + 1))
    update='{"type":"session.update","session":{"type":"transcription","include":["item.input_audio_transcription.logprobs"],"audio":{"input":{'"$input"'}}}}'
    printf '%s\n' "$update" "$append" "$append" "$commit" '{"type":"input_audio_buffer.clear"}' >"corpus/realtime_event/$number"
done
printf '%s\n' '{"type":"transcription_session.update","session":{"input_audio_format":"g711_alaw","input_audio_transcription":{"model":"whisper-1"}}}' \
    "$append" "$commit" >corpus/realtime_event/flat
