#!/usr/bin/env python3
"""Error of word start times against a forced alignment by pocketsphinx.

    pip install pocketsphinx
    bench/word_times.py --url http://127.0.0.1:8080 --speech DIR

DIR is what make_speech.py wrote. For every clip whose words pocketsphinx's dictionary knows, the reference text is
aligned to the audio; the same words in the server's `words` are compared. Prints median, 90th percentile and mean of
|start difference| in milliseconds, and how many words were compared.
"""

import argparse
import difflib
import json
import re
import statistics
import sys
import urllib.request
import uuid
import wave
from pathlib import Path

from pocketsphinx import Decoder


def plain(text):
    return re.sub(r"[^a-z' ]", "", text.lower().replace("-", " ")).split()


def align(path, words):
    """[(word, start seconds)] or None when a word is not in the dictionary."""
    with wave.open(str(path)) as clip:
        if (clip.getframerate(), clip.getnchannels(), clip.getsampwidth()) != (16000, 1, 2):
            return None
        data = clip.readframes(clip.getnframes())
    decoder = Decoder(samprate=16000, bestpath=False, loglevel="FATAL")
    if any(decoder.lookup_word(word) is None for word in words):
        return None
    decoder.set_align_text(" ".join(words))
    decoder.start_utt()
    decoder.process_raw(data, full_utt=True)
    decoder.end_utt()
    if decoder.hyp() is None:
        return None
    rate = decoder.config["frate"]
    skip = ("<", "[", "(")
    return [
        (re.sub(r"\(\d+\)$", "", seg.word), seg.start_frame / rate)
        for seg in decoder.seg()
        if not seg.word.startswith(skip)
    ]


def served_words(url, path):
    boundary = uuid.uuid4().hex
    fields = [("response_format", "verbose_json"), ("timestamp_granularities[]", "word"), ("language", "en")]
    body = b"".join(
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        for name, value in fields
    )
    body += f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'.encode()
    body += path.read_bytes() + f"\r\n--{boundary}--\r\n".encode()
    request = urllib.request.Request(
        f"{url}/openai/deployments/w/audio/transcriptions?api-version=2024-02-01",
        data=body,
        headers={"Content-Type": f"multipart/form-data; boundary={boundary}"},
    )
    with urllib.request.urlopen(request, timeout=300) as answer:
        return json.load(answer)["words"]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", required=True)
    parser.add_argument("--speech", type=Path, required=True)
    options = parser.parse_args()
    manifest = json.loads((options.speech / "manifest.json").read_text())
    errors, skipped = [], 0
    for clip in manifest["clips"]:
        path = options.speech / clip["file"]
        reference = plain(clip["text"])
        aligned = align(path, reference)
        if not aligned:
            skipped += 1
            continue
        ours = [(w["word"], w["start"]) for w in served_words(options.url, path)]
        matcher = difflib.SequenceMatcher(
            a=[w for w, _ in aligned], b=["".join(plain(w)) for w, _ in ours], autojunk=False
        )
        for block in matcher.get_matching_blocks():
            for i in range(block.size):
                errors.append((ours[block.b + i][1] - aligned[block.a + i][1]) * 1000)
    if not errors:
        sys.exit("no word could be compared")
    bias = statistics.median(errors)
    errors = sorted(map(abs, errors))
    print(
        f"{len(errors)} words of {len(manifest['clips']) - skipped} clips ({skipped} not alignable): "
        f"median {statistics.median(errors):.0f} ms, p90 {errors[int(len(errors) * 0.9)]:.0f} ms, "
        f"mean {statistics.mean(errors):.0f} ms; median with sign {bias:+.0f} ms (above 0: late)"
    )


if __name__ == "__main__":
    main()
