"""GQA's scene graphs (Hudson and Manning 2019; cs.stanford.edu/people/dorarad/gqa): objects by id, with their relations.

    {"2407890": {"width": 640, "height": 480, "objects": {"271881": {"name": "chair", "x": 220, "y": 310, "w": 50, "h": 80,
     "attributes": ["brown"], "relations": [{"name": "on", "object": "275312"}]}, ...}}, ...}

A file has the graphs of many images, or one without the number of its image.
"""

from __future__ import annotations

from typing import Any

from ldm.graph.importers.entries import (
    Entry,
    RawGraph,
    Source,
    box_of,
    declared_size,
    describe_left_out,
    id_text,
    mapping,
    one_line,
    sequence,
    text,
)


def recognises(data: Any) -> bool:
    """Whether a parsed file has GQA's graphs of many images, or one."""
    return isinstance(data, dict) and (_is_graph(data) or any(map(_is_graph, data.values())))


def entries(data: dict, source: Source) -> list[Entry]:
    """One entry per image."""
    graphs = {"": data} if _is_graph(data) else data
    return [
        _entry(name, graph, f"{source.where}: image {one_line(name)}" if name else source.where)
        for name, graph in graphs.items()
    ]


def _is_graph(data: Any) -> bool:
    return isinstance(data, dict) and isinstance(data.get("objects"), dict)


def _entry(name: str, graph: Any, where: str) -> Entry:
    return Entry(name, declared_size(mapping(graph, where), where), lambda: _read(graph, where))


def _read(graph: dict, where: str) -> RawGraph:
    objects = mapping(graph.get("objects"), f"{where}, objects")
    position = {id_: place for place, id_ in enumerate(objects)}
    names, boxes, attributes, triples, unlisted = [], [], [], [], 0
    for id_, record in objects.items():
        place = f"{where}, object {one_line(id_)}"
        record = mapping(record, place)
        names.append(text(record.get("name"), f"{place}, name"))
        boxes.append(box_of(record, place))
        words = record.get("attributes")
        attributes.append(None if words is None else sequence(words, f"{place}, attributes"))
        relations = record.get("relations") or []
        relations = (
            list(relations.values()) if isinstance(relations, dict) else sequence(relations, f"{place}, relations")
        )
        for relation in relations:
            relation = mapping(relation, f"{place}, relations")
            other = position.get(id_text(relation.get("object"), f"{place}, relations"))
            if other is None:
                unlisted += 1
            else:
                triples.append((position[id_], text(relation.get("name"), f"{place}, relations"), other))
    note = describe_left_out([(unlisted, "relation", "to objects that are not listed")])
    return RawGraph(names, boxes, attributes, triples, list(objects), note)
