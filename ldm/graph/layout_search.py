"""Search for the boxes of a layout: every relation has a cost, and min-conflicts search minimises their sum.

Objects are placed one by one where they cost least. Then a random one of the objects that cost more than necessary moves
to where it costs least, until there is none (Minton et al. 1992, min-conflicts). Ties are broken at random.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ldm.graph.scene_graph import SceneGraph
from ldm.graph.spatial_relations import (
    GAP,
    LEVELS,
    OVERLAPPING,
    ROUNDING,
    BoxPair,
    box_area,
    is_background,
    kind_of,
    relation_margin_holds,
)
from ldm.graph.validation import Box

RELATION_COSTS = np.array((0, 0, 1, 4, 8, 64))  # of a relation that holds at each of LEVELS, and of one that does not
GAP_COST, OVERLAP_COST = 2, 32  # of two boxes with a gap below GAP, and of two that overlap without a relation for it
# The share of an object that another in front of it should cover, so that both can be recognised, and the cost of a
# deviation by 1.
COVERED_SHARE, COVERED_COST = 0.34, 10
MAX_MOVES = 800  # of one search, with its restarts
PATIENCE = 3  # moves per object without an improvement before a restart
RANDOM_MOVES = 0.05  # share of moves to a random position

Relations = Sequence[tuple[str, bool]]  # between two objects: kinds, each with whether the first object is the subject


class Layout(NamedTuple):
    max_cost: float  # largest cost of two objects
    total_cost: float
    boxes: list[Box]


def search_layout(graph: SceneGraph, sizes: np.ndarray, cells: int, rng: np.random.Generator) -> Layout:
    """The layout with the smallest cost that the search finds; boxes of the graph stay as they are.

    Args:
        graph: at least one box is None.
        sizes: (O,2), width and height of each object's box.
        cells: grid cells per side of the image; the upper left corners of new boxes lie on this grid.
        rng: source of random numbers.
    """
    costs, moves = _cost_tables(graph, sizes, cells), 0
    best, positions = (math.inf, math.inf), np.empty(0)
    while moves < MAX_MOVES:
        state = _initial_state(costs, rng)
        stalled, least = 0, math.inf
        while moves < MAX_MOVES and stalled < PATIENCE * len(costs.objects):
            found = state.max_cost, state.total_cost
            if found[1] < least:
                stalled, least = 0, found[1]
            if found < best:
                best, positions = found, state.positions.copy()
            improvable = np.flatnonzero((state.paid > costs.least).any(1))
            if not len(improvable):
                moves = MAX_MOVES
                break
            a = int(rng.choice(improvable))
            _place(a, state.order[state.order != a], state, costs, rng)
            moves, stalled = moves + 1, stalled + 1
    boxes = list(graph.boxes)
    for index, corner, size in zip(costs.objects, positions / cells, costs.sizes):
        boxes[index] = tuple(np.clip([*corner, *(corner + size)], 0, 1).tolist())
    return Layout(*best, boxes)


def pair_cost(boxes: np.ndarray, other: np.ndarray, relations: Relations) -> np.ndarray:
    """Cost of the relative position of two objects.

    Args:
        boxes: (...,4), candidate boxes of the first object, all of one size.
        other: (4,), box of the second object.
        relations: kinds of relations between the two.

    Returns:
        (...,) int.
    """
    total, pair = np.zeros(boxes.shape[:-1], int), BoxPair.of(boxes, other)
    for kind, first_is_subject in relations:
        subject, object_ = (boxes, other) if first_is_subject else (other, boxes)
        levels = sum(relation_margin_holds(kind, subject, object_, level).astype(int) for level in LEVELS)
        total += RELATION_COSTS[len(LEVELS) - levels]
        if kind in ("front", "behind"):
            back = other if (kind == "front") == first_is_subject else boxes
            covered = pair.intersection / box_area(back)
            total += np.round(COVERED_COST * np.abs(covered - COVERED_SHARE)).astype(int)
    background = is_background(other) or is_background(boxes.reshape(-1, 4)[0])
    if not background and not may_overlap(relations):
        too_close = np.where(pair.gap < GAP - ROUNDING, GAP_COST, 0)
        total += np.where(pair.gap < -ROUNDING, OVERLAP_COST, too_close)
    return total


def may_overlap(relations: Relations) -> bool:
    return any(kind in OVERLAPPING for kind, _ in relations)


def relations_by_pair(graph: SceneGraph) -> dict[tuple[int, int], list[tuple[str, bool]]]:
    """The spatial relations between every two objects, in both orders."""
    relations = defaultdict(list)
    for subject, predicate, object_ in dict.fromkeys(graph.known_triples):
        if (kind := kind_of(predicate)) is not None:
            relations[subject, object_].append((kind, True))
            relations[object_, subject].append((kind, False))
    return relations


class _CostTables(NamedTuple):
    """Costs of all positions of the N objects without a box, so that a move can be evaluated everywhere at once.

    Positions are grid cells of the upper left corner, from the left and from the top.
    """

    cells: int
    objects: list[int]  # indices in the graph
    sizes: np.ndarray  # (N,2)
    alone: list[np.ndarray]  # per object, (across,down): cost beside the boxes of the graph
    # Per two objects, (2 cells + 1, 2 cells + 1): cost by the position of the first minus that of the second, + `cells`.
    pairs: dict[tuple[int, int], np.ndarray]
    # (N,N+1): lower bound of the cost of two objects and, in the last column, of one beside the boxes of the graph.
    least: np.ndarray


def _cost_tables(graph: SceneGraph, sizes: np.ndarray, cells: int) -> _CostTables:
    objects = [index for index, box in enumerate(graph.boxes) if box is None]
    sizes = sizes[objects]
    counts = np.floor((1 - sizes) * cells + ROUNDING).astype(int) + 1  # positions across and down
    relations = relations_by_pair(graph)
    known = [(j, np.array(box)) for j, box in enumerate(graph.boxes) if box is not None]
    alone = []
    for i, size, (across, down) in zip(objects, sizes, counts):
        boxes = _boxes_at(range(across), range(down), size, cells)
        costs = (pair_cost(boxes, box, relations[i, j]) for j, box in known)
        alone.append(sum(costs, np.zeros((across, down), int)))
    pairs = _pair_costs(objects, sizes, relations, cells)
    least = np.zeros((len(objects), len(objects) + 1), int)
    least[:, -1] = [costs.min() for costs in alone]
    for (a, b), costs in pairs.items():
        (left, top), (right, bottom) = cells + 1 - counts[b], cells + counts[a]  # shifts within the image
        least[a, b] = costs[left:right, top:bottom].min()
    return _CostTables(cells, objects, sizes, alone, pairs, least)


def _pair_costs(
    objects: list[int], sizes: np.ndarray, relations: dict[tuple[int, int], list[tuple[str, bool]]], cells: int
) -> dict[tuple[int, int], np.ndarray]:
    shifts, pairs, cached = range(-cells, cells + 1), {}, {}
    for a, i in enumerate(objects):
        for b, j in enumerate(objects[:a]):
            key = (*sizes[a], *sizes[b], *relations[i, j])
            if key not in cached:
                boxes = _boxes_at(shifts, shifts, sizes[a], cells)
                cached[key] = pair_cost(boxes, np.array([0, 0, *sizes[b]]), relations[i, j])
            pairs[a, b], pairs[b, a] = cached[key], cached[key][::-1, ::-1]
    return pairs


def _boxes_at(across: Sequence[int], down: Sequence[int], size: np.ndarray, cells: int) -> np.ndarray:
    corners = np.stack(np.meshgrid(across, down, indexing="ij"), -1) / cells
    return np.concatenate([corners, corners + size], -1)  # (across,down,4)


@dataclass
class _State:
    order: np.ndarray  # (N,), the order in which the objects were placed first
    positions: np.ndarray  # (N,2)
    paid: np.ndarray  # (N,N+1), current costs, laid out as `_CostTables.least`

    @property
    def max_cost(self) -> int:
        return int(self.paid.max())

    @property
    def total_cost(self) -> int:
        return int(self.paid.sum() + self.paid[:, -1].sum()) // 2  # pairs are in the table twice, the last column once


def _initial_state(costs: _CostTables, rng: np.random.Generator) -> _State:
    """Places the objects in random order, each where it costs least beside those placed before."""
    count = len(costs.objects)
    state = _State(rng.permutation(count), np.zeros((count, 2), int), np.zeros((count, count + 1), int))
    for n, a in enumerate(state.order):
        _place(a, state.order[:n], state, costs, rng)
    return state


def _place(a: int, others: np.ndarray, state: _State, costs: _CostTables, rng: np.random.Generator) -> None:
    """Puts an object where it costs least beside the others or, sometimes, at a random position."""
    total = costs.alone[a].copy()
    across, down = total.shape
    for b in others:
        x, y = costs.cells - state.positions[b]
        total += costs.pairs[a, b][x : x + across, y : y + down]
    greedy = rng.random() >= RANDOM_MOVES
    candidates = np.flatnonzero(total == total.min()) if greedy else range(total.size)
    state.positions[a] = divmod(int(candidates[rng.integers(len(candidates))]), down)
    for b in others:
        cost = costs.pairs[a, b][tuple(state.positions[a] - state.positions[b] + costs.cells)]
        state.paid[a, b] = state.paid[b, a] = cost
    state.paid[a, -1] = costs.alone[a][tuple(state.positions[a])]
