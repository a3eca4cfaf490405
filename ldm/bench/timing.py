"""How long functions take, side by side: in turns, so that whatever else the machine does falls on all of them alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import torch
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
