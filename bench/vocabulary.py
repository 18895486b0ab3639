#!/usr/bin/env python3
"""Two hundred synthesised sentences with rare names, against a server: how many names come out, and how many where none was said?

    vocabulary.py --endpoint http://127.0.0.1:8080 [--sentences 200] [--half tuning|testing] [--beam 5] [--other MINUTES]

Each sentence is spoken by one of four voices (SVOX Pico's two English ones, espeak-ng, flite) and asked three times: without
the names, with fifteen of them in the prompt alone (`keyword_weight=0`), and with those preferred while decoding. A half is
every other name, so that what is tuned on one half's names is tested on names it never saw. Then so many minutes of other
sentences with the whole list: names found there are false.
"""

import argparse
import random
import sys
import tempfile
from pathlib import Path

import numpy as np

from languages import RATE, SENTENCES, errors, post, save, speak, words

NAMES = [
    "Krzysztof", "Wiśniewski", "Siobhan", "Nguyen", "Tchaikovsky", "Yevgenia", "Rehaan", "Contoso", "Fabrikam", "Xylophia", "Zubrowka",
    "Oyelaran", "Quetzalcoatl", "Kubernetes", "Terraform", "PostgreSQL", "Grafana", "Vantablack", "Bjornstad", "Aoife", "Padraig", "Niamh",
    "Saoirse", "Eyjafjalla", "Llewellyn", "Caerphilly", "Worcestershire", "Leominster", "Schwarzkopf", "Hohenzollern", "Neuschwanstein",
    "Szczecin", "Gdansk", "Ljubljana", "Reykjavik", "Ouagadougou", "Antananarivo", "Thimphu", "Ashgabat", "Bishkek", "Tegucigalpa",
    "Celecoxib", "Atorvastatin", "Metoprolol", "Omeprazole", "Levothyroxine", "Gabapentin", "Amoxicillin", "Rivaroxaban", "Pembrolizumab",
]
FRAMES = [
    "Yesterday I spoke with {} about the new contract.", "Could you please ask {} to call me back tomorrow?", "The name on the list is {}, I believe.",
    "We decided to use {} for the next project.", "They mentioned {} twice during the meeting.", "I have never heard of {} before this week.",
    "The letter from {} arrived on Monday morning.", "Please write {} in the first line of the form.",
]
# Who speaks: the kind of voice, and its language.
VOICES = [("pico", "en"), ("espeak", "en"), ("pico", "en-gb"), ("flite", "en")]


def count(names, text):
    plain = " ".join(words(text))
    return sum(f" {' '.join(words(name))} " in f" {plain} " for name in names)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--endpoint", default="http://127.0.0.1:8080")
    parser.add_argument("--sentences", type=int, default=200)
    parser.add_argument("--other", type=float, default=60, help="minutes of speech without names")
    parser.add_argument("--half", choices=["tuning", "testing"])
    parser.add_argument("--beam", help="beam_size of the requests; the server's own when left out")
    parser.add_argument("--kinds", default="none,prompt,preferred")
    parser.add_argument("--weight", default="1")
    parser.add_argument("--keep", type=Path, help="folder of the recordings, made once")
    parser.add_argument("--misses", action="store_true", help="show what was heard where the name is missing")
    options = parser.parse_args()
    folder = options.keep or Path(tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)
    pick = random.Random(5)
    found = dict.fromkeys(options.kinds.split(","), 0)
    wrong = dict.fromkeys(found, 0)
    only_list = dict.fromkeys(found, 0)
    total = asked = 0
    base = [("model", "whisper-1"), ("language", "en")] + ([("beam_size", options.beam)] if options.beam else [])
    weights = {"none": None, "prompt": "0", "preferred": options.weight}
    for number in range(options.sentences):
        name = NAMES[number % len(NAMES)]
        # Every name meets every voice and four of the frames.
        text = FRAMES[(number + number // len(NAMES)) % len(FRAMES)].format(name)
        voice, language = VOICES[(number + number // len(NAMES)) % len(VOICES)]
        listed = pick.sample([other for other in NAMES if other != name], 14) + [name]
        pick.shuffle(listed)
        if options.half and (number % len(NAMES)) % 2 != (options.half == "testing"):
            continue
        path = folder / f"{number:03}.wav"
        if not path.exists():
            save(path, np.concatenate([np.zeros(RATE // 4), speak(language, text, voice), np.zeros(RATE // 2)]))
        asked += 1
        for kind in found:
            weight = weights[kind]
            keys = [("keywords[]", entry) for entry in listed] + [("keyword_weight", weight)] if weight else []
            heard = post(options.endpoint, path, base + keys)["text"]
            hit = count([name], heard)
            found[kind] += min(hit, 1)
            wrong[kind] += errors(words(text), words(heard))
            only_list[kind] += hit < len(words(heard)) and sum(count([entry], heard) for entry in listed) >= len(words(heard)) > 0
            if options.misses and not hit and kind == "preferred":
                print(f"    {voice} {name}: {heard}")
        total += len(words(text))
        if asked % 25 == 0:
            print(asked, {kind: f"{value / asked:.1%}" for kind, value in found.items()}, flush=True)
    for kind, value in found.items():
        print(f"{kind}: recall {value / max(asked, 1):.1%}, WER {wrong[kind] / max(total, 1):.1%}, {only_list[kind]} answers of names alone", flush=True)
    length, pieces = 0, []
    other = SENTENCES["en"] + [frame.format("my neighbour") for frame in FRAMES] + [
        line.split("|", 1)[1].strip() for line in (Path(__file__).parent / "sentences.txt").read_text().splitlines() if line and line[0] != "#"]
    while length < options.other * 60 * RATE:
        voice, language = pick.choice(VOICES)
        pieces += [speak(language, pick.choice(other), voice), np.zeros(int(0.3 * RATE))]
        length += len(pieces[-1]) + len(pieces[-2])
    if pieces:
        save(folder / "other.wav", np.concatenate(pieces))
        fields = base + [("keywords[]", name) for name in NAMES] + [("keyword_weight", options.weight)]
        heard = post(options.endpoint, folder / "other.wav", fields)["text"]
        plain = f" {' '.join(words(heard))} "
        false = {name: plain.count(f" {' '.join(words(name))} ") for name in NAMES}
        print(f"{options.other:g} minutes of other speech: {sum(false.values())} false names", {n: c for n, c in false.items() if c})
    return 0


if __name__ == "__main__":
    sys.exit(main())
