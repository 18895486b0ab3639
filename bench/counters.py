#!/usr/bin/env python3
"""Whether the server's counters equal its clients' own count, after some thousands of mixed requests.

    python3 bench/counters.py --binary target/debug/WhisperBackendAPI --engine target/debug/scripted-engine --requests 2000

Good requests, wrong fields, wrong keys, unknown paths, clients that leave, health checks, from several threads at once. With
`--engine` windows are scripted. `promtool check metrics` looks at the answer where it is on PATH. Loopback only; ends by itself.
"""

import argparse
import collections
import http.client
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import replicas  # beside this file
from overload import BOUNDARY, form

CLIP = replicas.CLIP
KINDS = {"good": 50, "field": 15, "key": 10, "path": 10, "health": 10, "leaves": 5}
PATH = "/v1/audio/transcriptions"


def series(text: str, name: str) -> float:
    return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith(name))


def ask(port: int, kind: str) -> str:
    """What the client saw: a status, or that it left."""
    headers = {"api-key": "wrong" if kind == "key" else "right", "Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
    body = form(CLIP, {"model": "whisper-1", "response_format": "nonsense" if kind == "field" else "json"})
    if kind == "leaves":
        with socket.create_connection(("127.0.0.1", port)) as connection:
            head = f"POST {PATH} HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n"
            head += "".join(f"{name}: {value}\r\n" for name, value in headers.items())
            connection.sendall(head.encode() + b"\r\n" + body[: len(body) // 2])
            time.sleep(0.05)
        return "left"
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    if kind == "health":
        connection.request("GET", "/health")
    else:
        connection.request("POST", "/v1/nowhere" if kind == "path" else PATH, body, headers)
    answer = connection.getresponse()
    answer.read()
    connection.close()
    return str(answer.status)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    replicas.arguments_of(parser)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--threads", type=int, default=8)
    arguments = parser.parse_args()
    settings = "api_keys = [\"right\"]\n[metrics]\nlisten = \"127.0.0.1:%d\"\n" % (arguments.port + 1)
    seen = collections.Counter()
    lock = threading.Lock()
    with tempfile.TemporaryDirectory() as folder:
        server = replicas.Server(arguments, Path(folder), arguments.port, settings, 20).start()
        try:
            server.wait()
            probes = series(metrics(arguments), 'whisper_requests_total{route="health"')
            jobs = random.Random(1).choices(list(KINDS), KINDS.values(), k=arguments.requests)

            def work():
                while True:
                    with lock:
                        if not jobs:
                            return
                        kind = jobs.pop()
                    result = ask(arguments.port, kind)
                    with lock:
                        seen[kind, result] += 1

            threads = [threading.Thread(target=work) for _ in range(arguments.threads)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            time.sleep(2)
            text = metrics(arguments)
        finally:
            server.stop()
    count = lambda *kinds: sum(n for (kind, _), n in seen.items() if kind in kinds)  # noqa: E731
    route = 'whisper_requests_total{route="%s",outcome="%s"}'
    # Whoever leaves in the middle of an upload may be heard as a broken form before it is missed.
    gone = series(text, route % ("transcriptions", "cancelled"))
    expected = {
        route % ("transcriptions", "ok"): count("good"),
        route % ("transcriptions", "rejected"): count("field", "key", "leaves") - gone,
        route % ("other", "rejected"): count("path"),
        'whisper_requests_total{route="health"': count("health") + probes,
        "whisper_windows_total": count("good"),
        "whisper_queue_wait_seconds_count": count("good"),
        'whisper_window_seconds_count{stage="infer"}': count("good"),
        "whisper_requests_total": arguments.requests + probes,
    }
    good = True
    for name, wanted in expected.items():
        found = series(text, name)
        good &= found == wanted
        print("ok  " if found == wanted else "FAIL", name, "server", int(found), "clients", int(wanted))
    number = sum(1 for line in text.splitlines() if line and not line.startswith("#"))
    print("series:", number)
    good &= number < 300
    print("seen by clients:", dict(seen))
    if shutil.which("promtool"):
        check = subprocess.run(["promtool", "check", "metrics"], input=text, text=True, capture_output=True)
        print("promtool check metrics:", check.returncode, check.stderr.strip() or "nothing to say")
        good &= check.returncode == 0
    print("passed" if good else "FAILED")
    sys.exit(not good)


def metrics(arguments) -> str:
    connection = http.client.HTTPConnection("127.0.0.1", arguments.port + 1, timeout=30)
    connection.request("GET", "/metrics")
    return connection.getresponse().read().decode()


if __name__ == "__main__":
    main()
