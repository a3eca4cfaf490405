"""What a benchmark measured as Markdown and as JSON."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from ldm.profiling.measure import Row
from ldm.profiling.setting import Setting
from ldm.profiling.timing import KINDS, Part, Spread

HEAD = (
    "what",
    "how",
    "ms per image",
    "times plain's speed",
    "times diffusers'",
    "GFLOP per image",
    "of peak",
    "peak memory",
)


def table(rows: Iterable[Row]) -> str:
    return markdown(HEAD, map(_cells, rows))


def profiles(rows: Iterable[Row], peaks: Mapping[str, float]) -> str:
    """What the time of those rows that have parts goes to; '' where none has. peaks: FLOP/s by precision."""
    lines = [
        (row.group, row.way, *(_part(row, row.parts.get(kind), peaks.get(row.precision)) for kind in KINDS))
        for row in rows
        if row.parts
    ]
    return markdown(("share of the time (of peak)", "how", *KINDS), lines) if lines else ""


def processes(rows: Sequence[tuple[int, float, float]]) -> str:
    """Of what training.scaling gives."""
    head = "processes of a thread each", "images per second", "of the first's", "as many that are apart"
    first = rows[0][1]
    return markdown(head, [(str(n), f"{own:.2f}", f"{own / n / first:.0%}", f"{apart:.2f}") for n, own, apart in rows])


def markdown(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [list(head), *map(list, rows)]
    lines.insert(1, ["---", "---", *["---:"] * (len(lines[0]) - 2)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def machine(setting: Setting) -> dict:
    gpu = setting.device.startswith("cuda")
    return {
        "device": torch.cuda.get_device_name(setting.device) if gpu else processor(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "size": setting.size,
        "batch": setting.batch,
        "repeats": setting.repeats,
    }


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def to_json(row: Row) -> dict:
    return asdict(row) | {name: value._asdict() for name, value in vars(row).items() if isinstance(value, Spread)}


def _cells(row: Row) -> list[str]:
    return [
        row.group,
        row.way,
        _spread(row.seconds, 1000, "{:.1f}"),
        _spread(row.against_plain, 1, "{:.2f}"),
        _spread(row.against_peer, 1, "{:.2f}"),
        "" if row.flops is None else f"{row.flops / 1e9:.2f}",
        "" if row.share is None else f"{row.share:.0%}",
        "" if row.memory is None else f"{row.memory / 1e9:.2f} GB",
    ]


def _spread(spread: Spread | None, factor: float, form: str) -> str:
    if spread is None:
        return ""
    median, low, high = (form.format(factor * number) for number in spread)
    return f"{median} ({low}–{high})"


def _part(row: Row, part: Part | None, peak: float | None) -> str:
    if part is None:
        return ""
    rate = part.flops / (part.time * row.seconds.median)
    return f"{part.time:.0%}" + (f" ({rate / peak:.0%})" if rate and peak else "")
