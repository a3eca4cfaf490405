"""COCO's instances (cocodataset.org/#format-data), as many annotation tools write them: boxes with names, no relations.

    {"images": [{"id": 1, "file_name": "a.jpg", "width": 640, "height": 480}],
     "annotations": [{"id": 7, "image_id": 1, "category_id": 18, "bbox": [x, y, width, height]}],
     "categories": [{"id": 18, "name": "dog"}]}

Ids may be numbers or text. Relations and attributes are unknown, not none.
"""

from __future__ import annotations

from typing import Any

from ldm.graph.importers.entries import (
    Entry,
    RawGraph,
    Source,
    corners_of,
    declared_size,
    id_text,
    mapping,
    one_line,
    sequence,
    text,
    without_repetition,
)
from ldm.graph.validation import GraphError, shorten


def recognises(data: Any) -> bool:
    """Whether a parsed file is one of instances."""
    return isinstance(data, dict) and isinstance(data.get("annotations"), list) and "categories" in data


def entries(data: dict, source: Source) -> list[Entry]:
    """One entry per image that has annotations."""
    where = source.where
    names = {}
    for place, category in _records(data["categories"], f"{where}, categories"):
        names[id_text(category.get("id"), f"{place}, id")] = text(category.get("name"), f"{place}, name")
    images = {}
    for place, image in _records(data.get("images") or [], f"{where}, images"):
        images[id_text(image.get("id"), f"{place}, id")] = image
    annotations: dict[str, list[tuple[str, dict]]] = {}
    for place, annotation in _records(data["annotations"], f"{where}, annotations"):
        owner = annotation.get("image_id")
        owner = next(iter(images)) if owner is None and len(images) == 1 else id_text(owner, f"{place}, image_id")
        annotations.setdefault(owner, []).append((place, annotation))
    return [_entry(images.get(owner, {}), listed, names, where) for owner, listed in annotations.items()]


def _records(values: Any, place: str) -> list[tuple[str, dict]]:
    places = [f"{place}[{number}]" for number in range(len(sequence(values, place)))]
    return [(place, mapping(value, place)) for place, value in zip(places, values)]


def _entry(image: dict, listed: list[tuple[str, dict]], names: dict[str, str], where: str) -> Entry:
    name = image.get("file_name") or ""
    name = text(name, f"{where}, file_name")
    return Entry(name, declared_size(image, f"{where}: image {one_line(name)}"), lambda: _read(listed, names))


def _read(listed: list[tuple[str, dict]], names: dict[str, str]) -> RawGraph:
    objects, boxes, ids = [], [], []
    for place, annotation in listed:
        category = id_text(annotation.get("category_id"), f"{place}, category_id")
        if category not in names:
            raise GraphError(f"{place}: there is no category {shorten(category)}; add it to categories")
        objects.append(names[category])
        box = annotation.get("bbox")
        boxes.append(corners_of(*sequence(box, f"{place}, bbox", 4), f"{place}, bbox") if box else None)
        ids.append(None if annotation.get("id") is None else id_text(annotation["id"], f"{place}, id"))
    return RawGraph(objects, boxes, ids=without_repetition(ids))
