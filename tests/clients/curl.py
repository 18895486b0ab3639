"""Runs cases with curl, and shows what no SDK shows: status, content type and the very bytes. See openai_python.py."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from urllib.parse import quote

ENDPOINTS = {"azure-v1": "/openai/v1", "openai": "/v1"}


def url(job):
    slash = "/" if job.get("trailing_slash") else ""
    name = quote(job.get("deployment") or job["model"], safe="")
    tail = {
        "transcribe": "/audio/transcriptions",
        "translate": "/audio/translations",
        "models.list": "/models",
        "models.retrieve": "/models/" + quote(job["model"], safe=""),
    }[job["call"]]
    if job["dialect"] == "azure":
        middle = "/openai" if job["call"].startswith("models") else f"/openai/deployments/{name}"
        return f"{job['endpoint']}{slash}{middle}{tail}?api-version={job['api_version']}"
    return job["endpoint"] + ENDPOINTS[job["dialect"]] + slash + tail


def command(job):
    azure_key = job["dialect"] == "azure" and not job.get("entra")
    key = f"api-key: {job['key']}" if azure_key else f"Authorization: Bearer {job['key']}"
    line = ["curl", "--silent", "--show-error", "--max-time", str(job["timeout"]), url(job), "--header", key]
    if job["call"].startswith("models"):
        return line
    # The service's own documentation sets this header by hand, too.
    line += ["--header", "Content-Type: multipart/form-data"]
    # Without a name in the form there is no file part, so "unnamed" is the nearest to it: a name that tells nothing.
    name = "upload" if job["upload"] == "unnamed" else job["file_name"].replace("\\", "\\\\").replace('"', '\\"')
    line += ["--form", f'file=@{job["audio"]};filename="{name}"']
    if job["dialect"] != "azure":
        line += ["--form-string", f"model={job['model']}"]
    for field, value in job["params"].items():
        if isinstance(value, list):
            for item in value:
                line += ["--form-string", f"{field}[]={item}"]
        else:
            # A truth value as `true`, an object as JSON text, as .NET sends it.
            line += ["--form-string", f"{field}={json.dumps(value) if isinstance(value, (bool, dict)) else value}"]
    return line + job.get("curl", [])


def run(job, folder):
    headers, body = folder / "headers", folder / "body"
    done = subprocess.run(
        command(job) + ["--dump-header", headers, "--output", body, "--write-out", "%{http_code}"],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        return {"error": {"class": "curl", "message": f"exit code {done.returncode}: {done.stderr.strip()}"}}
    status = int(done.stdout)
    # The last block: an answer to `Expect: 100-continue` may stand before it.
    block = headers.read_text("latin-1").replace("\r\n", "\n").strip().split("\n\n")[-1]
    fields = dict(line.split(": ", 1) for line in block.lower().split("\n")[1:] if ": " in line)
    content = body.read_bytes() if body.exists() else b""
    shown = {"content_type": fields.get("content-type"), "request_id": fields.get("x-request-id"), "headers": fields}
    if status != 200:
        inner = json.loads(content)["error"]
        return {"error": {"class": "HTTP", "status": status, "message": inner["message"], "request_id": shown["request_id"],
                          "content_type": shown["content_type"], "keys": sorted(inner),
                          **{name: inner.get(name) for name in ("code", "type", "param")}}}
    if (fields.get("content-type") or "").startswith("application/json"):
        value = json.loads(content)
        if job["call"].startswith("models"):
            return {"models": value["data"] if "data" in value else [value], **shown}
        return {"value": value, "type": "json", "compact": b"\n" not in content and b": " not in content, **shown}
    if (fields.get("content-type") or "").startswith("text/event-stream"):
        frames = [line[6:] for line in content.decode().replace("\r\n", "\n").split("\n") if line.startswith("data: ")]
        ended = frames[-1:] == ["[DONE]"]
        return {"events": [json.loads(frame) for frame in frames if frame != "[DONE]"], "ended": ended, **shown}
    return {"text": content.decode(), "type": "str", **shown}


def main():
    jobs = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    for job in jobs:
        with tempfile.TemporaryDirectory() as folder:
            try:
                result = run(job, Path(folder))
            except (ValueError, KeyError, TypeError) as failure:
                result = {"error": {"class": "not JSON of the contract", "message": repr(failure)}}
        print(json.dumps({"id": job["id"], **result}), flush=True)


main()
