#!/usr/bin/env python3
"""Overload: many times more clients than the server has room for, of every kind, for some minutes.

    python3 bench/overload.py --pid $(pgrep -f 'WhisperBackendAPI serve') --minutes 5 --times 10 http://127.0.0.1:8080

The crowd: short clips (interactive, and batch), ten-minute recordings, clients that leave in the middle, clients that read
their stream slowly or not at all, uploads that come slower than any line, garbage, and bodies of 2 GB.
`--kind whisper.cpp` speaks to whisper.cpp's `whisper-server` (`/inference`) with the same crowd.

Reports: accepted interactive clips (median, 95th, 99th percentile of their seconds) beside their bound from the queue; how
long refusals took; wrong answers; memory and open files of the server and its children, each second. Loopback only.

The bound from the queue: a clip that is let in finds at most `places` requests before it. Turns go round by one window, so it
waits for at most one window of each: places x seconds of one window / windows side by side, and its own. The seconds of a
window and how many run side by side are measured on the idle server first.
"""

import argparse
import asyncio
import json
import os
import random
import struct
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

BOUNDARY = "overload-boundary"
JFK = Path(__file__).resolve().parent.parent / "tests/fixtures/jfk.wav"
EXPECTED = "ask not what your country can do for you"
# Share of each kind in the crowd, in percent.
CROWD = {
    "short": 40, "batch": 10, "long": 10, "leaving": 10, "slow reader": 5, "stopped reader": 5,
    "slow writer": 8, "garbage": 7, "huge": 5,
}


def wav(samples: bytes) -> bytes:
    return b"RIFF" + struct.pack("<I", 36 + len(samples)) + b"WAVEfmt " + struct.pack(
        "<IHHIIHH", 16, 1, 1, 16_000, 32_000, 2, 16) + b"data" + struct.pack("<I", len(samples)) + samples


def form(file: bytes, fields: dict) -> bytes:
    out = b""
    for name, value in fields.items():
        out += f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
    out += f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'.encode()
    return out + file + f"\r\n--{BOUNDARY}--\r\n".encode()


def watched(work):
    """A task whose error is looked at, also when nobody waits for it any more."""
    task = asyncio.ensure_future(work)
    task.add_done_callback(lambda t: t.cancelled() or t.exception())
    return task


class Crowd:
    def __init__(self, arguments):
        self.arguments = arguments
        address = urlsplit(arguments.url)
        if address.hostname not in ("127.0.0.1", "localhost", "::1"):
            sys.exit("loopback only")
        self.host, self.port = address.hostname, address.port
        clip = JFK.read_bytes()
        samples = clip[44:]
        self.short = clip
        self.long = wav(samples * (600 // 11))
        self.rows = []  # kind, status, seconds, note
        self.end = 0.0

    def path(self):
        if self.arguments.kind == "whisper.cpp":
            return "/inference"
        return "/v1/audio/transcriptions"

    def head(self, length):
        return (f"POST {self.path()} HTTP/1.1\r\nHost: {self.host}\r\nConnection: close\r\n"
                f"Content-Type: multipart/form-data; boundary={BOUNDARY}\r\nContent-Length: {length}\r\n\r\n").encode()

    def fields(self, **more):
        return {"model": "whisper-1", "response_format": "json", **more}

    async def connect(self):
        return await asyncio.open_connection(self.host, self.port, limit=1 << 22)

    async def answer(self, reader, limit):
        """Status and body, or a note."""
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), limit)
        status = int(head.split(b" ", 2)[1])
        body = await asyncio.wait_for(reader.read(1 << 22), limit)
        return status, body

    async def whole(self, kind, file, limit=600.0, **more):
        body = form(file, self.fields(**more))
        began = time.monotonic()
        reader, writer = await self.connect()
        try:
            writer.write(self.head(len(body)) + body)
            drain = watched(writer.drain())
            status, text = await self.answer(reader, limit)
            drain.cancel()
        finally:
            writer.close()
        seconds = time.monotonic() - began
        note = ""
        if status == 200 and kind in ("short", "batch") and EXPECTED not in text.decode("utf-8", "replace").lower():
            note = "wrong words"
        return status, seconds, note

    async def one(self, kind):
        if kind == "short":
            return await self.whole(kind, self.short)
        if kind == "batch":
            return await self.whole(kind, self.short, priority="batch")
        if kind == "long":
            return await self.whole(kind, self.long, limit=3600.0)
        if kind == "garbage":
            noise = random.randbytes(random.choice([10, 1000, 200_000]))
            return await self.whole(kind, random.choice([noise, b"RIFF" + noise, self.short[:60] + noise]))
        began = time.monotonic()
        reader, writer = await self.connect()
        status = 0
        try:
            if kind == "leaving":
                body = form(self.long, self.fields())
                cut = random.randrange(len(body)) if random.random() < 0.5 else len(body)
                writer.write(self.head(len(body)) + body[:cut])
                await asyncio.sleep(random.uniform(0.0, 5.0))
            elif kind in ("slow reader", "stopped reader"):
                body = form(self.long, self.fields(stream="true"))
                writer.write(self.head(len(body)) + body)
                await asyncio.wait_for(writer.drain(), 60)
                end = time.monotonic() + 90
                while time.monotonic() < end:
                    if kind == "slow reader":
                        piece = await asyncio.wait_for(reader.read(20), 60)
                        if not piece:
                            break
                    await asyncio.sleep(1)
            elif kind == "slow writer":
                writer.write(self.head(10_000_000))
                writer.write(form(b"", self.fields())[:200])
                while True:
                    writer.write(b"-" * 30)
                    await writer.drain()
                    try:
                        status, _ = await self.answer(reader, 1)
                        break
                    except asyncio.TimeoutError:
                        pass
            elif kind == "huge":
                size = 2 << 30
                writer.write(self.head(size))
                writer.write(form(b"", self.fields())[:-30])
                chunk, sent = bytes(1 << 20), 0
                answered = watched(self.answer(reader, 600))
                while sent < size - (2 << 20) and not answered.done():
                    writer.write(chunk)
                    sent += len(chunk)
                    await writer.drain()
                writer.write_eof() if writer.can_write_eof() else None
                status, _ = await answered
        finally:
            writer.close()
        return status, time.monotonic() - began, ""

    async def client(self):
        kinds, weights = list(CROWD), list(CROWD.values())
        while time.monotonic() < self.end:
            kind = random.choices(kinds, weights)[0]
            began = time.monotonic()
            try:
                status, seconds, note = await self.one(kind)
            except (OSError, asyncio.TimeoutError, asyncio.IncompleteReadError, ValueError, IndexError) as error:
                status, seconds, note = 0, time.monotonic() - began, type(error).__name__
            self.rows.append((kind, status, seconds, note))
            # What `Retry-After` asks would empty the crowd; a second keeps it an overload without spinning.
            await asyncio.sleep(1 if status in (429, 503, 0) else 0)

    async def measure(self):
        """Seconds of one clip alone, and clips a second with enough of them side by side."""
        await self.whole("short", self.short)
        alone = min([(await self.whole("short", self.short))[1] for _ in range(3)])
        count = 2 * (os.cpu_count() or 1)
        began = time.monotonic()
        await asyncio.gather(*(self.whole("short", self.short) for _ in range(count)))
        return alone, count / (time.monotonic() - began)

    async def watch(self, samples):
        pid = self.arguments.pid
        while pid and time.monotonic() < self.end:
            samples.append(usage(pid))
            await asyncio.sleep(1)

    async def run(self):
        alone, rate = await self.measure()
        places = self.arguments.places
        self.end = time.monotonic() + self.arguments.minutes * 60
        samples = []
        clients = [asyncio.create_task(self.client()) for _ in range(places * self.arguments.times)]
        watcher = asyncio.create_task(self.watch(samples))
        await asyncio.wait([*clients, watcher], timeout=self.arguments.minutes * 60 + 120)
        for task in clients:
            task.cancel()
        await asyncio.gather(*clients, return_exceptions=True)
        return alone, rate, samples


def usage(pid):
    """Resident KiB of the server and of its children, and open files of the server."""
    def resident(process):
        try:
            for line in Path(f"/proc/{process}/status").read_text().splitlines():
                if line.startswith("VmRSS"):
                    return int(line.split()[1])
        except OSError:
            pass
        return 0
    try:
        files = len(os.listdir(f"/proc/{pid}/fd"))
        children = []
        for task in os.listdir(f"/proc/{pid}/task"):
            children += Path(f"/proc/{pid}/task/{task}/children").read_text().split()
    except OSError:
        return 0, 0, 0
    return resident(pid), sum(resident(child) for child in set(children)), files


def percentile(values, share):
    values = sorted(values)
    return values[min(len(values) - 1, int(len(values) * share))] if values else float("nan")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("url")
    parser.add_argument("--kind", choices=["ours", "whisper.cpp"], default="ours")
    parser.add_argument("--pid", type=int, help="process of the server, for memory and files")
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--times", type=int, default=10, help="clients for each place")
    parser.add_argument("--places", type=int, default=80, help="max_concurrent_requests + queue_length")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write the figures there")
    arguments = parser.parse_args()
    random.seed(arguments.seed)
    crowd = Crowd(arguments)
    alone, rate, samples = asyncio.run(crowd.run())
    accepted = [s for kind, status, s, _ in crowd.rows if kind == "short" and status == 200]
    refused = [s for kind, status, s, _ in crowd.rows if status == 429 and kind in ("short", "batch", "garbage", "long")]
    bound = arguments.places / rate + alone
    figures = {
        "clip alone, s": alone,
        "clips a second": rate,
        "bound from the queue, s": bound,
        "accepted short clips": len(accepted),
        "accepted p50, s": percentile(accepted, 0.5),
        "accepted p95, s": percentile(accepted, 0.95),
        "accepted p99, s": percentile(accepted, 0.99),
        "refusals": len(refused),
        "refusals p50, ms": percentile(refused, 0.5) * 1000,
        "refusals p99, ms": percentile(refused, 0.99) * 1000,
        "wrong words": sum(1 for row in crowd.rows if row[3] == "wrong words"),
    }
    by_kind = {}
    for kind, status, _, note in crowd.rows:
        key = f"{kind}: {status or note or 'gone'}"
        by_kind[key] = by_kind.get(key, 0) + 1
    figures["outcomes"] = dict(sorted(by_kind.items()))
    if samples:
        warm = samples[len(samples) // 4:]
        figures["server MiB, at a quarter / most / end"] = [warm[0][0] >> 10, max(s[0] for s in samples) >> 10, samples[-1][0] >> 10]
        figures["children MiB, at a quarter / most / end"] = [warm[0][1] >> 10, max(s[1] for s in samples) >> 10, samples[-1][1] >> 10]
        figures["open files, at a quarter / most / end"] = [warm[0][2], max(s[2] for s in samples), samples[-1][2]]
    print(json.dumps(figures, indent=2))
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
