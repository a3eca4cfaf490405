"""Where things go when a graph says only how they relate: the smallest move after which a new relation holds.

A word of places holds at one of five levels (`ldm.places`); what is placed is placed at the clearest level that can be
had, and what held before the move holds after it as clearly. Candidates are all moves by whole steps, so the smallest is
found exactly, to a step; where no such move will do, all by whole cells of a GRID.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby, product

import numpy as np

from ldm.graph.diff import Add, AddRelation, ChangeRelation, Move, Operation, Resize, same_objects
from ldm.graph.scene_graph import SceneGraph
from ldm.graph.spatial_relations import (
    BARELY,
    CLEARLY,
    FAIRLY,
    GAP,
    GRID,
    HIDDEN,
    LEVELS,
    LOOSELY,
    OVERLAPPING,
    PLAINLY,
    ROUNDING,
    SIZE,
    STANDING,
    Shape,
    growth,
    is_ground,
    kind_of,
    known_size,
    relation_margin_holds,
    shows_floor,
)
from ldm.graph.validation import Box, GraphError, Triple


def place_objects(
    source: SceneGraph, target: SceneGraph, operations: Sequence[Operation], step: float = 1 / GRID
) -> tuple[SceneGraph, str]:
    """The target with a box for each object of which one is known or can be chosen, and what was chosen, as a sentence;
    empty where there was nothing to choose. `operations` lead from source to target; `step` is a share of the picture's
    side.

    Where a relation is new and no new box of either object is given, the subject moves the least way after which it and
    all that held before holds, in the picture and onto nothing that it is not asked to overlap; its contents go along
    if they must, and if all that is in vain the object of the relation moves instead. Where nothing has room, something
    may come to lie over others, as little as can be, and no more than leaves them to be seen. On a floor (`places.shows_floor`)
    what is in front is lower, and what moves alone is as large as it looks there (`places.growth`). An object that is added without
    a box is placed by the same rules near what it relates to, or else where there is most room. Boxes that the target
    gives are never changed, but those that it only repeats from the source. Raises a GraphError where a predicate does
    not say where things are, or no place will do.
    """
    scene = _Scene.of(source, target, operations, max(step, 1 / GRID))
    scene.relate([op.target for op in operations if isinstance(op, ChangeRelation)], FAIRLY)
    scene.relate([op.target for op in operations if isinstance(op, AddRelation)], BARELY)
    scene.move()
    for operation in operations:
        if isinstance(operation, Add):
            scene.add(operation.target)
    graph = SceneGraph(target.objects, tuple(scene.boxes), target.attributes, target.triples, target.ids, target.image)
    return graph, "; ".join(scene.said)


class _Scene:
    """The target's boxes while they are chosen, and what was said of it."""

    def __init__(
        self, target: SceneGraph, boxes: list[Box | None], origin: dict[int, int], given: set, new: set, wanted: set,
        step: float, floor: bool | None, growth: float,
    ):  # fmt: skip
        self.target, self.boxes, self.origin = target, boxes, origin
        self.floor, self.growth = floor, growth
        self.given, self.new = given, new
        self.wanted = wanted  # triples that are new and need not hold yet
        self.steps = sorted({step, 1 / GRID}, reverse=True)  # to be tried in that order
        self.unmet: list[Triple] = []  # those for which something must move
        self.said: list[str] = []

    @classmethod
    def of(cls, source: SceneGraph, target: SceneGraph, operations: Sequence[Operation], step: float) -> _Scene:
        origin = {j: i for i, j in same_objects(source, target).items()}
        boxes = [source.boxes[origin[j]] if box is None and j in origin else box for j, box in enumerate(target.boxes)]
        given = {operation.target for operation in operations if isinstance(operation, (Move, Resize))}
        new = {operation.target for operation in operations if isinstance(operation, Add)}
        wanted = {operation.target for operation in operations if isinstance(operation, (ChangeRelation, AddRelation))}
        floor = shows_floor(source)
        return cls(target, boxes, origin, given, new, wanted, step, floor, growth(source) if floor else 0.0)

    # Moving -----------------------------------------------------------------------------------------------------------

    def relate(self, triples: Sequence[Triple], enough: int) -> None:
        """Find out which new triples move something; those that hold at the level `enough` do not."""
        for triple in triples:
            subject, predicate, object = triple
            if self.new & {subject, object} or self.given & {subject, object}:
                continue
            if unknown := [self._name(i) for i in (subject, object) if self.boxes[i] is None]:
                self.said.append(f"no box of {unknown[0]} is known, so the model chooses where {self._claim(triple)}")
            elif self._kind(predicate) is None:
                if self.target.boxes[subject] is None:
                    raise GraphError(
                        f"{predicate!r} does not say where {self._name(subject)} is to be: "
                        f"give object {subject} of the edited graph a box, its old one if it stays"
                    )
            elif self._true(triple, enough):
                self.wanted.discard(triple)
                self.said.append(f"{self._name(subject)} stays where it is, since {self._claim(triple)} already")
            else:
                self.unmet.append(triple)

    def move(self) -> None:
        """The object of most unmet relations, and of equals the first's subject, moves first."""
        while self.unmet:
            group, boxes, triples, crowded = self._smallest()
            self.wanted -= set(triples)
            self.unmet = [triple for triple in self.unmet if triple not in triples]
            moves = []
            for i, box in zip(group, boxes):
                old, self.boxes[i] = self.boxes[i], _within(box)
                moves.append(str(Move(self.origin[i], i, self._words(i), (old, self.boxes[i]))))
            over = ", over other things, since nothing has room" * crowded
            self.said.append(f"{' and '.join(moves)}{over}, so that {' and '.join(map(self._claim, triples))}")

    def _smallest(self) -> tuple[list[int], np.ndarray, list[Triple], bool]:
        """What moves where, boxes (G,4), the triples that hold for it, and whether it had to go over others."""
        ends = [index for subject, _, object in self.unmet for index in (subject, object)]
        movers = sorted(dict.fromkeys(ends), key=lambda index: -ends.count(index))
        tries = []
        for left_open in (True, False):  # an edited graph that gives all boxes but one asks for that thing to move
            some = [mover for mover in movers if (self.target.boxes[mover] is None) == left_open]
            for _, tier in groupby(some, ends.count):
                tries += [(level, mover) for level, mover in product((CLEARLY, FAIRLY, PLAINLY), list(tier))]
            tries += [(BARELY, mover) for mover in some]
        for crowded, (level, mover) in product((False, True), tries):
            triples = [triple for triple in self.unmet if mover in triple[::2]]
            for group, step in product(self._groups(mover, {_other(triple, mover) for triple in triples}), self.steps):
                boxes = np.array([self.boxes[i] for i in group])
                shifts = _lattice(-boxes[:, :2].min(0), 1 - boxes[:, 2:].max(0), step)
                boxes = self._moved(boxes, shifts)
                good, covered = self._good(group, boxes, triples, level, crowded)
                good &= (np.abs(boxes - 0.5) <= 0.5 + ROUNDING).all((1, 2))
                if good.any():
                    best = np.lexsort(
                        (np.hypot(*shifts.T), covered, ~self._as_on_a_floor(group, boxes, triples), ~good)
                    )[0]
                    return group, boxes[best], triples, crowded
        claims = " and ".join(self._claim(triple) for triple in self.unmet if movers[0] in triple[::2])
        raise GraphError(
            f"no move within the picture makes it true that {claims}, with all other relations as they are: "
            f"give object {movers[0]} of the edited graph a box, or change other relations too"
        )

    def _moved(self, boxes: np.ndarray, shifts: np.ndarray) -> np.ndarray:
        """Boxes (G,4) after shifts (K,2) as (K,G,4): a thing alone on a floor as large as it looks there."""
        moved = boxes + np.tile(shifts, 2)[:, None]
        if len(boxes) == 1 and self.growth:
            size = (1 + self.growth * shifts[:, 1]).clip(0.5, 2)[:, None] * (boxes[0, 2:] - boxes[0, :2])
            foot = (moved[:, 0, :1] + moved[:, 0, 2:3]) / 2, moved[:, 0, 3:]
            moved = np.concatenate(
                [foot[0] - size[:, :1] / 2, foot[1] - size[:, 1:], foot[0] + size[:, :1] / 2, foot[1]], 1
            )
            moved = moved[:, None]
        return moved

    def _as_on_a_floor(self, group: list[int], boxes: np.ndarray, triples: Sequence[Triple]) -> np.ndarray:
        """For `boxes` (K,G,4) of the group: whether what comes in front of others comes lower as well, if there may be a floor."""
        right = np.ones(len(boxes), bool)
        at = {i: boxes[:, g] for g, i in enumerate(group)}
        for s, predicate, o in triples if self.floor is None else ():
            if kind := STANDING.get(self._kind(predicate)):
                right &= relation_margin_holds(
                    kind, *(at[i] if i in at else np.array(self.boxes[i]) for i in (s, o)), PLAINLY
                )
        return right

    def _groups(self, mover: int, others: set[int]) -> Iterator[list[int]]:
        """What may move for a relation's sake: one thing, and it with its contents."""
        yield [mover]
        contents = self._contents(mover)
        if len(contents) > 1 and not contents & (others | self.given):
            yield sorted(contents)

    def _contents(self, mover: int) -> set[int]:
        group, before = {mover}, set()
        while group != before:
            before = set(group)
            for s, predicate, o in self._settled():
                kind = self._kind(predicate)
                if o in group and (kind in ("inside", "on") or self._tied(s, kind, o)):
                    group.add(s)
                if s in group and (kind == "around" or self._tied(s, kind, o)):
                    group.add(o)
        return group

    def _tied(self, s: int, kind: str | None, o: int) -> bool:
        """A man and the hat that he wears: related by what is no place, and overlapping."""
        return kind is None and self._shape(s, o).gap < 0

    # Adding -----------------------------------------------------------------------------------------------------------

    def add(self, index: int) -> None:
        if self.boxes[index] is not None or not any(self.boxes):
            return
        triples = [triple for triple in self.target.triples if index in triple[::2]]
        for subject, predicate, object in triples:
            if self._kind(predicate) is None:
                raise GraphError(
                    f"{predicate!r} does not say where {self._name(index)} is to be: "
                    f"give object {index} of the edited graph a box"
                )
        self.wanted -= set(triples)
        triples = [triple for triple in triples if self.boxes[_other(triple, index)] is not None]
        size = known_size(index, self.target.objects, self.target.attributes, self.boxes)
        size = np.full(2, SIZE) if size is None else size
        lattices = [self._places(size, triples, index, step) for step in self.steps]
        for level, (boxes, cost) in product(LEVELS[:LOOSELY], lattices):
            good, _ = self._good([index], boxes[:, None], triples, level)
            if good.any():
                box = boxes[np.where(good, cost, np.inf).argmin()]
                self.boxes[index] = _within(box)
                x, y = ((box[:2] + box[2:]) / 2).tolist()
                claims = f", so that {' and '.join(map(self._claim, triples))}" if triples else ""
                self.said.append(f"put {self._name(index)} of {size[0]:.2f} x {size[1]:.2f} at {x:.2f} {y:.2f}{claims}")
                return
        raise GraphError(f"there is no room for {self._name(index)}: give object {index} of the edited graph a box")

    def _places(
        self, size: np.ndarray, triples: Sequence[Triple], index: int, step: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """Boxes (K,4) of a size that lie in the picture, and what speaks against each (K,)."""
        corners = _lattice(np.zeros(2), 1 - size, step)
        boxes = np.concatenate([corners, corners + size], 1)
        centres = corners + size / 2
        if triples:
            anchors = np.array([self.boxes[_other(triple, index)] for triple in triples])
            return boxes, np.hypot(*(centres - (anchors[:, :2] + anchors[:, 2:]).mean(0) / 2).T)
        others = [Shape.of(boxes, np.array(box)).gap for box in self.boxes if box is not None and not is_ground(box)]
        room = np.min([corners.min(1), (1 - boxes[:, 2:]).min(1), *others], axis=0)
        return boxes, np.hypot(*(centres - 0.5).T) / GRID - room  # of places with equal room, the one in the middle

    # What must hold ---------------------------------------------------------------------------------------------------

    def _good(
        self, group: list[int], boxes: np.ndarray, wanted: Sequence[Triple], level: int, crowded: bool = False
    ) -> tuple[np.ndarray, np.ndarray]:
        """For `boxes` (K,G,4) of the group: whether `wanted` holds at the level, and else what held holds as clearly; and
        the greatest share that unrelated things cover of each other, which must be none but where it is `crowded`."""
        good, covered = np.ones(len(boxes), bool), np.zeros(len(boxes))
        at = {i: boxes[:, g] for g, i in enumerate(group)}
        related: dict[frozenset, set[str | None]] = {}  # for pairs of one in the group and one outside
        for triple in dict.fromkeys((*wanted, *self._settled())):
            s, predicate, o = triple
            if (s in at) == (o in at) or self.boxes[o if s in at else s] is None:
                continue
            kind = self._kind(predicate)
            related.setdefault(frozenset((s, o)), set()).add(kind)
            if triple in wanted:
                required = level
            elif kind is None:
                good &= ~self._tied(s, kind, o) | (np.abs(boxes[:, 0] - self.boxes[group[0]]).max(-1) < ROUNDING)
                continue
            else:
                required = next((each for each in LEVELS if self._true(triple, each)), None)
            if required is not None:
                s, o = (at[i] if i in at else np.array(self.boxes[i]) for i in (s, o))
                good &= relation_margin_holds(kind, s, o, required)
        for i in group:
            for other, box in enumerate(self.boxes):
                if other in at or box is None or is_ground(box) or self.boxes[i] and is_ground(self.boxes[i]):
                    continue
                kinds = related.get(frozenset((i, other)), set())
                before = self._shape(i, other).gap if self.boxes[i] is not None else GAP
                asked = any({i, other} == {s, o} for s, _, o in wanted)
                if kinds & set(OVERLAPPING) or before < -ROUNDING and not asked:
                    continue
                shape = Shape.of(at[i], np.array(box))
                if crowded:
                    covered = np.maximum(covered, _share(shape, at[i], np.array(box)))
                    continue
                gap = shape.gap
                good &= gap >= (min(GAP, max(before, 0)) if level < BARELY else 0) - ROUNDING
        return good & (covered <= HIDDEN[CLEARLY]), covered

    def _settled(self) -> list[Triple]:
        """The triples that hold already, as far as they go by boxes."""
        return [
            t for t in self.target.triples if t not in self.wanted and None not in (self.boxes[t[0]], self.boxes[t[2]])
        ]

    def _kind(self, predicate: str) -> str | None:
        kind = kind_of(predicate)
        return STANDING.get(kind, kind) if self.floor else kind

    def _true(self, triple: Triple, level: int) -> bool:
        s, predicate, o = triple
        return bool(
            relation_margin_holds(self._kind(predicate), np.array(self.boxes[s]), np.array(self.boxes[o]), level)
        )

    def _shape(self, i: int, j: int) -> Shape:
        return Shape.of(np.array(self.boxes[i]), np.array(self.boxes[j]))

    # Saying so --------------------------------------------------------------------------------------------------------

    def _words(self, index: int) -> str:
        return " ".join((*self.target.attributes[index], self.target.objects[index]))

    def _name(self, index: int) -> str:
        return f"{self._words(index)!r} (object {index} of the new graph)"

    def _claim(self, triple: Triple) -> str:
        return f"{self._words(triple[0])!r} is {triple[1]} {self._words(triple[2])!r}"


def _other(triple: Triple, index: int) -> int:
    return triple[2] if triple[0] == index else triple[0]


def _share(shape: Shape, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """What two boxes (...,4) of that Shape have in common, of the smaller one."""
    areas = (np.prod(box[..., 2:] - box[..., :2], axis=-1) for box in (a, b))
    return shape.wide.clip(0) * shape.high.clip(0) / np.minimum(*areas)


def _lattice(low: np.ndarray, high: np.ndarray, step: float) -> np.ndarray:  # (2,), (2,) -> (K,2)
    """All whole steps from `low` to `high`, each axis apart; 0 is one of them if it lies between."""
    axes = [
        np.arange(np.ceil(a / step - ROUNDING), np.floor(b / step + ROUNDING) + 1) * step for a, b in zip(low, high)
    ]
    return np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 2)


def _within(box: np.ndarray) -> Box:
    return tuple(np.clip(box, 0, 1).tolist())
