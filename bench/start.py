#!/usr/bin/env python3
"""How long a start takes, and what the engine holds in memory.

    start.py --binary B --model M/ggml-base.bin --speech DIR [--starts 5]

Removes the model's packed files, starts the server so many times and prints the time from its start until /health answers 200
(the first one packs the weights), the packed file's size, and the resident memory of the engine process: when it is ready,
after twenty recordings, and after twenty with word times.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import psutil

from engines import Ours


def engine_memory(ours):
    """MiB resident in the engine's process: all, and what it does not share with the file of the weights."""
    found = [p for p in ours.processes() if "engine" in p.cmdline()[1:2]]
    status = Path(f"/proc/{found[0].pid}/status").read_text()
    value = {key: int(status.split(f"{key}:")[1].split()[0]) / 1024 for key in ("VmRSS", "RssAnon", "VmHWM")}
    return f"{value['VmRSS']:.0f} MiB ({value['RssAnon']:.0f} of its own, peak {value['VmHWM']:.0f})"


def ready_after(ours):
    """Seconds from the start to the first 200, looked for every 5 ms."""
    sleep, time.sleep = time.sleep, lambda seconds: sleep(min(seconds, 0.005))
    begin = time.monotonic()
    try:
        ours.start()
    finally:
        time.sleep = sleep
    return time.monotonic() - begin


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--speech", type=Path, required=True)
    parser.add_argument("--starts", type=int, default=5)
    parser.add_argument("--cores", type=int, default=psutil.cpu_count())
    options = parser.parse_args()
    clips = json.loads((options.speech / "manifest.json").read_text())["clips"][:20]
    for packed in options.model.parent.glob(f"{options.model.stem}.*.packed"):
        packed.unlink()
    for number in range(options.starts):
        ours = Ours(options.binary, options.model, options.cores)
        seconds = ready_after(ours)
        try:
            print(f"start {number + 1}: ready after {seconds:.3f} s", flush=True)
            if number + 1 == options.starts:
                for packed in options.model.parent.glob(f"{options.model.stem}.*.packed"):
                    print(f"{packed.name}: {packed.stat().st_size / 1e6:.1f} MB (model {options.model.stat().st_size / 1e6:.1f} MB)")
                print(f"engine when ready: {engine_memory(ours)}")
                for clip in clips:
                    ours.transcribe(str(options.speech / clip["file"]))
                print(f"engine after {len(clips)} recordings: {engine_memory(ours)}")
                for clip in clips:
                    fields = {"response_format": "verbose_json", "timestamp_granularities[]": "word"}
                    answer = json.loads(ours.post(str(options.speech / clip["file"]), **fields).read())
                    assert answer["words"], answer
                print(f"engine after {len(clips)} with word times: {engine_memory(ours)}")
        finally:
            ours.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
