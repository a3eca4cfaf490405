"""Outlines of the shapes that are polygons: a star and a heart, which fill their box."""

from __future__ import annotations

import math
from functools import cache

import numpy as np

INNER = 0.5  # radius of a star's inner corners, as a share of that of its points
HEART_POINTS = 48

Outline = tuple[tuple[float, float], ...]  # x, y in [0,1], from the box's upper left corner


@cache
def outline(shape: str) -> Outline:
    """The corners of a star with five points, or of a heart (x = sin^3 t, y = 13 cos t - 5 cos 2t - 2 cos 3t - cos 4t)."""
    if shape == "star":
        angles = [math.pi * number / 5 for number in range(10)]
        radii = [1.0 if number % 2 == 0 else INNER for number in range(10)]
        points = [(radius * math.sin(angle), -radius * math.cos(angle)) for radius, angle in zip(radii, angles)]
    elif shape == "heart":
        turns = [2 * math.pi * number / HEART_POINTS for number in range(HEART_POINTS)]
        heights = [13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t) for t in turns]
        points = [(math.sin(t) ** 3, -height) for t, height in zip(turns, heights)]
    else:
        raise ValueError(f"{shape!r} has no outline")
    (left, top), (right, bottom) = (tuple(side(axis) for axis in zip(*points)) for side in (min, max))
    return tuple(((x - left) / (right - left), (y - top) / (bottom - top)) for x, y in points)


def inside(shape: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Whether points lie inside of an outline, by the number of edges to the right of them."""
    corners = outline(shape)
    found = np.zeros(np.broadcast(x, y).shape, bool)
    for (x0, y0), (x1, y1) in zip(corners, (*corners[1:], corners[0])):
        if y0 != y1:
            found ^= ((y0 > y) != (y1 > y)) & (x < x0 + (y - y0) * (x1 - x0) / (y1 - y0))
    return found
