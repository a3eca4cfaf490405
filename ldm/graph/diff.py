"""What an edit of a scene graph does: the operations that lead from one graph to another.

Objects are matched first: those with equal ids are the same, and the others are paired so that the pairs differ least
in name, box, attributes, relations and order. What is then unlike is an operation. Every operation knows the object
in the first graph (`source`) and in the second (`target`), the known boxes that it touches, old ones first, and how
to say itself in a sentence, where objects are numbered from 0 as in the first graph unless it says otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Union

import numpy as np

from ldm.graph.scene_graph import SceneGraph
from ldm.graph.validation import Box, Triple

STILL = 1e-3  # a box that moves or grows by less, a fraction of the image, stays as it is
UNMATCHED = 1.0  # cost of taking one object out and putting another in


@dataclass(frozen=True)
class Replace:
    """Another object in the same place: `name` by `new`, both with their attributes."""

    source: int
    target: int
    name: str
    new: str
    boxes: tuple[Box, ...]

    def __str__(self) -> str:
        return f"replace {self.name!r} (object {self.source}) by {self.new!r}"


@dataclass(frozen=True)
class Remove:
    """An object that is gone, and its relations with it."""

    source: int
    name: str
    boxes: tuple[Box, ...]

    def __str__(self) -> str:
        return f"remove {self.name!r} (object {self.source})"


@dataclass(frozen=True)
class Add:
    """A new object; its relations are AddRelations."""

    target: int
    name: str
    boxes: tuple[Box, ...]

    def __str__(self) -> str:
        return f"add {self.name!r} (object {self.target} of the new graph)"


@dataclass(frozen=True)
class Move:
    """Another centre of the box; `boxes` are the old one and the new one."""

    source: int
    target: int
    name: str
    boxes: tuple[Box, Box]

    def __str__(self) -> str:
        shift, _ = _change(*self.boxes)
        return f"move {self.name!r} (object {self.source}) {_ways(shift, ('left', 'right'), ('up', 'down'))}"


@dataclass(frozen=True)
class Resize:
    """Another width or height of the box; `boxes` are the old one and the new one."""

    source: int
    target: int
    name: str
    boxes: tuple[Box, Box]

    def __str__(self) -> str:
        _, growth = _change(*self.boxes)
        return f"make {self.name!r} (object {self.source}) {_ways(growth, ('narrower', 'wider'), ('lower', 'taller'))}"


@dataclass(frozen=True)
class ChangeAttribute:
    """Attributes that an object loses (`old`) and gains (`new`); either may be empty."""

    source: int
    target: int
    name: str
    old: tuple[str, ...]
    new: tuple[str, ...]
    boxes: tuple[Box, ...]

    def __str__(self) -> str:
        thing = f"{self.name!r} (object {self.source})"
        if not self.new:
            return f"make {thing} no longer {' and '.join(self.old)}"
        return f"make {thing} {' and '.join(self.new)}" + f" instead of {' and '.join(self.old)}" * bool(self.old)


@dataclass(frozen=True)
class RemoveRelation:
    """A triple that is gone between objects that are not; `names` are the subject's and the object's."""

    source: Triple
    names: tuple[str, str]
    boxes: tuple[Box, ...]

    def __str__(self) -> str:
        return f"remove the relation {_relation(self.source, self.names)}"


@dataclass(frozen=True)
class AddRelation:
    """A triple that is new; `names` are the subject's and the object's."""

    target: Triple
    names: tuple[str, str]
    boxes: tuple[Box, ...]

    def __str__(self) -> str:
        return f"add the relation {_relation(self.target, self.names, ' of the new graph')}"


@dataclass(frozen=True)
class ChangeRelation:
    """Another predicate between the same subject and object, whose `names` these are."""

    source: Triple
    target: Triple
    names: tuple[str, str]
    boxes: tuple[Box, ...]

    def __str__(self) -> str:
        return f"change the relation {_relation(self.source, self.names)} to {self.target[1]!r}"


Operation = Union[Replace, Remove, Add, Move, Resize, ChangeAttribute, RemoveRelation, AddRelation, ChangeRelation]


def diff(a: SceneGraph, b: SceneGraph) -> list[Operation]:
    """What leads from `a` to `b`: what happens to the objects of `a` in their order, then the new objects, then the
    relations. A box that only one of the graphs knows, the order of things and repeated triples are no difference."""
    match = same_objects(a, b)
    operations = []
    for i, box in enumerate(a.boxes):
        operations += _object_changes(a, i, b, match[i]) if i in match else [Remove(i, _label(a, i), _boxes(box))]
    operations += [Add(j, _label(b, j), _boxes(b.boxes[j])) for j in range(len(b.objects)) if j not in match.values()]
    return operations + _relation_changes(a, b, match)


def _object_changes(a: SceneGraph, i: int, b: SceneGraph, j: int) -> list[Operation]:
    operations, name, old, new = [], _label(a, i), a.boxes[i], b.boxes[j]
    if a.objects[i] != b.objects[j]:
        operations.append(Replace(i, j, name, _label(b, j), _boxes(old, new)))
    elif set(a.attributes[i]) != set(b.attributes[j]):
        lost = tuple(attribute for attribute in a.attributes[i] if attribute not in b.attributes[j])
        gained = tuple(attribute for attribute in b.attributes[j] if attribute not in a.attributes[i])
        operations.append(ChangeAttribute(i, j, name, lost, gained, _boxes(old, new)))
    if old is not None and new is not None:
        shift, growth = _change(old, new)
        if max(map(abs, shift)) > STILL:
            operations.append(Move(i, j, name, (old, new)))
        if max(map(abs, growth)) > STILL:
            operations.append(Resize(i, j, name, (old, new)))
    return operations


def _relation_changes(a: SceneGraph, b: SceneGraph, match: dict[int, int]) -> list[Operation]:
    """Between two objects, a predicate that is gone and one that is new are a change."""
    back = {j: i for i, j in match.items()}
    changes = {}  # subject and object in b: the triples of a that are gone, the triples of b that are new
    for s, predicate, o in dict.fromkeys(a.triples):
        there = match.get(s), predicate, match.get(o)
        if s in match and o in match and there not in b.triples:
            changes.setdefault((match[s], match[o]), ([], []))[0].append((s, predicate, o))
    for s, predicate, o in dict.fromkeys(b.triples):
        if (back.get(s), predicate, back.get(o)) not in a.triples:
            changes.setdefault((s, o), ([], []))[1].append((s, predicate, o))
    operations = []
    for ends, (gone, new) in changes.items():
        boxes = _boxes(*(a.boxes[back[j]] for j in ends if j in back), *(b.boxes[j] for j in ends))
        before, after = tuple(_label(a, back[j]) for j in ends if j in back), tuple(_label(b, j) for j in ends)
        operations += [ChangeRelation(old, other, before, boxes) for old, other in zip(gone, new)]
        operations += [RemoveRelation(old, before, boxes) for old in gone[len(new) :]]
        operations += [AddRelation(other, after, boxes) for other in new[len(gone) :]]
    return operations


def same_objects(a: SceneGraph, b: SceneGraph) -> dict[int, int]:
    """Index in `a` -> index in `b` of the same object. A first round knows objects by their names; what it pairs tells
    the next ones which neighbours and which order are the same."""
    n, m = len(a.objects), len(b.objects)
    renamed = np.array([[x != y for y in b.objects] for x in a.objects], dtype=float)
    boxes = np.array([[_apart(x, y) for y in b.boxes] for x in a.boxes])  # NaN where one is unknown
    attributes = _unlike([set(x) for x in a.attributes], [set(y) for y in b.attributes], neither=0.0)
    index = np.arange(n)[:, None] / n, np.arange(m)[None] / m
    same_id = np.array([[x is not None and x == y for y in b.ids] for x in a.ids])
    other_id = np.array([[None not in (x, y) and x != y for y in b.ids] for x in a.ids])

    match = None
    for _ in range(3):
        if match is None:
            links = _links(a, a.objects), _links(b, b.objects)
            order = np.zeros((n, m))
        else:
            links = _links(a, [match.get(i, -1 - i) for i in range(n)]), _links(b, range(m))
            order = _out_of_order(match, n, m)
        apart = np.where(np.isnan(boxes), order, boxes)
        relations = _unlike(*links, neither=0.5)
        # Less than UNMATCHED for every pair with one name, and for another name about as long as box (or, where that is
        # not known, place in the list) and relations together are more alike than not.
        cost = 0.35 * apart + 0.2 * relations + 0.1 * attributes + 0.05 * order
        cost += renamed * (0.45 + 0.45 * apart + 0.1 * relations if match is not None else UNMATCHED)
        cost += 1e-3 * (index[0] - index[1]) ** 2  # of equals, the first is the first
        cost = np.where(same_id, -10.0, np.where(other_id, UNMATCHED, cost))
        match = assign(np.minimum(cost - UNMATCHED, 0.0))
    return match


def _links(graph: SceneGraph, names: Sequence) -> list[set]:
    """What ties each object to its neighbours, which go by `names`: with the predicate and, for less, without it."""
    links = [set() for _ in graph.objects]
    for s, predicate, o in graph.triples:
        links[s] |= {("subject", predicate, names[o]), ("subject", None, names[o])}
        links[o] |= {("object", predicate, names[s]), ("object", None, names[s])}
    return links


def _unlike(a: list[set], b: list[set], neither: float) -> np.ndarray:  # (n,m) in [0,1]
    """One less intersection over union, and `neither` where both are empty."""
    return np.array([[len(x ^ y) / len(x | y) if x or y else neither for y in b] for x in a])


def _out_of_order(match: dict[int, int], n: int, m: int) -> np.ndarray:  # (n,m) in [0,1)
    """How many other pairs lie before the one object and behind the other: k pairs give k / (k + 1)."""
    i, j = np.arange(n)[:, None, None], np.arange(m)[None, :, None]
    p, q = np.array(list(match), dtype=int), np.array(list(match.values()), dtype=int)
    crossings = (((p < i) != (q < j)) & (p != i) & (q != j)).sum(-1)
    return crossings / (crossings + 1)


def _apart(a: Box | None, b: Box | None) -> float:  # in [0,1]
    """Mean of one less intersection over union, and the distance of the centres."""
    if a is None or b is None:
        return np.nan
    width, height = (max(0.0, min(a[k + 2], b[k + 2]) - max(a[k], b[k])) for k in (0, 1))
    both = width * height
    either = sum((x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in (a, b)) - both
    overlap = both / either if either > 0 else float(a == b)  # areas below 1e-308 are 0
    shift, _ = _change(a, b)
    return (1 - overlap) / 2 + min(float(np.hypot(*shift)), 1.0) / 2


def assign(cost: np.ndarray) -> dict[int, int]:
    """Row -> column of the cheapest assignment of costs (n,m) <= 0; a pair that costs 0 is left out.

    Shortest augmenting paths with potentials (Jonker and Volgenant, 1987): the least of n and m, squared, times the
    other.
    """
    n, m = cost.shape
    if n > m:
        return {row: column for column, row in assign(cost.T).items()}
    rows, columns = np.zeros(n), np.zeros(m)  # potentials: cost - rows - columns >= 0, and 0 where assigned
    row_of, column_of = np.full(m, -1), np.full(n, -1)
    for start in range(n):
        distance, via, done = np.full(m, np.inf), np.full(m, -1), np.zeros(m, dtype=bool)
        row, length = start, 0.0
        while row >= 0:
            through = length + cost[row] - rows[row] - columns
            nearer = ~done & (through < distance)
            distance[nearer], via[nearer] = through[nearer], row
            column = np.where(done, np.inf, distance).argmin()
            length, row, done[column] = distance[column], row_of[column], True
        spare = np.where(done, length - distance, 0.0)
        columns -= spare
        rows[start] += length
        rows[row_of[done & (row_of >= 0)]] += spare[done & (row_of >= 0)]
        while row != start:
            row = row_of[column] = via[column]
            column_of[row], column = column, column_of[row]
    return {row: int(column) for row, column in enumerate(column_of) if cost[row, column] < 0}


def _label(graph: SceneGraph, index: int) -> str:
    return " ".join((*graph.attributes[index], graph.objects[index]))


def _relation(triple: Triple, names: tuple[str, str], where: str = "") -> str:
    return f"{names[0]!r} {triple[1]} {names[1]!r} (objects {triple[0]} and {triple[2]}{where})"


def _boxes(*boxes: Box | None) -> tuple[Box, ...]:
    return tuple(dict.fromkeys(box for box in boxes if box is not None))


def _change(old: Box, new: Box) -> tuple[tuple[float, float], tuple[float, float]]:
    """How far the centre moved, and how much the box grew, in x and in y."""
    low, high = ((new[k] - old[k], new[k + 1] - old[k + 1]) for k in (0, 2))
    return tuple((p + q) / 2 for p, q in zip(low, high)), tuple(q - p for p, q in zip(low, high))


def _ways(change: tuple[float, float], *words: tuple[str, str]) -> str:
    """`change` in x and in y in words: of each pair the first says less than 0, and the second more."""
    ways = [(less if x < 0 else more, abs(x)) for x, (less, more) in zip(change, words) if abs(x) > STILL]
    return " and ".join(f"{way} by {x:.2f}" if x >= 0.01 else f"{way} by {x:.3f}" for way, x in ways)
