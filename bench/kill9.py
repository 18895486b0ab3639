#!/usr/bin/env python3
"""kill -9 of the server at random points: no orphan, and no file left after the next start.

    python3 bench/kill9.py --binary target/debug/WhisperBackendAPI --model models/ggml-tiny.en.bin --port 21250 --times 100

Each round starts the server in a folder of its own with requests of every length running, kills it after a random time,
and looks for children that live on (2 s are allowed) and, once the last server has started and ended in peace, for files in
the spool's folder. Exits with 1 when it finds any.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path

import overload


def children(pid):
    """Every process below that one, with its start time, which tells it from a later one with its number."""
    found, line = {}, [pid]
    while line:
        parent = line.pop()
        try:
            for task in os.listdir(f"/proc/{parent}/task"):
                for child in Path(f"/proc/{parent}/task/{task}/children").read_text().split():
                    stat = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()
                    found[int(child)] = stat[19]
                    line.append(int(child))
        except OSError:
            continue
    return found


def alive(process, started):
    try:
        stat = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return False
    return stat[19] == started and stat[0] != "Z"


def post(port, file, stop):
    body = overload.form(file, {"model": "whisper-1"})
    while not stop.is_set():
        request = urllib.request.Request(f"http://127.0.0.1:{port}/v1/audio/transcriptions", body, {
            "Content-Type": f"multipart/form-data; boundary={overload.BOUNDARY}"})
        try:
            urllib.request.urlopen(request, timeout=30).read()
        except OSError:
            time.sleep(0.05)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--binary", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--times", type=int, default=100)
    parser.add_argument("--longest", type=float, default=3.0, help="seconds until the kill, at most")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    random.seed(arguments.seed)
    clip = overload.JFK.read_bytes()
    long = overload.wav(clip[44:] * 40)
    orphans, points = 0, {}
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        spool = Path(folder, "spool")
        spool.mkdir()
        Path(folder, "config.toml").write_text(
            f'[server]\nport = {arguments.port}\n[audio]\nspool_dir = "{spool}"\nspool_memory_mb = 0\n')
        command = [os.path.abspath(arguments.binary), "serve", "--cpu", "--model", os.path.abspath(arguments.model)]

        def start():
            return subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

        for turn in range(arguments.times):
            server, stop = start(), threading.Event()
            clients = [threading.Thread(target=post, args=(arguments.port, file, stop), daemon=True)
                       for file in (clip, clip, long, long)]
            for client in clients:
                client.start()
            wait = random.uniform(0.0, arguments.longest)
            end = time.monotonic() + wait
            family = {}
            while time.monotonic() < end:
                family |= children(server.pid)
                time.sleep(0.01)
            family |= children(server.pid)
            point = f"{len(children(server.pid))} children"
            points[point] = points.get(point, 0) + 1
            server.send_signal(signal.SIGKILL)
            server.wait()
            stop.set()
            limit = time.monotonic() + 2
            left = family
            while left and time.monotonic() < limit:
                left = {p: s for p, s in left.items() if alive(p, s)}
                time.sleep(0.01)
            if left:
                orphans += len(left)
                print(f"round {turn}, killed after {wait:.2f} s: {sorted(left)} live on", flush=True)
                for process in left:
                    os.kill(process, signal.SIGKILL)
        last = start()
        time.sleep(3)
        last.terminate()
        code = last.wait(60)
        files = [str(p) for p in spool.iterdir()] + [
            str(p) for p in Path(folder).iterdir() if p.name not in ("config.toml", "spool", "models")]
    print(f"{arguments.times} kills at {points}: {orphans} orphans; files left after the next start: {files}; "
          f"that server ended with {code}")
    sys.exit(1 if orphans or files or code else 0)


if __name__ == "__main__":
    main()
