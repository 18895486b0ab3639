#!/usr/bin/env python3
"""Faults under load: every answer has to be right all the same.

    faults.py mixed  --binary PATH --model PATH [--requests 500] [--every 2]
        four clients with short and longer clips; every so many seconds KILL, STOP, SEGV or ABRT at random for an engine
        or a decoder child
    faults.py kill   --binary PATH --model PATH [--requests 40] [--every 2]
        four clients with the short clip; the engine is killed every so many seconds
    faults.py poison --binary PATH --scripted PATH
    faults.py hang   --binary PATH --scripted PATH
        one window that ends (or hangs) whatever engine it is in, among seven clean requests

Prints a line of JSON with the counts; the exit code is 0 when every answer was as it should be. Standard library only.
"""

import argparse
import concurrent.futures
import json
import os
import random
import re
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CLIP = (ROOT / "tests/fixtures/jfk.wav").read_bytes()
WORDS = (
    "and so my fellow americans ask not what your country can do for you "
    "ask what you can do for your country"
).split()
SIGNALS = [signal.SIGKILL, signal.SIGSTOP, signal.SIGSEGV, signal.SIGABRT]


def wav(times: int) -> bytes:
    data = CLIP[CLIP.index(b"data") + 8 :] * times
    head = struct.pack("<4sI8sIHHIIHH4sI", b"RIFF", 36 + len(data), b"WAVEfmt ", 16, 1, 1, 16000, 32000, 2, 16, b"data", len(data))
    return head + data


class Server:
    def __init__(self, binary: str, arguments: list[str], config: str = "", environment: dict | None = None):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.folder = tempfile.TemporaryDirectory()
        (Path(self.folder.name) / "config.toml").write_text(config)
        self.log = open(Path(self.folder.name) / "log", "wb")
        self.process = subprocess.Popen(
            [binary, "serve", "--port", str(self.port), *arguments],
            cwd=self.folder.name,
            env={**os.environ, **(environment or {})},
            stdout=self.log,
            stderr=self.log,
        )
        deadline = time.time() + 120
        while time.time() < deadline:
            try:
                if self.get("/health")["status"] == "ok":
                    return
            except OSError:
                pass
            time.sleep(0.1)
        raise SystemExit("the server did not become healthy")

    def get(self, path: str) -> dict:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=30) as answer:
            return json.load(answer)

    def post(self, file: bytes, fields: dict[str, str], limit: float = 900) -> tuple[int, dict, str]:
        boundary = "----boundary-of-the-harness"
        body = b"".join(
            f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
            for name, value in fields.items()
        )
        body += f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'.encode()
        body += file + f"\r\n--{boundary}--\r\n".encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/openai/deployments/whisper/audio/transcriptions?api-version=2024-06-01",
            body,
            {"content-type": f"multipart/form-data; boundary={boundary}"},
        )
        try:
            with urllib.request.urlopen(request, timeout=limit) as answer:
                return answer.status, dict(answer.headers), json.load(answer)["text"]
        except urllib.error.HTTPError as error:
            return error.code, dict(error.headers), error.read().decode()

    def children(self, kind: str) -> list[int]:
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
                arguments = (folder / "cmdline").read_bytes().split(b"\0")
            except (OSError, ValueError, IndexError):
                continue
            if parent == self.process.pid and kind.encode() in arguments[1:2]:
                found.append(int(folder.name))
        return found

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
        self.log.close()


def right(text: str, times: int) -> bool:
    """Every word in its place; a recogniser may hear one in twenty differently after a cut."""
    heard = re.sub(r"[^a-z ]", "", text.lower().replace("-", " ")).split()
    expected = WORDS * times
    if times == 1:
        return heard == expected
    return abs(len(heard) - len(expected)) <= len(expected) // 20 and text.lower().count("fellow americans") == times


def under_faults(arguments, kinds: list[str], signals: list[signal.Signals], lengths: list[int]) -> int:
    config = "[performance]\nwatchdog_min_seconds = 60\n"
    server = Server(arguments.binary, ["--model", arguments.model], config)
    faults: dict[str, int] = {}
    over = threading.Event()

    def disturb() -> None:
        rng = random.Random(arguments.seed)
        while not over.wait(arguments.every):
            kind, number = rng.choice(kinds), rng.choice(signals)
            targets = server.children(kind)
            if targets:
                try:
                    os.kill(rng.choice(targets), number)
                except ProcessLookupError:
                    continue
                name = f"{kind} {number.name}"
                faults[name] = faults.get(name, 0) + 1

    def ask(number: int) -> dict | None:
        times = lengths[number % len(lengths)]
        began = time.time()
        status, _, text = server.post(wav(times), {"language": "en"})
        if status == 200 and right(text, times):
            return None
        return {"request": number, "status": status, "text": text[:300], "seconds": round(time.time() - began, 1)}

    thread = threading.Thread(target=disturb)
    thread.start()
    began = time.time()
    with concurrent.futures.ThreadPoolExecutor(4) as clients:
        wrong = [answer for answer in clients.map(ask, range(arguments.requests)) if answer]
    seconds = time.time() - began
    over.set()
    thread.join()
    stats = server.get("/stats")
    server.stop()
    for answer in wrong:
        print(json.dumps(answer), file=sys.stderr)
    right_answers = arguments.requests - len(wrong)
    report = {
        "right": f"{right_answers} of {arguments.requests}",
        "seconds": round(seconds),
        "faults": faults,
        "windows": stats["windows"],
        "engine": stats["engine"],
    }
    print(json.dumps(report))
    return 0 if not wrong else 1


def poison(arguments, action: str) -> int:
    with tempfile.NamedTemporaryFile("w", suffix=".json") as script:
        json.dump({"text": " All is well.", "delay_ms": 300, "on": {"poison": {"action": action, "delay_ms": 100}}}, script)
        script.flush()
        environment = {"SCRIPTED_ENGINE": script.name, "TEST_ENGINE_PROGRAM": arguments.scripted}
        config = "[performance]\nwhisper_threads = 4\nslots = 4\nwatchdog_min_seconds = 0.25\n"
        server = Server(arguments.binary, ["--model", arguments.model], config, environment)
        with concurrent.futures.ThreadPoolExecutor(8) as clients:
            fields = [{"language": "en", "prompt": "poison" if i == 3 else "clean"} for i in range(8)]
            answers = list(clients.map(lambda f: server.post(CLIP, f), fields))
        stats = server.get("/stats")
        server.stop()
    statuses = [status for status, _, _ in answers]
    retry = {name.lower(): value for name, value in answers[3][1].items()}.get("x-should-retry")
    print(json.dumps({"statuses": statuses, "x-should-retry": retry, "windows": stats["windows"], "engine": stats["engine"]}))
    expected = [200, 200, 200, 500, 200, 200, 200, 200]
    return 0 if statuses == expected and retry == "false" else 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("form", choices=["mixed", "kill", "poison", "hang"])
    parser.add_argument("--binary", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--scripted", help="the test program `scripted-engine`; the binary needs the feature `test-hooks`")
    parser.add_argument("--requests", type=int)
    parser.add_argument("--every", type=float, default=2.0)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    if arguments.form == "mixed":
        arguments.requests = arguments.requests or 500
        return under_faults(arguments, ["engine", "decode"], SIGNALS, [1, 1, 3, 1, 6])
    if arguments.form == "kill":
        arguments.requests = arguments.requests or 40
        return under_faults(arguments, ["engine"], [signal.SIGKILL], [1])
    return poison(arguments, "abort" if arguments.form == "poison" else "hang")


if __name__ == "__main__":
    sys.exit(main())
