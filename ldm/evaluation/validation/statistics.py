"""Paired differences of a model and the base, with intervals, and what may be said about them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest

from ldm.evaluation.report import bootstrap_interval

LEAST_UNITS = 10  # below, the percentiles of a bootstrap cover far less than they say (Efron & Tibshirani 1993, ch. 14)
NO_DIFFERENCE = "no difference"  # equal pictures; equal scores of other pictures are within chance
WITHIN_CHANCE, TOO_FEW = "within chance", "too few to tell"
BETTER, WORSE, HIGHER, LOWER = "better", "worse", "higher", "lower"

Interval = tuple[float, float]


@dataclass(frozen=True)
class Comparison:
    """A number of a model against the base's, over the lines where both have it.

    Args:
        mean, base: averages of the model and of the base.
        difference: of the averages, model minus base.
        interval: 95 % confidence interval of the difference; None for none.
        pictures: lines that were compared.
        units: independent groups of them.
        verdict: one of the words above.
    """

    mean: float
    base: float
    difference: float
    interval: Interval | None
    pictures: int
    units: int
    verdict: str


def compare(
    model: Mapping[str, float],
    base: Mapping[str, float],
    units: Mapping[str, str],
    higher_is_better: bool | None = None,
) -> Comparison | None:
    """Compares two models line by line.

    The interval is that of the mean of the differences, by drawing units with replacement (Efron 1979): lines of one unit
    are drawn together.

    Args:
        model, base: a number for each line, by id.
        units: of each line its unit.
        higher_is_better: None if neither direction is better.

    Returns:
        None if there is no line for which both have a number.
    """
    ids = [id for id in base if id in model and math.isfinite(model[id]) and math.isfinite(base[id])]
    if not ids:
        return None
    rows = [{"difference": model[id] - base[id]} for id in ids]
    of_lines = [units[id] for id in ids]
    interval = bootstrap_interval(rows, of_lines, "difference")
    assert interval is not None
    difference = float(np.mean([row["difference"] for row in rows]))
    count = len(set(of_lines))
    verdict = judge(interval, count, higher_is_better)
    means = (float(np.mean([numbers[id] for id in ids])) for numbers in (model, base))
    return Comparison(*means, difference, interval, len(ids), count, verdict)


def judge(interval: Interval, units: int, higher_is_better: bool | None = None) -> str:
    """What an interval of a difference says."""
    low, high = interval
    if units < LEAST_UNITS:
        return TOO_FEW
    if low <= 0 <= high:
        return WITHIN_CHANCE
    if higher_is_better is None:
        return HIGHER if low > 0 else LOWER
    return BETTER if (low > 0) == higher_is_better else WORSE


def preference(choices: Sequence[float], units: Sequence[str]) -> dict:
    """How often people preferred a model to the base.

    Args:
        choices: of each vote 1 for the model, 0 for the base, 0.5 for a tie.
        units: of each vote the unit of its line.

    Returns:
        share with its interval (units drawn together), votes, ties, and the sign test's two-sided p over votes that are no
        ties, which takes votes as independent (Conover 1999, section 3.4).
    """
    share = float(np.mean(choices))
    interval = bootstrap_interval([{"choice": choice} for choice in choices], list(units), "choice")
    assert interval is not None
    wins, losses = sum(choice == 1 for choice in choices), sum(choice == 0 for choice in choices)
    p = float(binomtest(wins, wins + losses).pvalue) if wins + losses else 1.0
    shifted = interval[0] - 0.5, interval[1] - 0.5
    return {
        "share": share,
        "share_95": interval,
        "votes": len(choices),
        "ties": len(choices) - wins - losses,
        "units": len(set(units)),
        "p": p,
        "verdict": judge(shifted, len(set(units)), True),
    }
