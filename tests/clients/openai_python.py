"""Runs cases with the Python package `openai`, of whatever version the interpreter has installed.

Reads a JSON list of jobs from the file named first, writes one JSON line a job: what the client's user would hold.
"""

import asyncio
import inspect
import io
import json
import sys

import openai

ENDPOINTS = {"azure-v1": "/openai/v1", "openai": "/v1"}


def client(job):
    asynchronous = job["mode"] == "async"
    slash = "/" if job.get("trailing_slash") else ""
    if job["dialect"] == "azure":
        kind = openai.AsyncAzureOpenAI if asynchronous else openai.AzureOpenAI
        options = {"azure_endpoint": job["endpoint"] + slash, "api_version": job["api_version"]}
        if job.get("deployment"):
            options["azure_deployment"] = job["deployment"]
        options["azure_ad_token" if job.get("entra") else "api_key"] = job["key"]
        return kind(timeout=job["timeout"], **options)
    kind = openai.AsyncOpenAI if asynchronous else openai.OpenAI
    return kind(base_url=job["endpoint"] + ENDPOINTS[job["dialect"]] + slash, api_key=job["key"], timeout=job["timeout"])


def upload(job):
    if job["upload"] == "stream":
        return open(job["audio"], "rb")
    with open(job["audio"], "rb") as file:
        content = file.read()
    if job["upload"] == "unnamed":
        return content
    named = io.BytesIO(content)
    named.name = job["file_name"]
    return named


async def resolved(value):
    return await value if inspect.isawaitable(value) else value


async def run(job):
    with_client = client(job)
    if job["call"] == "models.list":
        page = await resolved(with_client.models.list())
        return {"models": [model.model_dump() for model in page.data]}
    if job["call"] == "models.retrieve":
        model = await resolved(with_client.models.retrieve(job["model"]))
        return {"models": [model.model_dump()]}
    audio = with_client.audio
    create = audio.translations.create if job["call"] == "translate" else audio.transcriptions.create
    answer = await resolved(create(model=job["model"], file=upload(job), **job["params"]))
    if isinstance(answer, str):
        return {"text": answer, "type": "str"}
    if job["params"].get("stream"):
        events = []
        if hasattr(answer, "__aiter__"):
            async for event in answer:
                events.append(event.model_dump(exclude_none=True))
        else:
            for event in answer:
                events.append(event.model_dump(exclude_none=True))
        return {"events": events}
    # Keys that the server left out stay out: pydantic would fill the model's own with None.
    value = answer.model_dump(exclude_unset=True)
    return {"value": value, "type": type(answer).__name__, "request_id": getattr(answer, "_request_id", None)}


def error(failure):
    return {
        "error": {
            "class": type(failure).__name__,
            "message": str(failure),
            "status": getattr(failure, "status_code", None),
            "code": getattr(failure, "code", None),
            "type": getattr(failure, "type", None),
            "param": getattr(failure, "param", None),
            "request_id": getattr(failure, "request_id", None),
        }
    }


def main():
    with open(sys.argv[1], encoding="utf-8") as file:
        jobs = json.load(file)
    for job in jobs:
        try:
            result = asyncio.run(run(job))
        except Exception as failure:  # noqa: BLE001 - whatever the client raises is the result
            result = error(failure)
        print(json.dumps({"id": job["id"], **result}, default=str), flush=True)


main()
