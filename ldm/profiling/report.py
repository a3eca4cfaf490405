"""The report of a speed benchmark, in Markdown and as values for JSON."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from ldm.profiling.measure import Measurement
from ldm.profiling.timing import OPERATION_KINDS, KindProfile, Spread
from ldm.profiling.train_step import Scaling
from ldm.profiling.workload import Workload
from ldm.util.tables import markdown_table

HEADER = (
    "what",
    "how",
    "ms per image",
    "times plain's speed",
    "times diffusers'",
    "GFLOP per image",
    "of peak",
    "peak memory",
)
# Fields of `Measurement` that have other names in JSON.
JSON_NAMES = {
    "comparison": "group",
    "variant": "way",
    "speedup": "against_plain",
    "speedup_over_peer": "against_peer",
    "peak_share": "share",
    "profile": "parts",
}


def speed_table(measurements: Iterable[Measurement]) -> str:
    """One row for each variant."""
    return markdown_table(HEADER, map(_speed_cells, measurements), text_columns=2)


def profile_table(measurements: Iterable[Measurement], peaks: Mapping[str, float]) -> str:
    """Time by kind of operation, for the variants that were profiled; empty if none was.

    Args:
        peaks: the machine's FLOP/s by precision.
    """
    rows = [
        (m.comparison, m.variant, *(_profile_cell(m, m.profile.get(kind), peaks) for kind in OPERATION_KINDS))
        for m in measurements
        if m.profile
    ]
    header = ("share of the time (of peak)", "how", *OPERATION_KINDS)
    return markdown_table(header, rows, text_columns=2) if rows else ""


def scaling_table(results: Sequence[Scaling]) -> str:
    """Throughput and efficiency for each number of processes, the first of which is one."""
    header = "processes of one thread", "images per second", "efficiency", "unsynchronized"
    single = results[0].images_per_second
    rows = [
        (
            f"{r.processes}",
            f"{r.images_per_second:.2f}",
            f"{r.images_per_second / r.processes / single:.0%}",
            f"{r.apart:.2f}",
        )
        for r in results
    ]
    return markdown_table(header, rows, text_columns=2)


def describe_machine(workload: Workload) -> dict:
    """The machine and the workload, for JSON."""
    on_gpu = workload.device.startswith("cuda")
    return {
        "device": torch.cuda.get_device_name(workload.device) if on_gpu else processor_name(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "size": workload.size,
        "batch": workload.batch,
        "repeats": workload.repeats,
    }


def processor_name() -> str:
    """The CPU's model, as far as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def to_json(measurement: Measurement) -> dict:
    """A measurement as values for JSON."""
    values = asdict(measurement)
    values |= {key: value._asdict() for key, value in vars(measurement).items() if isinstance(value, Spread)}
    return {JSON_NAMES.get(key, key): value for key, value in values.items()}


def from_json(values: Mapping) -> Measurement:
    """Inverse of `to_json`."""
    names = {json_name: name for name, json_name in JSON_NAMES.items()}
    fields = {names.get(key, key): value for key, value in values.items()}
    for name in ("seconds", "speedup", "speedup_over_peer"):
        fields[name] = fields[name] and Spread(**fields[name])
    if fields["profile"] is not None:
        fields["profile"] = {kind: KindProfile(*part) for kind, part in fields["profile"].items()}
    return Measurement(**fields)


def _speed_cells(measurement: Measurement) -> list[str]:
    m = measurement
    return [
        m.comparison,
        m.variant,
        _spread_text(m.seconds, 1000, ".1f"),
        _spread_text(m.speedup, 1, ".2f"),
        _spread_text(m.speedup_over_peer, 1, ".2f"),
        "" if m.flops is None else f"{m.flops / 1e9:.2f}",
        "" if m.peak_share is None else f"{m.peak_share:.0%}",
        "" if m.memory is None else f"{m.memory / 1e9:.2f} GB",
    ]


def _spread_text(spread: Spread | None, factor: float, form: str) -> str:
    if spread is None:
        return ""
    median, low, high = (format(factor * number, form) for number in spread)
    return f"{median} ({low}–{high})"


def _profile_cell(measurement: Measurement, part: KindProfile | None, peaks: Mapping[str, float]) -> str:
    if part is None:
        return ""
    rate = part.flops / (part.time * measurement.seconds.median)
    peak = peaks.get(measurement.precision)
    return f"{part.time:.0%}" + (f" ({rate / peak:.0%})" if rate and peak else "")
