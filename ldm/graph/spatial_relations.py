"""Spatial relations: whether a predicate such as 'left of' holds between two boxes.

The predicates are those of Visual Genome, of COCO as sg2im reads it, and of CLEVR. Each holds at one of five levels of
strictness (LEVELS). A relation that holds at one level holds at all later ones:

    CLEAR        visible whatever the outlines of the objects, with a margin
    FAIR         visible whatever the outlines of the objects
    UNAMBIGUOUS  cannot be taken for another predicate: directions need centres that differ by AXIS more along the axis of
                 the direction than across it, and a gap of GAP between the boxes
    BARE         true by the boxes, without margins
    LOOSE        what annotators write
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np

from ldm.graph.validation import Box

GRID = 64  # cells per side of the image; the distances below were chosen on this grid
GAP = 2 / GRID  # smallest gap between two boxes that do not overlap
AXIS = 6 / GRID
NEAR = 8 / GRID
MAX_HIDDEN = 0.36, 0.44  # largest covered share of the box behind, at CLEAR and FAIR
# The part of its box that an object of any outline fills, as margins at each side, the top and the foot; and the smallest
# overlap of two such parts, as a share of the smaller box. Measured on circles, squares and triangles.
CORE = ((0.2, 0.35, 0.05), 0.09), ((0.15, 0.3, 0.05), 0.06)
BACKGROUND_AREA = 0.35  # objects of this area or more, such as sky and grass, may lie behind any other
ROUNDING = 1e-9
CLEAR, FAIR, UNAMBIGUOUS, BARE, LOOSE = LEVELS = range(5)

PREDICATES = {
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
KIND = {predicate: kind for kind, predicates in PREDICATES.items() for predicate in predicates.split(", ")}
OVERLAPPING = ("inside", "around", "front", "behind", "on")  # kinds whose objects may overlap
# On a visible floor (`ldm.graph.perspective`), 'front' and 'behind' become these kinds, which compare the boxes' feet.
CONVERSE = {"around": "inside", "behind": "front", "farther": "nearer"}


class BoxPair(NamedTuple):
    """Relative position of boxes (...,4), the subject's and the object's.

    Attributes:
        dx, dy: (...,), centre of the subject minus centre of the object.
        overlap_width, overlap_height: (...,), sides of the intersection; negative for a gap.
    """

    dx: np.ndarray
    dy: np.ndarray
    overlap_width: np.ndarray
    overlap_height: np.ndarray

    @classmethod
    def of(cls, subject: np.ndarray, object_: np.ndarray) -> BoxPair:
        centre = (subject[..., :2] + subject[..., 2:] - object_[..., :2] - object_[..., 2:]) / 2
        low, high = np.maximum(subject[..., :2], object_[..., :2]), np.minimum(subject[..., 2:], object_[..., 2:])
        return cls(centre[..., 0], centre[..., 1], *np.moveaxis(high - low, -1, 0))

    @property
    def gap(self) -> np.ndarray:
        """Gap along the axis on which it is largest; negative if the boxes overlap."""
        return np.maximum(-self.overlap_width, -self.overlap_height)

    @property
    def distance(self) -> np.ndarray:
        """Euclidean distance of the boxes; 0 if they overlap."""
        return np.hypot(np.maximum(-self.overlap_width, 0), np.maximum(-self.overlap_height, 0))

    @property
    def intersection(self) -> np.ndarray:
        """Area of the intersection."""
        return self.overlap_width.clip(0) * self.overlap_height.clip(0)


def box_area(box: np.ndarray) -> np.ndarray:  # (...,4) -> (...,)
    return np.prod(box[..., 2:] - box[..., :2], axis=-1)


def is_background(box: Box | np.ndarray) -> bool:
    """Whether a box is so large that other objects may lie in front of it without a relation that says so."""
    return (box[2] - box[0]) * (box[3] - box[1]) >= BACKGROUND_AREA


def kind_of(predicate: str) -> str | None:
    """The key of PREDICATES to which a predicate belongs; None for a predicate that is not spatial."""
    return KIND.get(" ".join(predicate.lower().replace("_", " ").split()))


def relation_holds(subject: Box, predicate: str, object_: Box) -> bool | None:
    """Whether a relation holds loosely between two boxes.

    Returns:
        None if boxes cannot tell: the predicate is not spatial, or it is a true one of depth order (in front of, behind).
    """
    kind = kind_of(predicate)
    if kind is None:
        return None
    holds = bool(relation_margin_holds(kind, np.array(subject), np.array(object_), LOOSE))
    return None if holds and kind in ("front", "behind") else holds


def relation_margin_holds(kind: str, subject: np.ndarray, object_: np.ndarray, level: int) -> np.ndarray:
    """Whether a relation holds between boxes at a level of strictness.

    Args:
        kind: key of PREDICATES, or 'nearer' or 'farther'.
        subject: (...,4).
        object_: (...,4).
        level: one of LEVELS.

    Returns:
        (...,) bool.
    """
    if kind in CONVERSE:
        kind, subject, object_ = CONVERSE[kind], object_, subject
    return _CONDITIONS[kind](subject, object_, level)


def _is_in_direction(subject: np.ndarray, object_: np.ndarray, level: int, *, axis: int, sign: int) -> np.ndarray:
    pair = BoxPair.of(subject, object_)
    along, across = sign * pair[axis], pair[1 - axis]
    margin, gap = {LOOSE: (0, -np.inf), BARE: (0, 0)}.get(level, (AXIS, GAP))
    return (along > 0) & (along >= np.abs(across) + margin - ROUNDING) & (pair.gap >= gap - ROUNDING)


def _is_over(subject: np.ndarray, object_: np.ndarray, level: int, *, sign: int) -> np.ndarray:
    pair = BoxPair.of(subject, object_)
    if level == LOOSE:
        return sign * pair.dy > 0
    if level == BARE:
        return (sign * pair.dy > 0) & (pair.overlap_width > 0)
    half_width = np.maximum(subject[..., 2] - subject[..., 0], object_[..., 2] - object_[..., 0]) / 2
    in_line = np.abs(pair.dx) <= half_width + ROUNDING
    return _is_in_direction(subject, object_, CLEAR, axis=1, sign=sign) & in_line


def _is_inside(subject: np.ndarray, object_: np.ndarray, level: int) -> np.ndarray:
    pair = BoxPair.of(subject, object_)
    if level == LOOSE:  # the centre of the subject lies in the object
        half_width, half_height = (object_[..., 2] - object_[..., 0]) / 2, (object_[..., 3] - object_[..., 1]) / 2
        centred = (np.abs(pair.dx) < half_width) & (np.abs(pair.dy) < half_height)
        return centred & (pair.overlap_width > 0) & (pair.overlap_height > 0)
    margins = np.concatenate([subject[..., :2] - object_[..., :2], object_[..., 2:] - subject[..., 2:]], -1).min(-1)
    if level == CLEAR:
        return (margins >= 1 / GRID - ROUNDING) & _cores_overlap(subject, object_, CLEAR)
    return margins >= -ROUNDING


def _is_in_front(subject: np.ndarray, object_: np.ndarray, level: int) -> np.ndarray:
    pair = BoxPair.of(subject, object_)
    if level == LOOSE:
        return (pair.overlap_width > 0) & (pair.overlap_height > 0)
    contained = _is_inside(subject, object_, BARE) | _is_inside(object_, subject, BARE)
    partly = (pair.overlap_width > ROUNDING) & (pair.overlap_height > ROUNDING) & ~contained
    if level >= UNAMBIGUOUS:
        return partly
    hidden = pair.overlap_width * pair.overlap_height / box_area(object_)
    return partly & _cores_overlap(subject, object_, level) & (hidden <= MAX_HIDDEN[level] + ROUNDING)


def _is_nearer(subject: np.ndarray, object_: np.ndarray, level: int) -> np.ndarray:
    margin = (AXIS, AXIS / 2, AXIS / 2, 2 * ROUNDING, 2 * ROUNDING)[level]
    return subject[..., 3] - object_[..., 3] >= margin - ROUNDING


def _is_on(subject: np.ndarray, object_: np.ndarray, level: int) -> np.ndarray:
    pair, foot = BoxPair.of(subject, object_), subject[..., 3]
    if level == LOOSE:
        return pair.distance <= GAP
    if level == BARE:
        return (foot >= object_[..., 1] - GAP) & (foot <= object_[..., 3] + GAP) & (pair.overlap_width > 0)
    stands = (foot >= object_[..., 1] - ROUNDING) & (foot <= object_[..., 3] + ROUNDING)
    stands &= np.abs(pair.dx) <= (object_[..., 2] - object_[..., 0]) / 2 + ROUNDING
    return stands & (pair.dy < 0) if level == CLEAR else stands


def _is_near(subject: np.ndarray, object_: np.ndarray, level: int) -> np.ndarray:
    pair = BoxPair.of(subject, object_)
    near = pair.distance <= NEAR * (1, 1, 1, 2, 4)[level] + ROUNDING
    return near & (pair.gap >= GAP - ROUNDING) if level < BARE else near


def _is_beside(subject: np.ndarray, object_: np.ndarray, level: int) -> np.ndarray:
    pair, near = BoxPair.of(subject, object_), _is_near(subject, object_, level)
    if level == LOOSE:
        return near
    sideways = (np.abs(pair.dx) > np.abs(pair.dy)) & (pair.overlap_height > 0)
    if level == BARE:
        return near & sideways
    lower_height = np.minimum(subject[..., 3] - subject[..., 1], object_[..., 3] - object_[..., 1])
    aligned = pair.overlap_height >= lower_height / 2 - ROUNDING
    return near & sideways & aligned


_CONDITIONS: dict[str, Callable[[np.ndarray, np.ndarray, int], np.ndarray]] = {
    "left": partial(_is_in_direction, axis=0, sign=-1),
    "right": partial(_is_in_direction, axis=0, sign=1),
    "above": partial(_is_in_direction, axis=1, sign=-1),
    "below": partial(_is_in_direction, axis=1, sign=1),
    "over": partial(_is_over, sign=-1),
    "under": partial(_is_over, sign=1),
    "inside": _is_inside,
    "front": _is_in_front,
    "nearer": _is_nearer,
    "on": _is_on,
    "near": _is_near,
    "beside": _is_beside,
}


def _cores_overlap(subject: np.ndarray, object_: np.ndarray, level: int) -> np.ndarray:
    """Whether the objects overlap and not only their boxes: an object fills the middle and the foot of its box rather
    than the upper corners."""
    (side, top, foot), share = CORE[level]
    first, second = (
        np.stack([x0 + side * (x1 - x0), y0 + top * (y1 - y0), x1 - side * (x1 - x0), y1 - foot * (y1 - y0)], -1)
        for x0, y0, x1, y1 in (np.moveaxis(box, -1, 0) for box in (subject, object_))
    )
    pair = BoxPair.of(first, second)
    smaller_area = np.prod(
        np.minimum(subject[..., 2:] - subject[..., :2], object_[..., 2:] - object_[..., :2]), axis=-1
    )
    overlap = (pair.overlap_width > 0) & (pair.overlap_height > 0)
    return overlap & (pair.overlap_width * pair.overlap_height >= share * smaller_area)
