"""Running times, FLOPs and profiles of functions; several functions are timed in turns, so that other load affects all alike."""

from __future__ import annotations

import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch.autograd import DeviceType  # pyright: ignore[reportPrivateImportUsage]
from torch.autograd.profiler_util import FunctionEventAvg
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

Run = Callable[[], object]
SATURATION_SECONDS = 0.05  # larger matrix products are not faster than one that takes this long

# Kinds of operations, by patterns of their names (aten::mm in profiles, aten.mm in FLOP counts); the first match counts.
OPERATION_KINDS = {
    "convolutions, backward": r"conv\w*backward",
    "convolutions": r"conv",
    "attention, backward": r"(scaled_dot_product|softmax)\w*backward",
    "attention": r"scaled_dot_product|softmax",
    "linear layers": r"^aten\W+(addmm|baddbmm|bmm|linear|mm)$",
    "norms": r"norm",
    "the rest": r"",
}


class Spread(NamedTuple):
    """The median and the quartiles of some numbers."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, numbers: Iterable[float]) -> Spread:
        low, median, high = np.percentile(np.asarray(list(numbers), dtype=float), [25, 50, 75])
        return cls(float(median), float(low), float(high))


class KindProfile(NamedTuple):
    """What one kind of operations contributes to a run.

    Args:
        time: share of the run's time.
        flops: number of floating-point operations.
    """

    time: float
    flops: float


def _ignore() -> None:
    pass


def time_in_turns(
    runs: Mapping[str, Run],
    repeats: int,
    device: str,
    after_run: Callable[[], object] = _ignore,
    warmed_up: bool = False,
) -> dict[str, list[float]]:
    """Times functions in rounds, each of which runs all of them and begins with another one.

    Args:
        after_run: called after each run, for a progress bar.
        warmed_up: whether all functions have run before; otherwise each runs once untimed.

    Returns:
        Seconds of each round, by name.
    """
    names = list(runs)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for name in names if not warmed_up else ():
        runs[name]()
        after_run()
    for number in range(repeats):
        start = number % len(names)
        for name in names[start:] + names[:start]:
            synchronize(device)
            started = time.perf_counter()
            runs[name]()
            synchronize(device)
            seconds[name].append(time.perf_counter() - started)
            after_run()
    return seconds


def speedup(seconds: Sequence[float], baseline: Sequence[float]) -> Spread:
    """How many times as fast as the baseline, round by round, which cancels most of the machine's other load."""
    return Spread.of(slower / faster for faster, slower in zip(seconds, baseline, strict=True))


def synchronize(device: str) -> None:
    """Waits until a GPU has finished."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def count_flops(run: Run) -> dict[str, int]:
    """FLOPs of matrix products, convolutions and attention by operation; a multiply-add counts as two.

    Compiled functions run eagerly meanwhile, since the counter does not see into them.
    """
    counter = FlopCounterMode(display=False)
    with torch.compiler.set_stance("force_eager"), counter:
        run()
    return {str(operation): count for operation, count in counter.get_flop_counts().get("Global", {}).items()}


def peak_flops(precision: torch.dtype, device: str, repeats: int = 5) -> float:
    """FLOP/s of the fastest square matrix product: an estimate of the machine's peak."""
    best = 0.0
    for size in (256, 512, 1024, 2048, 4096, 8192):
        a, b = (torch.randn(size, size, device=device, dtype=precision) for _ in range(2))
        (seconds,) = time_in_turns({"product": lambda a=a, b=b: a @ b}, repeats, device).values()
        best = max(best, 2 * size**3 / min(seconds))
        if min(seconds) > SATURATION_SECONDS:
            break
    return best


def profile_by_kind(run: Run, flops: Mapping[str, float], device: str) -> dict[str, KindProfile]:
    """Profiles a run by kinds of operations, in the order of `OPERATION_KINDS`; kinds that take no time are left out.

    The profiler's overhead per operation exaggerates small operations, and with small shapes 'the rest'.

    Args:
        flops: by operation, see `count_flops`.
    """
    on_gpu = device.startswith("cuda")
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with profile(activities=activities) as profiled:
        run()
        synchronize(device)
    times = time_by_kind(profiled.key_averages(), on_gpu)
    computed: dict[str, float] = defaultdict(float)
    for operation, count in flops.items():
        computed[operation_kind(operation)] += count
    total = sum(times.values())
    return {kind: KindProfile(times[kind] / total, computed[kind]) for kind in OPERATION_KINDS if times.get(kind)}


def time_by_kind(events: Iterable[FunctionEventAvg], on_gpu: bool) -> dict[str, float]:
    """The time by kind of operation.

    A GPU's profile has the time of a kernel twice: at the operation that launched it, whose name tells the kind, and at the
    kernel, whose name does not. The latter is left out.
    """
    times: dict[str, float] = defaultdict(float)
    for event in events:
        if event.device_type == DeviceType.CPU:
            times[operation_kind(event.key)] += event.self_device_time_total if on_gpu else event.self_cpu_time_total
    return times


def operation_kind(operation: str) -> str:
    """The kind of an operation, by its name."""
    return next(kind for kind, pattern in OPERATION_KINDS.items() if re.search(pattern, operation, re.IGNORECASE))
