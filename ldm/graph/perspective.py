"""Scenes in perspective: objects on a visible floor, where nearer ones stand lower in the image and look larger."""

from __future__ import annotations

import numpy as np

from ldm.graph.object_sizes import SIZE_WORDS
from ldm.graph.scene_graph import SceneGraph
from ldm.graph.spatial_relations import AXIS, BARE, BoxPair, kind_of, relation_margin_holds
from ldm.graph.validation import Box

FLOOR_KINDS = {"front": "nearer", "behind": "farther"}  # kinds of relations between objects on a floor


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
