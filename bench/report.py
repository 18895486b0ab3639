"""The machine's description, and RESULTS.md from the result files."""

import json
import os
import platform
from pathlib import Path


def machine(cores: int) -> dict:
    model = flags = ""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            model = value.strip()
        elif key.strip() == "flags":
            flags = value.strip()
    wanted = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8", "amx_bf16")
    memory = int(Path("/proc/meminfo").read_text().split()[1]) // 1024 // 1024
    return {
        "processor": model,
        "cores_used": cores,
        "cores": os.cpu_count(),
        "instructions": [flag for flag in wanted if flag in flags.split()],
        "memory_gib": memory,
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "load_average": os.getloadavg()[0],
    }


def table(headings: list[str], rows: list[list[object]]) -> list[str]:
    lines = ["| " + " | ".join(headings) + " |", "|" + "---|" * len(headings)]
    lines += ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]
    return [*lines, ""]



def comparison(rows: list[dict]) -> list[str]:
    lines = table(
        ["engine", "RTFx", "WER %", "median s", "p95 s", "peak MB", "processor s"],
        [
            [
                row["engine"],
                f"{row['rtfx']:.1f}",
                f"{row['wer']:.2f}",
                f"{row['median_s']:.2f}",
                f"{row['p95_s']:.2f}",
                f"{row['memory_mb']:.0f}",
                f"{row['cpu_s']:.1f}",
            ]
            for row in rows
        ],
    )
    ours = [row for row in rows if row["engine"].startswith("ours")]
    peers = [row for row in rows if not row["engine"].startswith("ours")]
    if ours and peers:
        lines += table(
            ["RTFx of ours divided by", *[row["engine"] for row in ours]],
            [[peer["engine"], *[f"{row['rtfx'] / peer['rtfx']:.2f}" for row in ours]] for peer in peers],
        )
    return lines


def parallel(rows: list[dict]) -> list[str]:
    return table(
        ["engine", "clients", "RTFx in all", "WER %", "median s", "p95 s", "failures"],
        [
            [
                row["engine"],
                row["clients"],
                f"{row['rtfx']:.1f}",
                f"{row['wer']:.2f}",
                f"{row['median_s']:.2f}",
                f"{row['p95_s']:.2f}",
                len(row["failures"]),
            ]
            for row in rows
        ],
    )


def figures(rows: list[dict]) -> list[str]:
    """Rows of simple values as they are."""
    flat = []
    for row in rows:
        flat.append({})
        for key, value in row.items():
            if isinstance(value, dict):
                flat[-1] |= {f"{key} {inner}": number for inner, number in value.items() if inner != "failures"}
            else:
                flat[-1][key] = value
    keys = list(dict.fromkeys(key for row in flat for key in row))

    def cell(value: object) -> str:
        return f"{value:.3g}" if isinstance(value, float) else "" if value is None else str(value).replace("|", "/")

    return table([key.replace("_", " ") for key in keys], [[cell(row.get(key)) for key in keys] for row in flat])


TITLES = {
    "short": ("Short clips, one client", comparison),
    "long": ("A file of ten minutes", comparison),
    "hour": ("A file of sixty minutes", comparison),
    "clients": ("One client and four", parallel),
    "beside": ("A clip of five seconds beside a file of sixty minutes", figures),
    "busy": ("One core kept busy by another process", figures),
    "two": ("Two servers on one machine", figures),
    "share": ("Share of HTTP, spool, decoding, windows and render", figures),
    "silence": ("Silence and noise", figures),
    "first-words": ("First streamed words", figures),
}


def write(results: Path, out: Path) -> None:
    lines = [
        "# Results",
        "",
        "Written by `bench.py report`; how to run it again stands in `bench.py`. RTFx is seconds of audio per second",
        "of clock. WER counts all errors over all words after Whisper's English normaliser. Processor seconds and peak",
        "memory are those of all processes of an engine. Weights: `base`. Engines took turns, recording by recording.",
        "",
    ]
    described = None
    order = list(TITLES)
    files = sorted(results.glob("*.json"), key=lambda path: (order.index(kind_of(path.stem)), path.stem))
    for path in files:
        measured = json.loads(path.read_text())
        about = measured["machine"]
        this = (
            f"{about['processor']}, {about['cores_used']} of {about['cores']} cores, {about['memory_gib']} GiB, "
            f"{', '.join(about['instructions'])}; {about['system']}, Python {about['python']}."
        )
        if this != described:
            lines += [f"**Machine:** {this}", ""]
            described = this
        kind = kind_of(path.stem)
        title, body = TITLES[kind]
        label = path.stem[len(kind) :].lstrip("-")
        lines += [f"## {title}{f' ({label})' if label else ''}", "", f"{measured['when']}, {measured['took_s']:.0f} s.", ""]
        lines += body(measured["rows"])
    out.write_text("\n".join(lines).rstrip() + "\n")
    print(f"{out}: {len(files)} scenarios")


def kind_of(stem: str) -> str:
    return max((name for name in TITLES if stem.startswith(name)), key=len, default=stem)
