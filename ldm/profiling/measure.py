"""Ways to do one thing, measured side by side: time, ratios, share of the machine's peak, memory."""

from __future__ import annotations

import multiprocessing
import re
import resource
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch

from ldm.models.runtime import keep_freed_memory
from ldm.profiling.setting import Setting
from ldm.profiling.timing import Part, Run, Spread, flops, interleaved, parts, times_as_fast
from ldm.util.processes import end_with_parent


@dataclass(frozen=True)
class Way:
    build: Callable[[], Run]  # what is ready to be run again and again
    precision: str = "fp32"
    peer: bool = False  # somebody else's


@dataclass(frozen=True)
class Group:
    """The first way is the plain one, and the first peer in a precision the one to be compared with. agree: given what each
    way returned, raises UserError where they differ."""

    name: str
    images: int  # that one run is for
    ways: dict[str, Way]
    agree: Callable[[dict, dict[str, Way]], None] | None = None


@dataclass(frozen=True)
class Row:
    """One way. seconds: per image. against_plain, against_peer: how many times as fast, the peer in the same precision.
    flops: per image. share: of what the machine can do in that precision. memory: peak, in bytes. parts: by kind of
    operation, FLOPs per image as well."""

    group: str
    way: str
    precision: str
    seconds: Spread
    against_plain: Spread | None = None
    against_peer: Spread | None = None
    flops: float | None = None
    share: float | None = None
    memory: int | None = None
    parts: dict[str, Part] | None = None


def measure(
    group: Group,
    setting: Setting,
    peaks: Mapping[str, float],
    tick: Callable[[], object] = lambda: None,
    profiled: bool = False,
) -> list[Row]:
    """A Row for each way, all of them in memory at once. peaks: FLOP/s by precision. tick: after each run."""
    runs = {name: way.build() for name, way in group.ways.items()}
    if group.agree:
        outputs = {}
        for name, run in runs.items():
            outputs[name] = run().detach().float().clone()
            tick()
        group.agree(outputs, group.ways)
    counted = {}
    for name, run in runs.items():
        counted[name] = {operation: count / group.images for operation, count in flops(run).items()}
        tick()
    counts = {name: sum(each.values()) for name, each in counted.items()}
    seconds = interleaved(runs, setting.repeats, setting.device, tick, warm=not setting.compiled)
    plain, rows = next(iter(runs)), []
    for name, way in group.ways.items():
        peers = [other for other, each in group.ways.items() if each.peer and each.precision == way.precision]
        each = Spread.of(second / group.images for second in seconds[name])
        peak = peaks.get(way.precision)
        rows.append(
            Row(
                group.name,
                name,
                way.precision,
                each,
                times_as_fast(seconds[name], seconds[plain]) if name != plain else None,
                times_as_fast(seconds[name], seconds[peers[0]]) if peers and not way.peer else None,
                counts[name] or None,
                counts[name] / each.median / peak if counts[name] and peak else None,
                parts=parts(runs[name], counted[name], setting.device) if profiled else None,
            )
        )
        if profiled:
            tick()
    return rows


def peak_memory(make: Callable[[Setting], Group], way: str, setting: Setting) -> int:
    """Bytes that a process of its own holds at most, of a GPU's memory or of the machine's, when it does this way twice."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), end_with_parent) as pool:
        return pool.submit(_peak, make, way, setting).result()


def nothing(setting: Setting) -> Group:
    """What a process holds that has only started."""
    return Group("start", 1, {"plain": Way(lambda: lambda: None)})


def _peak(make: Callable[[Setting], Group], way: str, setting: Setting) -> int:
    torch.set_num_threads(setting.threads)
    if setting.device == "cpu":
        keep_freed_memory()  # as training does
    run = make(setting).ways[way].build()
    for _ in range(2):
        run()
    if setting.device.startswith("cuda"):
        return torch.cuda.max_memory_allocated(setting.device)
    return resident_peak()


def resident_peak() -> int:
    """Bytes of the machine's memory that this process has held at most. On Linux not by getrusage, whose maximum a new
    process inherits from the one that started it."""
    try:
        (peak,) = re.findall(r"^VmHWM:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
        return int(peak) * 1024
    except (OSError, ValueError):
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
