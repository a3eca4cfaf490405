"""Complete scene graphs, in which every object has a box, and incomplete annotations of them, as data sets have."""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping

from ldm.graph.scene_graph import SceneGraph
from ldm.graph.validation import Box

DEPTH_PREDICATES = ("inside", "in front of", "behind")  # they say which object covers the other
CONVERSE = {"left of": "right of", "above": "below", "in front of": "behind"}
CONVERSE |= {converse: predicate for predicate, converse in CONVERSE.items()}


def box_of(graph: SceneGraph, index: int) -> Box:
    """The box of an object of a complete graph."""
    box = graph.boxes[index]
    assert box is not None, f"object {index} of a complete graph has no box"
    return box


def subsample_graph(
    graph: SceneGraph,
    rng: random.Random,
    boxes: str = "mixed",
    share: float = 0.6,
    converse: Mapping[str, str] = CONVERSE,
    kept: Collection[str] = DEPTH_PREDICATES,
) -> SceneGraph:
    """Shuffles a complete graph and drops some of its boxes and triples.

    Args:
        boxes: which objects keep their box: 'all', 'none', 'part' (at least one, not all), or 'mixed', which draws one
            of these per graph, 'all' every second time.
        share: share of the triples to keep.
        converse: predicates and their converse; such a triple is turned round every second time.
        kept: predicates of the triples that are always kept.
    """
    count = len(graph.objects)
    if boxes == "mixed":
        boxes = rng.choice(("all", "all", "none", "part"))
    boxed = {"all": count, "none": 0, "part": rng.randint(1, count - 1) if count > 1 else 1}[boxes]
    keep = set(rng.sample(range(count), boxed))
    order = rng.sample(range(count), count)
    new_index = {old: new for new, old in enumerate(order)}
    triples = []
    for subject, predicate, object in graph.known_triples:
        if predicate in kept or rng.random() < share:
            if predicate in converse and rng.random() < 0.5:
                subject, predicate, object = object, converse[predicate], subject
            triples.append((new_index[subject], predicate, new_index[object]))
    return SceneGraph(
        tuple(graph.objects[i] for i in order),
        tuple(graph.boxes[i] if i in keep else None for i in order),
        tuple(tuple(rng.sample(words := graph.known_attributes[i], len(words))) for i in order),
        tuple(rng.sample(triples, len(triples))),
        tuple(graph.ids[i] for i in order) if any(graph.ids) else (),
        graph.image,
    )
