#!/usr/bin/env python3
"""How long requests wait, from arrivals, lengths and replicas: a formula, a simulation, and both beside real servers.

    python3 bench/capacity.py --rate 4 --replicas 3 --slots 2 --window-seconds 1.2 --windows 1:70,2:20,5:10
    PYTHON bench/capacity.py … --run --binary target/debug/WhisperBackendAPI --engine target/debug/scripted-engine

`--rate` requests a second arrive by chance (Poisson), each of so many windows of at most 30 s (`--windows NUMBER:SHARE,…`),
and a window takes `--window-seconds` on a slot. A replica runs `--slots` windows side by side and gives turns to requests, not to
windows; the balancer chooses the replica with the fewest requests. Waiting is from arrival to the start of the first window.

With `--run` the same arrivals, one by one, are sent through HAProxy to servers whose windows are scripted to last that
long; loopback only. What is compared is the 95th percentile of the wait.
"""

import argparse
import asyncio
import heapq
import json
import math
import random
import sys
import tempfile
import time
from collections import deque
from pathlib import Path


def mean(values):
    return sum(values) / len(values)


def percentile(values, share):
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, math.ceil(share * len(ordered)) - 1)]


def arrivals(options):
    """Seconds of arrival and number of windows of each request."""
    chance = random.Random(options.seed)
    counts, weights = zip(*options.windows)
    now, out = 0.0, []
    for _ in range(options.requests):
        now += chance.expovariate(options.rate)
        out.append((now, chance.choices(counts, weights)[0]))
    return out


# Share of a window's length that one request in twenty waits at least: a window that runs is not moved to another replica
# for somebody else. From the simulation.
FLOOR = 0.8


def formula(options):
    """Utilisation, and the 95th percentile of the wait in seconds.

    For short recordings with some long ones among them (1 to 5 windows) within 25 % of the simulation from 60 to 85 %
    utilisation, one to eight replicas; for single windows alone it is too high, for many recordings of ten minutes up to 40 % too
    low. The simulation is the better answer, this the one for a table.

    With k windows a request and turns that go round by window, a request waits for one window of each request before it, not
    for its whole. The work that waits is that of a queue with batches; of the requests in it each has, on average, the rest of
    its windows to go, so that their number is E[k^2] / (E[k^2] + E[k]) of an exponential queue's. Erlang's C gives the share of
    requests that wait at all; the tail of their waits is taken as exponential.
    """
    total = sum(weight for _, weight in options.windows)
    first = sum(k * weight for k, weight in options.windows) / total
    second = sum(k * k * weight for k, weight in options.windows) / total
    slots = options.replicas * options.slots
    load = options.rate * first * options.window_seconds
    rho = load / slots
    if rho >= 1:
        return rho, math.inf
    # Erlang B by its recursion, then C.
    blocked = 1.0
    for number in range(1, slots + 1):
        blocked = load * blocked / (number + load * blocked)
    waits = blocked / (1 - rho * (1 - blocked))
    mean_of_those = options.window_seconds * second / (second + first) / (slots * (1 - rho))
    tail = mean_of_those * max(0.0, math.log(waits / 0.05))
    return rho, math.hypot(tail, FLOOR * options.window_seconds)


def simulate(options, requests):
    """The wait of each request, in seconds."""
    free = [options.slots] * options.replicas
    inside = [0] * options.replicas
    # Requests in the order of their turns: [windows to start, windows not ended, arrival or None].
    rings = [deque() for _ in range(options.replicas)]
    events = [(at, 0, index) for index, (at, _) in enumerate(requests)]
    heapq.heapify(events)
    order, waits, running = len(events), [0.0] * len(requests), {}
    turn = 0

    def start(replica, now):
        nonlocal order
        while free[replica] and rings[replica]:
            request = rings[replica].popleft()
            if request["first"]:
                request["first"] = False
                waits[request["index"]] = now - request["at"]
            request["left"] -= 1
            free[replica] -= 1
            order += 1
            running[order] = (replica, request)
            heapq.heappush(events, (now + options.window_seconds, 1, order))
            if request["left"]:
                rings[replica].append(request)

    while events:
        now, kind, number = heapq.heappop(events)
        if kind == 0:
            fewest = min(inside)
            # Among equals HAProxy goes round.
            replica = next(r for r in ((turn + k) % options.replicas for k in range(options.replicas)) if inside[r] == fewest)
            turn = replica + 1
            inside[replica] += 1
            windows = requests[number][1]
            rings[replica].append({"index": number, "at": now, "left": windows, "ends": windows, "first": True})
        else:
            replica, request = running.pop(number)
            free[replica] += 1
            request["ends"] -= 1
            if not request["ends"]:
                inside[replica] -= 1
        start(replica, now)
    return waits


async def ask(port, body, boundary):
    """Seconds until the first words of a streamed answer, and the status."""
    began = time.monotonic()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = (f"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: {len(body)}\r\n"
            f"Content-Type: multipart/form-data; boundary={boundary}\r\n\r\n")
    writer.write(head.encode() + body)
    seen, first = b"", None
    while chunk := await reader.read(65536):
        seen += chunk
        if first is None and b".delta" in seen:
            first = time.monotonic() - began
    writer.close()
    return first, seen[9:12].decode()


async def drive(options, requests, port):
    """The wait of each request, in seconds: until its first words, less the same on idle servers."""
    from overload import form, wav  # beside this file
    clip = (Path(__file__).resolve().parent.parent / "tests/fixtures/jfk.wav").read_bytes()[44:]
    boundary = "overload-boundary"
    fields = {"model": "whisper-1", "stream": "true", "response_format": "json"}
    # Two clips of 11 s make one window of at most 28 s.
    bodies = {count: form(wav(clip * 2 * count), fields) for count in {count for _, count in requests}}
    idle = []
    for _ in range(9):
        first, status = await ask(port, bodies[min(bodies)], boundary)
        if status != "200" or first is None:
            sys.exit(f"an idle server answered {status}")
        idle.append(first)
    base = percentile(idle, 0.5)
    print(f"first words on idle servers after {base:.3f} s (a window is {options.window_seconds} s)", flush=True)
    began = time.monotonic()

    async def one(at, count):
        await asyncio.sleep(max(0.0, began + at - time.monotonic()))
        first, status = await ask(port, bodies[count], boundary)
        return (max(0.0, first - base) if first is not None else None), status

    results = await asyncio.gather(*(one(at, count) for at, count in requests))
    bad = [status for first, status in results if status != "200" or first is None]
    if bad:
        print("answers that are no transcripts:", bad[:5], len(bad))
    return [first for first, _ in results if first is not None], len(bad)


def run(options, requests):
    import replicas  # beside this file
    settings = (f"[performance]\nslots = {options.slots}\nwhisper_threads = {options.slots}\n"
                "max_concurrent_requests = 64\nqueue_length = 512\n[realtime]\nmax_sessions = 1\n")
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        ports = [options.port + 1 + index for index in range(3)]
        servers = [
            replicas.Server(options, folder, port, settings, int(options.window_seconds * 1000)).start()
            for port in ports[:options.replicas]
        ]
        balancer = None
        try:
            for server in servers:
                server.wait()
            balancer = replicas.Balancer("haproxy", options.program, folder, options.port, ports)
            time.sleep(3)
            waits, bad = asyncio.run(drive(options, requests, options.port))
            print("served by each:", [server.served() for server in servers])
            for server in servers:
                lines = server.get("/metrics").splitlines()
                count = next(l for l in lines if l.startswith("whisper_queue_wait_seconds_count"))
                total = next(l for l in lines if l.startswith("whisper_queue_wait_seconds_sum"))
                print("  mean wait by /metrics:", round(float(total.split()[1]) / max(1.0, float(count.split()[1])), 3), "s")
            return waits, bad
        finally:
            for server in servers:
                server.stop()
            if balancer:
                balancer.stop()


def shares(text):
    return [(int(part.split(":")[0]), float(part.split(":")[1])) for part in text.split(",")]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, required=True, help="requests a second")
    parser.add_argument("--replicas", type=int, default=3)
    parser.add_argument("--slots", type=int, default=1, help="windows side by side on a replica")
    parser.add_argument("--window-seconds", type=float, required=True)
    parser.add_argument("--windows", type=shares, default=shares("1:1"), help="NUMBER:SHARE,… windows of a request")
    parser.add_argument("--requests", type=int, default=20000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--run", action="store_true")
    parser.add_argument("--binary")
    parser.add_argument("--engine")
    parser.add_argument("--stand-in")
    parser.add_argument("--model", default="tiny.en")
    parser.add_argument("--program")
    parser.add_argument("--port", type=int, default=23510)
    options = parser.parse_args()
    rho, expected = formula(options)
    requests = arrivals(options)
    waits = simulate(options, requests)
    out = {
        "utilisation": round(rho, 3),
        "formula_p95_seconds": round(expected, 3),
        "simulated_mean_seconds": round(mean(waits), 3),
        "simulated_p95_seconds": round(percentile(waits, 0.95), 3),
    }
    if options.run:
        measured, bad = run(options, requests)
        out |= {
            "measured_mean_seconds": round(mean(measured), 3),
            "measured_p95_seconds": round(percentile(measured, 0.95), 3),
            "measured_to_simulated": round(percentile(measured, 0.95) / max(1e-9, percentile(waits, 0.95)), 3),
            "failed": bad,
        }
    print(json.dumps(out, indent=1))


if __name__ == "__main__":
    main()
