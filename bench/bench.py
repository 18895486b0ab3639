#!/usr/bin/env python3
"""Measures our server beside faster-whisper and whisper.cpp's server: same weights, audio and cores, interleaved.

    setup.sh CACHE                                  once: peers, Python packages, speech set
    bench.py run short  --cache CACHE --models DIR --binary PATH    one scenario, at most about ten minutes
    bench.py report     --cache CACHE               writes RESULTS.md from the scenarios run so far

Scenarios: short, long, clients, beside, busy, two, share, silence, first-words (see `bench.py run --help`).
It builds nothing. `--models` holds ggml-base-q8_0.bin and others (`WhisperBackendAPI models pull base-q8_0`).
"""

import argparse
import json
import os
import random
import subprocess
import sys
import threading
import time
from pathlib import Path

import report
from engines import Engine, FasterWhisper, HttpEngine, OpenVino, Ours, WhisperCpp
from scoring import median, percentile, wer, word_errors

HERE = Path(__file__).resolve().parent


class Bench:
    """What the scenarios share: the speech set, the engines asked for, where results go."""

    def __init__(self, arguments: argparse.Namespace):
        self.arguments = arguments
        self.cache: Path = arguments.cache
        self.speech = self.cache / "speech"
        manifest = json.loads((self.speech / "manifest.json").read_text())
        self.clips = manifest["clips"]
        self.long = {entry["name"]: entry for entry in manifest["long"]}
        self.cores: int = arguments.cores
        self.running: list[Engine] = []

    def model(self, kind: str) -> Path:
        return self.arguments.models / f"ggml-{kind}.bin"

    def ours(self, kind: str | None = None, **settings) -> Ours:
        """`kind` is a model, or a model with what differs from the defaults: `base@beam_size=1,binary=PATH`."""
        model, _, wishes = (kind or self.arguments.ours[0]).partition("@")
        whisper, binary, environment = {}, self.arguments.binary, {}
        for wish in filter(None, wishes.split(",")):
            key, _, value = wish.partition("=")
            if key == "binary":
                binary = Path(value)
            elif key == "isa":
                environment["WHISPER_BACKEND_ISA"] = value
            else:
                whisper[key] = int(value) if value.isdecimal() else value
        settings = {**settings, "whisper": {**settings.get("whisper", {}), **whisper}}
        engine = Ours(binary, self.model(model), self.cores, settings)
        engine.name += f" {wishes}" if wishes else ""
        engine.environment = environment
        return engine

    def candidates(self, faster: list[tuple[int, int]]) -> list[Engine]:
        """Every engine of a comparison; `faster` lists beam and batch of faster-whisper."""
        engines: list[Engine] = []
        if self.arguments.binary:
            engines += [self.ours(kind) for kind in self.arguments.ours]
        if self.arguments.openvino:
            engines.append(OpenVino(self.arguments.openvino, self.cores))
        if not self.arguments.no_peers:
            engines += [FasterWhisper(self.cache / "ct2-base", self.cores, beam, batch) for beam, batch in faster]
            server = self.cache / "whisper.cpp/bin/whisper-server"
            engines += [WhisperCpp(server, self.model(kind), self.cores) for kind in self.arguments.cpp]
        return engines

    def start(self, engines: list[Engine]) -> list[Engine]:
        for engine in engines:
            print(f"  starting {engine.name}", file=sys.stderr, flush=True)
            engine.start()
            self.running.append(engine)
            engine.transcribe(self.sound("jfk.wav"))  # first use is slower: loading, warming
        return engines

    def stop(self) -> None:
        for engine in self.running:
            engine.stop()
        self.running.clear()

    def sound(self, file: str) -> str:
        return str(self.speech / file)

    def clip_of(self, seconds: float) -> dict:
        """The clip nearest to this length."""
        return min(self.clips, key=lambda clip: abs(clip["seconds"] - seconds))


def timed(engine: Engine, path: str) -> tuple[str, float, float]:
    """Text, seconds by the clock, processor seconds."""
    before = sum(engine.cpu().values())
    begin = time.monotonic()
    text = engine.transcribe(path)
    wall = time.monotonic() - begin
    return text, wall, sum(engine.cpu().values()) - before


def compare(bench: Bench, engines: list[Engine], recordings: list[dict], rounds: int) -> list[dict]:
    """Each recording goes to each engine in turn, in an order that changes, so that a noisy minute hits all alike."""
    taken: dict[str, list[dict]] = {engine.name: [] for engine in engines}
    dice = random.Random(1)
    for _ in range(rounds):
        for recording in recordings:
            for engine in dice.sample(engines, len(engines)):
                text, wall, cpu = timed(engine, bench.sound(recording["file"]))
                taken[engine.name].append(
                    {"file": recording["file"], "seconds": recording["seconds"], "wall": wall, "cpu": cpu, "text": text}
                )
                if recording["seconds"] > 60:
                    print(f"  {engine.name}: {wall:.1f} s", file=sys.stderr, flush=True)
    rows = []
    texts = {recording["file"]: recording["text"] for recording in recordings}
    for engine in engines:
        runs = taken[engine.name]
        audio = sum(run["seconds"] for run in runs)
        rows.append(
            {
                "engine": engine.name,
                "rtfx": audio / sum(run["wall"] for run in runs),
                "wer": wer([(texts[run["file"]], run["text"]) for run in runs]),
                "median_s": median([run["wall"] for run in runs]),
                "p95_s": percentile([run["wall"] for run in runs], 0.95),
                "memory_mb": engine.peak_memory_mb(),
                "cpu_s": sum(run["cpu"] for run in runs) / rounds,
                "audio_s": audio / rounds,
                "rounds": rounds,
                "runs": runs if bench.arguments.keep_text else None,
            }
        )
        print(
            f"{engine.name:42} RTFx {rows[-1]['rtfx']:6.1f}  WER {rows[-1]['wer']:5.2f} %  median {rows[-1]['median_s']:.2f} s"
            f"  p95 {rows[-1]['p95_s']:.2f} s  {rows[-1]['memory_mb']:.0f} MB  {rows[-1]['cpu_s']:.1f} cpu s",
            flush=True,
        )
    return rows


def short(bench: Bench) -> dict:
    """Clips of 1 to 16 s, one client."""
    engines = bench.start(bench.candidates([(1, 0), (5, 0)]))
    clips = bench.clips[: bench.arguments.limit] if bench.arguments.limit else bench.clips
    return {"rows": compare(bench, engines, clips, bench.arguments.rounds)}


def long(bench: Bench) -> dict:
    """A file of ten minutes."""
    engines = bench.start(bench.candidates([(1, 0), (5, 0), (1, 8), (5, 8)]))
    return {"rows": compare(bench, engines, [bench.long["ten-minutes"]], bench.arguments.rounds)}


def hour(bench: Bench) -> dict:
    """A file of sixty minutes (ours only: the peers need much longer)."""
    engines = bench.start([bench.ours(kind) for kind in bench.arguments.ours])
    return {"rows": compare(bench, engines, [bench.long["hour"]], 1)}


def in_parallel(engines: list[Engine], clips: list[dict], bench: Bench, clients: int) -> dict:
    """Gives the clips to `clients` threads; client n uses engine n (mod their count)."""
    deck = list(clips)
    lock = threading.Lock()
    walls: list[float] = []
    pairs: list[tuple[str, str]] = []
    failures: list[str] = []

    def client(number: int) -> None:
        engine = engines[number % len(engines)]
        while True:
            with lock:
                if not deck:
                    return
                clip = deck.pop(0)
            begin = time.monotonic()
            try:
                text = engine.transcribe(bench.sound(clip["file"]))
            except (RuntimeError, OSError) as error:
                failures.append(str(error))
                continue
            with lock:
                walls.append(time.monotonic() - begin)
                pairs.append((clip["text"], text))

    begin = time.monotonic()
    threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    total = time.monotonic() - begin
    return {
        "rtfx": sum(clip["seconds"] for clip in clips) / total,
        "wer": wer(pairs),
        "median_s": median(walls),
        "p95_s": percentile(walls, 0.95),
        "failures": failures,
    }


def clients(bench: Bench) -> dict:
    """One client and four at once, same clips."""
    rows = []
    engines = bench.start([bench.ours(), *http_peers(bench)])
    for engine in engines:
        for count in (1, 4, 1, 4):
            rows.append({"engine": engine.name, "clients": count, **in_parallel([engine], bench.clips, bench, count)})
            print(rows[-1], flush=True)
    return {"rows": rows}


def http_peers(bench: Bench) -> list[Engine]:
    if bench.arguments.no_peers:
        return []
    server = bench.cache / "whisper.cpp/bin/whisper-server"
    return [WhisperCpp(server, bench.model(bench.arguments.cpp[0]), bench.cores)]


def beside(bench: Bench) -> dict:
    """A clip of 5 s again and again, alone and beside a file of sixty minutes."""
    clip = bench.clip_of(5.0)
    rows = []
    for engine in bench.start([bench.ours()]):
        alone = [timed(engine, bench.sound(clip["file"]))[1] for _ in range(20)]
        done = threading.Event()

        def send_hour() -> None:
            try:
                engine.transcribe(bench.sound(bench.long["hour"]["file"]))
            except (RuntimeError, OSError):
                pass
            done.set()

        threading.Thread(target=send_hour, daemon=True).start()
        time.sleep(3)
        with_hour = []
        while not done.is_set() and len(with_hour) < 40:
            with_hour.append(timed(engine, bench.sound(clip["file"]))[1])
            time.sleep(0.2)
        rows.append(
            {
                "engine": engine.name,
                "clip_s": clip["seconds"],
                "alone_median_s": median(alone),
                "ratio_of_p95": percentile(with_hour, 0.95) / median(alone),
                "alone_p95_s": percentile(alone, 0.95),
                "beside_median_s": median(with_hour),
                "beside_p95_s": percentile(with_hour, 0.95),
                "requests": len(with_hour),
                "hour_still_running": not done.is_set(),
            }
        )
        print(rows[-1], flush=True)
    return {"rows": rows}


def busy(bench: Bench) -> dict:
    """Clips while another process keeps one core busy, compared with the quiet box."""
    clips = bench.clips[::4]
    rows = []
    engines = bench.start(bench.candidates([(1, 0)]))
    for engine in engines:
        quiet = [timed(engine, bench.sound(clip["file"]))[1] for clip in clips]
        neighbour = subprocess.Popen([sys.executable, "-c", "while True: pass"])
        try:
            time.sleep(1)
            loud = [timed(engine, bench.sound(clip["file"]))[1] for clip in clips]
        finally:
            neighbour.kill()
            neighbour.wait()
        rows.append(
            {"engine": engine.name, "quiet_s": sum(quiet), "busy_s": sum(loud), "ratio": sum(loud) / sum(quiet)}
        )
        print(rows[-1], flush=True)
    return {"rows": rows}


def two(bench: Bench) -> dict:
    """Two servers on one machine, a client each, compared with one server and one client."""
    clips = bench.clips[::2]
    engines = bench.start([bench.ours(), bench.ours()])
    one = in_parallel(engines[:1], clips, bench, 1)
    both = in_parallel(engines, clips, bench, 2)
    row = {"engine": engines[0].name, "one": one, "two": both, "ratio": both["rtfx"] / one["rtfx"]}
    print(row, flush=True)
    return {"rows": [row]}


def share(bench: Bench) -> dict:
    """Processor time of the server process (HTTP, spool, decoding, windows, render) as a share of a request's."""
    rows = []
    for engine in bench.start([bench.ours(kind) for kind in bench.arguments.ours]):
        for name, files in (
            ("clips", [clip["file"] for clip in bench.clips]),
            ("ten minutes", [bench.long["ten-minutes"]["file"]]),
        ):
            before = engine.cpu()
            for file in files:
                engine.transcribe(bench.sound(file))
            after = engine.cpu()
            server = after["server"] - before["server"]
            children = after["children"] - before["children"]
            rows.append(
                {
                    "engine": engine.name,
                    "what": name,
                    "server_cpu_s": server,
                    "engine_cpu_s": children,
                    "share_percent": 100 * server / max(1e-9, server + children),
                }
            )
            print(rows[-1], flush=True)
    return {"rows": rows}


def silence(bench: Bench) -> dict:
    """Silence, noise, and an hour with twenty minutes of silence: invented words, and what silence costs."""
    rows = []
    for engine in bench.start([bench.ours()]):
        for name in ("silence", "noise", "hour-with-silence"):
            entry = bench.long[name]
            text, wall, cpu = timed(engine, bench.sound(entry["file"]))
            errors, words = word_errors(entry["text"], text)
            rows.append(
                {
                    "engine": engine.name,
                    "what": name,
                    "seconds": entry["seconds"],
                    "wall_s": wall,
                    "cpu_s": cpu,
                    "percent_of_length": 100 * wall / entry["seconds"],
                    "words_heard": len(text.split()),
                    "text": text[:200] if not words else "",
                    "wer": 100 * errors / words if words else None,
                }
            )
            print(rows[-1], flush=True)
    return {"rows": rows}


def first_words(bench: Bench) -> dict:
    """First streamed words of an hour, compared with the time of the recording up to those words."""
    entry = bench.long["hour"]
    rows = []
    for engine in bench.start([bench.ours(kind) for kind in bench.arguments.ours]):
        waits = []
        for _ in range(3):
            wait, words, response = engine.first_words(bench.sound(entry["file"]))
            waits.append(wait)
            response.close()
            time.sleep(3)  # until the windows in flight are gone
        # The first window holds the words of the first delta: send just that much as a file of its own.
        until = first_window_seconds(bench, entry, words)
        alone_file = bench.cache / "first-window.wav"
        cut_wav(bench.sound(entry["file"]), alone_file, until)
        alone = [timed(engine, str(alone_file))[1] for _ in range(5)]
        rows.append(
            {
                "engine": engine.name,
                "first_words_s": median(waits),
                "window_audio_s": until,
                "window_alone_s": median(alone),
                "ratio": median(waits) / median(alone),
                "words": words[:120],
            }
        )
        print(rows[-1], flush=True)
    return {"rows": rows}


def first_window_seconds(bench: Bench, entry: dict, words: str) -> float:
    """Where the clip ends in which the first delta ends, by the count of words spoken until then."""
    lengths = {clip["text"]: len(clip["text"].split()) for clip in bench.clips}
    spoken, rest = 0, entry["text"]
    for start, end in entry["speech"]:
        text = max((text for text in lengths if rest.startswith(text)), key=len)
        rest = rest[len(text) :].lstrip()
        spoken += lengths[text]
        if spoken >= len(words.split()) * 0.9:
            return end + 0.3
    return entry["seconds"]


def cut_wav(source: str, target: Path, seconds: float) -> None:
    import wave

    with wave.open(source) as whole, wave.open(str(target), "wb") as part:
        part.setparams(whole.getparams())
        part.writeframes(whole.readframes(round(seconds * whole.getframerate())))


SCENARIOS = {
    "short": short,
    "long": long,
    "hour": hour,
    "clients": clients,
    "beside": beside,
    "busy": busy,
    "two": two,
    "share": share,
    "silence": silence,
    "first-words": first_words,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="run scenarios", formatter_class=argparse.RawDescriptionHelpFormatter)
    run.epilog = "\n".join(f"{name:12} {scenario.__doc__}" for name, scenario in SCENARIOS.items())
    run.add_argument("scenario", nargs="+", choices=SCENARIOS)
    run.add_argument("--cache", type=Path, required=True, help="what setup.sh filled")
    run.add_argument("--models", type=Path, required=True, help="folder of the ggml files")
    run.add_argument("--binary", type=Path, help="our release binary; absent: peers only")
    run.add_argument("--cores", type=int, default=len(os.sched_getaffinity(0)), help="cores given to every engine")
    run.add_argument("--rounds", type=int, default=1, help="times that each recording is sent")
    run.add_argument("--limit", type=int, default=0, help="first so many clips only")
    run.add_argument("--ours", nargs="*", default=["base-q8_0", "base-q4_0"], help="our models")
    run.add_argument("--cpp", nargs="*", default=["base-q8_0"], help="models of whisper.cpp's server")
    run.add_argument("--openvino", type=Path, help="an exported OpenVINO model (native.md)")
    run.add_argument("--no-peers", action="store_true", help="ours only")
    run.add_argument("--keep-text", action="store_true", help="keep every text in the result files")
    run.add_argument("--label", default="", help="added to the result file's name, so that runs stand side by side")
    write = commands.add_parser("report", help="write RESULTS.md")
    write.add_argument("--cache", type=Path, required=True)
    write.add_argument("--out", type=Path, default=HERE / "RESULTS.md")
    arguments = parser.parse_args()
    if arguments.command == "report":
        report.write(arguments.cache / "results", arguments.out)
        return
    results = arguments.cache / "results"
    results.mkdir(exist_ok=True)
    for name in arguments.scenario:
        bench = Bench(arguments)
        print(f"{name}: {SCENARIOS[name].__doc__}", file=sys.stderr, flush=True)
        begin = time.time()
        try:
            measured = SCENARIOS[name](bench)
        finally:
            bench.stop()
        measured["machine"] = report.machine(arguments.cores)
        measured["when"] = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(begin))
        measured["took_s"] = time.time() - begin
        label = f"-{arguments.label}" if arguments.label else ""
        (results / f"{name}{label}.json").write_text(json.dumps(measured, indent=1) + "\n")


if __name__ == "__main__":
    main()
