"""CPU cores, processes that end with their parent, and the number of threads of torch."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

LAUNCHER = "LDM_LAUNCHER_PID"  # environment variable: the process whose children end with it


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
def launching() -> Iterator[None]:
    """Programs that are started inside the block end with this process, if they call `end_with_launcher`."""
    before = os.environ.get(LAUNCHER)
    os.environ[LAUNCHER] = str(os.getpid())
    try:
        yield
    finally:
        if before is None:
            del os.environ[LAUNCHER]
        else:
            os.environ[LAUNCHER] = before


def end_with_launcher() -> None:
    """Ends this process when the one that started it inside `launching` has ended, even if that was before this call.

    One of several training processes would otherwise wait for a killed one: while they connect, until the time-out.
    """
    launcher = os.environ.get(LAUNCHER)
    if launcher in (None, str(os.getpid())):
        return

    def exit_after_launcher() -> None:
        while str(os.getppid()) == launcher:
            time.sleep(0.1)
        os._exit(1)  # sys.exit() would end this thread only

    threading.Thread(target=exit_after_launcher, daemon=True).start()


@contextmanager
def single_thread() -> Iterator[None]:
    """Limits torch to one thread inside the block."""
    import torch  # trainer.py's other processes watch their launcher before they import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
