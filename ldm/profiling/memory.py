"""Peak memory: of a GPU as its allocator counts it, of the machine's memory as the kernel counts it for this process."""

from __future__ import annotations

import gc
import re
import resource
import sys
from pathlib import Path

import torch


def start_counting(device: str) -> None:
    """Begins to count a GPU's peak; that of a process is counted from its start."""
    if device.startswith("cuda"):
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def peak_since_start(device: str) -> int:
    """Peak in bytes: of the GPU's tensors since `start_counting`, or of this process."""
    return torch.cuda.max_memory_allocated(device) if device.startswith("cuda") else peak_resident_memory()


def remaining(device: str) -> int:
    """Bytes of a GPU's tensors, after those that nobody refers to are freed; 0 for a CPU."""
    gc.collect()
    return torch.cuda.memory_allocated(device) if device.startswith("cuda") else 0


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
