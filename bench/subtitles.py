#!/usr/bin/env python3
"""Share of subtitles within a style's limits, as the service writes them and laid out.

    subtitles.py --endpoint http://127.0.0.1:8080 RECORDING... [--width 42] [--cps 20]
"""

import argparse
import sys
import unicodedata
import urllib.request
import uuid
from pathlib import Path



def raw(endpoint, path, fields):
    boundary = uuid.uuid4().hex
    parts = [f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode() for name, value in fields]
    parts.append(f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'.encode() + Path(path).read_bytes() + b"\r\n")
    request = urllib.request.Request(endpoint + "/v1/audio/transcriptions", b"".join(parts) + f"--{boundary}--\r\n".encode(),
                                     {"Content-Type": f"multipart/form-data; boundary={boundary}"})
    with urllib.request.urlopen(request, timeout=3600) as answer:
        return answer.read().decode()


def columns(text):
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def seconds(stamp):
    hours, minutes, rest = stamp.split(":")
    return int(hours) * 3600 + int(minutes) * 60 + float(rest.replace(",", "."))


def judge(srt, width, cps):
    total = good = 0
    broken = {"width": 0, "lines": 0, "speed": 0, "short": 0, "long": 0}
    for block in srt.strip().split("\n\n"):
        lines = block.split("\n")
        if len(lines) < 3:
            continue
        start, end = (seconds(stamp) for stamp in lines[1].split(" --> "))
        text = lines[2:]
        length = end - start
        faults = {
            "width": any(columns(line) > width for line in text), "lines": len(text) > 2,
            "speed": sum(map(columns, text)) + len(text) - 1 > cps * max(length, 1e-3) * 1.001,
            "short": length < 5 / 6 - 0.002, "long": length > 7.002,
        }
        total += 1
        good += not any(faults.values())
        for name, found in faults.items():
            broken[name] += found
    return total, good, broken


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recordings", nargs="+")
    parser.add_argument("--endpoint", default="http://127.0.0.1:8080")
    parser.add_argument("--width", type=int, default=42)
    parser.add_argument("--cps", type=float, default=20)
    options = parser.parse_args()
    for name, more in (("segments", []), ("netflix", [("subtitle_style", "netflix")])):
        sums, faults = [0, 0], {}
        for path in options.recordings:
            srt = raw(options.endpoint, path, [("model", "whisper-1"), ("response_format", "srt"), *more])
            total, good, broken = judge(srt, options.width, options.cps)
            sums = [sums[0] + total, sums[1] + good]
            faults = {key: faults.get(key, 0) + value for key, value in broken.items()}
        print(f"{name}: {sums[1]} of {sums[0]} cues within limits ({sums[1] / max(sums[0], 1):.1%}); outside: {faults}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
