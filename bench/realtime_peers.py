"""Other servers' live protocols, for realtime.py: whisper-live and WhisperLiveKit, as PyPI has them.

    whisper-live 0.10.0:      TranscriptionServer().run("127.0.0.1", 9090, backend="faster_whisper",
                              faster_whisper_custom_model_path=FOLDER, single_model=True)
    whisperlivekit 0.2.26:    wlk --port 9091 --pcm-input --language en --backend faster-whisper
                              --backend-policy localagreement --model_dir FOLDER
"""

import array
import asyncio
import json
import uuid

import websockets

from realtime_view import View

# Seconds without news after the audio's end.
QUIET_SECONDS = 6.0


async def whisper_live(address, audio, options):
    """Segments come again and again; `completed` ones stay. Sends only the last ten of them."""
    watched, kept = View(), {}
    async with websockets.connect(address, max_size=None, ping_interval=None) as session:
        asked = {"uid": str(uuid.uuid4()), "language": "en", "task": "transcribe", "model": "base", "use_vad": True, "send_last_n_segments": 10}
        await session.send(json.dumps(asked))
        while json.loads(await session.recv()).get("message") != "SERVER_READY":
            pass

        async def send(piece):
            samples = array.array("f", (sample / 32768 for sample in memoryview(piece).cast("h")))
            await session.send(samples.tobytes())

        feeding = asyncio.create_task(watched.pace(audio, send))
        while True:
            try:
                message = json.loads(await asyncio.wait_for(session.recv(), None if not feeding.done() else QUIET_SECONDS))
            except (asyncio.TimeoutError, websockets.ConnectionClosed):
                break
            segments = message.get("segments", [])
            kept |= {float(one["start"]): one["text"] for one in segments if one.get("completed")}
            open_text = " ".join(one["text"] for one in segments if not one.get("completed"))
            watched.sees(" ".join(kept[start] for start in sorted(kept)), open_text)
        await feeding
    # What it never completed was on the screen all the same.
    watched.sees(" ".join([*(kept[start] for start in sorted(kept)), open_text]))
    return watched


async def whisperlivekit(address, audio, options):
    """Lines stay; the buffer may change."""
    watched = View()
    async with websockets.connect(f"{address}/asr?language=en", max_size=None, ping_interval=None) as session:

        async def feed():
            await watched.pace(audio, session.send)
            await session.send(b"")

        feeding = asyncio.create_task(feed())
        while True:
            message = json.loads(await session.recv())
            if message.get("type") == "ready_to_stop":
                break
            if "lines" in message:
                lines = " ".join(line.get("text") or "" for line in message["lines"])
                watched.sees(lines, message.get("buffer_transcription") or "")
        await feeding
    return watched


PEERS = {"whisper-live": whisper_live, "whisperlivekit": whisperlivekit}
