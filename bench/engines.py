"""What is compared: our server, whisper.cpp's server and faster-whisper, each in processes of its own."""

import http.client
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

import psutil

HERE = Path(__file__).resolve().parent


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def multipart(path: str, fields: dict[str, str]) -> tuple[bytes, str]:
    boundary = uuid.uuid4().hex
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        for name, value in fields.items()
    ]
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{Path(path).name}"\r\n'
    parts.append(head.encode() + b"Content-Type: audio/wav\r\n\r\n" + Path(path).read_bytes() + b"\r\n")
    parts.append(f"--{boundary}--\r\n".encode())
    return b"".join(parts), f"multipart/form-data; boundary={boundary}"


class Engine:
    """A started program that transcribes recordings; `name` is the row in the tables."""

    def __init__(self, name: str, cores: int):
        self.name = name
        self.cores = cores
        self.process: subprocess.Popen | None = None
        self.log = tempfile.NamedTemporaryFile(prefix=f"{name.replace(' ', '-').replace('/', '-')}-", suffix=".log", delete=False)

    def launch(self, command: list[str], **options) -> None:
        cores = sorted(os.sched_getaffinity(0))[: self.cores]
        self.process = subprocess.Popen(
            command, stderr=self.log, preexec_fn=lambda: os.sched_setaffinity(0, cores), **options
        )

    def processes(self) -> list[psutil.Process]:
        root = psutil.Process(self.process.pid)
        return [root, *root.children(recursive=True)]

    def cpu(self) -> dict[str, float]:
        """Processor seconds used so far: by the first process ("server") and by those it started ("children")."""
        used = {"server": 0.0, "children": 0.0}
        for index, process in enumerate(self.processes()):
            try:
                times = process.cpu_times()
            except psutil.NoSuchProcess:
                continue
            used["server" if index == 0 else "children"] += times.user + times.system
            if index == 0:
                used["children"] += times.children_user + times.children_system
        return used

    def peak_memory_mb(self) -> float:
        """Sum of the greatest resident sizes of its processes."""
        total = 0
        for process in self.processes():
            try:
                status = Path(f"/proc/{process.pid}/status").read_text()
            except OSError:
                continue
            total += int(status.split("VmHWM:")[1].split()[0])
        return total / 1024

    def stop(self) -> None:
        if self.process and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def transcribe(self, path: str) -> str:
        raise NotImplementedError


class HttpEngine(Engine):
    port: int
    route: str
    fields: dict[str, str] = {}

    def wait_ready(self, route: str, seconds: float = 120) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise SystemExit(f"{self.name} ended while starting; its log: {self.log.name}")
            try:
                connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
                connection.request("GET", route)
                if connection.getresponse().status == 200:
                    return
            except OSError:
                pass
            time.sleep(0.1)
        raise SystemExit(f"{self.name} is not ready after {seconds} s; its log: {self.log.name}")

    def prepared(self, path: str, **fields: str) -> tuple[http.client.HTTPConnection, bytes, dict[str, str]]:
        """All that a request needs, so that a clock can start right before it is sent."""
        body, kind = multipart(path, {**self.fields, **fields})
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=1800), body, {"Content-Type": kind}

    def post(self, path: str, **fields: str) -> http.client.HTTPResponse:
        connection, body, headers = self.prepared(path, **fields)
        connection.request("POST", self.route, body, headers)
        return connection.getresponse()

    def transcribe(self, path: str) -> str:
        response = self.post(path)
        body = response.read()
        if response.status != 200:
            raise RuntimeError(f"{self.name}: {response.status} {body[:300]!r}")
        return json.loads(body)["text"]


class Ours(HttpEngine):
    """Our server over its Azure route, on the processor."""

    route = "/openai/deployments/whisper/audio/transcriptions?api-version=2024-06-01"
    fields = {"language": "en", "response_format": "json"}

    def __init__(self, binary: Path, model: Path, cores: int, settings: dict[str, dict[str, object]] | None = None):
        super().__init__(f"ours {model.stem.removeprefix('ggml-')}", cores)
        self.binary, self.model, self.settings = binary, model, settings or {}
        self.environment: dict[str, str] = {}

    def start(self) -> None:
        self.port = free_port()
        sections: dict[str, dict[str, object]] = {
            "server": {"host": "127.0.0.1", "port": self.port},
            "whisper": {"model_path": str(self.model.resolve()), "enable_gpu": False, "auto_download": False},
        }
        for section, values in self.settings.items():
            sections.setdefault(section, {}).update(values)
        config = Path(tempfile.mkdtemp(prefix="bench-")) / "config.toml"
        config.write_text(
            "\n".join(
                f"[{section}]\n" + "\n".join(f"{key} = {json.dumps(value)}" for key, value in values.items())
                for section, values in sections.items()
            )
            + "\n"
        )
        environment = {**os.environ, **self.environment}
        self.launch([str(self.binary), "--config", str(config)], stdout=self.log, env=environment)
        self.wait_ready("/health")

    def first_words(self, path: str) -> tuple[float, str, http.client.HTTPResponse]:
        """Seconds until the first streamed words, those words, and the response, still streaming."""
        connection, body, headers = self.prepared(path, stream="true")
        begin = time.monotonic()
        connection.request("POST", self.route, body, headers)
        response = connection.getresponse()
        for line in response:
            if not line.startswith(b"data:"):
                continue
            data = line[5:].strip()
            if data == b"[DONE]":
                break
            delta = json.loads(data).get("delta", "")
            if delta.strip():
                return time.monotonic() - begin, delta, response
        raise RuntimeError(f"no words were streamed; the log: {self.log.name}")

    def get(self, route: str) -> dict:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        connection.request("GET", route)
        return json.loads(connection.getresponse().read())


class WhisperCpp(HttpEngine):
    """whisper.cpp's own server as it comes, all cores; `-nfa` where asked (whisper.cpp turns flash attention on)."""

    route = "/inference"
    fields = {"response_format": "json", "temperature": "0.0"}

    def __init__(self, binary: Path, model: Path, cores: int):
        super().__init__(f"whisper.cpp server {model.stem.removeprefix('ggml-')}", cores)
        self.binary, self.model = binary, model

    def start(self) -> None:
        self.port = free_port()
        command = [str(self.binary), "-m", str(self.model), "-t", str(self.cores), "-l", "en"]
        self.launch([*command, "--host", "127.0.0.1", "--port", str(self.port)], stdout=self.log)
        self.wait_ready("/health")


class FasterWhisper(Engine):
    """faster-whisper, int8, called in process: no HTTP is charged to it."""

    def __init__(self, folder: Path, cores: int, beam: int, batch: int):
        kind = f"batched {batch}" if batch else "sequential"
        super().__init__(f"faster-whisper int8 beam {beam} {kind}", cores)
        self.folder, self.beam, self.batch = folder, beam, batch

    def start(self) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": str(self.cores), "HF_HUB_OFFLINE": "1"}
        command = [sys.executable, str(HERE / "fw_worker.py"), str(self.folder), str(self.cores)]
        self.launch(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
        if not self.process.stdout.readline():
            raise SystemExit(f"{self.name} ended while starting; its log: {self.log.name}")

    def transcribe(self, path: str) -> str:
        request = {"path": path, "beam": self.beam, "batch": self.batch}
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError(f"{self.name} ended; its log: {self.log.name}")
        return json.loads(answer)["text"]


class OpenVino(Engine):
    """OpenVINO GenAI's Whisper pipeline, called in process; `folder` is an exported model (native.md says how)."""

    def __init__(self, folder: Path, cores: int):
        super().__init__(f"OpenVINO GenAI {folder.name}", cores)
        self.folder = folder

    def start(self) -> None:
        command = [sys.executable, str(HERE / "ov_worker.py"), str(self.folder), str(self.cores)]
        self.launch(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        if not self.process.stdout.readline():
            raise SystemExit(f"{self.name} ended while starting; its log: {self.log.name}")

    def transcribe(self, path: str) -> str:
        self.process.stdin.write(json.dumps({"path": path}) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError(f"{self.name} ended; its log: {self.log.name}")
        return json.loads(answer)["text"]
