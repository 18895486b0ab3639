#!/usr/bin/env python3
"""Makes the speech set of the benchmark: short clips, long files, silence and noise, with what is said in them.

Sources, all free to use: sentences.txt spoken by `flite` and `espeak-ng`; recordings from the Debian package
`pocketsphinx-testdata` (BSD; LibriVox readers, public domain) and from `pytest-audioeval` (PyPI, MIT); the address of
1961 in ../tests/fixtures/jfk.wav (public domain). setup.sh fetches the packages. The same versions of those make the
same bytes.

    make_speech.py --out DIR [--cache DIR]

Writes DIR/*.wav (mono, 16 kHz, 16 bit) and DIR/manifest.json:
    {"clips": [{"file", "text", "seconds", "source"}], "long": [{"name", "file", "text", "seconds", "speech": [[from, to], ...]}]}
"""

import argparse
import json
import random
import subprocess
import tempfile
import wave
from pathlib import Path

import numpy as np
import soundfile

HERE = Path(__file__).resolve().parent
RATE = 16_000

# Recordings of pocketsphinx-testdata with what its own transcriptions say ("a more a amiable" is a slip there).
POCKETSPHINX = {
    "librivox/sense_and_sensibility_01_austen_64kb-0870.wav": "And Mr. John Dashwood had then leisure to consider how "
    "much there might be prudently in his power to do for them.",
    "librivox/sense_and_sensibility_01_austen_64kb-0880.wav": "He was not an ill-disposed young man,",
    "librivox/sense_and_sensibility_01_austen_64kb-0890.wav": "unless to be rather cold hearted and rather selfish is "
    "to be ill-disposed.",
    "librivox/sense_and_sensibility_01_austen_64kb-0920.wav": "Had he married a more amiable woman, he might have been "
    "made still more respectable than he was.",
    "librivox/sense_and_sensibility_01_austen_64kb-0930.wav": "He might even have been made amiable himself.",
    "cards/001.wav": "Ten of clubs.",
    "cards/003.wav": "Seven of clubs.",
    "cards/005.wav": "Eight of spades, four of clubs, seven of hearts.",
    "goforward.raw": "Go forward ten meters.",
}

JFK = (
    "And so, my fellow Americans, ask not what your country can do for you, ask what you can do for your country."
)


def read_wav(path: Path) -> np.ndarray:
    """Mono samples at 16 kHz, full scale 1; `.raw` is 16-bit little-endian at 16 kHz."""
    if path.suffix == ".raw":
        return np.frombuffer(path.read_bytes(), "<i2").astype(np.float64) / 32768
    samples, rate = soundfile.read(path, always_2d=True)
    return resample(samples.mean(axis=1), rate)


def resample(samples: np.ndarray, rate: int) -> np.ndarray:
    """Band-limited resampling to 16 kHz of a whole clip by its spectrum."""
    if rate == RATE:
        return samples
    length = round(len(samples) * RATE / rate)
    spectrum = np.fft.rfft(samples)
    bins = length // 2 + 1
    if bins <= len(spectrum):
        spectrum = spectrum[:bins]
    else:
        spectrum = np.pad(spectrum, (0, bins - len(spectrum)))
    return np.fft.irfft(spectrum, length) * (length / len(samples))


def write_wav(path: Path, samples: np.ndarray) -> None:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes((np.clip(samples, -1, 32767 / 32768) * 32768).astype("<i2").tobytes())


def speak(voice: str, text: str, scratch: Path) -> np.ndarray:
    engine, name = voice.split(":")
    out = scratch / "spoken.wav"
    if engine == "flite":
        command = ["flite", "-voice", name, "-t", text, "-o", str(out)]
    else:
        command = ["espeak-ng", "-v", name, "-s", "150", "-w", str(out), text]
    subprocess.run(command, check=True, capture_output=True)
    return read_wav(out)


def pink_noise(rng: np.random.Generator, length: int, slope: float) -> np.ndarray:
    """Noise whose power falls with frequency to the power `slope` (0 white, 1 pink, 2 brown), RMS 1."""
    spectrum = np.fft.rfft(rng.standard_normal(length))
    spectrum[1:] /= np.arange(1, len(spectrum)) ** (slope / 2)
    spectrum[0] = 0
    noise = np.fft.irfft(spectrum, length)
    return noise / np.sqrt(np.mean(noise**2))


def decibels(value: float) -> float:
    return 10 ** (value / 20)


def make_clips(out: Path, cache: Path) -> list[dict]:
    clips = []

    def add(name: str, samples: np.ndarray, text: str, source: str) -> None:
        peak = float(np.max(np.abs(samples)))
        samples = samples / max(peak, 1e-9) * 0.6
        write_wav(out / f"{name}.wav", samples)
        clips.append({"file": f"{name}.wav", "text": text, "seconds": round(len(samples) / RATE, 3), "source": source})

    with tempfile.TemporaryDirectory() as scratch:
        lines = [line for line in (HERE / "sentences.txt").read_text().splitlines() if line and line[0] != "#"]
        for number, line in enumerate(lines):
            voice, text = (part.strip() for part in line.split("|", 1))
            samples = speak(voice, text, Path(scratch))
            rng = np.random.default_rng(number)
            if number % 8 == 5:  # as over a telephone
                spectrum = np.fft.rfft(samples)
                hertz = np.fft.rfftfreq(len(samples), 1 / RATE)
                spectrum[(hertz < 300) | (hertz > 3400)] = 0
                samples = np.fft.irfft(spectrum, len(samples))
            if number % 8 == 6:  # in a room with a fan: 15 dB
                level = np.sqrt(np.mean(samples**2)) * decibels(-15)
                samples = samples + level * pink_noise(rng, len(samples), 1.0)
            add(f"spoken-{number:02}", samples, text, voice)

    folder = cache / "pocketsphinx/usr/share/pocketsphinx/test/data"
    for number, (name, text) in enumerate(POCKETSPHINX.items()):
        add(f"recorded-{number:02}", read_wav(folder / name), text, f"pocketsphinx-testdata {name}")

    import pytest_audioeval

    folder = Path(pytest_audioeval.__path__[0]) / "samples/audio/en"
    for path in sorted(folder.glob("*.wav")):
        add(f"audioeval-{path.stem}", read_wav(path), path.with_suffix(".txt").read_text().strip(), "pytest-audioeval")

    jfk = next(path for path in (HERE.parent / "tests/fixtures/jfk.wav", cache / "jfk.wav") if path.exists())
    add("jfk", read_wav(jfk), JFK, "inaugural address, 1961")
    return clips


def make_long(
    out: Path, clips: list[dict], name: str, seconds: float, seed: int, silences: tuple[float, ...] = ()
) -> dict:
    """Shuffled clips with pauses of 0.3 to 2.5 s between, and `silences` (in seconds) spread evenly among them."""
    dice = random.Random(seed)
    rng = np.random.default_rng(seed)
    pieces: list[np.ndarray] = []
    texts: list[str] = []
    speech: list[list[float]] = []
    at = 0
    total = round(seconds * RATE)
    breaks = [total * (index + 1) // (len(silences) + 1) for index in range(len(silences))]
    waiting = list(zip(breaks, silences))
    deck: list[dict] = []
    sounds = {clip["file"]: read_wav(out / clip["file"]) for clip in clips}

    def silence(length: float) -> None:
        nonlocal at
        samples = round(length * RATE)
        # Room tone at -66 dBFS; digital silence would be too easy.
        pieces.append(rng.standard_normal(samples) * decibels(-66))
        at += samples

    while True:
        if waiting and at + waiting[0][1] * RATE / 2 >= waiting[0][0]:
            silence(waiting.pop(0)[1])
        deck = deck or dice.sample(clips, len(clips))
        clip = deck.pop()
        pause = dice.uniform(0.3, 2.5)
        sound = sounds[clip["file"]]
        if at + round(pause * RATE) + len(sound) > total:
            break
        silence(pause)
        speech.append([round(at / RATE, 3), round((at + len(sound)) / RATE, 3)])
        pieces.append(sound * decibels(dice.uniform(-12, 0)))
        at += len(sound)
        texts.append(clip["text"])
    silence((total - at) / RATE)
    write_wav(out / f"{name}.wav", np.concatenate(pieces))
    return {"name": name, "file": f"{name}.wav", "seconds": seconds, "text": " ".join(texts), "speech": speech}


def make_noise(out: Path) -> dict:
    """Ten minutes without a voice: hiss, rumble, hum, clicks, chords, from loud to faint."""
    rng = np.random.default_rng(6)
    time = np.arange(50 * RATE) / RATE
    hum = sum(np.sin(2 * np.pi * 50 * k * time) / k for k in range(1, 8))
    clicks = np.zeros(len(time))
    clicks[rng.integers(0, len(time) - 400, 120)] = 1
    clicks = np.convolve(clicks, np.exp(-np.arange(400) / 60) * rng.standard_normal(400), "same")
    chord = sum(np.sin(2 * np.pi * hertz * time) * (0.6 + 0.4 * np.sin(2 * np.pi * 0.5 * time)) for hertz in (220, 277, 330))
    pieces = []
    for level in (-12, -30, -50):
        for slope in (0.0, 1.0, 2.0):
            pieces.append(pink_noise(rng, len(time), slope) * decibels(level))
    pieces.append(hum / np.abs(hum).max() * decibels(-20))
    pieces.append(clicks / np.abs(clicks).max() * decibels(-10))
    pieces.append(chord / np.abs(chord).max() * decibels(-20))
    write_wav(out / "noise.wav", np.concatenate(pieces))
    return {"name": "noise", "file": "noise.wav", "seconds": 600.0, "text": "", "speech": []}


def make_silence(out: Path) -> dict:
    rng = np.random.default_rng(7)
    write_wav(out / "silence.wav", rng.standard_normal(600 * RATE) * decibels(-66))
    return {"name": "silence", "file": "silence.wav", "seconds": 600.0, "text": "", "speech": []}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for the recordings and manifest.json")
    parser.add_argument("--cache", type=Path, help="what setup.sh fetched (default: --out/..)")
    arguments = parser.parse_args()
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    clips = make_clips(out, arguments.cache or out.parent)
    long = [
        make_long(out, clips, "ten-minutes", 600, 10),
        make_long(out, clips, "hour", 3600, 60),
        make_long(out, clips, "hour-with-silence", 3600, 61, silences=(180, 300, 420, 300)),
        make_noise(out),
        make_silence(out),
    ]
    manifest = {"clips": clips, "long": long}
    (out / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")
    words = sum(len(clip["text"].split()) for clip in clips)
    print(f"{len(clips)} clips, {sum(clip['seconds'] for clip in clips):.1f} s, {words} words; {len(long)} long files in {out}")


if __name__ == "__main__":
    main()
