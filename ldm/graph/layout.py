"""Layouts: boxes for the objects of a graph that have none, so that the graph's relations hold."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np

from ldm.graph.layout_search import OVERLAP_COST, may_overlap, pair_cost, relations_by_pair, search_layout
from ldm.graph.object_sizes import COARSE, choose_sizes
from ldm.graph.scene_graph import SceneGraph
from ldm.graph.spatial_relations import relation_holds
from ldm.graph.validation import Box

FINE = 2 * COARSE  # cells per side
MANY_OBJECTS = 10  # more objects have no room on the coarse grid
MAX_PROBLEMS = 3  # named in a warning


class _Stage(NamedTuple):
    cells: int
    default_scale: float  # scale of sizes about which nothing is known
    word_scale: float  # scale of sizes from size words and similar objects
    acceptable_cost: int  # of the worst pair; with a larger cost, the next stage is tried


# The shipped models were trained with boxes on the coarse grid and draw those best.
STAGES = (
    _Stage(COARSE, 1.0, 1.0, 4),
    _Stage(FINE, 1.0, 1.0, 4),
    _Stage(FINE, 0.75, 1.0, 16),
    _Stage(FINE, 0.5, 0.75, 16),
    _Stage(FINE, 0.3, 0.5, 16),
)


def generate_layout(graph: SceneGraph, seed: int) -> tuple[SceneGraph, str]:
    """Chooses a box for every object without one.

    All spatial relations hold, as clearly as possible. Only background objects, and objects whose relations say so, overlap
    others. Where nothing else fits, objects become smaller. If the relations contradict each other, the layout violates
    as few as the search finds.

    Args:
        graph: boxes that it has do not change.
        seed: any integer; the same graph and seed give the same layout.

    Returns:
        The graph with all boxes, and a warning about relations that do not hold, '' if there are none.
    """
    if all(graph.boxes):
        return graph, ""
    rng, layouts = np.random.default_rng(seed % 2**64), []
    for stage in STAGES[len(graph.objects) > MANY_OBJECTS :]:
        sizes = choose_sizes(graph, stage.cells, stage.default_scale, stage.word_scale)
        layouts.append(search_layout(graph, sizes, stage.cells, rng))
        best = min(layouts, key=lambda layout: (layout.max_cost, layout.total_cost))
        if best.max_cost <= stage.acceptable_cost:
            break
    complete = SceneGraph(graph.objects, tuple(best.boxes), graph.attributes, graph.triples, graph.ids, graph.image)
    return complete, _describe_problems(graph, best.boxes)


def _describe_problems(graph: SceneGraph, boxes: Sequence[Box]) -> str:
    """A sentence about relations and distances that the chosen boxes violate."""

    def name(index: int) -> str:
        return f"{graph.describe(index)!r} (object {index})"

    relations, problems = relations_by_pair(graph), []
    for s, predicate, o in dict.fromkeys(graph.known_triples):
        if None in (graph.boxes[s], graph.boxes[o]) and relation_holds(boxes[s], predicate, boxes[o]) is False:
            problems.append(f"{name(s)} is {predicate} {name(o)}")
    for i, j in combinations(range(len(boxes)), 2):
        if None not in (graph.boxes[i], graph.boxes[j]) or may_overlap(relations[i, j]):
            continue
        if pair_cost(np.array(boxes[i]), np.array(boxes[j]), ()) >= OVERLAP_COST:
            problems.append(f"{name(i)} does not overlap {name(j)}")
    if len(problems) > MAX_PROBLEMS:
        problems[MAX_PROBLEMS:] = [f"{len(problems) - MAX_PROBLEMS} more conditions hold"]
    return f"found no layout in which {' and '.join(problems)}" if problems else ""
