"""What words say of boxes: where things are, by the predicates of a graph, and how large, by size words.

What a predicate means for two boxes is known here for the words of places that Visual Genome, COCO as sg2im reads it
and CLEVR use. It holds at one of five levels, from clearly to loosely. Down to plainly it cannot be taken for another
word: one of direction needs centres that differ by AXIS more on its axis than on the other, and GAP between the boxes.
Clearly and fairly can be seen whatever the things' outlines are. Loosely is what people also write.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ldm.graph.scene_graph import SceneGraph
from ldm.graph.validation import Box

GRID = 64  # cells across the picture
GAP = 2 / GRID  # between two boxes that do not overlap
AXIS = 6 / GRID  # by how much the centres differ more on the one axis than on the other
NEAR = 8 / GRID
HIDDEN = 0.36, 0.44  # at most so much of the box behind, clearly and fairly
# What any outline fills of its box, less so much at each side, the top and the foot; and what two of these share at
# least, of the smaller box. Found on circles, squares and triangles: clearly, all of them are seen to overlap.
CORE = ((0.2, 0.35, 0.05), 0.09), ((0.15, 0.3, 0.05), 0.06)
GROUND = 0.35  # a thing of that share of the picture, a sky or a lawn, is ground: any other may lie over it
SIZES = {"tiny": 0.15, "small": 0.25, "little": 0.25, "short": 0.25, "large": 0.375, "big": 0.375, "tall": 0.375}
SIZES |= {"huge": 0.5}
SIZE = 0.3
ROUNDING = 1e-9
CLEARLY, FAIRLY, PLAINLY, BARELY, LOOSELY = LEVELS = range(5)

WORDS = {
    "left": "left of, left, to the left of, on the left of, to left of, on left of, on left side of, "
    "on the left side of",
    "right": "right of, right, to the right of, on the right of, to right of, on right of, on right side of, "
    "on the right side of",
    "above": "above",
    "below": "below",
    "over": "over, hanging over, flying over",
    "under": "under, beneath, underneath",
    "inside": "inside, in, within, inside of, contained in, sitting in, standing in, lying in, laying in",
    "around": "surrounding, around, contains, containing, surrounds, enclosing",
    "front": "in front of, front, front of",
    "behind": "behind, in back of",
    "on": "on, on top of, upon, sitting on, standing on, lying on, laying on, resting on, parked on, on a, atop, "
    "sits on, stands on, riding, riding on, rides, walking on, mounted on",
    "near": "near, by, close to, nearby",
    "beside": "next to, beside, alongside, along side of, on side of, adjacent to, at the side of",
}
KIND = {word: kind for kind, words in WORDS.items() for word in words.split(", ")}
OVERLAPPING = ("inside", "around", "front", "behind", "on")
STANDING = {"front": "nearer", "behind": "farther"}  # what these are of things on a floor (`shows_floor`)


class Shape(NamedTuple):
    """How two boxes (...,4) lie: centres' differences, subject less object, and what they share; gaps are negative."""

    dx: np.ndarray
    dy: np.ndarray
    wide: np.ndarray
    high: np.ndarray

    @classmethod
    def of(cls, subject: np.ndarray, object: np.ndarray) -> Shape:
        centre = (subject[..., :2] + subject[..., 2:] - object[..., :2] - object[..., 2:]) / 2
        low, high = np.maximum(subject[..., :2], object[..., :2]), np.minimum(subject[..., 2:], object[..., 2:])
        return cls(centre[..., 0], centre[..., 1], *np.moveaxis(high - low, -1, 0))

    @property
    def gap(self) -> np.ndarray:
        """The least distance along an axis that keeps them apart; negative where they overlap."""
        return np.maximum(-self.wide, -self.high)

    @property
    def distance(self) -> np.ndarray:
        return np.hypot(np.maximum(-self.wide, 0), np.maximum(-self.high, 0))


def known_size(
    index: int, names: Sequence[str], attributes: Sequence[Sequence[str]], boxes: Sequence[Box | None]
) -> np.ndarray | None:  # (2,)
    """How large an object is, by what is told of it and of the others: the mean of those whose box is known and that have
    the same size word and name, else the same size word, else the same name; else what its size word says."""
    words = set(attributes[index]) & set(SIZES)
    known = [i for i, box in enumerate(boxes) if box is not None]
    alike = [i for i in known if words and words & set(attributes[i])]
    named = [i for i in known if names[i] == names[index] and (not words or i in alike)]
    alike = named or alike
    if not alike:
        return np.full(2, SIZES[min(words)]) if words else None
    found = np.array([boxes[i] for i in alike])
    return np.maximum(np.round((found[:, 2:] - found[:, :2]).mean(0) * GRID), 1) / GRID


def kind_of(predicate: str) -> str | None:
    """Which of WORDS a predicate is; None where it does not say where things are."""
    return KIND.get(" ".join(predicate.lower().replace("_", " ").split()))


def shows_floor(graph: SceneGraph) -> bool | None:
    """Whether a graph shows its things on a floor, where what is in front of another has the lower foot and need not overlap
    it: all of its boxes lie so, and two of those it says that of are apart. None where it may be one, as some lie so and all of
    them overlap."""
    ends = [
        (s, o) if kind == "front" else (o, s)
        for s, predicate, o in graph.triples
        if (kind := kind_of(predicate)) in ("front", "behind") and None not in (graph.boxes[s], graph.boxes[o])
    ]
    pairs = [(np.array(graph.boxes[front]), np.array(graph.boxes[back])) for front, back in ends]
    if not pairs or not all(relation_margin_holds("nearer", front, back, BARELY) for front, back in pairs):
        return False
    return any(Shape.of(front, back).gap >= 0 for front, back in pairs) or None


def growth(graph: SceneGraph) -> float:
    """Of things on a floor: by what share of its size a thing grows for each picture's side that it comes lower, at least 0.
    By least squares over things of one size word, or else of one name, whose feet are apart."""
    alike: dict[str, list[Box]] = {}
    for name, box, words in zip(graph.objects, graph.boxes, graph.attributes):
        if box is not None:
            alike.setdefault(min(set(words) & set(SIZES), default=name), []).append(box)
    lower, larger = [], []
    for boxes in map(np.array, alike.values()):
        side = np.sqrt(np.prod(boxes[:, 2:] - boxes[:, :2], axis=1))
        lower += (boxes[:, 3] - boxes[:, 3].mean()).tolist()
        larger += (side / side.mean() - 1).tolist()
    spread = np.dot(lower, lower)
    return max(0.0, float(np.dot(lower, larger) / spread)) if spread >= AXIS**2 else 0.0


def relation_holds(subject: Box, predicate: str, object: Box) -> bool | None:
    """Whether a triple is true of two boxes, loosely; None where boxes do not tell, as of which of two is in front."""
    kind = kind_of(predicate)
    if kind is None:
        return None
    true = bool(relation_margin_holds(kind, np.array(subject), np.array(object), LOOSELY))
    return None if true and kind in ("front", "behind") else true


def relation_margin_holds(kind: str, s: np.ndarray, o: np.ndarray, level: int) -> np.ndarray:
    """Whether a kind of WORDS is true of boxes (...,4) at the level; who is true at one is true at all that follow."""
    shape = Shape.of(s, o)
    dx, dy, wide, high = shape
    e = ROUNDING
    if kind in ("left", "right", "above", "below"):
        along, across = (dx, dy) if kind in ("left", "right") else (dy, dx)
        along = -along if kind in ("left", "above") else along
        margin, gap = (0, -np.inf) if level == LOOSELY else (0, 0) if level == BARELY else (AXIS, GAP)
        return (along > 0) & (along >= np.abs(across) + margin - e) & (shape.gap >= gap - e)
    if kind in ("over", "under"):
        down = dy if kind == "under" else -dy
        in_line = np.abs(dx) <= np.maximum(s[..., 2] - s[..., 0], o[..., 2] - o[..., 0]) / 2 + e
        clear = relation_margin_holds("below" if kind == "under" else "above", s, o, CLEARLY) & in_line
        return (clear, clear, clear, (down > 0) & (wide > 0), down > 0)[level]
    if kind == "around":
        return relation_margin_holds("inside", o, s, level)
    if kind == "inside":
        room = np.concatenate([s[..., :2] - o[..., :2], o[..., 2:] - s[..., 2:]], -1).min(-1)
        middle = (np.abs(dx) < (o[..., 2] - o[..., 0]) / 2) & (np.abs(dy) < (o[..., 3] - o[..., 1]) / 2)
        clear = (room >= 1 / GRID - e) & _touching(s, o, CLEARLY)
        return clear if level == CLEARLY else room >= -e if level < LOOSELY else middle & (wide > 0) & (high > 0)
    if kind == "behind":
        return relation_margin_holds("front", o, s, level)
    if kind == "front":
        if level == LOOSELY:
            return (wide > 0) & (high > 0)
        partly = (
            (wide > e)
            & (high > e)
            & ~(relation_margin_holds("inside", s, o, BARELY) | relation_margin_holds("inside", o, s, BARELY))
        )
        hidden = wide * high / np.prod(o[..., 2:] - o[..., :2], axis=-1)
        return partly if level >= PLAINLY else partly & _touching(s, o, level) & (hidden <= HIDDEN[level] + e)
    if kind == "farther":
        return relation_margin_holds("nearer", o, s, level)
    if kind == "nearer":
        return s[..., 3] - o[..., 3] >= (AXIS, AXIS / 2, AXIS / 2, 2 * ROUNDING, 2 * ROUNDING)[level] - e
    if kind == "on":
        stands = (s[..., 3] >= o[..., 1] - e) & (s[..., 3] <= o[..., 3] + e)
        within = np.abs(dx) <= (o[..., 2] - o[..., 0]) / 2 + e
        about = (s[..., 3] >= o[..., 1] - GAP) & (s[..., 3] <= o[..., 3] + GAP) & (wide > 0)
        return (stands & within & (dy < 0), stands & within, stands & within, about, shape.distance <= GAP)[level]
    near = shape.distance <= NEAR * (1, 1, 1, 2, 4)[level] + e
    if kind == "near":
        return near & (shape.gap >= GAP - e) if level < BARELY else near
    side = (np.abs(dx) > np.abs(dy)) & (high > 0)
    clear = (shape.gap >= GAP - e) & (high >= np.minimum(s[..., 3] - s[..., 1], o[..., 3] - o[..., 1]) / 2 - e)
    return near if level == LOOSELY else near & side if level == BARELY else near & side & clear


def _touching(s: np.ndarray, o: np.ndarray, level: int) -> np.ndarray:
    """Whether not only the boxes overlap but what fills them: of anything there is more in the middle and at the foot
    of its box than in the upper corners."""
    (side, top, foot), share = CORE[level]
    left, right = (
        np.stack([x0 + side * (x1 - x0), y0 + top * (y1 - y0), x1 - side * (x1 - x0), y1 - foot * (y1 - y0)], -1)
        for x0, y0, x1, y1 in (np.moveaxis(box, -1, 0) for box in (s, o))
    )
    _, _, wide, high = Shape.of(left, right)
    least = np.prod(np.minimum(s[..., 2:] - s[..., :2], o[..., 2:] - o[..., :2]), axis=-1)
    return (wide > 0) & (high > 0) & (wide * high >= share * least)


def is_ground(box: Box) -> bool:
    return (box[2] - box[0]) * (box[3] - box[1]) >= GROUND
