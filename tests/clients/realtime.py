#!/usr/bin/env python3
"""Unmodified clients of the Realtime protocol: tests/clients/realtime.py --binary target/debug/WhisperBackendAPI

Starts the server, lets every client transcribe the recording of 1961 over ws, and checks what came back. Clients are installed
once, from PyPI, where run.py installs its own. npm's `openai` is not among them: it opens nothing but wss. Prints one
line a client and ends with `N passed, N failed`.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import run

CLIENTS = [
    {"name": "realtime-openai-2.54.0", "runner": "realtime_python.py", "pip": ["openai[realtime]==2.54.0"], "frameworks": ["openai"]},
    {"name": "realtime-openai-3.54.0", "runner": "realtime_python.py", "pip": ["openai[realtime]==3.54.0"], "frameworks": ["openai", "azure"]},
    {"name": "realtime-agents-0.24.0", "runner": "realtime_python.py", "pip": ["openai-agents[voice]==0.24.0"], "frameworks": ["agents"]},
    {"name": "realtime-livekit-1.8.9", "runner": "realtime_python.py", "pip": ["livekit-plugins-openai==1.8.9"], "frameworks": ["livekit"]},
    {"name": "realtime-pipecat-1.14.0", "runner": "realtime_python.py", "pip": ["pipecat-ai[openai,websocket]==1.14.0"], "frameworks": ["pipecat"]},
]
# Said in the recording; the first words may be heard with or without a comma, the middle is shouted.
PHRASES = ["and so my fellow americans", "your country can do for you", "ask what you can do for your country"]
TIMEOUT = 240


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", type=Path, required=True, help="the server")
    parser.add_argument("--model", type=Path, default=run.ROOT / "models/ggml-base.bin", help="a multilingual model file")
    parser.add_argument("--audio", type=Path, default=run.ROOT / "tests/fixtures/jfk.wav", help="the recording of 1961, 16 kHz mono WAV")
    parser.add_argument("--only", default="", help="clients whose name holds this")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "whisper-backend-api/clients"
    parser.add_argument("--cache", type=Path, default=cache, help="where clients are installed")
    options = parser.parse_args()
    options.binary, options.model = options.binary.resolve(), options.model.resolve()
    clients = [client for client in CLIENTS if options.only in client["name"]]
    missing = run.install(clients, options.cache)
    passed = failed = 0
    with tempfile.TemporaryDirectory(prefix="realtime-") as folder:
        with run.server(options, "open", Path(folder)) as server:
            for client in clients:
                for framework in client["frameworks"]:
                    problem = missing.get(client["name"]) or one(options, client, framework, server.endpoint)
                    passed, failed = passed + (not problem), failed + bool(problem)
    print(f"{passed} passed, {failed} failed")
    return 1 if failed or any(run.STOPPED) else 0


def one(options, client, framework, endpoint):
    home = options.cache / client["name"]
    command = [home / "bin/python", run.HERE / client["runner"], framework, endpoint, options.audio]
    began = time.monotonic()
    try:
        done = subprocess.run(command, cwd=home, capture_output=True, text=True, timeout=TIMEOUT)
        problem = judged(done)
    except subprocess.TimeoutExpired:
        problem = f"not done after {TIMEOUT} s"
    name = f"{client['name']} {framework}"
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
