#!/usr/bin/env python3
"""The page in a real browser: tests/page/run.py --binary target/debug/WhisperBackendAPI

Starts servers of its own and drives the system's Chromium through Playwright (PyPI) with axe-core (npm), both installed once below
`~/.cache/whisper-backend-api/clients`. Prints one line a check and ends with `N passed, N failed`. `--long` adds a
recording of two hours. Needs python3 with venv, npm, chromium, ffmpeg.
"""

import argparse
import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
PLAYWRIGHT = "playwright==1.65.2"
AXE = "axe-core@4.14.1"
KEY = "page-key-0123456789"


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", type=Path, required=True, help="the server")
    parser.add_argument("--model", type=Path, default=ROOT / "models/ggml-base.bin", help="a multilingual model file")
    parser.add_argument("--only", default="", help="checks whose name holds this")
    parser.add_argument("--long", action="store_true", help="also two hours of audio, and the time to the first paint as a demand")
    parser.add_argument("--screenshots", type=Path, help="write a picture of each view in both languages into this folder")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "whisper-backend-api/clients"
    parser.add_argument("--cache", type=Path, default=cache, help="where Playwright and axe are installed")
    options = parser.parse_args()
    for path, advice in ((options.binary, "build it with `cargo build`"), (options.model, f"fetch it with `{options.binary} models pull base`")):
        if not path.is_file():
            parser.error(f"{path} is missing; {advice}")
    options.binary, options.model = options.binary.resolve(), options.model.resolve()
    options.chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if not options.chromium:
        parser.error("no Chromium; Debian: apt-get install chromium")
    return options


def install(cache):
    """Python with Playwright, and axe's one file."""
    home = cache / "page"
    stamp = home / ".installed"
    wanted = json.dumps([PLAYWRIGHT, AXE, sys.version_info[:2]])
    if not (stamp.is_file() and stamp.read_text() == wanted):
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir(parents=True)
        quietly([sys.executable, "-m", "venv", home])
        quietly([home / "bin/python", "-m", "pip", "install", "--quiet", PLAYWRIGHT])
        (home / "package.json").write_text('{"private": true}')
        quietly(["npm", "install", "--no-audit", "--no-fund", "--loglevel=error", AXE], cwd=home)
        stamp.write_text(wanted)
    return home


def quietly(command, **options):
    subprocess.run(command, check=True, text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **options)


class Server:
    def __init__(self, process, port, log):
        self.process, self.port, self.log = process, port, log
        self.address = f"http://localhost:{port}/"


@contextlib.contextmanager
def server(options, folder, name, keys=()):
    """A server of its own, ready to transcribe."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    home = folder / name
    home.mkdir()
    lines = ["[server]", f"port = {port}", f"api_keys = {json.dumps(list(keys))}", 'locale = "en"', "[whisper]",
             f"model_path = {json.dumps(str(options.model))}", "auto_download = false"]
    (home / "config.toml").write_text("\n".join(lines) + "\n")
    environment = {key: value for key, value in os.environ.items() if not key.startswith("WHISPER_")}
    log = home / "log"
    with open(log, "wb") as output:
        process = subprocess.Popen([options.binary, "--config", home / "config.toml", "serve"], cwd=home, stdin=subprocess.DEVNULL,
                                   stdout=output, stderr=subprocess.STDOUT, env=environment)
    try:
        end = time.monotonic() + 300
        while True:
            with contextlib.suppress(urllib.error.URLError, OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                break
            if process.poll() is not None or time.monotonic() > end:
                sys.exit(f"error: the server did not start:\n{log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.1)
        yield Server(process, port, log)
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()


def recordings(folder):
    """The fixture in four containers, with two channels, and long."""
    source = ROOT / "tests/fixtures/jfk.wav"
    made = {"wav": folder / "speech.wav"}
    shutil.copy(source, made["wav"])
    for name, codec in (("mp3", []), ("m4a", []), ("webm", ["-c:a", "libopus"])):
        made[name] = folder / f"speech.{name}"
        quietly(["ffmpeg", "-v", "error", "-i", source, *codec, made[name]])
    # The first speaker on the left, then the second one on the right.
    made["stereo"] = folder / "two voices.wav"
    parts = "[0:a]apad=pad_dur=11[a];[0:a]adelay=11000[b];[a][b]join=inputs=2:channel_layout=stereo"
    quietly(["ffmpeg", "-v", "error", "-i", source, "-filter_complex", parts, made["stereo"]])
    made["long"] = folder / "long.wav"
    quietly(["ffmpeg", "-v", "error", "-stream_loop", "54", "-i", source, "-c", "copy", made["long"]])
    # The fake microphone: speech, then silence in which the turn ends.
    made["microphone"] = folder / "microphone.wav"
    quietly(["ffmpeg", "-v", "error", "-i", source, "-af", "apad=pad_dur=20", "-ar", "48000", made["microphone"]])
    return made


def main():
    options = arguments()
    home = install(options.cache)
    python = home / "bin/python"
    # Playwright lives in that environment.
    if Path(sys.prefix).resolve() != home.resolve():
        os.execv(python, [python, __file__, *sys.argv[1:]])
    import checks

    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="page-") as folder:
        folder = Path(folder)
        with checks.Bench(options, folder, recordings(folder), home / "node_modules/axe-core/axe.min.js", server) as bench:
            failed = bench.run()
            passed = bench.done - failed
    print(f"{passed} passed, {failed} failed in {time.monotonic() - began:.0f} s")
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main())
