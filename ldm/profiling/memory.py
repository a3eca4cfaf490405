"""Peak memory of a variant: of a GPU as its allocator counts it, of the machine's memory in a process of its own."""

from __future__ import annotations

import gc
import multiprocessing
import re
import resource
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ldm.models.runtime import keep_freed_memory
from ldm.util.processes import end_with_parent

if TYPE_CHECKING:  # a process that measures imports no more than its variant needs
    from ldm.profiling.measure import Comparison
    from ldm.profiling.workload import Workload


def peak_memory(make: Callable[[Workload], Comparison], variant: str, workload: Workload) -> int:
    """Peak memory, in bytes, while a variant runs twice: of the GPU, or of a new process.

    Args:
        make: importable function that returns the comparison.
    """
    if workload.device.startswith("cuda"):
        return _peak_gpu_memory(make, variant, workload)
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), end_with_parent) as pool:
        return pool.submit(_run_and_measure, make, variant, workload).result()


def empty_process(workload: Workload) -> Comparison:
    """A comparison whose only variant, 'plain', does nothing: its peak is that of a process that has only started."""
    from ldm.profiling.measure import Comparison, Variant

    return Comparison("start", 1, {"plain": Variant(lambda: lambda: None)})


def _run_and_measure(make: Callable[[Workload], Comparison], variant: str, workload: Workload) -> int:
    torch.set_num_threads(workload.threads)
    if workload.device == "cpu":
        keep_freed_memory()  # as in training
    run = make(workload).variants[variant].build()
    for _ in range(2):
        run()
    return peak_resident_memory()


def _peak_gpu_memory(make: Callable[[Workload], Comparison], variant: str, workload: Workload) -> int:
    """Bytes of tensors on the GPU beyond those that are there already. Needs no process of its own: the allocator counts."""
    comparison = make(workload)
    present = torch.cuda.memory_allocated(workload.device)
    run = comparison.variants[variant].build()
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(workload.device)
    for _ in range(2):
        run()
    return torch.cuda.max_memory_allocated(workload.device) - present


def peak_resident_memory() -> int:
    """Peak of this process's resident memory, in bytes.

    On Linux not by getrusage, whose maximum a process inherits from the one that started it.
    """
    try:
        (peak,) = re.findall(r"^VmHWM:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
        return int(peak) * 1024
    except (OSError, ValueError):
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
