#!/usr/bin/env python3
"""The native engine's exact mode against CTranslate2 in 32-bit floats, and its tokenizer against tiktoken.

    equality.py --cache C --models M --binary B [--examples target/release/examples]

C is what setup.sh filled, with `openai-whisper` installed; M holds ggml-base.bin. Prints the relative error of the encoder's
output for every number format whose packed file lies in M (each is packed by a short run of B), the clips whose greedy
tokens differ in exact mode, with how far apart the two tokens are in CTranslate2's logits, and the texts that tokenize differently.
Needs `cargo build --release -p whisper-native --examples`.
"""

import argparse
import base64
import json
import random
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from engines import Ours

FORMATS = {"exact": "f32", "bf16": "bf16", "int8-block": "int8-64", "int8": "int8"}
# First characters and sizes of the scripts that texts are made of.
SCRIPTS = [(0x20, 95), (0xC0, 0x180), (0x370, 0x80), (0x400, 0x100), (0x530, 0x60), (0x590, 0x60), (0x600, 0xC0), (0x900, 0x80),
           (0x980, 0x80), (0xB80, 0x80), (0xE00, 0x60), (0x10A0, 0x60), (0x1100, 0x80), (0x1E00, 0x100), (0x2000, 0x70), (0x2150, 0x40),
           (0x2190, 0x70), (0x3000, 0x100), (0x3400, 0x400), (0x4E00, 0x5000), (0xAC00, 0x2B00), (0xFF00, 0xF0), (0x1F300, 0x300)]
PIECES = ["'s", "'LL", "n't", "  ", "\n\n", "\t", "\u00a0", "\u3000", "12345", "٣٤", "½", "<|endoftext|>", "<|en|>", "e\u0301", "👩‍🚀", "...", "—"]


def features(extractor, path):
    """The spectrogram of 30 s as faster-whisper pads it."""
    from faster_whisper.audio import decode_audio, pad_or_trim

    return np.ascontiguousarray(pad_or_trim(extractor(decode_audio(str(path)))[..., :-1]), dtype=np.float32)


def encoders(options, model, clips):
    import ctranslate2

    for setting, name in FORMATS.items():
        packed = next(iter(options.models.glob(f"ggml-base.{name}-*.packed")), None)
        if packed is None:
            print(f"encoder {setting}: no packed file")
            continue
        errors = []
        for clip in clips:
            mel = features(model.feature_extractor, options.cache / "speech" / clip["file"])
            view = ctranslate2.StorageView.from_array(mel[None])
            want = np.array(model.model.encode(view, to_cpu=True))[0].astype(np.float64)
            with tempfile.NamedTemporaryFile() as file:
                file.write(mel.tobytes())
                file.flush()
                command = [options.examples / "encoder_output", "base", name, packed, file.name, "1500"]
                got = np.frombuffer(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout, "<f4").reshape(want.shape)
            errors.append(np.linalg.norm(got - want) / np.linalg.norm(want))
        print(f"encoder {setting}: relative error {np.median(errors):.2e} (median of {len(errors)} clips, greatest {max(errors):.2e})", flush=True)


def tokens(options, model, clips):
    import ctranslate2

    settings = {"precision": "exact", "beam_size": 1, "short_context": "off"}
    ours = Ours(options.binary, options.models / "ggml-base.bin", 2, {"whisper": settings})
    ours.fields = {**ours.fields, "response_format": "verbose_json", "vad": "false"}
    ours.start()
    start = [50258, 50259, 50359]
    same = 0
    try:
        for clip in clips:
            path = options.cache / "speech" / clip["file"]
            answer = json.loads(ours.post(str(path)).read())
            heard = [token for segment in answer["segments"] for token in segment["tokens"]]
            view = ctranslate2.StorageView.from_array(features(model.feature_extractor, path)[None])
            result = model.model.generate(view, [start], beam_size=1, max_initial_timestamp_index=50, return_logits_vocab=True)[0]
            theirs = [token for token in result.sequences_ids[0] if token != 50257]
            text = [token for token in heard if token < 50257]
            their_text = [token for token in theirs if token < 50257]
            if heard == theirs or text == their_text:
                same += 1
                if heard != theirs:
                    print(f"  {clip['file']}: the same text, other times: {[t for t in heard if t > 50257]} and {[t for t in theirs if t > 50257]}")
                continue
            at = next((i for i, (a, b) in enumerate(zip(heard, theirs)) if a != b), min(len(heard), len(theirs)))
            pair = [heard[at] if at < len(heard) else 50257, theirs[at] if at < len(theirs) else 50257]
            logits = np.array(result.logits[0][at]).reshape(-1) if at < len(result.logits[0]) else None
            apart = "?" if logits is None else f"{logits[pair[1]] - logits[pair[0]]:.4f}"
            print(f"  {clip['file']}: differ from token {at} on, {pair[0]} here and {pair[1]} there, {apart} apart in its logits")
    finally:
        ours.stop()
    print(f"greedy tokens, exact: the same text on {same} of {len(clips)} clips", flush=True)


def entries(path, blobs):
    path.write_bytes(b"".join(struct.pack("<I", len(blob)) + blob for blob in blobs))
    return path


def tokenizers(options):
    import whisper
    from whisper.tokenizer import get_encoding

    dice = random.Random(12)
    texts = []
    while len(texts) < 1000:
        text = ""
        for _ in range(dice.randrange(1, 12)):
            first, size = dice.choice(SCRIPTS)
            text += "".join(chr(first + dice.randrange(size)) for _ in range(dice.randrange(1, 9)))
            text += dice.choice([" ", "", dice.choice(PIECES)])
        texts.append(text)
    folder = Path(tempfile.mkdtemp())
    for name in ("multilingual", "gpt2"):
        lines = (Path(whisper.__file__).parent / "assets" / f"{name}.tiktoken").read_text().split("\n")
        ranks = sorted((int(line.split()[1]), base64.b64decode(line.split()[0])) for line in lines if line)
        vocabulary = entries(folder / name, [token for _, token in ranks])
        listed = entries(folder / "texts", [text.encode() for text in texts])
        out = subprocess.run([options.examples / "tokenize", vocabulary, listed], check=True, stdout=subprocess.PIPE, text=True).stdout
        encoding = get_encoding(name)
        differ = 0
        for text, line in zip(texts, out.split("\n")):
            want = encoding.encode(text, disallowed_special=())
            if list(map(int, line.split())) != want:
                differ += 1
                if differ < 4:
                    print(f"  {text!r}: {line} and {want}")
        print(f"tokenizer {name}: {differ} of {len(texts)} texts differ", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--binary", type=Path, required=True)
    parser.add_argument("--examples", type=Path, default=Path("target/release/examples"))
    parser.add_argument("--limit", type=int, default=0, help="first so many clips only")
    parser.add_argument("--part", nargs="+", choices=["encoder", "tokens", "tokenizer"], default=["encoder", "tokens", "tokenizer"])
    options = parser.parse_args()
    if "tokenizer" in options.part:
        tokenizers(options)
    if options.part == ["tokenizer"]:
        return 0
    from faster_whisper import WhisperModel

    clips = json.loads((options.cache / "speech/manifest.json").read_text())["clips"]
    clips = clips[: options.limit] if options.limit else clips
    model = WhisperModel(str(options.cache / "ct2-base"), device="cpu", compute_type="float32", cpu_threads=2)
    if "tokens" in options.part:
        tokens(options, model, clips)
    if "encoder" in options.part:
        encoders(options, model, clips[::5])
    return 0


if __name__ == "__main__":
    sys.exit(main())
