"""Which errors of a training run are explained in a sentence: all that a value in a config, a flag or a file can cause."""

from __future__ import annotations

import logging
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytorch_lightning as pl
import torch
from lightning_fabric.utilities.exceptions import MisconfigurationException

from ldm.training.callbacks import TrainingStopped
from ldm.training.checkpointing import Interrupted
from ldm.util.errors import UserError

# What torch's communication between processes says when one of them has gone.
LOST_PROCESS = re.compile(r"gloo|NCCL|Connection (closed|reset)|Broken pipe|Socket|store->get", re.IGNORECASE)
LOST_WORKER = re.compile(r"DataLoader worker \(pid[^)]*\) (is killed by signal: (\w+)|exited unexpectedly)")
LAUNCHER = "lightning_fabric.strategies.launchers.subprocess_script"
DEBUG_HINT = "-d shows where it happened"


@contextmanager
def of_setup() -> Iterator[None]:
    """Turns exceptions while data, model and Trainer are built into a UserError."""
    try:
        yield
    except (UserError, torch.OutOfMemoryError):
        raise
    except MisconfigurationException as error:
        raise UserError(f"lightning.trainer: {_first_line(error)}") from error
    except Exception as error:
        raise UserError(f"{_describe(error)}; check the config, {DEBUG_HINT}") from error


@contextmanager
def of_training(trainer: pl.Trainer, folder: Path) -> Iterator[None]:
    """Turns exceptions during training into a UserError, or into TrainingStopped if the config did not cause them."""
    try:
        with explained_process_losses(), silent_writer_threads():
            yield
    except (UserError, TrainingStopped, Interrupted, torch.OutOfMemoryError):
        raise
    except Exception as error:
        saved = (folder / "checkpoints" / "last.ckpt").is_file()
        resume = f"to continue: --resume {folder}" if saved else "no checkpoint was saved yet"
        if trainer.world_size > 1 and LOST_PROCESS.search(str(error)):
            raise TrainingStopped(f"another process of this training ended, see its message; {resume}") from error
        if match := LOST_WORKER.search(str(error)):
            cause = f"was killed by {match[2]}" if match[2] else "exited unexpectedly"
            raise TrainingStopped(
                f"a worker that loads data {cause}; if memory ran out, lower data.params.num_workers; {resume}"
            ) from error
        where = (
            f"training failed after step {trainer.global_step}" if trainer.global_step else "training could not start"
        )
        remedy = resume if isinstance(error, OSError) else f"check the config and its files, {DEBUG_HINT}"
        raise UserError(f"{where}: {_describe(error)}; {remedy}") from error


@contextmanager
def explained_process_losses() -> Iterator[None]:
    """Prints a sentence when Lightning finds that a training process ended."""
    logger, handler = logging.getLogger(LAUNCHER), LostProcessHandler()
    level, propagates = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagates


@contextmanager
def silent_writer_threads() -> Iterator[None]:
    """Prints no traceback of a thread that cannot write a file: TensorBoard raises its error again in the main thread."""
    previous = threading.excepthook

    def report(failure: threading.ExceptHookArgs) -> None:
        if not issubclass(failure.exc_type, OSError):
            previous(failure)

    threading.excepthook = report
    try:
        yield
    finally:
        threading.excepthook = previous


class LostProcessHandler(logging.Handler):
    """Explains that a training process ended. Lightning logs it and then kills all others, this one included."""

    def emit(self, record: logging.LogRecord) -> None:
        if match := re.search(r"PID (\d+) terminated with code (-?\d+)", record.getMessage()):
            code = int(match[2])
            how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
            print(
                f"trainer.py: a training process (pid {match[1]}) {how}, so all others stop; continue with --resume",
                file=sys.stderr,
                flush=True,
            )


def _describe(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return f"{type(error).__name__}: {_first_line(error)}"


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    # A data loader's worker sends a traceback, whose last line is the error.
    worker = lines and "Original Traceback" in str(error)
    return lines[-1 if worker else 0] if lines else "no reason given"
