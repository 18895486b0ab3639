#!/usr/bin/env python3
"""Measures what long uploads cost the server: its memory, and the wait for the first words.

    intake.py memory --binary PATH --model PATH        two minutes beside four hours, engine excluded and scripted
    intake.py first-words --binary PATH --model GGML    one minute beside one hour, streamed, a real engine
    intake.py files                                    only makes the files

Each for WAV, MP3 and M4A with the index behind the sound, made of tests/fixtures/jfk.wav over and over. Needs
ffmpeg and Linux (it reads /proc). Files of some 600 MB are kept in --work. One process a measurement.
"""

import argparse
import http.client
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

CLIP = Path(__file__).resolve().parent.parent / "tests/fixtures/jfk.wav"
ROUTE = "/openai/deployments/whisper/audio/transcriptions?api-version=2024-06-01"
ENCODINGS = {
    "wav": ["-c:a", "pcm_s16le"],
    "mp3": ["-c:a", "libmp3lame", "-b:a", "48k"],
    # ffmpeg writes the index last unless asked otherwise.
    "m4a": ["-c:a", "aac", "-b:a", "48k"],
}


def recording(work: Path, kind: str, seconds: int) -> Path:
    path = work / f"{seconds}.{kind}"
    if not path.exists():
        part = path.with_suffix(f".part.{kind}")
        subprocess.run(
            ["ffmpeg", "-nostdin", "-loglevel", "error", "-y", "-stream_loop", "-1", "-i", CLIP, "-t", str(seconds),
             *ENCODINGS[kind], part],
            check=True,
        )
        part.rename(path)
    return path


class Server:
    """A server of its own for one measurement, with the settings it comes with."""

    def __init__(self, binary: Path, model: Path | None, script: dict | None):
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            self.port = listener.getsockname()[1]
        folder = Path(tempfile.mkdtemp(prefix="intake-"))
        environment = dict(os.environ)
        config = ""
        if model:
            config = f"[whisper]\nmodel_path = {json.dumps(str(model.resolve()))}\nenable_gpu = false\n"
        if script:
            (folder / "script.json").write_text(json.dumps(script))
            # The binary needs the feature `test-hooks`, and `scripted-engine` lies beside it.
            environment["SCRIPTED_ENGINE"] = str(folder / "script.json")
            environment["TEST_ENGINE_PROGRAM"] = str(binary.resolve().with_name("scripted-engine"))
        (folder / "config.toml").write_text(config)
        self.log = open(folder / "log", "w+")
        self.process = subprocess.Popen(
            [binary.resolve(), "serve", "--port", str(self.port)], cwd=folder, env=environment,
            stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log,
        )
        for _ in range(1200):
            if self.process.poll() is not None:
                break
            try:
                if urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=5).status == 200:
                    return
            except OSError:
                pass
            time.sleep(0.1)
        self.log.seek(0)
        raise SystemExit(f"the server did not start:\n{self.log.read()}")

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *_) -> None:
        self.process.terminate()
        self.process.wait()

    def memory_mib(self, field: str) -> float:
        """Of the server's process; engines are others."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split(f"{field}:")[1].split()[0]) / 1024

    def upload(self, path: Path, **fields: str) -> tuple[http.client.HTTPResponse, float]:
        """The answer, and when the last byte had been handed over."""
        boundary = "a-boundary-nobody-uses"
        head = "".join(
            f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
            for name, value in fields.items()
        )
        head += f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{path.name}"\r\n\r\n'
        tail = f"\r\n--{boundary}--\r\n"
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=3600)
        connection.putrequest("POST", ROUTE)
        connection.putheader("Content-Type", f"multipart/form-data; boundary={boundary}")
        connection.putheader("Content-Length", str(len(head) + path.stat().st_size + len(tail)))
        connection.endheaders(head.encode())
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                connection.send(block)
        connection.send(tail.encode())
        sent = time.monotonic()
        response = connection.getresponse()
        if response.status != 200:
            raise SystemExit(f"{path.name}: {response.status} {response.read(500)!r}")
        return response, sent


def memory(arguments: argparse.Namespace) -> None:
    script = {"text": " Scripted words of a window, as many as people say in half a minute or so." * 4}
    print(f"{'':4} {'start':>10} {'2 minutes':>12} {'4 hours':>12} {'difference':>12}   MiB, greatest resident size")
    for kind in ENCODINGS:
        peaks = []
        for seconds in (120, 4 * 3600):
            path = recording(arguments.work, kind, seconds)
            with Server(arguments.binary, arguments.model, script) as server:
                start = server.memory_mib("VmRSS")
                response, _ = server.upload(path, response_format="verbose_json")
                answer = json.loads(response.read())
                if abs(answer["duration"] - seconds) > 2 or not answer["text"]:
                    raise SystemExit(f"{path.name}: an answer for {answer['duration']} s")
                peaks.append(server.memory_mib("VmHWM"))
        difference = peaks[1] - peaks[0]
        print(f"{kind:4} {start:10.1f} {peaks[0]:12.1f} {peaks[1]:12.1f} {difference:12.1f}", flush=True)


def first_words(arguments: argparse.Namespace) -> None:
    print(f"{'':4} {'1 minute':>10} {'1 hour':>10} {'difference':>12}   s from the last byte to the first words, "
          f"median of {arguments.runs}")
    with Server(arguments.binary, arguments.model, None) as server:
        for kind in ENCODINGS:
            waits: dict[int, list[float]] = {60: [], 3600: []}
            for _ in range(arguments.runs):
                for seconds in waits:
                    path = recording(arguments.work, kind, seconds)
                    response, sent = server.upload(path, stream="true", language="en")
                    for line in response:
                        if line.startswith(b"data:") and b"delta" in line and json.loads(line[5:])["delta"].strip():
                            break
                    else:
                        raise SystemExit(f"{path.name}: no words were streamed")
                    waits[seconds].append(time.monotonic() - sent)
                    response.close()
                    time.sleep(2)  # until the windows in flight are gone
            minute, hour = (statistics.median(times) for times in waits.values())
            print(f"{kind:4} {minute:10.2f} {hour:10.2f} {hour - minute:12.2f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["memory", "first-words", "files"])
    parser.add_argument("--binary", type=Path)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "intake-files")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    if arguments.what == "files":
        for kind in ENCODINGS:
            for seconds in (60, 120, 3600, 4 * 3600):
                recording(arguments.work, kind, seconds)
    elif not arguments.binary:
        parser.error("--binary is needed")
    elif arguments.what == "memory":
        memory(arguments)
    elif not arguments.model:
        parser.error("first-words needs --model")
    else:
        first_words(arguments)


if __name__ == "__main__":
    sys.exit(main())
