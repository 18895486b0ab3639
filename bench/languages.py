#!/usr/bin/env python3
"""Recordings that change their language, against a server: is each stretch written in its own?

    languages.py --endpoint http://127.0.0.1:8080 [--keep DIR] [--voices pico,espeak] [--minutes 60]

Makes twelve recordings of two to four languages, with 0.7 s between parts. German, English, French, Italian and Spanish
parts are four sentences by a voice of SVOX Pico (`py-nanotts` on PyPI, Apache-2.0) or of espeak-ng; Japanese, Polish and
Portuguese parts are clips of `pytest-audioeval` (PyPI, MIT). Each part alone with its language given is the reference.
Prints, for every recording, the share of spoken time whose segment has the right language, and the word error rate of the
parts spliced and alone (Japanese by characters). Then long recordings of one language each, which must not flip.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import urllib.request
import uuid
import wave
from pathlib import Path

import numpy as np
import soundfile

RATE = 16_000
SENTENCES = {
    "en": ["The weather was fine when we left the house this morning.", "My brother works in a small office near the station.",
           "We are going to visit our grandmother on Sunday afternoon.", "Please send me the report before the end of the week.",
           "The children were playing in the garden all day long."],
    "de": ["Das Wetter war schön, als wir heute Morgen das Haus verließen.", "Mein Bruder arbeitet in einem kleinen Büro in der Nähe des Bahnhofs.",
           "Wir besuchen am Sonntagnachmittag unsere Großmutter.", "Bitte schicken Sie mir den Bericht vor dem Ende der Woche.",
           "Die Kinder haben den ganzen Tag im Garten gespielt."],
    "fr": ["Il faisait beau quand nous avons quitté la maison ce matin.", "Mon frère travaille dans un petit bureau près de la gare.",
           "Nous allons rendre visite à notre grand-mère dimanche après-midi.", "Envoyez-moi le rapport avant la fin de la semaine, s'il vous plaît.",
           "Les enfants ont joué dans le jardin toute la journée."],
    "es": ["Hacía buen tiempo cuando salimos de casa esta mañana.", "Mi hermano trabaja en una pequeña oficina cerca de la estación.",
           "Vamos a visitar a nuestra abuela el domingo por la tarde.", "Por favor, envíeme el informe antes del fin de semana.",
           "Los niños jugaron en el jardín todo el día."],
    "it": ["Il tempo era bello quando siamo usciti di casa questa mattina.", "Mio fratello lavora in un piccolo ufficio vicino alla stazione.",
           "Andiamo a trovare nostra nonna domenica pomeriggio.", "Per favore, mi mandi la relazione prima della fine della settimana.",
           "I bambini hanno giocato in giardino tutto il giorno."],
}
# Clips of pytest-audioeval; those that count to ten are left out: models write digits.
CLIPS = {"ja": ["konnichiwa_sekai", "pangrama"], "pl": ["witaj_swiecie", "pangrama"], "pt": ["ola_mundo", "pangrama"]}
RECIPES = [("en", "de"), ("de", "en"), ("en", "fr"), ("es", "en"), ("fr", "de"), ("it", "en", "it"), ("en", "es", "en"), ("de", "fr", "de"),
           ("en", "ja", "en"), ("pl", "de", "fr"), ("es", "de", "en", "fr"), ("it", "pt", "de", "en")]
PICO = {"en": "en-US", "en-gb": "en-GB", "de": "de-DE", "fr": "fr-FR", "es": "es-ES", "it": "it-IT"}


def speak(language, text, voices="pico"):
    """Samples at 16 kHz, 16 bits' scale."""
    if voices == "pico":
        import py_nanotts

        return np.frombuffer(py_nanotts.NanoTTS().speak(text, voice=PICO[language]), "<i2").astype(np.float64)
    with tempfile.NamedTemporaryFile(suffix=".wav") as file:
        if voices == "flite":
            command = ["flite", "-voice", "slt", "-t", text, "-o", file.name]
        else:
            voice = {"en": "en-us", "fr": "fr-fr"}.get(language, language)
            command = ["espeak-ng", "-v", voice, "-s", "150", "-w", file.name, text]
        subprocess.run(command, check=True, capture_output=True)
        return at_rate(*soundfile.read(file.name))


def at_rate(samples, rate):
    places = np.arange(0, len(samples) - 1, rate / RATE)
    return np.interp(places, np.arange(len(samples)), samples) * 32768


def part(language, pick, voices):
    """What is said and its sound."""
    if language in CLIPS:
        import pytest_audioeval

        folder = Path(pytest_audioeval.__path__[0]) / "samples/audio" / language
        texts = [(folder / f"{name}.txt").read_text().strip() for name in CLIPS[language]]
        sounds = [at_rate(*soundfile.read(folder / f"{name}.wav")) for name in CLIPS[language]]
    else:
        texts = pick.sample(SENTENCES[language], 4)
        sounds = [speak(language, text, voices) for text in texts]
    pause = np.zeros(int(0.25 * RATE))
    return " ".join(texts), np.concatenate([piece for sound in sounds for piece in (sound, pause)])


def save(path, samples):
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(np.clip(samples, -32768, 32767).astype("<i2").tobytes())


def post(endpoint, path, fields):
    boundary = uuid.uuid4().hex
    parts = [f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode() for name, value in fields]
    parts.append(f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'.encode() + Path(path).read_bytes() + b"\r\n")
    request = urllib.request.Request(endpoint + "/v1/audio/transcriptions", b"".join(parts) + f"--{boundary}--\r\n".encode(),
                                     {"Content-Type": f"multipart/form-data; boundary={boundary}"})
    with urllib.request.urlopen(request, timeout=3600) as answer:
        return json.load(answer)


def words(text):
    plain = "".join(c.lower() if c.isalnum() or c == "'" else " " for c in text)
    # Japanese has no spaces: each character is a word.
    return "".join(f" {c} " if "\u3040" <= c <= "\u9fff" else c for c in plain).split()


def errors(said, heard):
    row = list(range(len(heard) + 1))
    for i, a in enumerate(said, 1):
        before, row[0] = row[0], i
        for j, b in enumerate(heard, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (a != b))
    return row[-1]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--endpoint", default="http://127.0.0.1:8080")
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--beam", help="beam_size of the requests; the server's own when left out")
    parser.add_argument("--verbose", action="store_true", help="show every segment")
    parser.add_argument("--minutes", type=float, default=60, help="of each language alone")
    parser.add_argument("--voices", default="pico", choices=["pico", "espeak"])
    options = parser.parse_args()
    folder = options.keep or Path(tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)
    pick = random.Random(13)
    base = [("model", "whisper-1")] + ([("beam_size", options.beam)] if options.beam else [])
    right = spoken = spliced_errors = alone_errors = all_words = 0
    for number, recipe in enumerate(RECIPES):
        pause = np.zeros(int(0.7 * RATE))
        samples, parts = [np.zeros(RATE // 4)], []
        for language in recipe:
            text, sound = part(language, pick, options.voices)
            start = sum(map(len, samples)) / RATE
            samples += [sound, pause]
            parts.append((language, text, start, start + len(sound) / RATE, sound))
        path = folder / f"{number:02}-{'-'.join(recipe)}.wav"
        save(path, np.concatenate(samples))
        fields = base + [("response_format", "verbose_json"), ("language_mode", "per_window")]
        answer = post(options.endpoint, path, fields)
        good = total = 0.0
        for segment in answer["segments"]:
            # A segment that reaches over a change is right by the part that it is right in.
            for language, _, start, end, _ in parts:
                shared = max(0.0, min(end, segment["end"]) - max(start, segment["start"]))
                total += shared
                good += shared * (segment["language"] == language)
        joined = errors(words(" ".join(part[1] for part in parts)), words(answer["text"]))
        single = 0
        for language, text, _, _, sound in parts:
            save(folder / "part.wav", np.concatenate([pause, sound, pause]))
            heard = post(options.endpoint, folder / "part.wav", base + [("response_format", "json"), ("language", language)])
            single += errors(words(text), words(heard["text"]))
        count = sum(len(words(part[1])) for part in parts)
        right, spoken = right + good, spoken + total
        spliced_errors, alone_errors, all_words = spliced_errors + joined, alone_errors + single, all_words + count
        print(f"{path.name}: language right {good / max(total, 1e-9):.1%}, heard {[entry['code'] for entry in answer['languages']]}, "
              f"WER {joined / count:.1%} spliced, {single / count:.1%} alone", flush=True)
        if options.verbose:
            for segment in answer["segments"]:
                print(f"    {segment['start']:6.2f} {segment['end']:6.2f} {segment['language']} {segment['text']}")
    print(f"all: language right {right / spoken:.1%}; WER {spliced_errors / all_words:.2%} spliced, {alone_errors / all_words:.2%} alone, {all_words} words")
    for language in ("en", "de"):
        length, pieces = 0, []
        while options.minutes and length < options.minutes * 60 * RATE:
            pieces += [speak(language, pick.choice(SENTENCES[language]), options.voices), np.zeros(int(0.3 * RATE))]
            length += len(pieces[-1]) + len(pieces[-2])
        if pieces:
            save(folder / "long.wav", np.concatenate(pieces))
            fields = base + [("response_format", "verbose_json"), ("language_mode", "per_window")]
            answer = post(options.endpoint, folder / "long.wav", fields)
            flips = sum(segment["language"] != language for segment in answer["segments"])
            print(f"{options.minutes:g} minutes of {language}: {flips} of {len(answer['segments'])} segments in another language", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
