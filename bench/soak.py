#!/usr/bin/env python3
"""Soak: an hour at part of the server's capacity; memory of server and engines after the warm-up.

    python3 bench/soak.py --pid PID --minutes 60 --load 0.7 http://127.0.0.1:8080

Measures how many clips a second the server answers when it is full, then sends that many times `--load`, at even intervals.
Prints the resident memory each minute, and its growth from the end of the warm-up (a sixth of the time) to the end, each as
the median of a sixth. Exits with 1 when it grew by more than `--most` percent or an answer was wrong.
"""

import argparse
import asyncio
import json
import statistics
import sys
import time
from types import SimpleNamespace

import overload


async def run(arguments):
    crowd = overload.Crowd(SimpleNamespace(url=arguments.url, kind="ours"))
    alone, rate = await crowd.measure()
    pause = 1 / (rate * arguments.load)
    outcomes = {}
    running = set()
    samples = []
    began = time.monotonic()
    end = began + arguments.minutes * 60
    next_sample = began

    async def one():
        try:
            status, _, note = await crowd.whole("short", crowd.short)
        except (OSError, asyncio.TimeoutError, asyncio.IncompleteReadError, ValueError) as error:
            status, note = 0, type(error).__name__
        key = f"{status} {note}".strip()
        outcomes[key] = outcomes.get(key, 0) + 1

    while (now := time.monotonic()) < end:
        if now >= next_sample:
            server, children, files = overload.usage(arguments.pid)
            samples.append((server + children, server, children, files))
            if len(samples) % 6 == 1:
                print(f"{(now - began) / 60:6.1f} min  server {server >> 10} MiB  children {children >> 10} MiB  files {files}", flush=True)
            next_sample += 10
        task = asyncio.create_task(one())
        running.add(task)
        task.add_done_callback(running.discard)
        await asyncio.sleep(pause)
    await asyncio.gather(*running)

    sixth = max(1, len(samples) // 6)
    growth = {}
    for index, name in enumerate(["together", "server", "children", "files"]):
        first = statistics.median(s[index] for s in samples[sixth:2 * sixth] or samples)
        last = statistics.median(s[index] for s in samples[-sixth:])
        growth[name] = 100 * (last - first) / max(first, 1)
    print(json.dumps({"clips a second when full": rate, "sent each second": rate * arguments.load, "outcomes": outcomes,
                      "growth after warm-up, percent": growth}, indent=2))
    wrong = any(key != "200" for key in outcomes)
    return 1 if wrong or growth["together"] > arguments.most else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("url")
    parser.add_argument("--pid", type=int, required=True)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--load", type=float, default=0.7)
    parser.add_argument("--most", type=float, default=1.0, help="growth in percent that is allowed")
    sys.exit(asyncio.run(run(parser.parse_args())))
