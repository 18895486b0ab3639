#!/usr/bin/env python3
"""Several servers behind a load balancer, under load: one is killed, one is drained, one is added.

    PYTHON bench/replicas.py --binary target/debug/WhisperBackendAPI --engine target/debug/scripted-engine haproxy

PYTHON is one with the `openai` package; `haproxy`, `nginx` and `envoy` are looked for on PATH (`--program` names another).
With `--engine` windows are scripted (the binary needs the feature `test-hooks`): what is tried is what surrounds the model,
and three servers fit on two cores. Without it `--model` is served. The balancer's configuration is the one of
deploy/balancers, with other ports. Loopback only; ends by itself.

Clients are the openai SDK with its normal two retries. Passes when no request failed at any client, the drained server
ended with exit code 0, and the one that came back served.
"""

import argparse
import collections
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CLIP = (ROOT / "tests/fixtures/jfk.wav").read_bytes()


class Server:
    """One replica in a folder of its own."""

    def __init__(self, arguments, folder: Path, port: int, settings: str = "", delay_ms: int = 200):
        self.arguments, self.port, self.delay_ms = arguments, port, delay_ms
        self.folder = folder / str(port)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.stand_in = arguments.stand_in or ROOT / "models/ggml-tiny.en.bin"
        (self.folder / "config.toml").write_text("[server]\nshutdown_grace_seconds = 60\n" + settings)
        self.process = None

    def start(self):
        environment = dict(os.environ, RUST_LOG="warn")
        command = [str(Path(self.arguments.binary).resolve()), "serve", "--port", str(self.port), "--cpu"]
        if self.arguments.engine:
            (self.folder / "script.json").write_text(json.dumps({"delay_ms": self.delay_ms}))
            model = self.folder / "models/ggml-scripted.bin"
            model.parent.mkdir(exist_ok=True)
            if not model.exists():
                model.symlink_to(Path(self.stand_in).resolve())
            environment |= {
                "TEST_ENGINE_PROGRAM": str(Path(self.arguments.engine).resolve()),
                "SCRIPTED_ENGINE": str(self.folder / "script.json"),
            }
            command += ["--model", str(model)]
        else:
            command += ["--model", self.arguments.model]
        self.log = open(self.folder / "log", "ab")
        self.process = subprocess.Popen(command, cwd=self.folder, env=environment, stdout=self.log, stderr=self.log)
        return self

    def get(self, path: str) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as answer:
            return answer.read().decode()

    def wait(self, seconds: float = 120):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            try:
                self.get("/health/ready")
                return self
            except OSError:
                if self.process.poll() is not None:
                    break
                time.sleep(0.1)
        sys.exit(f"server on {self.port} does not serve:\n" + (self.folder / "log").read_text()[-2000:])

    def served(self) -> int:
        """Transcripts so far, by the server's own count."""
        series = 'whisper_requests_total{route="transcriptions",outcome="ok"} '
        return int(float(next(line for line in self.get("/metrics").splitlines() if line.startswith(series)).split()[-1]))

    def stop(self):
        if self.process and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()


class Balancer:
    """HAProxy, nginx or Envoy with the configuration of deploy/balancers on other ports."""

    FILES = {"haproxy": "haproxy.cfg", "nginx": "nginx.conf", "envoy": "envoy.yaml"}

    def __init__(self, kind: str, program: str | None, folder: Path, port: int, servers: list[int]):
        text = (ROOT / "deploy/balancers" / self.FILES[kind]).read_text()
        for index, server in enumerate(servers):
            text = re.sub(rf"\b800{index + 1}\b", str(server), text)
        text = re.sub(r"\b8000\b", str(port), text).replace("0.0.0.0", "127.0.0.1")
        path = folder / self.FILES[kind]
        path.write_text(text)
        program = program or kind
        command = {
            "haproxy": [program, "-db", "-f", str(path)],
            "nginx": [program, "-p", str(folder), "-e", "stderr", "-g", f"daemon off; pid {folder}/nginx.pid;", "-c", str(path)],
            "envoy": [program, "-c", str(path), "--log-level", "warn", "--concurrency", "1", "--disable-hot-restart"],
        }[kind]
        if kind == "nginx":
            (folder / "logs").mkdir(exist_ok=True)
        self.log = open(folder / "balancer.log", "ab")
        self.process = subprocess.Popen(command, stdout=self.log, stderr=self.log)

    def stop(self):
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()


class Clients:
    """Threads that ask again and again through the SDK."""

    def __init__(self, port: int, count: int):
        # Only here: others use what is above without the SDK.
        import httpx
        import openai

        self.libraries = (httpx, openai)
        self.statuses = collections.Counter()
        self.failed, self.good = [], 0
        self.lock, self.ended = threading.Lock(), threading.Event()
        self.port = port
        self.threads = [threading.Thread(target=self.work) for _ in range(count)]
        for thread in self.threads:
            thread.start()

    def seen(self, response):
        with self.lock:
            self.statuses[response.status_code] += 1

    def work(self):
        httpx, openai = self.libraries
        client = openai.OpenAI(
            api_key="dummy", base_url=f"http://127.0.0.1:{self.port}/v1",
            http_client=httpx.Client(event_hooks={"response": [self.seen]}, timeout=60),
        )
        while not self.ended.is_set():
            try:
                client.audio.transcriptions.create(model="whisper-1", file=("a.wav", CLIP))
                with self.lock:
                    self.good += 1
            except openai.OpenAIError as error:
                with self.lock:
                    self.failed.append(repr(error))

    def stop(self):
        self.ended.set()
        for thread in self.threads:
            thread.join()


def arguments_of(parser):
    parser.add_argument("--binary", required=True)
    parser.add_argument("--engine", help="the scripted engine of the tests")
    parser.add_argument("--model", default="tiny.en")
    parser.add_argument("--stand-in", help="a model file for the server to look at, with --engine; default: models/ggml-tiny.en.bin")
    parser.add_argument("--program", help="the balancer's program")
    parser.add_argument("--port", type=int, default=23500, help="first of ten ports")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments_of(parser)
    parser.add_argument("--clients", type=int, default=12)
    parser.add_argument("--pause", type=float, default=8, help="seconds between two events")
    parser.add_argument("balancer", choices=Balancer.FILES)
    arguments = parser.parse_args()
    ok = True
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        ports = [arguments.port + 1 + index for index in range(3)]
        servers = [Server(arguments, folder, port).start() for port in ports]
        balancer = clients = None
        try:
            for server in servers:
                server.wait()
            balancer = Balancer(arguments.balancer, arguments.program, folder, arguments.port, ports)
            time.sleep(3)
            clients = Clients(arguments.port, arguments.clients)
            time.sleep(arguments.pause)
            spread = [server.served() for server in servers]
            print("served by each of three:", spread, flush=True)
            servers[0].process.send_signal(signal.SIGKILL)
            servers[0].process.wait()
            print("killed the first", flush=True)
            time.sleep(arguments.pause)
            drained = servers[1]
            drained.process.terminate()
            code = drained.process.wait(70)
            print("drained the second: exit code", code, flush=True)
            ok &= code == 0
            time.sleep(arguments.pause)
            servers[0].start().wait()
            print("the first is back", flush=True)
            time.sleep(arguments.pause)
            clients.stop()
            last = {name: server.served() for name, server in (("first", servers[0]), ("third", servers[2]))}
            print("served since their start:", last)
            ok &= last["first"] > 0
            ok &= min(spread) > 0.5 * max(spread)
        finally:
            if clients:
                clients.stop()
            for server in servers:
                server.stop()
            if balancer:
                balancer.stop()
        print(f"requests {clients.good}, answers by status {dict(clients.statuses)}, failed at clients {len(clients.failed)}")
        for failure in clients.failed[:5]:
            print("  ", failure)
        ok &= not clients.failed
    print("passed" if ok else "FAILED")
    sys.exit(not ok)


if __name__ == "__main__":
    main()
