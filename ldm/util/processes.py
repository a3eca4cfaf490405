"""CPU cores, worker processes that end with their parent, and the number of threads of torch."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def available_cores() -> int:
    """The number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def end_with_parent() -> None:
    """Ends this worker process when its parent ends. A worker of a killed parent would otherwise wait for work for ever.

    Does nothing in a process that multiprocessing did not start.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def exit_after_parent() -> None:
        parent.join()
        os._exit(1)  # sys.exit() would end this thread only

    threading.Thread(target=exit_after_parent, daemon=True).start()


@contextmanager
def single_thread() -> Iterator[None]:
    """Limits torch to one thread inside the block."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
