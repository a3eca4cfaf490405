"""What the command-line programs share: argument types, the options that name a model, and exit codes."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable

from ldm.util.errors import UserError


def finite(text: str) -> float:
    """A number for argparse's `type`, except NaN and infinity. Raises ValueError."""
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(text)
    return number


def at_least(least: int) -> Callable[[str], int]:
    """A whole number of at least `least`, for argparse's `type`."""

    def number(word: str) -> int:
        if word.isdecimal() and int(word) >= least:
            return int(word)
        raise argparse.ArgumentTypeError(f"{word!r} is not a whole number >= {least}")

    return number


positive = at_least(1)


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
    parser.add_argument("--config", metavar="YAML", help="model config (default: the one stored in the checkpoint)")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ... (default: a GPU if there is one, else the CPU)")


def run_program(main: Callable[[], int | None], name: str, if_stopped: str = "", if_out_of_memory: str = "") -> int:
    """Runs the body of a command-line program and turns its exceptions into one line on stderr and an exit code.

    Args:
        main: the body; its return value is the exit code, None stands for 0.
        name: the program's file name, which begins each message.
        if_stopped: what to say after Ctrl-C, such as "the same command continues".
        if_out_of_memory: what to do when the GPU's memory is too small.

    Returns:
        The exit code: 2 after a user's mistake or too little GPU memory, 130 after Ctrl-C.
    """
    try:
        return main() or 0
    except UserError as error:
        message, code = " ".join(str(error).split()), 2
    except KeyboardInterrupt:
        message, code = f"stopped{if_stopped and '; '}{if_stopped}", 130
    except RuntimeError as error:
        torch = sys.modules.get("torch")  # --help and mistakes in options must not wait for its import
        if torch is None or not isinstance(error, torch.OutOfMemoryError):
            raise
        message, code = f"out of GPU memory{if_out_of_memory and ': '}{if_out_of_memory}", 2
    print(f"{name}: {message}", file=sys.stderr, flush=True)
    return code
