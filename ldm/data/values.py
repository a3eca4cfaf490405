"""Numbers and names as annotation files and configs have them, in their plain types."""

from __future__ import annotations

import math
import re
from typing import Any

from ldm.util.errors import ConfigError
from ldm.util.unicode import composed as composed

WHOLE = re.compile(r"\s*[+-]?\d{1,30}(\.0*)?\s*", re.ASCII)


def whole(value: Any) -> int:
    """A whole number that is given as 7, 7.0, "7" or "7.0".

    Raises:
        ValueError: the value is anything else.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str) and WHOLE.fullmatch(value):
        return int(value.partition(".")[0])
    raise ValueError(f"{str(value)[:40]!r} is not a whole number")


def number(value: Any) -> float:
    """A number that is given as such or as text; it may be infinite or NaN.

    Raises:
        ValueError: the value is anything else.
    """
    if isinstance(value, (int, float, str)) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            return math.inf
    raise ValueError(f"{str(value)[:40]!r} is not a number")


def real(value: Any) -> float:
    """A finite `number`; raises ValueError for anything else."""
    if math.isfinite(converted := number(value)):
        return converted
    raise ValueError(f"{str(value)[:40]!r} is not a finite number")


def require_count(place: str, value: Any, least: int = 1) -> int:
    """Returns a parameter that must be a whole number of at least `least`; raises ConfigError, which begins with `place`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ConfigError(f"{place} is {value!r}; give a whole number of at least {least}")
    return value


def require_share(place: str, value: Any) -> float:
    """Returns a parameter that must be a number from 0 to 1; raises ConfigError, which begins with `place`."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise ConfigError(f"{place} is {value!r}; give a number from 0 to 1")
    return value
