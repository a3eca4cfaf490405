"""Decides whether a picture shows what a scene graph says.

The checker reads pixels (`WorldReader.read_scene`); it never sees the model that made them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import combinations
from typing import NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment

from ldm.graph.scene_graph import SceneGraph
from ldm.graph.validation import Box
from ldm.synthetic.annotation import box_of
from ldm.synthetic.readings import SceneReading
from ldm.synthetic.worlds import WorldReader, find_reader
from ldm.util.images import Picture

MAX_OFFSET = 2.5 / 64  # of an object's middle from its box's middle, as a share of the picture's side
MAX_SIDE_ERROR = 3.5 / 64  # of an object's width and height
MAX_STRAY_PIXELS = 20  # of a picture of 64 x 64
FULL_MATCH = 1000.0  # similarity from which on an object agrees with the graph in everything


class Verdict(NamedTuple):
    """Result of a comparison of a picture with a target graph."""

    passed: bool  # the picture shows everything that the graph says, and nothing else
    objects: tuple[bool, ...]  # for each target object: present with all its attributes, and at its box if it has one
    triples: tuple[bool, ...]  # for each target triple: holds between the objects in the picture
    extra: int  # objects in the picture that the graph lacks
    complaints: tuple[str, ...]  # the differences, a sentence each


def read_scene(world: str, picture: Picture) -> SceneReading:
    """Recovers objects, relations and style from a picture of the world of this name."""
    return find_reader(world).read_scene(picture)


def check(target: SceneGraph, image: Picture | SceneReading, world: str | WorldReader = "shapes") -> Verdict:
    """Compares a picture, or a reading of it, with the graph that it should show.

    Attributes, boxes and triples that the graph leaves out may be anything; objects that it leaves out are extra.

    Args:
        world: the synthetic world or its name.

    Raises:
        UserError: there is no such world.
    """
    reader = find_reader(world) if isinstance(world, str) else world
    reading = image if isinstance(image, SceneReading) else reader.read_scene(image)
    if reading.graph is None:
        count = len(target.objects)
        complaints = [f"{_describe(target, index)}, is missing" for index in range(count)]
        verdict = Verdict(False, (False,) * count, (False,) * len(target.known_triples), 0, tuple(complaints))
    else:
        verdict = _Comparison(reader, target, reading, reading.graph).verdict()
    if reading.stray_pixels > MAX_STRAY_PIXELS:
        complaint = f"{reading.stray_pixels} pixels have an object's colour, but belong to no known object"
        verdict = verdict._replace(passed=False, complaints=(*verdict.complaints, complaint))
    return verdict


def find_partners(target: SceneGraph, reading: SceneReading, world: str | WorldReader = "shapes") -> list[int | None]:
    """For each target object the index of the object of a reading that it is, or None if it is missing."""
    if reading.graph is None:
        return [None] * len(target.objects)
    reader = find_reader(world) if isinstance(world, str) else world
    return _Comparison(reader, target, reading, reading.graph).partner


class _Comparison:
    """A target graph against the reading of a picture, whose graph is `shown`."""

    def __init__(self, world: WorldReader, target: SceneGraph, reading: SceneReading, shown: SceneGraph):
        self.world, self.target, self.reading, self.shown = world, target, reading, shown
        self.partner = self._match_objects()  # of each target object, the index of the object in the picture, or None

    def verdict(self) -> Verdict:
        complaints, objects = [], []
        for index, other in enumerate(self.partner):
            differences = ["is missing"] if other is None else list(self._differences(index, other))
            objects.append(not differences)
            complaints += [f"{_describe(self.target, index)}, {difference}" for difference in differences]
        triples = [self._triple_holds(triple, self.partner) for triple in self.target.known_triples]
        for (subject, predicate, object), holds in zip(self.target.known_triples, triples):
            if not holds and None not in (self.partner[subject], self.partner[object]):
                ends = f"{_describe(self.target, subject)} and {_describe(self.target, object)}"
                complaints.append(f"{predicate!r} does not hold between {ends}")
        extra = [index for index in range(len(self.shown.objects)) if index not in self.partner]
        complaints += [f"there is a {_name(self.shown, index)} that the graph lacks" for index in extra]
        return Verdict(not complaints, tuple(objects), tuple(triples), len(extra), tuple(complaints))

    def _match_objects(self) -> list[int | None]:
        """Assigns objects of the picture to target objects, one to one, so that the total similarity is largest.

        Triples decide between objects that agree equally well.
        """
        rows, columns = range(len(self.target.objects)), range(len(self.shown.objects))
        similarity = np.array([[self._similarity(i, j) for j in columns] for i in rows])
        partner = assign(similarity)
        improved = True
        while improved:
            improved = False
            for i, j in combinations(rows, 2):
                a, b = partner[i], partner[j]
                if a is None or b is None or (similarity[np.ix_((i, j), (a, b))] < FULL_MATCH).any():
                    continue
                swapped = partner.copy()
                swapped[i], swapped[j] = b, a
                if self._count_true_triples(swapped) > self._count_true_triples(partner):
                    partner, improved = swapped, True
        return partner

    def _similarity(self, index: int, other: int) -> float:
        """At least FULL_MATCH for agreement in everything; above 0 if one may be the other, changed."""
        box, nearness = self.target.boxes[index], 0.0
        if box is not None:
            offset, _ = _compare_boxes(box, box_of(self.shown, other))
            nearness = max(0.0, 1 - math.hypot(*offset) / (4 * MAX_OFFSET))
        if next(self._differences(index, other), None) is None:
            return FULL_MATCH + nearness
        shared = [word for word in self.target.known_attributes[index] if word in self.shown.known_attributes[other]]
        same_name = self.target.objects[index] == self.shown.objects[other]
        same_look = any(word in self._look(index, other) for word in shared)
        if same_name and same_look:
            return 40.0 + len(shared) + 10 * nearness  # wherever it is
        if (same_name or same_look) and (nearness or box is None):
            return 5.0 + len(shared) + 10 * nearness
        return 0.0

    def _look(self, index: int, other: int) -> tuple[str, ...]:
        """The words that identify an object by its look: its colour; its finish where neither object has a colour."""
        words = {*self.target.known_attributes[index], *self.shown.known_attributes[other]}
        return self.world.colours if words & set(self.world.colours) else self.world.finishes

    def _differences(self, index: int, other: int) -> Iterator[str]:
        """How an object of the picture differs from the target object, as the ends of sentences."""
        if self.shown.objects[other] != self.target.objects[index]:
            yield f"is a {self.shown.objects[other]}"
        for word in self.target.known_attributes[index]:
            if word not in self.shown.known_attributes[other]:
                instead = set(self._alternatives(word)) & set(self.shown.known_attributes[other])
                yield f"is {instead.pop()}" if instead else f"is not clearly {word}"
        box = self.target.boxes[index]
        if box is not None:
            offset, growth = _compare_boxes(box, box_of(self.shown, other))
            if max(map(abs, offset)) > MAX_OFFSET:
                yield f"stands {_describe_offset(*offset)}"
            if max(map(abs, growth)) > MAX_SIDE_ERROR:
                yield f"is too {'large' if sum(growth) > 0 else 'small'} for its box"

    def _alternatives(self, word: str) -> tuple[str, ...]:
        """The words of the same kind: an object has at most one size, one colour and one finish."""
        kinds = self.world.sizes, self.world.colours, self.world.finishes
        return next((kind for kind in kinds if word in kind), ())

    def _count_true_triples(self, partner: list[int | None]) -> int:
        return sum(self._triple_holds(triple, partner) for triple in self.target.known_triples)

    def _triple_holds(self, triple: tuple[int, str, int], partner: list[int | None]) -> bool:
        subject, object = partner[triple[0]], partner[triple[2]]
        if subject is None or object is None:
            return False
        return self.world.triple_holds(self.reading, subject, triple[1], object)


def assign(similarity: np.ndarray) -> list[int | None]:
    """One-to-one assignment of rows to columns with the largest total similarity.

    Args:
        similarity: (R,C), not negative.

    Returns:
        For each row its column, or None if it has no column or its similarity there is 0.
    """
    rows, columns = linear_sum_assignment(similarity, maximize=True)
    column_of = {int(row): int(column) for row, column in zip(rows, columns) if similarity[row, column] > 0}
    return [column_of.get(row) for row in range(len(similarity))]


def _describe(graph: SceneGraph, index: int) -> str:
    return f"object {index}, the {_name(graph, index)}"


def _name(graph: SceneGraph, index: int) -> str:
    return " ".join((*graph.known_attributes[index], graph.objects[index]))


def _compare_boxes(box: Box, shown: Box) -> tuple[tuple[float, float], tuple[float, float]]:
    """How far the second box's middle lies to the right and below, and how much wider and higher that box is."""
    (left, top), (right, bottom) = np.subtract(shown, box).reshape(2, 2)
    return ((left + right) / 2, (top + bottom) / 2), (right - left, bottom - top)


def _describe_offset(dx: float, dy: float) -> str:
    directions = (dx, "right" if dx > 0 else "left"), (dy, "down" if dy > 0 else "up")
    parts = (f"{abs(100 * d):.0f} % of the picture too far {word}" for d, word in directions if abs(d) > MAX_OFFSET)
    return " and ".join(parts)
