"""Asks for laid-out subtitles and reads them with `srt`, `webvtt-py` and ffmpeg. See openai_python.py."""

import io
import json
import subprocess
import sys
import urllib.request
import uuid

import srt
import webvtt


def post(job):
    boundary = uuid.uuid4().hex
    with open(job["audio"], "rb") as file:
        audio = file.read()
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        for name, value in {"model": job["model"], **job["params"]}.items()
    ]
    parts.append(f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'.encode() + audio + b"\r\n")
    request = urllib.request.Request(
        job["endpoint"] + "/v1/audio/transcriptions",
        b"".join(parts) + f"--{boundary}--\r\n".encode(),
        {"Content-Type": f"multipart/form-data; boundary={boundary}"},
    )
    with urllib.request.urlopen(request, timeout=job["timeout"]) as answer:
        return answer.read().decode()


def milliseconds(stamp):
    """`webvtt-py` gives whole seconds as numbers, the rest only as text: `HH:MM:SS.mmm`."""
    hours, minutes, seconds = stamp.split(":")
    return round((int(hours) * 3600 + int(minutes) * 60 + float(seconds)) * 1000)


def cues(text, form):
    """(start, end, lines) of each cue, in milliseconds, as the format's own reader has them."""
    if form == "srt":
        return [
            [round(cue.start.total_seconds() * 1000), round(cue.end.total_seconds() * 1000), cue.content.rstrip("\n").split("\n")]
            for cue in srt.parse(text, ignore_errors=False)
        ]
    return [
        [milliseconds(cue.start), milliseconds(cue.end), cue.lines]
        for cue in webvtt.from_buffer(io.StringIO(text))
    ]


def through_ffmpeg(text, form):
    """What ffmpeg makes of it, as srt."""
    command = ["ffmpeg", "-v", "error", "-f", {"srt": "srt", "vtt": "webvtt"}[form], "-i", "pipe:0", "-f", "srt", "pipe:1"]
    done = subprocess.run(command, input=text.encode(), capture_output=True, check=True)
    return cues(done.stdout.decode(), "srt")


def run(job):
    form = job["params"]["response_format"]
    text = post(job)
    return {"value": {"cues": cues(text, form), "ffmpeg": through_ffmpeg(text, form)}, "type": "cues"}


def main():
    with open(sys.argv[1], encoding="utf-8") as file:
        jobs = json.load(file)
    for job in jobs:
        try:
            result = run(job)
        except Exception as failure:  # noqa: BLE001 - whatever goes wrong is the result
            result = {"error": {"class": type(failure).__name__, "message": str(failure)}}
        print(json.dumps({"id": job["id"], **result}), flush=True)


main()
