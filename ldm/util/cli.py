"""What the command-line programs share: argument types, the options that name a model, log messages, and exit codes."""

from __future__ import annotations

import argparse
import errno
import io
import logging
import math
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NoReturn

from ldm.util.errors import UserError, did_you_mean

PRECISIONS = ("fp32", "fp16", "bf16")


class Parser(argparse.ArgumentParser):
    """A parser that reports a mistake in one line, and suggests flags that are like an unknown one.

    Args:
        prog: the program's file name, which begins each message.
        description: what --help says, printed as it is.
        takes_others: `parse_known_args` leaves unknown flags to its caller.
        options: further arguments of ArgumentParser.
    """

    def __init__(self, prog: str, description: str | None = None, takes_others: bool = False, **options: Any):
        layout = {"formatter_class": argparse.RawDescriptionHelpFormatter}
        super().__init__(prog=prog, description=description, **layout | options)
        self.takes_others = takes_others

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {' '.join(message.split())} (--help lists all flags)\n")

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:
        arguments, unknown = self.parse_known_args(args, namespace)
        if unknown:
            self.refuse(unknown[0])
        return arguments

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:
        words = list(sys.argv[1:] if args is None else args)
        if not self.takes_others and not self._subparsers:
            self._refuse_unknown_flags(words)
        return super().parse_known_args(words, namespace)

    def refuse(self, word: str, hint: str = "", more_flags: Iterable[str] = ()) -> NoReturn:
        """Ends the program with a message about an unknown flag or word.

        Args:
            hint: what to use instead; by default, flags that are like it.
            more_flags: flags that the program takes besides those of this parser.
        """
        flag = word.partition("=")[0]
        kind = "flag" if flag.startswith("-") else "word"
        self.error(f"unknown {kind} {flag!r}{hint or did_you_mean(flag, [*self._option_string_actions, *more_flags])}")

    def _refuse_unknown_flags(self, words: Sequence[str]) -> None:
        """Unknown flags come before what is missing, since a misspelt flag is missing too."""
        for word in words[: words.index("--")] if "--" in words else words:
            flag = word.partition("=")[0]
            is_flag = word.startswith("--") and " " not in word
            if is_flag and not any(known.startswith(flag) for known in self._option_string_actions):
                self.refuse(word)


def finite(text: str) -> float:
    """A number for argparse's `type`, except NaN and infinity. Raises ValueError."""
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(text)
    return number


def at_least(least: int) -> Callable[[str], int]:
    """A whole number of at least `least` and below a billion, for argparse's `type`."""

    def number(word: str) -> int:
        if word.isdecimal() and len(word) < 10 and int(word) >= least:
            return int(word)
        raise argparse.ArgumentTypeError(f"{word!r} is not a whole number >= {least} (and below 1e9)")

    return number


positive = at_least(1)


def split_overrides(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Splits a command line into the words for argparse and the overrides of the config, such as section.key=value."""
    overrides = [word for word in words if re.match(r"[A-Za-z_][\w.\[\]]*=", word)]
    return [word for word in words if word not in overrides], overrides


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds --run, --ckpt, --config and --device, which name the model to load and where it runs."""
    weights = parser.add_mutually_exclusive_group()
    weights.add_argument(
        "--run",
        metavar="DIR",
        help="log folder of a training run: its last checkpoint and its config (default without --run, --ckpt and "
        "--config: the weights that ship with the project)",
    )
    weights.add_argument(
        "--ckpt",
        metavar="FILE",
        help="checkpoint of trainer.py, adapters exported from one, or, together with --config, published weights",
    )
    parser.add_argument(
        "--config",
        nargs="+",
        action="extend",
        metavar="YAML",
        help="model config, or several of which later ones override earlier ones (default: the one in the checkpoint)",
    )
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ... (default: a GPU if there is one, else the CPU)")


def add_memory_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds --precision and --low-memory, arguments of `ldm.models.runtime.prepare_for_inference`."""
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="fp32",
        help="precision of the U-Net; fp16 and bf16 halve its memory and are much faster on GPUs (default: %(default)s)",
    )
    parser.add_argument(
        "--low-memory",
        action="store_true",
        help="slower, for GPUs with 8 GB (12 GB for Stable Diffusion XL): autoencoder and encoders stay on the CPU except while they "
        "run, and the U-Net leaves the GPU while the autoencoder runs; on a CPU, convolutions use less memory",
    )


def add_verbose_argument(parser: argparse.ArgumentParser) -> None:
    """Adds --verbose, whose value goes to `configure_logging`, or to `run_program`, which calls that."""
    parser.add_argument(
        "--verbose",
        action="store_true",
        help="print which keys of each checkpoint were loaded, and which were not and why (default: one line per part)",
    )


class ConsoleHandler(logging.Handler):
    """Prints each message once: warnings and errors on stderr, the rest on stdout."""

    def __init__(self):
        super().__init__()
        self.printed: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        message = self.format(record)
        if message not in self.printed:
            self.printed.add(message)
            # the stream is looked up anew for each message, since tests and progress bars replace it
            print(message, file=sys.stderr if record.levelno >= logging.WARNING else sys.stdout, flush=True)


def configure_logging(verbose: bool = False) -> None:
    """Prints the log messages of the package `ldm`, as a program does; a library's user configures `logging` instead.

    Of several processes that run one program (torchrun, Lightning's DDP), only the first prints anything below an error.

    Args:
        verbose: print DEBUG messages too, such as the long form of the loading reports.
    """
    first_process = all(os.environ.get(name, "0") == "0" for name in ("RANK", "LOCAL_RANK", "NODE_RANK"))
    logger = logging.getLogger("ldm")
    for handler in [handler for handler in logger.handlers if isinstance(handler, ConsoleHandler)]:
        logger.removeHandler(handler)
    logger.addHandler(ConsoleHandler())
    logger.setLevel((logging.DEBUG if verbose else logging.INFO) if first_process else logging.ERROR)


def run_program(
    main: Callable[[], int | None],
    name: str,
    if_stopped: str = "",
    if_out_of_memory: str = "",
    verbose: bool = False,
) -> int:
    """Runs the body of a command-line program and turns its exceptions into one line on stderr and an exit code.

    Args:
        main: the body; its return value is the exit code, None stands for 0.
        name: the program's file name, which begins each message.
        if_stopped: what to say after Ctrl-C, such as "the same command continues".
        if_out_of_memory: what to do when the GPU's memory is too small.
        verbose: the value of --verbose, see `configure_logging`.

    Returns:
        The exit code: 2 after a user's mistake, too little GPU memory, or a file that cannot be read or written; 130
        after Ctrl-C; 141 where the reader of a pipe is gone.
    """
    configure_logging(verbose)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # file names need not be text
            stream.reconfigure(errors="backslashreplace")
    try:
        with _interruptible():
            code = main() or 0
            sys.stdout.flush()
            return code
    except UserError as error:
        message, code = " ".join(str(error).split()), 2
    except KeyboardInterrupt:
        message, code = f"stopped{if_stopped and '; '}{if_stopped}", 130
    except BrokenPipeError:
        _discard_output()
        message, code = f"stopped, since the reader of the output is gone{if_stopped and '; '}{if_stopped}", 141
    except OSError as error:
        message, code = _describe(error), 2
    except RuntimeError as error:
        torch = sys.modules.get("torch")  # --help and mistakes in options must not wait for its import
        if torch is None or not isinstance(error, torch.OutOfMemoryError):
            raise
        message, code = f"out of GPU memory{if_out_of_memory and ': '}{if_out_of_memory}", 2
    with suppress(OSError):
        print(f"{name}: {message}", file=sys.stderr, flush=True)
    return code


@contextmanager
def _interruptible() -> Iterator[None]:
    """Ctrl-C raises KeyboardInterrupt meanwhile; before and after, programs leave it to end the process silently."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def interrupt_deferred() -> Iterator[None]:
    """Ctrl-C raises KeyboardInterrupt at the end of the context, for libraries that print and forget what is raised within them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received = []
    before = signal.signal(signal.SIGINT, lambda *_: received.append(True))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if received:
        raise KeyboardInterrupt


def _describe(error: OSError) -> str:
    where = f"{error.filename}: " if error.filename else ""
    reason = error.strerror or str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{where}the disk is full ({reason}); free some space and run the same command again"
    return f"{where}{reason}; check the path and its permissions"


def _discard_output() -> None:
    """Stdout to nowhere, since the interpreter flushes it once more when it ends."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
