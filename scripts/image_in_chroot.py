#!/usr/bin/env python3
"""Carries out a target of the Dockerfile in a folder instead of an image, where no image can be pulled, and serves.

    sudo scripts/image_in_chroot.py cpu --root FOLDER --base DEBIAN [--built BINARY] [--models FOLDER] [--port 8000]

DEBIAN is a bare system (debootstrap --variant=minbase trixie DEBIAN) in the place of debian:trixie-slim. With --built the stage that
compiles is left out and its result taken from there; without it DEBIAN must have Rust in /usr/local like the image
rust:1-trixie. Then the server is started as the image's user with the image's environment, given the models of a folder, and
must answer the documented curl; the health check of the Dockerfile must pass, and no Python may be in the system.
Needs root. Targets that begin with another system than Debian (cuda, rocm) cannot be carried out.
"""

import argparse
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CLIP = ROOT / "tests/fixtures/jfk.wav"


def stages(text: str) -> dict:
    """Name → (base, instructions) of each stage; instructions are (word, rest)."""
    text = re.sub(r"^\s*#.*\n", "", text, flags=re.M).replace("\\\n", " ")
    out, current = {}, None
    for line in filter(str.strip, text.splitlines()):
        word, _, rest = line.strip().partition(" ")
        if word == "FROM":
            base, _, name = rest.partition(" AS ")
            out[name.strip()] = current = (base.strip(), [])
        else:
            current[1].append((word, rest.strip()))
    return out


class Image:
    def __init__(self, root: Path, built: Path | None):
        self.root, self.built = root, built
        self.environment = {"PATH": "/usr/local/cargo/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
        self.user, self.folder, self.entry, self.command, self.health = "0", "/", [], [], []

    def chroot(self, *command, user="0", **options):
        """In the system, at the folder, as the user, with the image's environment and no other."""
        inside = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", *command] if user != "0" else list(command)
        script = f"cd {shlex.quote(self.folder)} && exec {shlex.join(inside)}"
        return ["chroot", str(self.root), "/bin/bash", "-c", script], dict(env=self.environment | {"HOME": "/tmp"}, **options)

    def run(self, *command, **options):
        line, options = self.chroot(*command, **options)
        return subprocess.run(line, **options)

    def step(self, word: str, rest: str, built_by: str):
        if word == "RUN":
            rest = re.sub(r"--mount=\S+\s*", "", rest)
            print("RUN", rest[:110], flush=True)
            environment = {"DEBIAN_FRONTEND": "noninteractive"}
            line, options = self.chroot("/bin/bash", "-euo", "pipefail", "-c", rest, stdout=subprocess.DEVNULL)
            options["env"] = options["env"] | environment
            subprocess.run(line, check=True, **options)
        elif word == "COPY":
            words = rest.split()
            source = next((w.partition("=")[2] for w in words if w.startswith("--from=")), None)
            *files, target = [w for w in words if not w.startswith("--")]
            folder = self.root / target.lstrip("/") if target.startswith("/") else self.root / self.folder.lstrip("/") / target
            folder.mkdir(parents=True, exist_ok=True)
            if source:
                assert source == built_by and self.built, f"{source}: only the compiling stage is copied from"
                shutil.copy2(self.built, folder / Path(files[0]).name)
            else:
                for file in files:
                    if file == ".":
                        archive = subprocess.run(["git", "-C", ROOT, "archive", "HEAD"], check=True, capture_output=True).stdout
                        subprocess.run(["tar", "-x", "-C", str(folder)], input=archive, check=True)
                    else:
                        shutil.copy2(ROOT / file, folder)
        elif word == "ENV":
            self.environment |= dict(pair.split("=", 1) for pair in shlex.split(re.sub(r"\$\{(\w+)\}", lambda m: self.environment.get(m[1], ""), rest)))
        elif word == "ARG":
            name, _, value = rest.partition("=")
            self.environment.setdefault(name, value.strip('"'))
        elif word == "WORKDIR":
            self.folder = rest
            (self.root / rest.lstrip("/")).mkdir(parents=True, exist_ok=True)
        elif word == "USER":
            self.user = rest
        elif word in ("ENTRYPOINT", "CMD"):
            setattr(self, "entry" if word == "ENTRYPOINT" else "command", json.loads(rest))
        elif word == "HEALTHCHECK":
            self.health = json.loads(rest.partition("CMD ")[2])
        elif word not in ("SHELL", "VOLUME", "EXPOSE"):
            sys.exit(f"{word}: not known here")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target")
    parser.add_argument("--root", type=Path, required=True, help="a new folder for the system")
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--built", type=Path)
    parser.add_argument("--models", type=Path, required=True, help="folder with a ggml-NAME.bin")
    parser.add_argument("--model", default="tiny.en")
    parser.add_argument("--port", default="8000")
    parser.add_argument("--environment", nargs="*", default=[], help="NAME=VALUE, as docker-compose.yml would give")
    arguments = parser.parse_args()
    if arguments.root.exists():
        sys.exit(f"{arguments.root} is there already")
    known = stages((ROOT / "Dockerfile").read_text())
    chain, name = [], arguments.target
    while name in known:
        chain.insert(0, name)
        name = known[name][0]
    if not name.startswith("debian:"):
        sys.exit(f"{arguments.target} begins with {name}, which is no Debian")
    subprocess.run(["cp", "-a", "--reflink=auto", arguments.base, arguments.root], check=True)
    root = arguments.root.resolve()
    shutil.copy2("/etc/resolv.conf", root / "etc/resolv.conf")
    certificates = root / "usr/local/share/ca-certificates"
    certificates.mkdir(parents=True, exist_ok=True)
    for file in Path("/usr/local/share/ca-certificates").glob("*.crt"):
        shutil.copy2(file, certificates)
    image = Image(root, arguments.built)
    image.run("update-ca-certificates", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    subprocess.run(["mount", "-t", "proc", "proc", root / "proc"], check=True)
    subprocess.run(["mount", "--bind", "/dev", root / "dev"], check=True)
    server = None
    try:
        if not arguments.built:
            sys.exit("--built is needed")
        for stage in chain:
            for word, rest in known[stage][1]:
                image.step(word, rest, f"build-{arguments.target}")
        size = subprocess.run(["du", "-sxm", "--exclude=proc", "--exclude=dev", root], capture_output=True, text=True).stdout.split()[0]
        print(f"the system has {size} MB; user {image.user}")
        found = image.run("sh", "-c", "command -v python3 python perl5 || true", capture_output=True, text=True).stdout
        assert not found.strip(), f"not wanted at run time: {found}"
        for file in arguments.models.glob("*.bin"):
            shutil.copyfile(file.resolve(), root / "app/models" / file.name)
        image.environment |= {"WHISPER_MODEL": arguments.model, "WHISPER_BACKEND__SERVER__PORT": arguments.port}
        image.environment |= dict(pair.split("=", 1) for pair in arguments.environment)
        line, options = image.chroot(*image.entry, *image.command, user=image.user)
        server = subprocess.Popen(line, **options)
        health = [part.replace("8000", arguments.port) for part in image.health]
        end = time.monotonic() + 300
        while image.run(*health, user=image.user).returncode:
            assert server.poll() is None and time.monotonic() < end, "the health check never passed"
            time.sleep(1)
        print("health check passed")
        answer = subprocess.run(
            ["curl", "--silent", "-X", "POST", f"http://localhost:{arguments.port}/openai/deployments/whisper-1/audio/transcriptions",
             "-H", "api-key: dummy", "-F", f"file=@{CLIP}", "-F", "response_format=verbose_json"],
            capture_output=True, text=True, check=True).stdout
        print(answer[:160])
        assert "ask not what your country can do for you" in re.sub(r"[^a-z ]", "", json.loads(answer)["text"].lower())
        report = json.loads(subprocess.run(
            ["curl", "--silent", f"http://localhost:{arguments.port}/gpu-status"], capture_output=True, text=True).stdout)
        print("device:", report["backend"], "|", report["reason"])
        print("passed")
    finally:
        if server:
            server.terminate()
            server.wait(30)
        for point in ("dev", "proc"):
            subprocess.run(["umount", "--lazy", root / point])


if __name__ == "__main__":
    main()
