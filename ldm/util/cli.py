"""Types of command-line arguments, for argparse's `type`."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable


def finite(text: str) -> float:
    """A number for argparse, NaN and infinity excluded. Raises ValueError."""
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(text)
    return number


def at_least(least: int) -> Callable[[str], int]:
    """A kind of whole numbers for argparse."""

    def number(word: str) -> int:
        if word.isdecimal() and int(word) >= least:
            return int(word)
        raise argparse.ArgumentTypeError(f"{word!r} is not a whole number from {least} on")

    return number
positive = at_least(1)
