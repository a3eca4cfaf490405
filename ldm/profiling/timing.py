"""How long functions take, side by side: in turns, so that whatever else the machine does falls on all of them alike."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

Run = Callable[[], object]
LONG_ENOUGH = 0.05  # seconds: a larger product would not be faster


class Spread(NamedTuple):
    """The median of some numbers, and the quartiles below and above it."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, numbers) -> Spread:
        low, median, high = np.percentile(np.asarray(list(numbers), dtype=float), [25, 50, 75])
        return cls(float(median), float(low), float(high))


def interleaved(
    runs: Mapping[str, Run], repeats: int, device: str, tick: Callable[[], object] = lambda: None, warm: bool = False
) -> dict[str, list[float]]:
    """{name: (repeats,) seconds}, each round going through all of them, from another one on each time. Each is run once
    before, unless it is `warm`. `tick` is called after each run."""
    names = list(runs)
    seconds = {name: [] for name in names}
    for name in names if not warm else ():
        runs[name]()
        tick()
    for number in range(repeats):
        start = number % len(names)
        for name in names[start:] + names[:start]:
            synchronise(device)
            began = time.perf_counter()
            runs[name]()
            synchronise(device)
            seconds[name].append(time.perf_counter() - began)
            tick()
    return seconds


def times_as_fast(seconds: list[float], than: list[float]) -> Spread:
    """The ratio of each round, of which the machine's load then takes little away."""
    return Spread.of(other / own for own, other in zip(seconds, than, strict=True))


def synchronise(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def flops(run: Run) -> dict[str, int]:
    """Of matrix products, convolutions and attention, by operation; a multiplication and an addition are two. What is
    compiled is run as it was written."""
    counter = FlopCounterMode(display=False)
    with torch.compiler.set_stance("force_eager"), counter:
        run()
    return {str(operation): count for operation, count in counter.get_flop_counts().get("Global", {}).items()}


def peak_flops(precision: torch.dtype, device: str, repeats: int = 5) -> float:
    """FLOP/s of the best of some square matrix products: what the machine can do at all."""
    best = 0.0
    for size in (256, 512, 1024, 2048, 4096, 8192):
        a, b = (torch.randn(size, size, device=device, dtype=precision) for _ in range(2))
        (seconds,) = interleaved({"product": lambda a=a, b=b: a @ b}, repeats, device).values()
        best = max(best, 2 * size**3 / min(seconds))
        if min(seconds) > LONG_ENOUGH:
            break
    return best
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
