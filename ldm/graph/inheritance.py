"""What one of two graphs of an edit does not say, it takes from the other one.

A graph without the key `attributes` or `relationships` says nothing about them, and an edit must not remove what its graph
says nothing about. Boxes are taken over where objects are placed (`ldm.graph.placement`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ldm.graph.matching import match_objects
from ldm.graph.scene_graph import SceneGraph
from ldm.graph.spatial_relations import relation_holds
from ldm.graph.validation import Box, Triple


def share_known(a: SceneGraph, b: SceneGraph, match: Mapping[int, int] | None = None) -> tuple[SceneGraph, SceneGraph]:
    """Both graphs, each completed by what only the other one says.

    Unknown attributes become those of the matching object, if that has the same name: a dog in place of a wooden table is
    not wooden. Unknown relations become those between matching objects. Graphs that say everything are returned unchanged.

    Args:
        match: `match_objects(a, b)`, computed if it is missing.
    """
    if _is_complete(a) and _is_complete(b):
        return a, b
    match = match_objects(a, b) if match is None else match
    back = {j: i for i, j in match.items()}
    return _completed(a, b, match), _completed(b, a, back)


def drop_contradicted(source: SceneGraph, graph: SceneGraph) -> SceneGraph:
    """The edited graph without the relations that its boxes contradict and those of the source graph do not."""
    back = {j: i for i, j in match_objects(source, graph).items()}

    def is_contradicted(triple: Triple) -> bool:
        subject, predicate, object_ = triple
        now = graph.boxes[subject], graph.boxes[object_]
        before = tuple(source.boxes[back[index]] if index in back else None for index in (subject, object_))
        return _fails(now, predicate) and not _fails(before, predicate)

    if graph.triples is None:
        return graph
    return replace(graph, triples=tuple(triple for triple in graph.triples if not is_contradicted(triple)))


def _fails(boxes: tuple[Box | None, ...], predicate: str) -> bool:
    first, second = boxes
    return first is not None and second is not None and relation_holds(first, predicate, second) is False


def _is_complete(graph: SceneGraph) -> bool:
    return graph.triples is not None and None not in graph.attributes


def _completed(graph: SceneGraph, other: SceneGraph, match: Mapping[int, int]) -> SceneGraph:
    """`graph` with what only `other` says; `match` leads from the former's objects to the latter's."""
    attributes = list(graph.attributes)
    for i, j in match.items():
        if attributes[i] is None and graph.objects[i] == other.objects[j]:
            attributes[i] = other.attributes[j]
    triples = graph.triples
    if triples is None and other.triples is not None:
        back = {j: i for i, j in match.items()}
        triples = tuple((back[s], predicate, back[o]) for s, predicate, o in other.triples if s in back and o in back)
    return replace(graph, attributes=tuple(attributes), triples=triples)
