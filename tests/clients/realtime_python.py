"""One recording through one Python client of the Realtime protocol, as its users would write it.

    realtime_python.py FRAMEWORK ENDPOINT RECORDING.wav

FRAMEWORK is `openai`, `azure`, `agents`, `livekit` or `pipecat`; ENDPOINT is http(s)://host:port; the recording is mono,
16 bits, 16 kHz. Prints one JSON line: the final transcripts in order, and how many partial results came before.
"""

import asyncio
import base64
import contextlib
import json
import sys
import wave

FRAME_SECONDS = 0.1
# Fed faster than it is spoken: what is shown here does not depend on the clock.
SPEED = 4.0
# Silence behind the recording, so that detection ends the last turn.
TAIL_SECONDS = 2.0
# Seconds without an event after which nothing more is expected.
QUIET_SECONDS = 90
# The same for clients that tell nobody that nothing more will come.
TAIL_QUIET_SECONDS = 25


def recording(path, rate):
    """The recording at another rate (linear interpolation is good enough for speech), with silence behind it."""
    with wave.open(path) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, 16000), "mono, 16 bits, 16 kHz"
        raw = file.readframes(file.getnframes())
    samples = memoryview(raw).cast("h")
    if rate != 16000:
        step, last = 16000 / rate, len(samples) - 1
        places = (n * step for n in range(int(last / step)))
        samples = [round(samples[int(p)] * (1 - p % 1) + samples[int(p) + 1] * (p % 1)) for p in places]
        raw = b"".join(sample.to_bytes(2, "little", signed=True) for sample in samples)
    return raw + bytes(int(TAIL_SECONDS * rate) * 2)


def pieces(audio, rate):
    size = int(rate * FRAME_SECONDS) * 2
    return [audio[at : at + size] for at in range(0, len(audio), size)]


async def with_openai(endpoint, path, azure=False):
    """The plain SDK: server_vad, then what is left is committed."""
    import openai

    if azure:
        base = endpoint.replace("http", "ws", 1) + "/openai"
        client = openai.AsyncAzureOpenAI(azure_endpoint=endpoint, api_key="key", api_version="2025-04-01-preview", websocket_base_url=base)
        connect = client.beta.realtime.connect if hasattr(client.beta, "realtime") else client.realtime.connect
        manager = connect(model="my-whisper")
    else:
        client = openai.AsyncOpenAI(base_url=endpoint + "/v1", api_key="key")
        manager = client.realtime.connect(extra_query={"intent": "transcription"})
    finals, partials, committed = [], 0, 0
    async with manager as session:
        settings = {
            "format": {"type": "audio/pcm", "rate": 24000},
            "transcription": {"model": "whisper-1", "language": "en"},
            "turn_detection": {"type": "server_vad", "silence_duration_ms": 500},
        }
        await session.send({"type": "session.update", "session": {"type": "transcription", "audio": {"input": settings}}})

        async def feed():
            for piece in pieces(recording(path, 24000), 24000):
                audio = base64.b64encode(piece).decode()
                await session.send({"type": "input_audio_buffer.append", "audio": audio})
                await asyncio.sleep(FRAME_SECONDS / SPEED)
            await session.send({"type": "input_audio_buffer.clear"})

        feeding = asyncio.create_task(feed())
        cleared = False
        while not (cleared and len(finals) == committed):
            event = await asyncio.wait_for(session.recv(), QUIET_SECONDS)
            if event.type == "input_audio_buffer.committed":
                committed += 1
            elif event.type.endswith("transcription.delta"):
                partials += 1
            elif event.type.endswith("transcription.completed"):
                finals.append(event.transcript)
            elif event.type == "input_audio_buffer.cleared":
                cleared = True
            elif event.type in ("error", "conversation.item.input_audio_transcription.failed"):
                raise RuntimeError(str(event))
        await feeding
    return finals, partials


async def with_agents(endpoint, path):
    """openai-agents: its voice pipeline's session, semantic_vad by default, commit and clear at the end."""
    import numpy as np
    import openai
    from agents.voice import StreamedAudioInput, STTModelSettings
    from agents.voice.models.openai_stt import OpenAISTTModel

    client = openai.AsyncOpenAI(base_url=endpoint + "/v1", api_key="key")
    audio = StreamedAudioInput()
    model = OpenAISTTModel("gpt-4o-transcribe", client)
    session = await model.create_session(audio, STTModelSettings(language="en"), False, False)

    async def feed():
        for piece in pieces(recording(path, 24000), 24000):
            await audio.add_audio(np.frombuffer(piece, dtype=np.int16))
            await asyncio.sleep(FRAME_SECONDS / SPEED)
        await audio.add_audio(None)

    feeding = asyncio.create_task(feed())
    finals = [text async for text in session.transcribe_turns()]
    await feeding
    await session.close()
    return finals, None


async def with_livekit(endpoint, path):
    """livekit-plugins-openai: the model also stands in the address; any `error` would end the stream."""
    from livekit import rtc
    from livekit.agents import stt as stt_types
    from livekit.agents import utils
    from livekit.plugins import openai as plugin

    async with utils.http_context.open():
        stt = plugin.STT(model="gpt-4o-transcribe", base_url=endpoint + "/v1", api_key="key", use_realtime=True)
        stream = stt.stream()
        finals, partials = [], 0

        async def feed():
            for piece in pieces(recording(path, 24000), 24000):
                stream.push_frame(rtc.AudioFrame(piece, 24000, 1, len(piece) // 2))
                await asyncio.sleep(FRAME_SECONDS / SPEED)

        feeding = asyncio.create_task(feed())
        with contextlib.suppress(asyncio.TimeoutError):
            # It tells nobody that nothing more will come.
            while True:
                event = await asyncio.wait_for(stream.__anext__(), QUIET_SECONDS if not feeding.done() else TAIL_QUIET_SECONDS)
                if event.type == stt_types.SpeechEventType.FINAL_TRANSCRIPT:
                    finals.append(event.alternatives[0].text)
                elif event.type == stt_types.SpeechEventType.INTERIM_TRANSCRIPT:
                    partials += 1
        await feeding
        await stream.aclose()
        await stt.aclose()
    return finals, partials


async def with_pipecat(endpoint, path):
    """pipecat: updates only after `session.created`, audio only after `session.updated`; server-side detection."""
    from pipecat.frames.frames import EndFrame, InputAudioRawFrame, InterimTranscriptionFrame, TranscriptionFrame
    from pipecat.pipeline.pipeline import Pipeline
    from pipecat.pipeline.runner import PipelineRunner
    from pipecat.pipeline.task import PipelineParams, PipelineTask
    from pipecat.processors.frame_processor import FrameProcessor
    from pipecat.services.openai.stt import OpenAIRealtimeSTTService

    finals, partials, last = [], [], [asyncio.get_running_loop().time()]

    class Sink(FrameProcessor):
        async def process_frame(self, frame, direction):
            await super().process_frame(frame, direction)
            if isinstance(frame, TranscriptionFrame):
                finals.append(frame.text)
            elif isinstance(frame, InterimTranscriptionFrame):
                partials.append(frame.text)
            if isinstance(frame, (TranscriptionFrame, InterimTranscriptionFrame)):
                last[0] = asyncio.get_running_loop().time()
            await self.push_frame(frame, direction)

    service = OpenAIRealtimeSTTService(
        api_key="key",
        base_url=endpoint.replace("http", "ws", 1) + "/v1/realtime",
        turn_detection={"type": "server_vad", "silence_duration_ms": 500},
        settings=OpenAIRealtimeSTTService.Settings(model="gpt-transcribe"),
    )
    task = PipelineTask(Pipeline([service, Sink()]), params=PipelineParams(audio_in_sample_rate=24000))

    async def feed():
        await asyncio.sleep(1)
        for piece in pieces(recording(path, 24000), 24000):
            await task.queue_frame(InputAudioRawFrame(audio=piece, sample_rate=24000, num_channels=1))
            await asyncio.sleep(FRAME_SECONDS / SPEED)
        fed = asyncio.get_running_loop().time()
        while asyncio.get_running_loop().time() - max(fed, last[0]) < TAIL_QUIET_SECONDS:
            await asyncio.sleep(0.2)
        await task.queue_frame(EndFrame())

    feeding = asyncio.create_task(feed())
    await PipelineRunner(handle_sigint=False).run(task)
    await feeding
    return finals, len(partials)


def main():
    framework, endpoint, path = sys.argv[1:4]
    runners = {
        "openai": lambda: with_openai(endpoint, path),
        "azure": lambda: with_openai(endpoint, path, azure=True),
        "agents": lambda: with_agents(endpoint, path),
        "livekit": lambda: with_livekit(endpoint, path),
        "pipecat": lambda: with_pipecat(endpoint, path),
    }
    finals, partials = asyncio.run(runners[framework]())
    print(json.dumps({"transcripts": finals, "partials": partials}))


if __name__ == "__main__":
    main()
