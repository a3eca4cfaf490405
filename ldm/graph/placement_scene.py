"""The state of a placement: boxes chosen so far, and the positions that all relations allow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from ldm.graph.diff import Add, AddRelation, ChangeRelation, Move, Operation, Resize
from ldm.graph.matching import match_objects
from ldm.graph.perspective import FLOOR_KINDS, shows_floor, size_growth
from ldm.graph.scene_graph import SceneGraph
from ldm.graph.spatial_relations import (
    BARE,
    CLEAR,
    GAP,
    LEVELS,
    MAX_HIDDEN,
    OVERLAPPING,
    ROUNDING,
    UNAMBIGUOUS,
    BoxPair,
    box_area,
    is_background,
    kind_of,
    relation_margin_holds,
)
from ldm.graph.validation import Box, Triple


@dataclass
class PlacementScene:
    """The edited graph and its boxes while they are chosen.

    Attributes:
        target: the edited graph.
        boxes: for each object its box so far, or None.
        source_index: index in the edited graph -> index in the source graph.
        fixed: objects to which the edited graph gives a new box.
        added: objects that the source graph does not have.
        pending: new relations that need not hold yet.
        floor: whether the source graph shows a floor (`perspective.shows_floor`).
        growth: how much larger an object on the floor looks the lower it stands (`perspective.size_growth`).
        messages: what was placed, as sentences.
    """

    target: SceneGraph
    boxes: list[Box | None]
    source_index: dict[int, int]
    fixed: set[int]
    added: set[int]
    pending: set[Triple]
    floor: bool | None
    growth: float
    messages: list[str] = field(default_factory=list)

    def box(self, index: int) -> np.ndarray:
        """(4,), the box of an object that has one."""
        return np.array(self.boxes[index])

    def pair(self, i: int, j: int) -> BoxPair:
        return BoxPair.of(self.box(i), self.box(j))

    def kind(self, predicate: str) -> str | None:
        kind = kind_of(predicate)
        return FLOOR_KINDS.get(kind, kind) if self.floor and kind else kind

    def holds(self, triple: Triple, level: int) -> bool:
        subject, predicate, object_ = triple
        kind = self.kind(predicate)
        assert kind is not None, predicate
        return bool(relation_margin_holds(kind, self.box(subject), self.box(object_), level))

    def settled(self) -> list[Triple]:
        """Relations between objects with boxes that hold, or held in the source graph."""
        return [
            (s, predicate, o)
            for s, predicate, o in self.target.known_triples
            if (s, predicate, o) not in self.pending and None not in (self.boxes[s], self.boxes[o])
        ]

    def is_attached(self, subject: int, predicate: str, object_: int) -> bool:
        """Whether two objects overlap and have a relation that is not spatial, such as a man who wears a hat."""
        return self.kind(predicate) is None and bool(self.pair(subject, object_).gap < 0)

    def contents(self, index: int) -> set[int]:
        """An object with all that is inside, on or attached to it."""
        group, size = {index}, 0
        while len(group) > size:
            size = len(group)
            for s, predicate, o in self.settled():
                kind, attached = self.kind(predicate), self.is_attached(s, predicate, o)
                if o in group and (kind in ("inside", "on") or attached):
                    group.add(s)
                if s in group and (kind == "around" or attached):
                    group.add(o)
        return group

    def name(self, index: int) -> str:
        return f"{self.target.describe(index)!r} (object {index} of the edited graph)"

    def claim(self, triple: Triple) -> str:
        return f"{self.target.describe(triple[0])!r} is {triple[1]} {self.target.describe(triple[2])!r}"


def make_scene(source: SceneGraph, target: SceneGraph, operations: Sequence[Operation]) -> PlacementScene:
    """The edited graph with the source's boxes, before anything is placed."""
    source_index = {j: i for i, j in match_objects(source, target).items()}
    floor = shows_floor(source)
    return PlacementScene(
        target=target,
        boxes=[
            source.boxes[source_index[j]] if box is None and j in source_index else box
            for j, box in enumerate(target.boxes)
        ],
        source_index=source_index,
        fixed={operation.target for operation in operations if isinstance(operation, (Move, Resize))},
        added={operation.target for operation in operations if isinstance(operation, Add)},
        pending={operation.target for operation in operations if isinstance(operation, (ChangeRelation, AddRelation))},
        floor=floor,
        growth=size_growth(source) if floor else 0.0,
    )


def other_end(triple: Triple, index: int) -> int:
    return triple[2] if triple[0] == index else triple[0]


def check_positions(
    scene: PlacementScene,
    group: Sequence[int],
    boxes: np.ndarray,
    new: Sequence[Triple],
    level: int,
    crowded: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Which candidate positions of a group of objects the relations allow.

    Args:
        group: objects that are placed together.
        boxes: (K,G,4), K candidates for their boxes.
        new: relations that must hold at `level`; settled ones must hold as clearly as before.
        level: one of `spatial_relations.LEVELS`.
        crowded: allows overlaps of objects without a relation, up to a share that leaves both visible.

    Returns:
        (K,) bool, whether a candidate is allowed; and (K,), the largest share that unrelated objects cover of each other.
    """
    placed = {index: boxes[:, g] for g, index in enumerate(group)}
    related = _check_relations(scene, placed, new, level)
    clear, covered = _check_overlaps(scene, placed, new, level, crowded)
    return related & clear & (covered <= MAX_HIDDEN[CLEAR]), covered


def _relations_to_others(scene: PlacementScene, placed: dict[int, np.ndarray], new: Sequence[Triple]) -> list[Triple]:
    """New and settled relations between an object of the group and an object with a box outside it."""
    triples = dict.fromkeys((*new, *scene.settled()))
    crossing = [(s, predicate, o) for s, predicate, o in triples if (s in placed) != (o in placed)]
    return [triple for triple in crossing if scene.boxes[triple[2 if triple[0] in placed else 0]] is not None]


def _check_relations(
    scene: PlacementScene, placed: dict[int, np.ndarray], new: Sequence[Triple], level: int
) -> np.ndarray:
    """(K,) bool: whether new relations hold at `level`, and settled ones as clearly as before."""
    first, boxes = next(iter(placed.items()))
    allowed = np.ones(len(boxes), bool)
    for triple in _relations_to_others(scene, placed, new):
        subject, predicate, object_ = triple
        kind = scene.kind(predicate)
        if kind is None:
            if scene.is_attached(subject, predicate, object_):  # attached objects stay where they are
                allowed &= np.abs(boxes - scene.box(first)).max(-1) < ROUNDING
            continue
        required = level if triple in new else next((each for each in LEVELS if scene.holds(triple, each)), None)
        if required is not None:
            allowed &= relation_margin_holds(kind, *_boxes_of(scene, placed, (subject, object_)), required)
    return allowed


def _check_overlaps(
    scene: PlacementScene, placed: dict[int, np.ndarray], new: Sequence[Triple], level: int, crowded: bool
) -> tuple[np.ndarray, np.ndarray]:
    """(K,) bool: whether unrelated objects are apart; and (K,), the largest share that they cover of each other."""
    count = len(next(iter(placed.values())))
    allowed, covered = np.ones(count, bool), np.zeros(count)
    may_overlap = {
        frozenset((s, o))
        for s, predicate, o in _relations_to_others(scene, placed, new)
        if scene.kind(predicate) in OVERLAPPING
    }
    newly_related = {frozenset((s, o)) for s, _, o in new}
    for i, boxes in placed.items():
        box = scene.boxes[i]
        if box is not None and is_background(box):
            continue
        for j, other in enumerate(scene.boxes):
            if j in placed or other is None or is_background(other):
                continue
            ends, gap_before = frozenset((i, j)), GAP if box is None else scene.pair(i, j).gap
            if ends in may_overlap or (gap_before < -ROUNDING and ends not in newly_related):
                continue
            pair = BoxPair.of(boxes, np.array(other))
            if crowded:
                smaller_area = np.minimum(box_area(boxes), box_area(np.array(other)))
                covered = np.maximum(covered, pair.intersection / smaller_area)
            else:
                allowed &= pair.gap >= (min(GAP, max(gap_before, 0)) if level < BARE else 0) - ROUNDING
    return allowed, covered


def stands_in_order(
    scene: PlacementScene, group: Sequence[int], boxes: np.ndarray, triples: Sequence[Triple]
) -> np.ndarray:
    """If there may be a floor: (K,) bool, whether objects in front stand lower at the candidates `boxes` (K,G,4)."""
    in_order = np.ones(len(boxes), bool)
    placed = {index: boxes[:, g] for g, index in enumerate(group)}
    for s, predicate, o in triples if scene.floor is None else ():
        if kind := FLOOR_KINDS.get(scene.kind(predicate) or ""):
            in_order &= relation_margin_holds(kind, *_boxes_of(scene, placed, (s, o)), UNAMBIGUOUS)
    return in_order


def _boxes_of(scene: PlacementScene, placed: dict[int, np.ndarray], indices: tuple[int, int]) -> list[np.ndarray]:
    return [placed[index] if index in placed else scene.box(index) for index in indices]
