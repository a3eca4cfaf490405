"""Boxes for the objects of a graph that tells none, or only some, so that its triples can be seen to hold.

How two objects lie costs something: for each triple between them what PENALTY says of the clearest level (`ldm.places`)
at which it holds, and for being too close where no triple asks for that. All costs together are made least by
min-conflicts (Minton et al. 1992): the objects are put somewhere, one by one where each costs least; then one that costs
more than it must goes where it costs least, until none does. Ties, and who goes, are drawn from a seed.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np

from ldm.graph.scene_graph import SceneGraph
from ldm.graph.spatial_relations import (
    GAP,
    LEVELS,
    OVERLAPPING,
    ROUNDING,
    SIZE,
    Shape,
    is_ground,
    kind_of,
    known_size,
    relation_holds,
    relation_margin_holds,
)
from ldm.graph.validation import Box

# Cells across the picture. Boxes lie on whole coarse ones, where the models that ship draw best, having learned there; on
# fine ones only where the coarse will not do.
COARSE, FINE = 16, 32
CROWD = 10  # of more objects than so many, the coarse cells have no room for
PENALTY = np.array((0, 0, 1, 4, 8, 64))  # of a triple that holds at each of the LEVELS, and of one that does not
CLOSE, OVERLAP = 2, 32  # of two boxes with less than GAP between them, and of two that overlap
# The share of a thing that another in front of it best covers, so that both can be told whatever their outlines, and what
# it costs to cover more or less.
HIDDEN, HIDE = 0.34, 10
# In turn: the cells, what sizes are scaled by that nothing tells, and those that are told, and the cost of the worst pair
# that is good enough.
TRIED = (
    (COARSE, 1.0, 1.0, 4),
    (FINE, 1.0, 1.0, 4),
    (FINE, 0.75, 1.0, 16),
    (FINE, 0.5, 0.75, 16),
    (FINE, 0.3, 0.5, 16),
)
MOVES, PATIENCE = 800, 3  # in all, for each of these; and for each object without anything better, then all begins anew
WANDER = 0.05  # share of moves that go anywhere
ROOM, SHARED = 1.75, 1.3  # side of what holds others, of the largest's side and of that of all of them together
WHOLE = 0.9  # side, at most, of what holds others


def generate_layout(graph: SceneGraph, seed: int) -> tuple[SceneGraph, str]:
    """The graph with a box for every object, and what could not be had, as a sentence; empty where nothing is wrong.

    Boxes that the graph has stay; the others depend on the graph and the seed alone. Every triple whose predicate says
    where things are holds as clearly as can be, nothing overlaps that none of them asks to overlap, but a ground, and all
    lies in the picture. Sizes are those that the graph tells by what is alike and by words (`places.known_size`), the
    smaller of the two; else SIZE, less among many objects, more for what holds others. Where nothing else will do,
    things shrink. Of a graph that contradicts itself the layout is the one that breaks least of those tried.
    """
    if all(graph.boxes):
        return graph, ""
    rng, best = np.random.default_rng(seed % 2**64), None
    for cells, unknown, told, enough in TRIED[len(graph.objects) > CROWD :]:
        found = _Search(graph, sizes(graph, cells, unknown, told), cells).run(rng)
        if best is None or found[:2] < best[:2]:
            best = found
        if best.worst <= enough:
            break
    boxes = best.boxes
    arranged = SceneGraph(graph.objects, boxes, graph.attributes, graph.triples, graph.ids, graph.image)
    return arranged, _complaint(graph, boxes)


def sizes(graph: SceneGraph, cells: int = COARSE, unknown: float = 1.0, told: float = 1.0) -> np.ndarray:  # (O,2)
    """Of each object's box: its own, else what is told of it, else a square. `unknown` and `told` scale those two."""

    def whole(size):
        return np.maximum(np.round(np.asarray(size) * cells), 1) / cells

    gap = math.ceil(GAP * cells)
    tile = (cells + gap) // math.ceil(math.sqrt(1.5 * len(graph.objects))) - gap  # a third of the tiles is left free
    found, free, words = np.full((len(graph.objects), 2), whole(unknown * min(SIZE, tile / cells))), [], []
    for index, box in enumerate(graph.boxes):
        if box is not None:
            found[index] = np.subtract(box[2:], box[:2])
        elif (size := known_size(index, graph.objects, graph.attributes, graph.boxes)) is not None:
            word = known_size(index, graph.objects, graph.attributes, ())
            found[index] = whole(told * np.minimum(size, 1.0 if word is None else word))
            words.append(index)
        else:
            free.append(index)

    inside, holding = defaultdict(set), defaultdict(set)  # what each object has in it, and what it has in it or on it
    for subject, predicate, object in graph.triples:
        kind = kind_of(predicate)
        if kind in ("inside", "around", "on"):
            host, thing = (subject, object) if kind == "around" else (object, subject)
            holding[host].add(thing)
            if kind != "on":
                inside[host].add(thing)
    for _ in range(3):  # as deep as things are nested
        for host in free:
            least = [ROOM * found[i].max() for i in inside[host]]
            if len(holding[host]) > 1:
                least.append(SHARED * math.sqrt(sum(np.prod(found[i] + GAP) for i in holding[host])))
            if least:
                found[host] = np.maximum(found[host], min(whole(max(least)), WHOLE))
    for host in inside:
        if host in words:  # a word leaves a coarse cell's freedom
            room = whole(ROOM * max(found[i].max() for i in inside[host]))
            found[host] = np.maximum(found[host], np.minimum(room, found[host] + 1 / COARSE))
        for thing in inside[host] & set(free):
            found[thing] = np.minimum(found[thing], found[host].min() / ROOM)
    return found


class _Layout(NamedTuple):
    worst: int  # what any two objects cost, at most
    total: int
    boxes: Sequence[Box]


class _Search:
    """The objects without a box, from 0 on, each at a place: whole cells from the left and from the top.

    alone: of each object, (across,down): what it costs at each of its places beside the boxes that stay.
    pairs: of each two, (2 cells + 1,) * 2: what they cost at each shift of the first from the second, from -cells on. With
    these a move is weighed everywhere at once.
    """

    def __init__(self, graph: SceneGraph, size: np.ndarray, cells: int):
        self.graph, self.cells = graph, cells
        self.objects = [index for index, box in enumerate(graph.boxes) if box is None]
        self.size = size[self.objects]
        places = np.floor((1 - self.size) * cells + ROUNDING).astype(int) + 1  # so many across and down
        words = _words(graph)
        self.alone, self.pairs = [], {}
        for i, own, (across, down) in zip(self.objects, self.size, places):
            boxes = _boxes(range(across), range(down), own, cells)
            stay = [(np.array(box), words[i, j]) for j, box in enumerate(graph.boxes) if box is not None]
            self.alone.append(sum((cost(boxes, *other) for other in stay), np.zeros((across, down), int)))
        known = {}
        for a, i in enumerate(self.objects):
            for b, j in enumerate(self.objects[:a]):
                key = (*self.size[a], *self.size[b], *words[i, j])
                if key not in known:
                    boxes = _boxes(range(-cells, cells + 1), range(-cells, cells + 1), self.size[a], cells)
                    known[key] = cost(boxes, np.array([0, 0, *self.size[b]]), words[i, j])
                self.pairs[a, b], self.pairs[b, a] = known[key], known[key][::-1, ::-1]
        # What must be paid anyway, by each two objects and, in the last column, beside the boxes that stay.
        count = len(self.objects)
        self.least = np.zeros((count, count + 1), int)
        self.least[:, count] = [costs.min() for costs in self.alone]
        for (a, b), costs in self.pairs.items():
            (left, up), (right, down) = cells + 1 - places[b], cells + places[a]  # shifts that lie within the picture
            self.least[a, b] = costs[left:right, up:down].min()

    def run(self, rng: np.random.Generator) -> _Layout:
        """The best layout of as many as MOVES allow."""
        best, moves, count = None, 0, len(self.objects)
        while moves < MOVES:
            at, paid = np.zeros((count, 2), int), np.zeros((count, count + 1), int)
            order = rng.permutation(count)
            for n, a in enumerate(order):
                self._move(a, order[:n], at, paid, rng)
            since, least = 0, math.inf
            while moves < MOVES and since < PATIENCE * count:
                layout = int(paid.max()), int(paid.sum() + paid[:, count].sum()) // 2  # that column is there once
                if layout[1] < least:
                    since, least = 0, layout[1]
                if best is None or layout < best[:2]:
                    best = *layout, at.copy()
                over = np.flatnonzero((paid > self.least).any(1))
                if not len(over):
                    moves = MOVES
                    break
                a = rng.choice(over)
                self._move(a, order[order != a], at, paid, rng)
                moves, since = moves + 1, since + 1
        worst, total, at = best
        boxes = list(self.graph.boxes)
        for index, place, size in zip(self.objects, at / self.cells, self.size):
            boxes[index] = tuple(np.clip([*place, *(place + size)], 0, 1).tolist())
        return _Layout(worst, total, boxes)

    def _move(self, a: int, others: np.ndarray, at: np.ndarray, paid: np.ndarray, rng: np.random.Generator) -> None:
        """Put one object where it costs least beside the others, or now and then anywhere."""
        costs = self.alone[a].copy()
        across, down = costs.shape
        for b in others:
            x, y = self.cells - at[b]
            costs += self.pairs[a, b][x : x + across, y : y + down]
        good = np.flatnonzero(costs == costs.min()) if rng.random() >= WANDER else range(costs.size)
        at[a] = divmod(int(good[rng.integers(len(good))]), down)
        for b in others:
            paid[a, b] = paid[b, a] = self.pairs[a, b][tuple(at[a] - at[b] + self.cells)]
        paid[a, -1] = self.alone[a][tuple(at[a])]


def cost(boxes: np.ndarray, other: np.ndarray, words: Sequence[tuple[str, bool]]) -> np.ndarray:
    """What it costs that boxes (...,4), all of one size, lie as they do to another (4,); words: the kinds of predicates
    between them, and of each whether the first is its subject."""
    total, shape = np.zeros(boxes.shape[:-1], int), Shape.of(boxes, other)
    for kind, forward in words:
        subject, object = (boxes, other) if forward else (other, boxes)
        total += PENALTY[
            len(LEVELS) - sum(relation_margin_holds(kind, subject, object, level).astype(int) for level in LEVELS)
        ]
        if kind in ("front", "behind"):
            behind = other if (kind == "front") == forward else boxes
            covered = shape.wide.clip(0) * shape.high.clip(0) / np.prod(behind[..., 2:] - behind[..., :2], axis=-1)
            total += np.round(HIDE * np.abs(covered - HIDDEN)).astype(int)
    grounds = is_ground(other) or is_ground(boxes.reshape(-1, 4)[0])
    if not grounds and not any(kind in OVERLAPPING for kind, _ in words):
        total += np.where(shape.gap < -ROUNDING, OVERLAP, np.where(shape.gap < GAP - ROUNDING, CLOSE, 0))
    return total


def _words(graph: SceneGraph) -> dict[tuple[int, int], list[tuple[str, bool]]]:
    """By two objects, the kinds of predicates between them, and of each whether the first is its subject."""
    words = defaultdict(list)
    for subject, predicate, object in dict.fromkeys(graph.triples):
        if (kind := kind_of(predicate)) is not None:
            words[subject, object].append((kind, True))
            words[object, subject].append((kind, False))
    return words


def _boxes(across: Sequence[int], down: Sequence[int], size: np.ndarray, cells: int) -> np.ndarray:  # (across,down,4)
    corners = np.stack(np.meshgrid(across, down, indexing="ij"), -1) / cells
    return np.concatenate([corners, corners + size], -1)


def _complaint(graph: SceneGraph, boxes: Sequence[Box]) -> str:
    """What does not hold of the boxes that were chosen."""

    def name(index: int) -> str:
        return f"{' '.join((*graph.attributes[index], graph.objects[index]))!r} (object {index})"

    words, wrong = _words(graph), []
    for s, predicate, o in dict.fromkeys(graph.triples):
        if None in (graph.boxes[s], graph.boxes[o]) and relation_holds(boxes[s], predicate, boxes[o]) is False:
            wrong.append(f"{name(s)} is {predicate} {name(o)}")
    for i, j in combinations(range(len(boxes)), 2):
        chosen = None in (graph.boxes[i], graph.boxes[j])
        asked = any(kind in OVERLAPPING for kind, _ in words[i, j])
        if chosen and not asked and cost(np.array(boxes[i]), np.array(boxes[j]), ()) >= OVERLAP:
            wrong.append(f"{name(i)} does not overlap {name(j)}")
    if len(wrong) > 3:
        wrong[3:] = [f"{len(wrong) - 3} things more hold"]
    return f"no boxes were found with which {' and '.join(wrong)}" if wrong else ""
