#!/usr/bin/env python3
"""Delay of live transcription: end of word → word on the screen, end of turn → completed, and the words' error rate.

    realtime.py --endpoint http://127.0.0.1:8080 --audio speech.wav --text speech.txt [--sessions 1,2,4] [--delay low]
                [--repeat N] [--before SECONDS] [--beside FILE] [--turns] [--words WORDS.json] [--system whisper-live=ws://127.0.0.1:9090]

Feeds a mono 16 kHz 16-bit WAV in real time to as many sessions at once as `--sessions` says, one number after the other.
Where a word ends comes from the same server's HTTP route (verbose_json, word times) over the same file; `--words` keeps
that answer, so that other servers are held against the same times. A word *stays* when it comes in a delta (a line or
a completed segment of a peer), and is *shown* when it first appears at all. `--repeat` plays the recording so many times
without a pause between; `--before` hands out that much of it as fast as it is taken and measures the rest, so that a session's
age costs no time of a quiet machine; `--beside` keeps one long file running through the HTTP route meanwhile. Needs websockets, jiwer,
whisper-normalizer. Meant for a machine that does nothing else.
"""

import argparse
import asyncio
import base64
import json
import time
import urllib.request
import uuid
import wave
from pathlib import Path

import websockets

from realtime_peers import PEERS
from realtime_view import RATE, View, plain
from scoring import median, percentile, wer

# Silence behind the audio, so that the last turn ends by itself.
TAIL_SECONDS = 2.0
# Nothing new for so long: what was handed out early is transcribed.
CAUGHT_UP_SECONDS = 15.0


def post(endpoint, path, **fields):
    """One file through the HTTP route."""
    boundary = uuid.uuid4().hex
    parts = [f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n' for name, value in fields.items()]
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{path.name}"\r\n\r\n'
    body = "".join(parts).encode() + head.encode() + path.read_bytes() + f"\r\n--{boundary}--\r\n".encode()
    headers = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
    request = urllib.request.Request(f"{endpoint}/v1/audio/transcriptions", body, headers)
    with urllib.request.urlopen(request, timeout=3600) as answer:
        return json.load(answer)


async def ours(endpoint, audio, options):
    """One session; `intermediate` shows the words that may still change."""
    watched, done, open_text, committed, completed, stopped = View(), {}, {}, 0, 0, {}
    url = endpoint.replace("http", "ws", 1) + "/mai/v1/realtime?intent=transcription"
    async with websockets.connect(url, max_size=None, ping_interval=None) as session:
        settings = {
            "format": {"type": "audio/pcm", "rate": RATE},
            "transcription": {"model": "whisper-1", "language": "en", "delay": options.delay},
            "turn_detection": {"type": "server_vad", "silence_duration_ms": 500} if options.turns else None,
        }
        await session.send(json.dumps({"type": "session.update", "session": {"type": "transcription", "audio": {"input": settings}}}))
        while json.loads(await session.recv())["type"] != "session.updated":
            pass

        async def append(piece):
            await session.send(json.dumps({"type": "input_audio_buffer.append", "audio": base64.b64encode(piece).decode()}))

        async def caught_up():
            while watched.shown and watched.now() - watched.shown[-1][0] < CAUGHT_UP_SECONDS:
                await asyncio.sleep(0.2)
            print("caught up", flush=True)
            while options.go and not options.go.exists():
                await asyncio.sleep(0.2)

        async def feed():
            await watched.pace(audio, append, options.before, caught_up if options.before else None)
            for name in ("commit", "clear"):
                await session.send(json.dumps({"type": f"input_audio_buffer.{name}"}))

        feeding, cleared, provisional = asyncio.create_task(feed()), False, ""
        while not (cleared and completed >= committed):
            event = json.loads(await session.recv())
            kind, item = event["type"].rsplit(".", 1)[-1], event.get("item_id")
            if kind == "committed":
                committed += 1
                stopped[item] = watched.now()
            elif kind == "cleared":
                cleared = True
            elif kind in ("delta", "intermediate"):
                if kind == "delta":
                    open_text[item] = open_text.get(item, "") + event["delta"]
                else:
                    provisional = event["intermediate"]
                watched.sees(" ".join(open_text.values()), provisional)
            elif kind in ("completed", "failed"):
                completed += 1
                done[item] = event.get("transcript", "")
                watched.turn_delays.append(watched.now() - stopped[item])
        await feeding
    assert all(open_text.get(item, "").strip() == text.strip() for item, text in done.items()), "deltas are the transcript"
    return watched


async def measure(options, count, audio, reference, text):
    name, _, address = options.system.partition("=")
    system = ours if name == "ours" else PEERS[name]
    address = address or options.endpoint
    beside = asyncio.create_task(keep_busy(options)) if options.beside else None
    sessions = await asyncio.gather(*(system(address, audio, options) for _ in range(count)))
    if beside:
        beside.cancel()
    delays = sorted(entry for session in sessions for entry in session.delays(reference) if entry[0] > options.before)
    turns = [delay for session in sessions for delay in session.turn_delays]
    half = (options.before + delays[-1][0]) / 2 if delays else 0
    early, late = ([stays for end, stays, _ in delays if (end < half) == first] for first in (True, False))
    return {
        "system": name,
        "sessions": count,
        "words": len(delays),
        "stays_median": median([stays for _, stays, _ in delays]),
        "stays_p95": percentile([stays for _, stays, _ in delays], 0.95),
        "shown_median": median([shown for _, _, shown in delays]),
        "shown_p95": percentile([shown for _, _, shown in delays], 0.95),
        "stays_median_first_half": median(early),
        "stays_median_second_half": median(late),
        "turn_median": median(turns) if turns else None,
        "turn_p95": percentile(turns, 0.95) if turns else None,
        "taken_back": sum(session.changed for session in sessions),
        "wer_live": wer([(text, session.text()) for session in sessions]),
    }


async def keep_busy(options):
    while True:
        await asyncio.to_thread(post, options.endpoint, options.beside, model="whisper-1")


def heard_by_the_file_route(options):
    if options.words and options.words.is_file():
        return json.loads(options.words.read_text())
    asked = {"model": "whisper-1", "language": "en", "response_format": "verbose_json", "timestamp_granularities[]": "word"}
    heard = post(options.endpoint, options.audio, **asked)
    if options.words:
        options.words.write_text(json.dumps(heard))
    return heard


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--endpoint", default="http://127.0.0.1:8080")
    parser.add_argument("--audio", type=Path, required=True)
    parser.add_argument("--text", type=Path, help="what is said in it; left out: what the HTTP route hears")
    parser.add_argument("--sessions", default="1,2,4")
    parser.add_argument("--delay", default="low")
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--before", type=float, default=0.0, help="seconds of the recording that are not measured")
    parser.add_argument("--go", type=Path, help="the rest waits until this file exists")
    parser.add_argument("--beside", type=Path, help="a long recording that runs through the HTTP route meanwhile")
    parser.add_argument("--turns", action="store_true", help="the server detects turns (500 ms of silence); else one turn")
    parser.add_argument("--words", type=Path, help="keep the HTTP route's answer there, or take it from there")
    parser.add_argument("--system", default="ours", help=f"`ours`, or one of {', '.join(PEERS)} as NAME=ws://HOST:PORT")
    parser.add_argument("--json", type=Path, help="write the results there too")
    options = parser.parse_args()
    with wave.open(str(options.audio)) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, RATE), "mono, 16 bits, 16 kHz"
        once = file.readframes(file.getnframes())
    heard = heard_by_the_file_route(options)
    seconds = len(once) / 2 / RATE
    reference = [
        (word, entry["end"] + n * seconds)
        for n in range(options.repeat)
        for entry in heard["words"]
        for word in plain(entry["word"])
    ]
    text = options.text.read_text() if options.text else heard["text"]
    text = " ".join([text] * options.repeat)
    print(f"WER of the file route: {wer([(text, ' '.join([heard['text']] * options.repeat))]):.2f} %", flush=True)
    audio = once * options.repeat + bytes(int(RATE * TAIL_SECONDS) * 2)
    results = []
    for count in map(int, options.sessions.split(",")):
        result = asyncio.run(measure(options, count, audio, reference, text))
        results.append(result)
        print(json.dumps({name: round(value, 3) if isinstance(value, float) else value for name, value in result.items()}), flush=True)
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
