#!/bin/sh
# Fills corpus/sniff and corpus/decode with every encoding of the test matrix, a third of a second long each.
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
