"""Where things go when a graph says only how they relate: the smallest move after which a new relation holds.

What a predicate means for two boxes is known here for the words of places that Visual Genome, COCO as sg2im reads it
and CLEVR use. It holds at one of five levels, from clearly to loosely; what is placed is placed at the clearest level
that can be had, and what held before the move holds after it as clearly. Down to plainly it cannot be taken for
another word: one of direction needs centres that differ by AXIS more on its axis than on the other, and GAP between
the boxes. Clearly and fairly can be seen whatever the things' outlines are. Loosely is what people also write.

Candidates are all moves by whole cells of a GRID, so the smallest is found exactly, to a cell.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from ldm.diff import Add, AddRelation, ChangeRelation, Move, Operation, Resize, same_objects
from ldm.graph import Box, SceneGraph, Triple
from ldm.graph_checks import GraphError

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


def kind_of(predicate: str) -> str | None:
    """Which of WORDS a predicate is; None where it does not say where things are."""
    return KIND.get(" ".join(predicate.lower().replace("_", " ").split()))


def holds(subject: Box, predicate: str, object: Box) -> bool | None:
    """Whether a triple is true of two boxes, loosely; None where boxes do not tell, as of which of two is in front."""
    kind = kind_of(predicate)
    if kind is None:
        return None
    true = bool(_holds(kind, np.array(subject), np.array(object), LOOSELY))
    return None if true and kind in ("front", "behind") else true


def place(source: SceneGraph, target: SceneGraph, operations: Sequence[Operation]) -> tuple[SceneGraph, str]:
    """The target with a box for each object of which one is known or can be chosen, and what was chosen, as a sentence;
    empty where there was nothing to choose. `operations` lead from source to target.

    Where a relation is new and no new box of either object is given, the subject moves the least way after which it and
    all that held before holds, in the picture and onto nothing that it is not asked to overlap; its contents go along
    if they must, and if all that is in vain the object of the relation moves instead. An object that is added without
    a box is placed by the same rules near what it relates to, or else where there is most room. Boxes that the target
    gives are never changed, but those that it only repeats from the source. Raises a GraphError where a predicate does
    not say where things are, or no place will do.
    """
    scene = _Scene.of(source, target, operations)
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
        self, target: SceneGraph, boxes: list[Box | None], origin: dict[int, int], given: set, new: set, wanted: set
    ):
        self.target, self.boxes, self.origin = target, boxes, origin
        self.given, self.new = given, new
        self.wanted = wanted  # triples that are new and need not hold yet
        self.unmet: list[Triple] = []  # those for which something must move
        self.said: list[str] = []

    @classmethod
    def of(cls, source: SceneGraph, target: SceneGraph, operations: Sequence[Operation]) -> _Scene:
        origin = {j: i for i, j in same_objects(source, target).items()}
        boxes = [source.boxes[origin[j]] if box is None and j in origin else box for j, box in enumerate(target.boxes)]
        given = {operation.target for operation in operations if isinstance(operation, (Move, Resize))}
        new = {operation.target for operation in operations if isinstance(operation, Add)}
        wanted = {operation.target for operation in operations if isinstance(operation, (ChangeRelation, AddRelation))}
        return cls(target, boxes, origin, given, new, wanted)

    # Moving -----------------------------------------------------------------------------------------------------------

    def relate(self, triples: Sequence[Triple], enough: int) -> None:
        """Find out which new triples move something; those that hold at the level `enough` do not."""
        for triple in triples:
            subject, predicate, object = triple
            if self.new & {subject, object} or self.given & {subject, object}:
                continue
            if unknown := [self._name(i) for i in (subject, object) if self.boxes[i] is None]:
                self.said.append(f"no box of {unknown[0]} is known, so the model chooses where {self._claim(triple)}")
            elif kind_of(predicate) is None:
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
            group, shift, triples = self._smallest()
            self.wanted -= set(triples)
            self.unmet = [triple for triple in self.unmet if triple not in triples]
            moves = []
            for i in group:
                old, self.boxes[i] = self.boxes[i], _within(np.array(self.boxes[i]) + np.tile(shift, 2))
                moves.append(str(Move(self.origin[i], i, self._words(i), (old, self.boxes[i]))))
            self.said.append(f"{' and '.join(moves)}, so that {' and '.join(map(self._claim, triples))}")

    def _smallest(self) -> tuple[list[int], np.ndarray, list[Triple]]:
        """What moves by which shift (2,), and the triples that hold for it."""
        ends = [index for subject, _, object in self.unmet for index in (subject, object)]
        movers = sorted(dict.fromkeys(ends), key=lambda index: -ends.count(index))
        tiers = [
            [mover for mover in movers if ends.count(mover) == n] for n in sorted(set(map(ends.count, ends)))[::-1]
        ]
        tries = [(level, mover) for tier in tiers for level in (CLEARLY, FAIRLY, PLAINLY) for mover in tier]
        for level, mover in [*tries, *((BARELY, mover) for mover in movers)]:
            triples = [triple for triple in self.unmet if mover in triple[::2]]
            for group in self._groups(mover, {_other(triple, mover) for triple in triples}):
                boxes = np.array([self.boxes[i] for i in group])
                shifts = _lattice(-boxes[:, :2].min(0), 1 - boxes[:, 2:].max(0))
                good = self._good(group, boxes + np.tile(shifts, 2)[:, None], triples, level)
                if good.any():
                    return group, shifts[np.where(good, np.hypot(*shifts.T), np.inf).argmin()], triples
        claims = " and ".join(self._claim(triple) for triple in self.unmet if movers[0] in triple[::2])
        raise GraphError(
            f"no move within the picture makes it true that {claims}, with all other relations as they are: "
            f"give object {movers[0]} of the edited graph a box, or change other relations too"
        )

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
                kind = kind_of(predicate)
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
            if kind_of(predicate) is None:
                raise GraphError(
                    f"{predicate!r} does not say where {self._name(index)} is to be: "
                    f"give object {index} of the edited graph a box"
                )
        self.wanted -= set(triples)
        triples = [triple for triple in triples if self.boxes[_other(triple, index)] is not None]
        size = np.minimum(self._size(index), 1)
        corners = _lattice(np.zeros(2), 1 - size)
        boxes = np.concatenate([corners, corners + size], 1)
        centres = corners + size / 2
        if triples:
            anchors = np.array([self.boxes[_other(triple, index)] for triple in triples])
            cost = np.hypot(*(centres - (anchors[:, :2] + anchors[:, 2:]).mean(0) / 2).T)
        else:
            others = [
                Shape.of(boxes, np.array(box)).gap for box in self.boxes if box is not None and not _is_ground(box)
            ]
            room = np.min([corners.min(1), (1 - boxes[:, 2:]).min(1), *others], axis=0)
            cost = np.hypot(*(centres - 0.5).T) / GRID - room  # of places with equal room, the one in the middle
        for level in LEVELS[:LOOSELY]:
            good = self._good([index], boxes[:, None], triples, level)
            if good.any():
                self.boxes[index] = _within(boxes[np.where(good, cost, np.inf).argmin()])
                x, y = (centres[np.where(good, cost, np.inf).argmin()]).tolist()
                claims = f", so that {' and '.join(map(self._claim, triples))}" if triples else ""
                self.said.append(f"put {self._name(index)} of {size[0]:.2f} x {size[1]:.2f} at {x:.2f} {y:.2f}{claims}")
                return
        raise GraphError(f"there is no room for {self._name(index)}: give object {index} of the edited graph a box")

    def _size(self, index: int) -> np.ndarray:  # (2,)
        """The mean of what has the same size word and name, else the same size word, else the same name."""
        name, words = self.target.objects[index], set(self.target.attributes[index]) & set(SIZES)
        known = [i for i, box in enumerate(self.boxes) if box is not None]
        alike = [i for i in known if words and words & set(self.target.attributes[i])]
        named = [i for i in known if self.target.objects[i] == name and (not words or i in alike)]
        alike = named or alike or ([i for i in known if self.target.objects[i] == name] if not words else [])
        if not alike:
            return np.full(2, SIZES[min(words)] if words else SIZE)
        boxes = np.array([self.boxes[i] for i in alike])
        return np.maximum(np.round((boxes[:, 2:] - boxes[:, :2]).mean(0) * GRID), 1) / GRID

    # What must hold ---------------------------------------------------------------------------------------------------

    def _good(self, group: list[int], boxes: np.ndarray, wanted: Sequence[Triple], level: int) -> np.ndarray:
        """For `boxes` (K,G,4) of the group: `wanted` holds at the level, and else what held holds as clearly."""
        good = np.ones(len(boxes), bool)
        at = {i: boxes[:, g] for g, i in enumerate(group)}
        related: dict[frozenset, set[str | None]] = {}  # for pairs of one in the group and one outside
        for triple in dict.fromkeys((*wanted, *self._settled())):
            s, predicate, o = triple
            if (s in at) == (o in at) or self.boxes[o if s in at else s] is None:
                continue
            kind = kind_of(predicate)
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
                good &= _holds(kind, s, o, required)
        for i in group:
            for other, box in enumerate(self.boxes):
                if other in at or box is None or _is_ground(box) or self.boxes[i] and _is_ground(self.boxes[i]):
                    continue
                kinds = related.get(frozenset((i, other)), set())
                before = self._shape(i, other).gap if self.boxes[i] is not None else GAP
                asked = any({i, other} == {s, o} for s, _, o in wanted)
                if kinds & set(OVERLAPPING) or before < -ROUNDING and not asked:
                    continue
                gap = Shape.of(at[i], np.array(box)).gap
                good &= gap >= (min(GAP, max(before, 0)) if level < BARELY else 0) - ROUNDING
        return good

    def _settled(self) -> list[Triple]:
        """The triples that hold already, as far as they go by boxes."""
        return [
            t for t in self.target.triples if t not in self.wanted and None not in (self.boxes[t[0]], self.boxes[t[2]])
        ]

    def _true(self, triple: Triple, level: int) -> bool:
        s, predicate, o = triple
        return bool(_holds(kind_of(predicate), np.array(self.boxes[s]), np.array(self.boxes[o]), level))

    def _shape(self, i: int, j: int) -> Shape:
        return Shape.of(np.array(self.boxes[i]), np.array(self.boxes[j]))

    # Saying so --------------------------------------------------------------------------------------------------------

    def _words(self, index: int) -> str:
        return " ".join((*self.target.attributes[index], self.target.objects[index]))

    def _name(self, index: int) -> str:
        return f"{self._words(index)!r} (object {index} of the new graph)"

    def _claim(self, triple: Triple) -> str:
        return f"{self._words(triple[0])!r} is {triple[1]} {self._words(triple[2])!r}"


def _holds(kind: str, s: np.ndarray, o: np.ndarray, level: int) -> np.ndarray:
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
        clear = _holds("below" if kind == "under" else "above", s, o, CLEARLY) & in_line
        return (clear, clear, clear, (down > 0) & (wide > 0), down > 0)[level]
    if kind == "around":
        return _holds("inside", o, s, level)
    if kind == "inside":
        room = np.concatenate([s[..., :2] - o[..., :2], o[..., 2:] - s[..., 2:]], -1).min(-1)
        middle = (np.abs(dx) < (o[..., 2] - o[..., 0]) / 2) & (np.abs(dy) < (o[..., 3] - o[..., 1]) / 2)
        clear = (room >= 1 / GRID - e) & _touching(s, o, CLEARLY)
        return clear if level == CLEARLY else room >= -e if level < LOOSELY else middle & (wide > 0) & (high > 0)
    if kind == "behind":
        return _holds("front", o, s, level)
    if kind == "front":
        if level == LOOSELY:
            return (wide > 0) & (high > 0)
        partly = (wide > e) & (high > e) & ~(_holds("inside", s, o, BARELY) | _holds("inside", o, s, BARELY))
        hidden = wide * high / np.prod(o[..., 2:] - o[..., :2], axis=-1)
        return partly if level >= PLAINLY else partly & _touching(s, o, level) & (hidden <= HIDDEN[level] + e)
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


def _is_ground(box: Box) -> bool:
    return (box[2] - box[0]) * (box[3] - box[1]) >= GROUND


def _other(triple: Triple, index: int) -> int:
    return triple[2] if triple[0] == index else triple[0]


def _lattice(low: np.ndarray, high: np.ndarray) -> np.ndarray:  # (2,), (2,) -> (K,2)
    """All whole cells from `low` to `high`, each axis apart; 0 is one of them if it lies between."""
    axes = [
        np.arange(np.ceil(a * GRID - ROUNDING), np.floor(b * GRID + ROUNDING) + 1) / GRID for a, b in zip(low, high)
    ]
    return np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 2)


def _within(box: np.ndarray) -> Box:
    return tuple(np.clip(box, 0, 1).tolist())
