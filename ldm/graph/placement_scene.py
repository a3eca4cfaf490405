"""The state of a placement: boxes chosen so far, and the positions that all relations allow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from ldm.graph.diff import Add, AddRelation, ChangeRelation, Move, Operation, Resize
from ldm.graph.matching import match_objects
from ldm.graph.perspective import FLOOR_KINDS, Floor, shows_floor, size_growth
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

FLOOR_DISTANCE = 1.2, 1.0, 0.8, 0.0, 0.0  # at each of LEVELS, on a known floor, as a share of the half widths together
MAX_HIDDEN_ON_FLOOR = 0.5  # largest covered share of a box on a known floor, where there is no other room
# Least distance of two objects on a known floor, as a share of their half widths together, by how crowded it may be.
TOUCHING = 1.1, 1.1, 1.1, 0.9


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
        plane: the floor, if it is known.
        feet: for each object with a box the height of the place on the floor where it stands; of an object on or inside
            another one, that of the other one.
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
    plane: Floor | None = None
    feet: dict[int, float] = field(default_factory=dict)
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
        return bool(self.kind_holds(kind, subject, self.box(subject), object_, self.box(object_), level))

    def kind_holds(
        self, kind: str, subject: int, subject_box: np.ndarray, object_: int, object_box: np.ndarray, level: int
    ) -> np.ndarray:
        """Whether a relation holds for boxes (...,4) of two objects at a level; on a known floor, by floor positions."""
        if self.plane is None or kind not in ("left", "right", "nearer", "farther"):
            return relation_margin_holds(kind, subject_box, object_box, level)
        feet = [self.feet_at(index, box) for index, box in ((subject, subject_box), (object_, object_box))]
        first, second = (self.plane.positions(box, foot) for box, foot in zip((subject_box, object_box), feet))
        widths = sum(self.plane.radii(box, foot) for box, foot in zip((subject_box, object_box), feet))
        distance = (second - first)[..., 0 if kind in ("left", "right") else 1]
        distance = distance if kind in ("left", "nearer") else -distance
        return distance >= FLOOR_DISTANCE[level] * widths + ROUNDING

    def feet_at(self, index: int, boxes: np.ndarray) -> np.ndarray:  # (...,4) -> (...)
        """Where on the floor an object stands: where it always stood, or at the foot of another box."""
        old = self.boxes[index]
        moved = (
            boxes[..., 3]
            if old is None
            else np.where(np.abs(boxes - np.array(old)).max(-1) > ROUNDING, boxes[..., 3], np.nan)
        )
        return np.where(np.isnan(moved), self.feet.get(index, np.nan), moved)

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


def make_scene(
    source: SceneGraph, target: SceneGraph, operations: Sequence[Operation], plane: Floor | None = None
) -> PlacementScene:
    """The edited graph with the source's boxes, before anything is placed."""
    source_index = {j: i for i, j in match_objects(source, target).items()}
    floor = True if plane else shows_floor(source)
    feet = feet_on_floor(source)
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
        plane=plane,
        feet={j: feet[i] for j, i in source_index.items() if i in feet}
        | {j: box[3] for j, box in enumerate(target.boxes) if box is not None and j not in source_index},
    )


def feet_on_floor(graph: SceneGraph) -> dict[int, float]:
    """For each object with a box, the height of the foot of what it stands on in the end, or of its own."""
    support = {s: o for s, predicate, o in graph.known_triples if kind_of(predicate) in ("on", "inside")}
    feet = {}
    for index, box in enumerate(graph.boxes):
        base = index
        for _ in graph.objects:  # a chain of supports is no longer than that
            base = support.get(base, base)
        standing = graph.boxes[base] or box
        if standing is not None:
            feet[index] = standing[3]
    return feet


def other_end(triple: Triple, index: int) -> int:
    return triple[2] if triple[0] == index else triple[0]


def check_positions(
    scene: PlacementScene,
    group: Sequence[int],
    boxes: np.ndarray,
    new: Sequence[Triple],
    level: int,
    crowded: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Which candidate positions of a group of objects the relations allow.

    Args:
        group: objects that are placed together.
        boxes: (K,G,4), K candidates for their boxes.
        new: relations that must hold at `level`; settled ones must hold as clearly as before.
        level: one of `spatial_relations.LEVELS`.
        crowded: from 1, allows overlaps of objects without a relation, up to a share that leaves both visible; from 2,
            on a known floor, larger ones (an object hides less than its box does), and in the end objects that touch.

    Returns:
        (K,) bool, whether a candidate is allowed; and (K,), the largest share that unrelated objects cover of each other.
    """
    placed = {index: boxes[:, g] for g, index in enumerate(group)}
    related = _check_relations(scene, placed, new, level)
    clear, covered = _check_overlaps(scene, placed, new, level, crowded)
    allowed = related & clear & (covered <= (MAX_HIDDEN[CLEAR] if crowded < 2 else MAX_HIDDEN_ON_FLOOR))
    if scene.plane and len(group) == 1:
        allowed &= scene.plane.holds(boxes[:, 0])
        allowed &= _check_floor(scene, scene.plane, group[0], boxes[:, 0], TOUCHING[crowded])
    return allowed, covered


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
            first_box, second_box = _boxes_of(scene, placed, (subject, object_))
            allowed &= scene.kind_holds(kind, subject, first_box, object_, second_box, required)
    return allowed


def _check_overlaps(
    scene: PlacementScene, placed: dict[int, np.ndarray], new: Sequence[Triple], level: int, crowded: int
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


def _check_floor(scene: PlacementScene, plane: Floor, index: int, boxes: np.ndarray, touching: float) -> np.ndarray:
    """(K,) bool: whether an object, at the candidates `boxes` (K,4), stands apart from all others on the floor."""
    position, radius = plane.positions(boxes, boxes[:, 3]), plane.radii(boxes, boxes[:, 3])
    apart = np.ones(len(boxes), bool)
    for j, other in enumerate(scene.boxes):
        if j == index or other is None or is_background(other):
            continue
        box, foot = np.array(other), np.array(scene.feet.get(j, other[3]))
        distance = np.hypot(*(position - plane.positions(box, foot)).T)
        apart &= distance >= touching * (radius + plane.radii(box, foot))
    return apart


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
