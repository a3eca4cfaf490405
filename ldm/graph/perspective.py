"""Scenes in perspective: objects on a visible floor, where nearer ones stand lower in the image and look larger.

`shows_floor` and `size_growth` conclude from a graph what they can; `Floor` is a floor that is known.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from ldm.graph.object_sizes import SIZE_WORDS
from ldm.graph.scene_graph import SceneGraph
from ldm.graph.spatial_relations import AXIS, BARE, BoxPair, kind_of, relation_margin_holds
from ldm.graph.validation import Box

FOCAL_LENGTH = 1.28  # of a common lens, as a share of the image's side; needed for distances along the floor only
FLOOR_KINDS = {"front": "nearer", "behind": "farther"}  # kinds of relations between objects on a floor


class Floor(NamedTuple):
    """A level floor and where objects may stand on it, as heights from the top of the image (shares of its side).

    Floor positions are (right, away), in units in which an object of width w that stands at height y is w / (y - horizon)
    wide; they follow from the perspective of a camera that looks down on the floor, without roll.

    Args:
        horizon: may lie above the image (negative).
        far, near: heights of the feet of the farthest and the nearest objects.
    """

    horizon: float
    far: float
    near: float

    def scale(self, old_foot: np.ndarray | float, new_foot: np.ndarray) -> np.ndarray:
        """How much larger an object looks after a move."""
        return (new_foot - self.horizon) / (old_foot - self.horizon)

    def positions(self, boxes: np.ndarray, feet: np.ndarray) -> np.ndarray:  # (...,4), (...) -> (...,2)
        """Floor positions (right, away) of the middles of objects whose feet, their near edges, are at these heights."""
        below = np.maximum(feet - self.horizon, 1e-6)
        tilt = math.atan((0.5 - self.horizon) / FOCAL_LENGTH)
        away = FOCAL_LENGTH / (below * math.cos(tilt)) + self.radii(boxes, feet)
        return np.stack([((boxes[..., 0] + boxes[..., 2]) / 2 - 0.5) / below, away], -1)

    def radii(self, boxes: np.ndarray, feet: np.ndarray) -> np.ndarray:  # (...,4), (...) -> (...)
        """Half the widths of objects, in units of the floor."""
        return (boxes[..., 2] - boxes[..., 0]) / (2 * np.maximum(feet - self.horizon, 1e-6))

    def holds(self, boxes: np.ndarray) -> np.ndarray:  # (...,4) -> (...) bool
        """Whether objects stand on the part of the floor where they may: as wide everywhere as the image is at `near`."""
        feet = boxes[..., 3]
        right = np.abs(self.positions(boxes, feet)[..., 0]) + self.radii(boxes, feet)
        return (feet >= self.far) & (feet <= self.near) & (right <= 0.5 / (self.near - self.horizon))


def shows_floor(graph: SceneGraph) -> bool | None:
    """Whether the objects of a graph stand on a visible floor.

    They do if, in every relation of depth order, the object in front has the lower foot, and two such objects do not
    overlap. On a floor, 'in front of' does not require an overlap.

    Returns:
        None if this is possible but not certain: the feet agree, but all pairs overlap.
    """
    ends = [
        (s, o) if kind == "front" else (o, s)
        for s, predicate, o in graph.known_triples
        if (kind := kind_of(predicate)) in FLOOR_KINDS
    ]
    boxes = [(graph.boxes[front], graph.boxes[back]) for front, back in ends]
    pairs = [(np.array(front), np.array(back)) for front, back in boxes if front is not None and back is not None]
    if not pairs or not all(relation_margin_holds("nearer", front, back, BARE) for front, back in pairs):
        return False
    return any(BoxPair.of(front, back).gap >= 0 for front, back in pairs) or None


def size_growth(graph: SceneGraph) -> float:
    """How much larger an object looks the lower it stands, by least squares over objects of equal size or name.

    Returns:
        Growth as a fraction of the object's size per height of the image, at least 0; 0 if all feet are level.
    """
    groups: dict[str, list[Box]] = {}
    for name, box, attributes in zip(graph.objects, graph.boxes, graph.known_attributes):
        if box is not None:
            groups.setdefault(min(set(attributes) & set(SIZE_WORDS), default=name), []).append(box)
    feet, sizes = [], []
    for boxes in map(np.array, groups.values()):
        side = np.sqrt(np.prod(boxes[:, 2:] - boxes[:, :2], axis=1))
        feet += (boxes[:, 3] - boxes[:, 3].mean()).tolist()
        sizes += (side / side.mean() - 1).tolist()
    spread = np.dot(feet, feet)
    return max(0.0, float(np.dot(feet, sizes) / spread)) if spread >= AXIS**2 else 0.0
