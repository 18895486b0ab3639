#!/usr/bin/env python3
"""Delay of live transcription: end of word → delta, end of turn → completed, and the words' error rate.

    realtime.py --endpoint http://127.0.0.1:8080 --audio long.wav --text long.txt [--sessions 1,2,4] [--delay low]
                [--repeat N] [--beside FILE] [--turns] [--json OUT]

Feeds a mono 16 kHz 16-bit WAV in real time to as many sessions at once as `--sessions` says, one number after the other.
Where a word ends comes from the same server's HTTP route (verbose_json, word times) over the same file, asked once
before. `--repeat` plays the recording so many times without a pause between; `--beside` keeps one long file running through the
HTTP route meanwhile. Needs websockets, jiwer, whisper-normalizer. Meant for a machine that does nothing else.
"""

import argparse
import asyncio
import base64
import difflib
import json
import re
import time
import urllib.request
import uuid
import wave
from pathlib import Path

import websockets

from scoring import median, percentile, wer

RATE = 16_000
STEP_SECONDS = 0.05
STEP_BYTES = int(RATE * STEP_SECONDS) * 2
# Silence behind the audio, so that the last turn ends by itself.
TAIL = bytes(RATE * 2 * 2)


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


def plain(text):
    return [word for word in re.sub(r"[^\w' ]", " ", text.lower()).split() if word]


class Session:
    def __init__(self):
        self.words, self.finals, self.turn_delays, self.began = [], [], [], 0.0

    async def run(self, endpoint, audio, delay, turns):
        url = endpoint.replace("http", "ws", 1) + "/v1/realtime?intent=transcription"
        async with websockets.connect(url, max_size=None, ping_interval=None) as socket:
            detection = {"type": "server_vad", "silence_duration_ms": 500} if turns else None
            settings = {
                "format": {"type": "audio/pcm", "rate": RATE},
                "transcription": {"model": "whisper-1", "language": "en", "delay": delay},
                "turn_detection": detection,
            }
            await socket.send(json.dumps({"type": "session.update", "session": {"type": "transcription", "audio": {"input": settings}}}))
            while json.loads(await socket.recv())["type"] != "session.updated":
                pass
            self.began = time.monotonic()
            feeding = asyncio.create_task(self.feed(socket, audio))
            await self.listen(socket)
            await feeding

    async def feed(self, socket, audio):
        for number, at in enumerate(range(0, len(audio), STEP_BYTES)):
            pause = self.began + (number + 1) * STEP_SECONDS - time.monotonic()
            if pause > 0:
                await asyncio.sleep(pause)
            piece = base64.b64encode(audio[at : at + STEP_BYTES]).decode()
            await socket.send(json.dumps({"type": "input_audio_buffer.append", "audio": piece}))
        await socket.send(json.dumps({"type": "input_audio_buffer.commit"}))
        await socket.send(json.dumps({"type": "input_audio_buffer.clear"}))

    async def listen(self, socket):
        committed = completed = 0
        stopped, cleared = {}, False
        while not (cleared and completed >= committed):
            event = json.loads(await socket.recv())
            now = time.monotonic() - self.began
            kind = event["type"].rsplit(".", 1)[-1]
            if kind == "committed":
                committed += 1
                stopped[event["item_id"]] = now
            elif kind == "cleared":
                cleared = True
            elif kind == "delta":
                self.words += [(word, now) for word in plain(event["delta"])]
            elif kind in ("completed", "failed"):
                completed += 1
                self.finals.append(event.get("transcript", ""))
                self.turn_delays.append(now - stopped[event["item_id"]])

    def word_delays(self, reference):
        """Seconds from a word's end to the delta with it, for the words that were heard right."""
        matcher = difflib.SequenceMatcher(None, [word for word, _ in reference], [word for word, _ in self.words], autojunk=False)
        return [
            (reference[a + k][1], self.words[b + k][1] - reference[a + k][1])
            for a, b, size in matcher.get_matching_blocks()
            for k in range(size)
        ]


async def measure(options, count, audio, reference, text):
    sessions = [Session() for _ in range(count)]
    beside = asyncio.create_task(keep_busy(options)) if options.beside else None
    await asyncio.gather(*(session.run(options.endpoint, audio, options.delay, options.turns) for session in sessions))
    if beside:
        beside.cancel()
    delays = sorted(pair for session in sessions for pair in session.word_delays(reference))
    turns = [delay for session in sessions for delay in session.turn_delays]
    half = delays[-1][0] / 2 if delays else 0
    early, late = ([delay for at, delay in delays if (at < half) == first] for first in (True, False))
    return {
        "sessions": count,
        "words": len(delays),
        "word_median": median([delay for _, delay in delays]),
        "word_p95": percentile([delay for _, delay in delays], 0.95),
        "word_median_first_half": median(early),
        "word_median_second_half": median(late),
        "turn_median": median(turns),
        "turn_p95": percentile(turns, 0.95),
        "wer_live": wer([(text, " ".join(session.finals)) for session in sessions]),
    }


async def keep_busy(options):
    while True:
        await asyncio.to_thread(post, options.endpoint, options.beside, model="whisper-1")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--endpoint", default="http://127.0.0.1:8080")
    parser.add_argument("--audio", type=Path, required=True)
    parser.add_argument("--text", type=Path, help="what is said in it; left out: what the HTTP route hears")
    parser.add_argument("--sessions", default="1,2,4")
    parser.add_argument("--delay", default="low")
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--beside", type=Path, help="a long recording that runs through the HTTP route meanwhile")
    parser.add_argument("--turns", action="store_true", help="the server detects turns (500 ms of silence); else one turn")
    parser.add_argument("--json", type=Path, help="write the results there too")
    options = parser.parse_args()
    with wave.open(str(options.audio)) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, RATE), "mono, 16 bits, 16 kHz"
        once = file.readframes(file.getnframes())
    heard = post(options.endpoint, options.audio, model="whisper-1", language="en", response_format="verbose_json", **{"timestamp_granularities[]": "word"})
    seconds = len(once) / 2 / RATE
    reference = [
        (word, entry["end"] + n * seconds)
        for n in range(options.repeat)
        for entry in heard["words"]
        for word in plain(entry["word"])
    ]
    text = options.text.read_text() if options.text else heard["text"]
    text = " ".join([text] * options.repeat)
    print(f"WER of the file route: {wer([(text, ' '.join([heard['text']] * options.repeat))]):.2f} %")
    results = []
    for count in map(int, options.sessions.split(",")):
        result = asyncio.run(measure(options, count, once * options.repeat + TAIL, reference, text))
        results.append(result)
        print(json.dumps({name: round(value, 3) for name, value in result.items()}), flush=True)
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
