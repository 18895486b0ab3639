#!/usr/bin/env python3
"""Unmodified clients against a running server: tests/clients/run.py --binary target/debug/WhisperBackendAPI

Starts the server twice (open over HTTP, and strict with keys over HTTPS with a certificate of its own), lets every client of `cases.json` make every call it can make,
prints the matrix clients x cases and ends with `N passed, N failed`. Clients are installed once, below
`~/.cache/whisper-backend-api/clients`, from PyPI and npm. Needs python3 with venv, node with npm, curl, ffmpeg.
"""

import argparse
import concurrent.futures
import contextlib
import json
import os
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import wave
import xml.etree.ElementTree as ElementTree
from collections import Counter, defaultdict
from pathlib import Path

import checks

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
KEY = "test-key-0123456789"
# "And so, my fellow Americans": the recording's first sentence, up to the pause after it.
CLIP_SECONDS = 2.4
CLIP_WORDS = "and so my fellow americans"
SCHEMATHESIS = "schemathesis==4.32.5"
# Oldest Node with a global `File`, which the packages need; Debian 12's own is 18. npm carries newer ones.
NODE_MINIMUM = 20
NODE_PACKAGE = "node@22"
# Seconds until a client gives a call up; all of them then say so, instead of waiting out their ten minutes.
CALL_TIMEOUT = 120


def main():
    options = arguments()
    table = json.loads((HERE / "cases.json").read_text(encoding="utf-8"))
    speech = json.loads((HERE / "speech.json").read_text(encoding="utf-8"))
    tables = [
        ([client for client in part["clients"] if options.only in client["name"]], part["cases"]) for part in (table, speech)
    ]
    clients = [client for part, _ in tables for client in part]
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="clients-") as folder:
        folder = Path(folder)
        audio = recordings(options.audio, folder)
        missing = install(clients, options.cache)
        options.node = node(options.cache) if any(client.get("npm") for client in clients) else None
        print(f"clients ready after {time.monotonic() - began:.0f} s", flush=True)
        with contextlib.ExitStack() as servers:
            running = {
                kind: servers.enter_context(server(options, kind, folder, tls=options.tls or kind == "strict"))
                for kind in ("open", "strict")
            }
            endpoints = {kind: one.endpoint for kind, one in running.items()}
            options.trusted = folder / "trusted.pem"
            options.trusted.write_text("".join(one.certificate.read_text() for one in running.values() if one.certificate.is_file()))
            print(f"servers ready after {time.monotonic() - began:.0f} s", flush=True)
            results = []
            for part, cases in tables:
                results += run_clients(part, cases, options, audio, endpoints, missing)
            if "schemathesis".find(options.only) >= 0 and options.case in "schemathesis":
                results += schemathesis(options, endpoints["open"], folder)
        results += [("server", "", "", "stop", "ends with 0 after SIGTERM", problems) for problems in STOPPED]
    return report(results, time.monotonic() - began)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", type=Path, required=True, help="the server")
    parser.add_argument("--model", type=Path, help="a multilingual model file (default: models/ggml-base.bin)")
    parser.add_argument("--audio", type=Path, default=ROOT / "tests/fixtures/jfk.wav", help="the recording of 1961, 16 kHz mono WAV")
    parser.add_argument("--only", default="", help="clients whose name holds this")
    parser.add_argument("--case", default="", help="cases whose `group: id` holds this")
    parser.add_argument("--jobs", type=int, default=max(2, os.cpu_count() or 2), help="clients at work at once")
    parser.add_argument("--tls", action="store_true", help="HTTPS for the open server too")
    parser.add_argument("--verbose", action="store_true", help="print every result")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "whisper-backend-api/clients"
    parser.add_argument("--cache", type=Path, default=cache, help="where clients are installed")
    options = parser.parse_args()
    options.model = options.model or ROOT / "models/ggml-base.bin"
    for path, advice in (
        (options.binary, "build it with `cargo build`"),
        (options.model, f"fetch it with `{options.binary} models pull base`"),
        (options.audio, "give another with --audio"),
    ):
        if not path.is_file():
            parser.error(f"{path} is missing; {advice}")
    options.model, options.binary = options.model.resolve(), options.binary.resolve()
    return options


def recordings(source, folder):
    """The files that cases name: the clip, hostile ones, and big ones."""
    with wave.open(str(source)) as whole:
        rate = whole.getframerate()
        samples = whole.readframes(int(CLIP_SECONDS * rate))
    paths = {name: folder / f"{name}.wav" for name in ("clip", "short", "garbage", "24mb", "30mb")}

    def write(name, content):
        with wave.open(str(paths[name]), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(rate)
            file.writeframes(content)

    write("clip", samples)
    write("short", samples[: int(0.05 * rate) * 2])
    write("24mb", bytes(24 * 1024 * 1024))
    write("30mb", bytes(30 * 1000 * 1000))
    paths["garbage"].write_bytes(b"This is no recording, whatever its name says.\n" * 100)
    for container, codec in (("mp3", []), ("m4a", []), ("flac", []), ("ogg", ["-c:a", "libvorbis"]), ("webm", ["-c:a", "libopus"])):
        paths[container] = folder / f"clip.{container}"
        quietly(["ffmpeg", "-v", "error", "-i", paths["clip"], *codec, paths[container]])
    return {name: str(path) for name, path in paths.items()}


# Installation


def install(clients, cache):
    """Installs what is not there yet; returns the reasons of those that cannot be had."""
    cache.mkdir(parents=True, exist_ok=True)
    unique = {client["name"]: client for client in clients}
    missing = {}
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        for client, reason in zip(unique.values(), pool.map(lambda client: install_one(client, cache), unique.values())):
            if reason:
                missing[client["name"]] = reason
    return missing


def install_one(client, cache):
    home = cache / client["name"]
    wanted = json.dumps([client.get("pip"), client.get("npm"), sys.version_info[:2]])
    stamp = home / ".installed"
    if not (client.get("pip") or client.get("npm")):
        return None
    if not (stamp.is_file() and stamp.read_text() == wanted):
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir()
        try:
            if client.get("pip"):
                quietly([sys.executable, "-m", "venv", home])
                quietly([home / "bin/python", "-m", "pip", "install", "--quiet", *client["pip"]])
            else:
                (home / "package.json").write_text('{"private": true}')
                quietly(["npm", "install", "--no-audit", "--no-fund", "--loglevel=error", *client["npm"]], cwd=home)
        except (OSError, subprocess.CalledProcessError) as failure:
            detail = getattr(failure, "output", None) or str(failure)
            return f"cannot be installed: {detail.strip()[-300:]}"
        stamp.write_text(wanted)
    if client.get("npm"):
        # Node looks for packages beside the script.
        shutil.copy(HERE / client["runner"], home)
    return None


def node(cache):
    """A Node that is new enough: the computer's own, else one from npm."""
    home = cache / "node"
    with contextlib.suppress(OSError, subprocess.CalledProcessError, ValueError):
        version = subprocess.run(["node", "--version"], check=True, capture_output=True, text=True).stdout
        if int(version.lstrip("v").split(".")[0]) >= NODE_MINIMUM:
            return "node"
    own = home / "node_modules/node/bin/node"
    if not own.exists():
        home.mkdir(parents=True, exist_ok=True)
        (home / "package.json").write_text('{"private": true}')
        quietly(["npm", "install", "--no-audit", "--no-fund", "--loglevel=error", NODE_PACKAGE], cwd=home)
    return own


def quietly(command, **options):
    subprocess.run(command, check=True, text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **options)


# Servers

STOPPED = []


class Server:
    def __init__(self, process, endpoint, log, certificate):
        self.process, self.endpoint, self.log, self.certificate = process, endpoint, log, certificate


@contextlib.contextmanager
def server(options, kind, folder, tls=False, more=()):
    """A server of its own with a configuration of its own, ready to transcribe."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    home = folder / kind
    home.mkdir()
    strict = kind == "strict"
    model = json.dumps(str(options.model))
    lines = [
        "[server]",
        f"port = {port}",
        'locale = "en"',
        f"api_keys = {json.dumps([KEY] if strict else [])}",
        f"max_file_size_mb = {25 if strict else 2048}",
        f"strict_api_version = {json.dumps(strict)}",
        f"strict_deployments = {json.dumps(strict)}",
        f"stream_whisper_1 = {json.dumps(not strict)}",
        f"tls = {json.dumps('self-signed' if tls else 'off')}",
        *more,
        "[whisper]",
        f"model_path = {model}",
        "auto_download = false",
        # A busy machine must not be measured as one that carries no second session.
        "[realtime]",
        "max_sessions = 8",
        "[wording]",
        'profanity_words = ["americans"]',
        "[deployments]",
        f"my-whisper = {model}",
        f"whisper-1 = {model}",
    ]
    config = home / "config.toml"
    config.write_text("\n".join(lines) + "\n")
    log = home / "log"
    # A variable of the user's shell must not reach this server.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WHISPER_")}
    with open(log, "wb") as output:
        process = subprocess.Popen(
            [options.binary, "--config", config, "serve"],
            cwd=home, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=environment,
        )
    # The certificate is for this name.
    endpoint = f"https://localhost:{port}" if tls else f"http://127.0.0.1:{port}"
    running = Server(process, endpoint, log, home / "tls/certificate.pem")
    try:
        wait_until_healthy(running)
        yield running
    finally:
        process.terminate()
        try:
            code = process.wait(60)
            STOPPED.append([] if code == 0 else [f"the {kind} server ended with {code}: {tail(log)}"])
        except subprocess.TimeoutExpired:
            process.kill()
            STOPPED.append([f"the {kind} server was still there after 60 s: {tail(log)}"])


def wait_until_healthy(running):
    end = time.monotonic() + 300
    while time.monotonic() < end:
        if running.process.poll() is not None:
            sys.exit(f"error: the server ended with {running.process.returncode}:\n{tail(running.log)}")
        try:
            secure = running.endpoint.startswith("https")
            trust = ssl.create_default_context(cafile=running.certificate) if secure else None
            with urllib.request.urlopen(running.endpoint + "/health", timeout=5, context=trust):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    sys.exit(f"error: no /health within 300 s:\n{tail(running.log)}")


def tail(log):
    return log.read_text(errors="replace")[-2000:]


# Calls


def run_clients(clients, cases, options, audio, endpoints, missing):
    batches = []
    for client in clients:
        for mode in client["modes"]:
            batch = [job for job in jobs_of(client, mode, cases, audio, endpoints) if options.case in f"{job['group']}: {job['case']}"]
            if batch:
                batches.append((client, batch))
    results = []
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        answers = pool.map(lambda item: run_batch(*item, options, missing.get(item[0]["name"])), batches)
        for (client, batch), outcome in zip(batches, answers):
            for job, result in zip(batch, outcome):
                if options.verbose:
                    print(client["name"], job["id"], json.dumps(result, ensure_ascii=False), flush=True)
                problems = [result["unrun"]] if "unrun" in result else checks.check(job, result, {"words": CLIP_WORDS, "seconds": CLIP_SECONDS})
                results.append((client["name"], job["mode"], job["dialect"], job["group"], job["case"], problems))
    return results


def jobs_of(client, mode, cases, audio, endpoints):
    lacks = client.get("lacks", [])
    for case in cases:
        asked = case.get("params", {}).get("response_format")
        if set(case.get("needs", [])) & set(lacks):
            continue
        if "clients" in case and not client["name"].startswith(tuple(case["clients"])):
            continue
        if asked and "error" not in case["expect"] and asked not in client.get("formats", [asked]):
            continue
        dialects = [dialect for dialect in client["dialects"] if dialect in case.get("dialects", [dialect])]
        if case.get("once") or mode in client.get("one_dialect", []):
            dialects = dialects[:1]
        for dialect in dialects:
            defaults = {"call": "transcribe", "model": "my-whisper", "upload": "stream", "file_name": "clip.wav", "params": {},
                        "api_version": "2024-10-21", "key": KEY, "timeout": CALL_TIMEOUT}
            job = {**defaults, **case, "case": case["id"], "mode": mode, "dialect": dialect, "client": client["name"], "lacks": lacks}
            job["id"] = f"{mode} {dialect} {case['group']}: {case['id']}".strip()
            job["endpoint"] = endpoints[case.get("server", "open")]
            job["audio"] = audio[case.get("audio", "clip")]
            yield job


def run_batch(client, batch, options, missing):
    """One process for all calls of one client; a call without a result is one that failed."""
    if missing:
        return [{"unrun": missing} for _ in batch]
    home = options.cache / client["name"]
    if client.get("npm"):
        command = [options.node, home / client["runner"]]
    else:
        command = [home / "bin/python" if client.get("pip") else sys.executable, HERE / client["runner"]]
    # What this computer's own clients are set to must not reach these.
    private = ("OPENAI_", "AZURE_", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(private)}
    # Each client's own way to be told whom to trust.
    environment |= {name: str(options.trusted) for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "NODE_EXTRA_CA_CERTS")}
    with tempfile.TemporaryDirectory() as folder:
        jobs = Path(folder) / "jobs.json"
        jobs.write_text(json.dumps(batch), encoding="utf-8")
        try:
            done = subprocess.run([*command, jobs], capture_output=True, text=True, timeout=1500, stdin=subprocess.DEVNULL, env=environment, check=False)
            output, errors = done.stdout, done.stderr
        except subprocess.TimeoutExpired as expired:
            output, errors = (stream.decode() if stream else "" for stream in (expired.stdout, expired.stderr))
            errors += "\nstill at work after 1500 s"
    found = {}
    for line in output.splitlines():
        if line.startswith("{"):
            result = json.loads(line)
            found[result.pop("id")] = result
    return [found.get(job["id"], {"unrun": f"no result; the client's last words: {errors.strip()[-500:]}"}) for job in batch]


# The description of the API, taken at its word


def schemathesis(options, endpoint, folder):
    """Generated requests for every operation of /openapi.json: no 5xx, no status or body that it does not name."""
    client = {"name": "schemathesis", "pip": [SCHEMATHESIS]}
    missing = install_one(client, options.cache)
    if missing:
        return [("schemathesis", "", "", "openapi", "install", [missing])]
    junit = folder / "schemathesis.xml"
    done = subprocess.run(
        [options.cache / "schemathesis/bin/st", "run", f"{endpoint}/openapi.json", "--url", endpoint,
         "--checks", "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance",
         "--phases", "examples,coverage,fuzzing", "--max-examples", "10", "--seed", "1961", "--continue-on-failure", "--no-shrink",
         "--request-timeout", "60", "--report", "junit", "--report-junit-path", junit, "--warnings", "off"],
        capture_output=True, text=True, stdin=subprocess.DEVNULL, cwd=folder, check=False, timeout=900,
    )
    results = []
    if junit.is_file():
        for test in ElementTree.parse(junit).iter("testcase"):
            problems = [f"{kind.get('message') or ''} {kind.text or ''}".strip() for tag in ("failure", "error") for kind in test.iter(tag)]
            results.append(("schemathesis", "", "", "openapi", test.get("name"), problems))
    if not results or (done.returncode != 0 and not any(result[5] for result in results)):
        results.append(("schemathesis", "", "", "openapi", "run", [f"exit code {done.returncode}: {(done.stdout + done.stderr)[-2000:]}"]))
    return results


# Report


def report(results, seconds):
    groups = list(dict.fromkeys(group for _, _, _, group, _, _ in results))
    rows = defaultdict(Counter)
    for client, mode, dialect, group, _, problems in results:
        row = " ".join(part for part in (client, mode, dialect) if part)
        rows[row][group, "failed" if problems else "passed"] += 1
    width = max(len(row) for row in rows)
    print("\npassed/made, a row for each client and dialect\n" + " " * width + "".join(f"  {group:>13}" for group in groups))
    for row, counts in rows.items():
        cells = []
        for group in groups:
            passed, failed = counts[group, "passed"], counts[group, "failed"]
            cells.append(f"{passed}/{passed + failed}{' ✗' if failed else ''}" if passed + failed else "·")
        print(f"{row:<{width}}" + "".join(f"  {cell:>13}" for cell in cells))
    failures = [result for result in results if result[5]]
    for client, mode, dialect, group, case, problems in failures:
        print(f"\nFAILED {' '.join(part for part in (client, mode, dialect) if part)} · {group}: {case}")
        for problem in problems:
            print(f"  {problem}")
    print(f"\nclients took {seconds:.0f} s\n{len(results) - len(failures)} passed, {len(failures)} failed")
    return 1 if failures or not results else 0


if __name__ == "__main__":
    sys.exit(main())
