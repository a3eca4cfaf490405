"""The option --min-score, for scene graphs that another program predicted."""

from __future__ import annotations

import argparse

MIN_SCORE = 0.5


def add_min_score_argument(parser: argparse.ArgumentParser) -> None:
    """Adds --min-score, a number from 0 to 1."""
    parser.add_argument(
        "--min-score",
        type=share,
        default=MIN_SCORE,
        metavar="SCORE",
        help="leave out objects and relations of predicted graphs (Scene-Graph-Benchmark) with a lower score "
        "(default: %(default)s)",
    )


def share(word: str) -> float:
    """A number from 0 to 1, for argparse's `type`."""
    if 0 <= (number := float(word)) <= 1:
        return number
    raise argparse.ArgumentTypeError(f"{word!r} is not a number from 0 to 1")
