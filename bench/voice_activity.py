#!/usr/bin/env python3
"""How much speech the windows miss and how much else they keep, on the ten-minute file, clean and spoilt.

    voice_activity.py --cache CACHE [--silero] [name=value ...]

Speech is what lies within 26 dB of a clip's level in the clean file. Beside ours, `--silero` measures the Silero
network that faster-whisper carries, with the same pause, padding and shortest stretch. `name=value` goes to
`cargo bench --bench windows`.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import soundfile

from make_speech import decibels, pink_noise

HERE = Path(__file__).resolve().parent
RATE = 16_000
STEP = 160  # 10 ms


def spoilt(clean: np.ndarray, level: float) -> dict[str, np.ndarray]:
    """The recording as other microphones and rooms give it; `level` is the RMS of its speech."""
    rng = np.random.default_rng(1)
    spectrum = np.fft.rfft(clean)
    hertz = np.fft.rfftfreq(len(clean), 1 / RATE)
    spectrum[(hertz < 250) | (hertz > 3600)] = 0
    versions = {
        "clean": clean,
        "20 dB quieter": clean * decibels(-20),
        "40 dB quieter": clean * decibels(-40),
        "telephone band": np.fft.irfft(spectrum, len(clean)),
    }
    for name, slope, ratios in (("white", 0.0, (20, 10, 5)), ("pink", 1.0, (20, 10, 5)), ("brown", 2.0, (10,))):
        for ratio in ratios:
            versions[f"{name} noise {ratio} dB"] = clean + pink_noise(rng, len(clean), slope) * level * decibels(-ratio)
    return versions


def ours(path: Path, options: list[str]) -> list[tuple[int, int]]:
    command = ["cargo", "bench", "--quiet", "--bench", "windows", "--", *options, str(path)]
    lines = subprocess.run(command, cwd=HERE.parent, check=True, capture_output=True, text=True).stdout.splitlines()
    starts = [tuple(map(int, line.split()[:2])) for line in lines if line.strip()]
    return [(start, start + length) for start, length in starts]


def silero(path: Path) -> list[tuple[int, int]]:
    from faster_whisper.vad import VadOptions, get_speech_timestamps

    samples, _ = soundfile.read(path, dtype="float32")
    options = VadOptions(threshold=0.5, min_silence_duration_ms=300, speech_pad_ms=200, min_speech_duration_ms=100)
    return [(found["start"], found["end"]) for found in get_speech_timestamps(samples, options)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--silero", action="store_true")
    parser.add_argument("options", nargs="*", metavar="name=value")
    arguments = parser.parse_args()
    speech = arguments.cache.resolve() / "speech"
    entry = next(long for long in json.loads((speech / "manifest.json").read_text())["long"] if long["name"] == "ten-minutes")
    clean, _ = soundfile.read(speech / entry["file"])
    count = len(clean) // STEP
    blocks = clean[: count * STEP].reshape(-1, STEP)
    rms = np.sqrt((blocks**2).mean(axis=1))
    voiced = np.zeros(count, bool)
    clips = np.zeros(count, bool)
    for start, end in entry["speech"]:
        part = slice(int(start * 100), int(end * 100))
        clips[part] = True
        voiced[part] = rms[part] > np.percentile(rms[part], 95) * decibels(-26)
    level = float(np.sqrt((blocks[voiced] ** 2).mean()))
    detectors = {"ours": lambda path: ours(path, arguments.options)}
    if arguments.silero:
        detectors["silero"] = silero
    scratch = arguments.cache.resolve() / "spoilt.wav"
    print("| recording | detector | speech missed % | kept between clips % | windows |\n|---|---|---|---|---|")
    for name, samples in spoilt(clean, level).items():
        soundfile.write(scratch, np.clip(samples, -1, 1), RATE, subtype="PCM_16")
        for detector, find in detectors.items():
            kept = np.zeros(count, bool)
            found = find(scratch)
            for start, end in found:
                kept[start // STEP : -(-end // STEP)] = True
            missed = 100 * (voiced & ~kept).sum() / voiced.sum()
            extra = 100 * (kept & ~clips).sum() / (~clips).sum()
            print(f"| {name} | {detector} | {missed:.2f} | {extra:.1f} | {len(found)} |", flush=True)
    sys.stdout.flush()


main()
