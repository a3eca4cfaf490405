"""Random shifts of a picture with its scene graph: the boxes move along, and no object leaves the picture.

A name that is learned from a few pictures is learned at the places where these show it; shifts show it at others.
"""

from __future__ import annotations

import math
import random
from dataclasses import replace

from torch import Tensor

from ldm.graph.scene_graph import SceneGraph
from ldm.graph.validation import Box

ROUNDING = 1e-6  # of a pixel, by which a box may miss the edge that it stands for


def shift_within(image: Tensor, graph: SceneGraph, chance: random.Random) -> tuple[Tensor, SceneGraph]:
    """Shifts a picture by a random number of pixels in either direction, as far as all of its objects stay inside.

    Rows and columns that leave on one side, in which there is only background, come back on the other one.

    Args:
        image: (3,H,W).
        graph: of the picture. If one of its objects has no box, both stay as they are.
        chance: source of the two numbers.

    Returns:
        The shifted picture (3,H,W) and its graph.
    """
    boxes = [box for box in graph.boxes if box is not None]
    if len(boxes) < len(graph.objects):
        return image, graph
    height, width = image.shape[-2:]
    x0, y0, x1, y1 = (choose(side) for choose, side in zip((min, min, max, max), zip(*boxes)))
    right, down = _pixels(x0, x1, width, chance), _pixels(y0, y1, height, chance)
    moved = tuple(_moved(box, right / width, down / height) for box in boxes)
    return image.roll((down, right), (-2, -1)), replace(graph, boxes=moved)


def _pixels(low: float, high: float, size: int, chance: random.Random) -> int:
    """A shift of what lies between two shares of an axis, such that it stays on it."""
    before, after = (math.floor(size * free + ROUNDING) for free in (low, 1 - high))
    return chance.randint(-max(before, 0), max(after, 0))


def _moved(box: Box, right: float, down: float) -> Box:
    """The box elsewhere; clipped, as sums of floats may exceed 1 in the last digit."""
    x0, y0, x1, y1 = box
    return max(x0 + right, 0.0), max(y0 + down, 0.0), min(x1 + right, 1.0), min(y1 + down, 1.0)
