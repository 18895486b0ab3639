"""Runs cases with LangChain's two Whisper parsers. See openai_python.py."""

import contextlib
import json
import sys
import warnings

warnings.filterwarnings("ignore")
from langchain_community.document_loaders.blob_loaders import Blob  # noqa: E402
from langchain_community.document_loaders.parsers.audio import (  # noqa: E402
    AzureOpenAIWhisperParser,
    OpenAIWhisperParser,
)

ENDPOINTS = {"azure-v1": "/openai/v1", "openai": "/v1"}


def parser(job):
    slash = "/" if job.get("trailing_slash") else ""
    if job["mode"] == "azure-parser":
        return AzureOpenAIWhisperParser(
            api_key=job["key"],
            azure_endpoint=job["endpoint"] + slash,
            api_version=job["api_version"],
            deployment_name=job["model"],
            **job["params"],
        )
    return OpenAIWhisperParser(
        api_key=job["key"],
        base_url=job["endpoint"] + ENDPOINTS[job["dialect"]] + slash,
        model=job["model"],
        **job["params"],
    )


def run(job):
    # The parser prints its progress; stdout is ours.
    with contextlib.redirect_stdout(sys.stderr):
        documents = list(parser(job).lazy_parse(Blob.from_path(job["audio"])))
    if not documents:
        return {"error": {"class": "no document", "message": "the parser gave up"}}
    return {"text": "".join(document.page_content for document in documents), "type": "document"}


def error(failure):
    names = ("code", "type", "param", "request_id")
    values = {name: getattr(failure, name, None) for name in names}
    status = getattr(failure, "status_code", None)
    return {"error": {"class": type(failure).__name__, "message": str(failure), "status": status, **values}}


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
