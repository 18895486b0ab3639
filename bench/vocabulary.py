#!/usr/bin/env python3
"""Two hundred synthesised sentences with rare names, against a server: how many names come out, and how many where none was said?

    vocabulary.py --endpoint http://127.0.0.1:8080 [--sentences 200] [--other MINUTES]

Each sentence is asked three times: without the names, with them in the prompt alone (`keyword_weight=0`), and with them preferred
while decoding (`keyword_weight=1`). Then so many minutes of other sentences with the whole list: names found there are false. Needs
espeak-ng.
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


def count(names, text):
    plain = " ".join(words(text))
    return sum(f" {' '.join(words(name))} " in f" {plain} " for name in names)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--endpoint", default="http://127.0.0.1:8080")
    parser.add_argument("--sentences", type=int, default=200)
    parser.add_argument("--other", type=float, default=60, help="minutes of speech without names")
    parser.add_argument("--weight", default="1")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp())
    pick = random.Random(5)
    found = {"none": 0, "prompt": 0, "preferred": 0}
    wrong = dict.fromkeys(found, 0)
    total = 0
    for number in range(options.sentences):
        name = NAMES[number % len(NAMES)]
        text = FRAMES[number % len(FRAMES)].format(name)
        path = folder / "one.wav"
        save(path, np.concatenate([np.zeros(RATE // 4), speak("en", text), np.zeros(RATE // 2)]))
        listed = pick.sample([other for other in NAMES if other != name], 14) + [name]
        pick.shuffle(listed)
        base = [("model", "whisper-1"), ("language", "en")]
        keys = [("keywords[]", entry) for entry in listed]
        for kind, fields in (("none", base), ("prompt", base + keys + [("keyword_weight", "0")]),
                             ("preferred", base + keys + [("keyword_weight", options.weight)])):
            heard = post(options.endpoint, path, fields)["text"]
            found[kind] += count([name], heard)
            wrong[kind] += errors(words(text), words(heard))
        total += len(words(text))
        if number % 20 == 19:
            print(number + 1, {kind: f"{value / (number + 1):.1%}" for kind, value in found.items()}, flush=True)
    for kind, value in found.items():
        print(f"{kind}: recall {value / options.sentences:.1%}, WER {wrong[kind] / total:.1%}")
    length, pieces = 0, []
    other = SENTENCES["en"] + [frame.format("my neighbour") for frame in FRAMES]
    while length < options.other * 60 * RATE:
        pieces += [speak("en", pick.choice(other)), np.zeros(int(0.3 * RATE))]
        length += len(pieces[-1]) + len(pieces[-2])
    if pieces:
        save(folder / "other.wav", np.concatenate(pieces))
        fields = [("model", "whisper-1"), ("language", "en")] + [("keywords[]", name) for name in NAMES]
        heard = post(options.endpoint, folder / "other.wav", fields + [("keyword_weight", options.weight)])["text"]
        plain = f" {' '.join(words(heard))} "
        false = {name: plain.count(f" {' '.join(words(name))} ") for name in NAMES}
        print(f"{options.other:g} minutes of other speech: {sum(false.values())} false names", {n: c for n, c in false.items() if c})
    return 0


if __name__ == "__main__":
    sys.exit(main())
