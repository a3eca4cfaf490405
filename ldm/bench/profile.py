"""What a run spends its time on: kinds of operations, each one's share of the time and how many FLOPs it computes."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

from torch.profiler import ProfilerActivity, profile

from ldm.bench.timing import Run, synchronise

# By the names of torch's operations, of which a profiler writes aten::mm and a counter of FLOPs aten.mm: the first that is
# found in one.
KINDS = {
    "convolutions, backward": r"conv\w*backward",
    "convolutions": r"conv",
    "attention, backward": r"(scaled_dot_product|softmax)\w*backward",
    "attention": r"scaled_dot_product|softmax",
    "linear layers": r"^aten\W+(addmm|baddbmm|bmm|linear|mm)$",
    "norms": r"norm",
    "the rest": r"",
}


class Part(NamedTuple):
    """The share that a kind has of a run's time, and its FLOPs."""

    time: float
    flops: float


def parts(run: Run, flops: Mapping[str, float], device: str) -> dict[str, Part]:
    """By kind, in KINDS' order, those that take any time. flops: by operation, as timing.flops counts them.

    What torch's profiler adds to each operation falls on the small ones, so that of small shapes the rest looks larger than
    it is."""
    gpu = device.startswith("cuda")
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if gpu else [])]) as seen:
        run()
        synchronise(device)
    spent, computed = Counter(), Counter()
    for event in seen.key_averages():
        spent[kind(event.key)] += event.self_device_time_total if gpu else event.self_cpu_time_total
    for operation, count in flops.items():
        computed[kind(operation)] += count
    whole = spent.total()
    return {name: Part(spent[name] / whole, computed[name]) for name in KINDS if spent[name]}


def kind(operation: str) -> str:
    return next(name for name, pattern in KINDS.items() if re.search(pattern, operation, re.IGNORECASE))
