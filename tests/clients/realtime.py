#!/usr/bin/env python3
"""Unmodified clients of the Realtime protocol: tests/clients/realtime.py --binary target/debug/WhisperBackendAPI

Starts the server with a certificate of its own and HTTP and HTTPS on one port, lets every client transcribe the recording of
1961 over ws and over wss, and checks what came back. Clients are installed once, from PyPI and npm, where run.py
installs its own; two are as large as all others together and run with `--all`. Prints one line a client and ends with
`N passed, N failed`.
"""

import argparse
import concurrent.futures
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import run

# npm's package knows only wss.
CLIENTS = [
    {"name": "realtime-openai-2.54.0", "runner": "realtime_python.py", "pip": ["openai[realtime]==2.54.0"], "frameworks": ["openai"]},
    {"name": "realtime-openai-3.54.0", "runner": "realtime_python.py", "pip": ["openai[realtime]==3.54.0"], "frameworks": ["openai", "azure"]},
    {"name": "realtime-agents-0.24.0", "runner": "realtime_python.py", "pip": ["openai-agents[voice]==0.24.0"], "frameworks": ["agents"]},
    {"name": "realtime-livekit-1.8.9", "runner": "realtime_python.py", "pip": ["livekit-plugins-openai==1.8.9"], "frameworks": ["livekit"], "large": True},
    {"name": "realtime-pipecat-1.14.0", "runner": "realtime_python.py", "pip": ["pipecat-ai[openai,websocket]==1.14.0"], "frameworks": ["pipecat"], "large": True},
    {"name": "realtime-npm-6.49.0", "runner": "realtime_node.mjs", "npm": ["openai@6.49.0", "ws@8"], "frameworks": ["node"], "schemes": ["https"]},
    {"name": "realtime-npm-7.57.0", "runner": "realtime_node.mjs", "npm": ["openai@7.57.0", "ws@8"], "frameworks": ["node"], "schemes": ["https"]},
]
# Said in the recording; the first words may be heard with or without a comma, the middle is shouted.
PHRASES = ["and so my fellow americans", "your country can do for you", "ask what you can do for your country"]
TIMEOUT = 240
# Clients at work at once: a session needs about half a core.
JOBS = 2


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", type=Path, required=True, help="the server")
    parser.add_argument("--model", type=Path, default=run.ROOT / "models/ggml-base.bin", help="a multilingual model file")
    parser.add_argument("--audio", type=Path, default=run.ROOT / "tests/fixtures/jfk.wav", help="the recording of 1961, 16 kHz mono WAV")
    parser.add_argument("--all", action="store_true", help="large clients too")
    parser.add_argument("--only", default="", help="clients whose name holds this")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "whisper-backend-api/clients"
    parser.add_argument("--cache", type=Path, default=cache, help="where clients are installed")
    options = parser.parse_args()
    options.binary, options.model = options.binary.resolve(), options.model.resolve()
    clients = [client for client in CLIENTS if options.only in client["name"] and (options.all or not client.get("large"))]
    missing = run.install(clients, options.cache)
    passed = failed = 0
    with tempfile.TemporaryDirectory(prefix="realtime-") as folder:
        with run.server(options, "open", Path(folder), tls=True, more=["tls_allow_http = true"]) as server:
            port = server.endpoint.rsplit(":", 1)[1]
            jobs = [
                (client, framework, f"{scheme}://localhost:{port}")
                for client in clients
                for framework in client["frameworks"]
                for scheme in client.get("schemes", ["http", "https"])
            ]
            with concurrent.futures.ThreadPoolExecutor(JOBS) as pool:
                for problem in pool.map(lambda job: missing.get(job[0]["name"]) or one(options, *job, server.certificate), jobs):
                    passed, failed = passed + (not problem), failed + bool(problem)
    for problem in missing.values():
        print(problem)
    print(f"{passed} passed, {failed} failed")
    return 1 if failed or any(run.STOPPED) else 0


def one(options, client, framework, endpoint, certificate):
    home = options.cache / client["name"]
    if client.get("npm"):
        command = [run.node(options.cache), home / client["runner"], endpoint, options.audio]
    else:
        command = [home / "bin/python", run.HERE / client["runner"], framework, endpoint, options.audio]
    environment = {**os.environ, "SSL_CERT_FILE": str(certificate), "NODE_EXTRA_CA_CERTS": str(certificate)}
    began = time.monotonic()
    try:
        done = subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True, timeout=TIMEOUT)
        problem = judged(done)
    except subprocess.TimeoutExpired:
        problem = f"not done after {TIMEOUT} s"
    name = f"{client['name']} {framework} {endpoint.split(':')[0].replace('http', 'ws', 1)}"
    print(f"{'ok  ' if not problem else 'FAIL'} {name} ({time.monotonic() - began:.0f} s) {problem or ''}", flush=True)
    return problem


def judged(done):
    """What is wrong, if anything."""
    line = done.stdout.strip().splitlines()[-1] if done.stdout.strip() else ""
    if done.returncode != 0 or not line.startswith("{"):
        return f"ended with {done.returncode}: {(done.stderr or done.stdout)[-600:]}"
    result = json.loads(line)
    heard = re.sub(r"[^a-z ]", "", " ".join(result["transcripts"]).lower())
    lacking = [phrase for phrase in PHRASES if phrase not in heard]
    if lacking:
        return f"heard {heard!r}, not {lacking}"
    return None


if __name__ == "__main__":
    sys.exit(main())
