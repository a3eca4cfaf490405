"""Styles of the backgrounds behind flat shapes, and how they compare."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from ldm.synthetic.readings import Colour

STYLE_PARTS = ("colour", "texture")
MAX_COLOUR_DISTANCE = 30  # between the mean colours of two backgrounds of one style, in levels of 0..255


class StyleReading(NamedTuple):
    """A background's style, measured where no object covers it."""

    mean: Colour  # of the whole background, from a model fitted to the visible part
    ramp: tuple[Colour, Colour]  # change of colour from the left to the right edge, and from the top to the bottom edge
    texture: str
    strength: tuple[float, ...] = ()  # how strong each texture is, as a share of brightness


def same_style(a: StyleReading, b: StyleReading) -> bool:
    """Whether two backgrounds have the same texture and similar mean colours."""
    return a.texture == b.texture and style_distance(a, b)["colour"] <= MAX_COLOUR_DISTANCE


def style_distance(a: StyleReading, b: StyleReading) -> dict[str, float]:
    """Euclidean distances by part: of the mean colours in levels of 0..255, of the strengths as shares of brightness."""
    return {
        "colour": float(np.linalg.norm(np.subtract(a.mean, b.mean))),
        "texture": float(np.linalg.norm(np.subtract(a.strength, b.strength))),
    }


def style_follows(style: StyleReading, source: StyleReading, reference: StyleReading) -> dict[str, float]:
    """How far each part of a style has moved from the source's to the reference's, by projection onto the line through both.

    Returns:
        0 at the source, 1 at the reference; NaN for a part in which these two are equal.
    """

    def share(here, start, end) -> float:
        way = np.subtract(end, start)
        return float(np.dot(np.subtract(here, start), way) / np.dot(way, way)) if np.any(way) else math.nan

    return {
        "colour": share(style.mean, source.mean, reference.mean),
        "texture": share(style.strength, source.strength, reference.strength),
    }
