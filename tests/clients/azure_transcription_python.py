"""Runs cases with Microsoft's package `azure-ai-transcription`, unmodified. See openai_python.py."""

import asyncio
import json
import sys

from azure.ai.transcription import TranscriptionClient, models
from azure.ai.transcription.aio import TranscriptionClient as AsyncTranscriptionClient
from azure.core.credentials import AzureKeyCredential


def content(job):
    with open(job["audio"], "rb") as file:
        audio = file.read()
    options = models.TranscriptionOptions(job["params"])
    # These two fill in `enabled` by themselves, as users write them.
    if "enhancedMode" in job["params"]:
        given = job["params"]["enhancedMode"]
        options.enhanced_mode = models.EnhancedModeProperties(
            task=given.get("task"), target_language=given.get("targetLanguage"), prompt=given.get("prompt")
        )
    if "maxSpeakers" in job["params"].get("diarization", {}):
        speakers = job["params"]["diarization"]["maxSpeakers"]
        options.diarization_options = models.TranscriptionDiarizationOptions(max_speakers=speakers)
    return models.TranscriptionContent(definition=options, audio=(job["file_name"], audio))


def settings(job):
    versions = {"api_version": job["api_version"]} if job.get("api_version") else {}
    return {"endpoint": job["endpoint"], "credential": AzureKeyCredential(job["key"]), **versions}


def call(client, job):
    if job["call"] == "url":
        return client.transcribe_from_url("https://example.org/x.wav")
    return client.transcribe(content(job))


async def asynchronous(job):
    async with AsyncTranscriptionClient(**settings(job)) as client:
        return await call(client, job)


def run(job):
    if job["mode"] == "async":
        result = asyncio.run(asynchronous(job))
    else:
        with TranscriptionClient(**settings(job)) as client:
            result = call(client, job)
    return {"value": result.as_dict(), "type": type(result).__name__}


def error(failure):
    inner = getattr(failure, "error", None)
    return {
        "error": {
            "class": type(failure).__name__,
            "message": str(failure),
            "status": getattr(failure, "status_code", None),
            "code": getattr(inner, "code", None),
        }
    }


def main():
    with open(sys.argv[1], encoding="utf-8") as file:
        jobs = json.load(file)
    for job in jobs:
        try:
            result = run(job)
        except Exception as failure:  # noqa: BLE001 - whatever the client raises is the result
            result = error(failure)
        print(json.dumps({"id": job["id"], **result}, default=str), flush=True)


main()
