"""SGEdit's scene graphs (Zhang et al. 2024, 2410.11815): relations between names.

    {"objects": ["plant", "table"], "tuples": [["plant", "on", "table"]], "bboxes": [[x0, y0, x1, y1], ...],
     "alias": ["<plant-0>", "table"], "desc": ["...", ""]}

`alias` has the words by which its fine-tuned model knows the objects; a relation may use them in place of names. The files
of its edits have the edited graph as `modified_sg`, and the boxes of what is generated as `gen_objects` and `gen_bboxes`.
"""

from __future__ import annotations

from typing import Any

from ldm.graph.importers.entries import Entry, RawGraph, Source, corners, declared_size, sequence, text
from ldm.graph.validation import GraphError, shorten


def recognises(data: Any) -> bool:
    """Whether a parsed file is an SGEdit graph, or a file of its edits."""
    return isinstance(data, dict) and ("tuples" in data or isinstance(data.get("modified_sg"), dict))


def entries(data: dict, source: Source) -> list[Entry]:
    """The one graph of the file."""
    graph = data.get("modified_sg") if "tuples" not in data else data
    return [Entry("", declared_size(data, source.where), lambda: _read(graph, data, source.where))]


def _read(graph: Any, data: dict, where: str) -> RawGraph:
    objects = [text(name, f"{where}, objects") for name in sequence(graph.get("objects"), f"{where}, objects")]
    listed = sequence(graph.get("alias") or objects, f"{where}, alias", len(objects))
    aliases = [text(name, f"{where}, alias") for name in listed]
    boxes = sequence(graph.get("bboxes") or [None] * len(objects), f"{where}, bboxes", len(objects))
    boxes = [corners(box, f"{where}, bboxes") for box in boxes]
    if "gen_bboxes" in data:
        generated = sequence(data.get("gen_objects"), f"{where}, gen_objects")
        new = sequence(data["gen_bboxes"], f"{where}, gen_bboxes", len(generated))
        for name, box in zip(generated, new):
            if name in objects:
                boxes[objects.index(name)] = corners(box, f"{where}, gen_bboxes")
    triples = []
    for number, triple in enumerate(sequence(graph.get("tuples"), f"{where}, tuples")):
        place = f"{where}, tuples[{number}]"
        subject, predicate, object_ = (text(word, place) for word in sequence(triple, place, 3))
        triples.append((_find(subject, objects, aliases, place), predicate, _find(object_, objects, aliases, place)))
    return RawGraph(objects, boxes, triples=triples)


def _find(name: str, objects: list[str], aliases: list[str], place: str) -> int:
    for names in (objects, aliases):
        if names.count(name) > 1:
            raise GraphError(
                f"{place}: several objects are named {shorten(name)}; give them different names, or aliases"
            )
        if name in names:
            return names.index(name)
    raise GraphError(f"{place}: there is no object {shorten(name)}; add it to objects")
