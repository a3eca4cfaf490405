"""Visual Genome's annotations (Krishna et al. 2017): an entry of scene_graphs.json, objects.json, attributes.json or
relationships.json, or a list of them.

    {"image_id": 1, "objects": [{"object_id": 5, "names": ["clock"], "x": 421, "y": 91, "w": 79, "h": 339,
     "attributes": ["green"]}], "relationships": [{"predicate": "ON", "subject_id": 5, "object_id": 9}]}

Entries of relationships.json have the two objects themselves as `subject` and `object`. Sizes of images are in
image_data.json. Names are in lower case, as in the vocabularies that sg2im makes from these files.
"""

from __future__ import annotations

from functools import cache
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
    without_repetition,
)

PARTS = ("objects", "attributes", "relationships")
IMAGE_DATA = "image_data.json"


def recognises(data: Any) -> bool:
    """Whether a parsed file is an entry or a list of entries."""
    return any(map(_is_entry, data)) if isinstance(data, list) else _is_entry(data)


def entries(data: Any, source: Source) -> list[Entry]:
    """One entry per image."""

    @cache
    def sizes() -> dict[str, Any]:
        listed = source.read_beside(IMAGE_DATA)
        listed = [image for image in listed if isinstance(image, dict)] if isinstance(listed, list) else []
        return {id_text(image.get("image_id"), IMAGE_DATA): image for image in listed}

    found = []
    for number, graph in enumerate(data if isinstance(data, list) else [data]):
        graph = mapping(graph, f"{source.where}: entry {number}")
        name = (
            ""
            if graph.get("image_id") is None
            else id_text(graph["image_id"], f"{source.where}: entry {number}, image_id")
        )
        where = f"{source.where}: image {one_line(name)}" if name else source.where
        size = declared_size(graph, where) or declared_size(sizes().get(name, {}), IMAGE_DATA)
        found.append(Entry(name, size, lambda graph=graph, where=where: _read(graph, where)))
    return found


def _is_entry(data: Any) -> bool:
    if not isinstance(data, dict) or not any(isinstance(data.get(part), list) for part in PARTS):
        return False
    described = data.get("objects") or data.get("attributes")
    return "image_id" in data or (
        isinstance(described, list) and any(isinstance(o, dict) and "names" in o for o in described)
    )


class _Objects:
    """The objects of an entry in order, each once, by their id."""

    def __init__(self):
        self.names, self.boxes, self.attributes, self.ids = [], [], [], []
        self.position: dict[str, int] = {}

    def add(self, record: Any, place: str) -> int:
        """Adds an object, if its id is new. Returns its index."""
        record = mapping(record, place)
        id_ = id_text(record.get("object_id", place), f"{place}, object_id")
        if id_ not in self.position:
            names = record.get("names") or [record.get("name")]
            self.names.append(_word(sequence(names, f"{place}, names")[0], f"{place}, names"))
            self.boxes.append(box_of(record, place))
            words = sequence(record.get("attributes") or [], f"{place}, attributes")
            self.attributes.append([_word(word, f"{place}, attributes") for word in words])
            self.ids.append(id_ if "object_id" in record else None)
            self.position[id_] = len(self.position)
        return self.position[id_]


def _read(graph: dict, where: str) -> RawGraph:
    objects = _Objects()
    described = [
        (f"{where}, {part}[{number}]", record)
        for part in ("objects", "attributes")
        for number, record in enumerate(sequence(graph.get(part) or [], f"{where}, {part}"))
    ]
    for place, record in described:
        objects.add(record, place)
    triples, unlisted = [], 0
    for number, relation in enumerate(sequence(graph.get("relationships") or [], f"{where}, relationships")):
        place = f"{where}, relationships[{number}]"
        relation = mapping(relation, place)
        ends = [_end(objects, relation, end, f"{place}, {end}") for end in ("subject", "object")]
        if None in ends:
            unlisted += 1
        else:
            triples.append((ends[0], _word(relation.get("predicate"), f"{place}, predicate"), ends[1]))
    has_attributes = any(isinstance(record, dict) and "attributes" in record for _, record in described)
    return RawGraph(
        objects.names,
        objects.boxes,
        list(objects.attributes) if has_attributes else None,
        triples if "relationships" in graph else None,
        without_repetition(objects.ids),
        describe_left_out([(unlisted, "relation", "with objects that are not listed")]),
    )


def _end(objects: _Objects, relation: dict, end: str, place: str) -> int | None:
    if end in relation:
        return objects.add(relation[end], place)
    return objects.position.get(id_text(relation.get(f"{end}_id"), f"{place}_id"))


def _word(value: Any, place: str) -> str:
    return text(value, place).strip().lower()
