"""Matching of objects between two versions of a scene graph.

Objects with equal ids match. The others are paired so that the total difference in name, box, attributes, relations and
order is smallest. What one of the graphs does not say makes no difference.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ldm.graph.scene_graph import SceneGraph
from ldm.graph.validation import Box

UNMATCHED = 1.0  # cost of removing one object and adding another instead of matching the two
ROUNDS = 3
CLEAR = 1e-6  # difference of costs that rounding does not make


def match_objects(a: SceneGraph, b: SceneGraph) -> dict[int, int]:
    """Matches the objects of `a` to those of `b`.

    The first round identifies neighbours by name. Later rounds use the matches of the round before to compare relations
    and order.

    Returns:
        Index in `a` -> index in `b`, for the objects that have a match.
    """
    n, m = len(a.objects), len(b.objects)
    renamed = np.array([[x != y for y in b.objects] for x in a.objects], dtype=float)
    boxes = np.array([[_box_difference(x, y) for y in b.boxes] for x in a.boxes])  # NaN where a box is unknown
    attributes = _set_difference(_sets(a.attributes), _sets(b.attributes), both_empty=0.0)
    comparable = a.triples is not None and b.triples is not None
    index = np.arange(n)[:, None] / n, np.arange(m)[None] / m
    same_id = np.array([[x is not None and x == y for y in b.ids] for x in a.ids])
    other_id = np.array([[None not in (x, y) and x != y for y in b.ids] for x in a.ids])

    match: dict[int, int] = {}
    for round_ in range(ROUNDS):
        first = round_ == 0
        if first:
            links = _links(a, a.objects), _links(b, b.objects)
            order = np.zeros((n, m))
        else:
            links = _links(a, [match.get(i, -1 - i) for i in range(n)]), _links(b, range(m))
            order = _order_difference(match, n, m)
        box = np.where(np.isnan(boxes), order, boxes)
        relations = _set_difference(*links, both_empty=0.5) if comparable else np.full((n, m), 0.5)
        # Below UNMATCHED for every pair with equal names. For unequal names, below it if boxes (or the order, if boxes
        # are unknown) and relations together are rather similar than different.
        cost = 0.35 * box + 0.2 * relations + 0.1 * attributes + 0.05 * order
        cost += renamed * (UNMATCHED if first else 0.45 + 0.45 * box + 0.1 * relations)
        cost += 1e-3 * (index[0] - index[1]) ** 2  # equal candidates are matched in their order
        cost = np.where(same_id, -10.0, np.where(other_id, UNMATCHED, cost))
        match = assign(np.minimum(cost - UNMATCHED, 0.0))
    return match


def assign(cost: np.ndarray) -> dict[int, int]:
    """Row -> column of the assignment with the smallest total cost, without pairs that cost 0.

    Args:
        cost: (n,m), at most 0.
    """
    pairs = _clear_pairs(cost)
    if pairs is None:
        from scipy.optimize import linear_sum_assignment  # its import takes as long as an edit of a small image

        pairs = zip(*linear_sum_assignment(cost))
    return {int(row): int(column) for row, column in pairs if cost[row, column] < 0}


def _clear_pairs(cost: np.ndarray) -> list[tuple[int, int]] | None:
    """The cheapest column of each row, where that is clear and no two rows want the same: no assignment costs less.

    Rows without a cost below 0 are left out. None where the choice is not that easy.
    """
    if not cost.size:
        return []
    lowest = np.sort(cost, axis=1)[:, :2]
    wants = lowest[:, 0] < 0
    is_clear = lowest.shape[1] == 1 or (lowest[wants, 1] - lowest[wants, 0] > CLEAR).all()
    rows, columns = np.flatnonzero(wants), cost.argmin(axis=1)[wants]
    return list(zip(rows.tolist(), columns.tolist())) if is_clear and len(set(columns)) == len(columns) else None


def box_change(old: Box, new: Box) -> tuple[tuple[float, float], tuple[float, float]]:
    """Shift of the centre, and growth of width and height, each in x and y."""
    (x0, y0, x1, y1), (u0, v0, u1, v1) = old, new
    low, high = (u0 - x0, v0 - y0), (u1 - x1, v1 - y1)
    shift = (low[0] + high[0]) / 2, (low[1] + high[1]) / 2
    return shift, (high[0] - low[0], high[1] - low[1])


def _links(graph: SceneGraph, names: Sequence) -> list[set]:
    """Relations of each object to its neighbours, which are identified by `names`: with and without the predicate."""
    links = [set() for _ in graph.objects]
    for s, predicate, o in graph.known_triples:
        links[s] |= {("subject", predicate, names[o]), ("subject", None, names[o])}
        links[o] |= {("object", predicate, names[s]), ("object", None, names[s])}
    return links


def _sets(attributes: Sequence[Sequence[str] | None]) -> list[set | None]:
    return [None if names is None else set(names) for names in attributes]


def _set_difference(
    a: Sequence[set | None], b: Sequence[set | None], both_empty: float
) -> np.ndarray:  # (n,m) in [0,1]
    """1 - intersection over union; `both_empty` too where one of the two is unknown."""

    def difference(x: set | None, y: set | None) -> float:
        return both_empty if x is None or y is None or not x | y else len(x ^ y) / len(x | y)

    return np.array([[difference(x, y) for y in b] for x in a])


def _order_difference(match: dict[int, int], n: int, m: int) -> np.ndarray:  # (n,m) in [0,1)
    """k / (k + 1), where k other pairs come before one object and after the other."""
    i, j = np.arange(n)[:, None, None], np.arange(m)[None, :, None]
    p, q = np.array(list(match), dtype=int), np.array(list(match.values()), dtype=int)
    crossings = (((p < i) != (q < j)) & (p != i) & (q != j)).sum(-1)
    return crossings / (crossings + 1)


def _box_difference(a: Box | None, b: Box | None) -> float:  # in [0,1]
    """Mean of 1 - intersection over union and the distance of the centres; NaN if a box is unknown."""
    if a is None or b is None:
        return np.nan
    width, height = (max(0.0, min(a[k + 2], b[k + 2]) - max(a[k], b[k])) for k in (0, 1))
    intersection = width * height
    union = sum((x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in (a, b)) - intersection
    overlap = intersection / union if union > 0 else float(a == b)  # areas below 1e-308 are 0
    shift, _ = box_change(a, b)
    return (1 - overlap) / 2 + min(float(np.hypot(*shift)), 1.0) / 2
