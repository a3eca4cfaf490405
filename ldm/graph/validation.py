"""Validation of scene graphs: each field is converted to its plain type, or a GraphError names the place.

Graphs come from files that people write, so every check accepts a value of any type.
"""

from __future__ import annotations

import reprlib
from collections.abc import Iterator, Mapping, Sequence
from numbers import Integral, Real
from typing import Any

from ldm.util.errors import UserError, did_you_mean, similar_names
from ldm.util.unicode import composed

Box = tuple[float, float, float, float]
Triple = tuple[int, str, int]
Fields = tuple[
    tuple[str, ...],
    tuple[Box | None, ...],
    tuple[tuple[str, ...] | None, ...],
    tuple[Triple, ...] | None,
    tuple[str | None, ...],
    str | None,
]

BOX_TOLERANCE = 1e-6  # a box may exceed the image by this much, a rounding error, and is clipped


class GraphError(UserError):
    """A scene graph or vocabulary is invalid."""


def validate_fields(objects: Any, boxes: Any, attributes: Any, triples: Any, ids: Any, image: Any) -> Fields:
    """The fields of a SceneGraph as tuples of plain types, names in Unicode's composed form.

    None stands for an unknown field: for a None per object, or for unknown triples. An empty list of boxes or ids does so
    too; an empty list of attributes says that no object has any. Self-relations and `__image__` are accepted, since published files have them; the caller drops or rejects them.

    Raises:
        GraphError: a field has a wrong type, length or value.
    """
    if not _check_list(objects, "objects", "a list of names"):
        raise GraphError("objects: the graph is empty; give at least one object")
    count = len(objects)
    objects = tuple(_check_name(name, f"objects[{i}]") for i, name in enumerate(objects))
    boxes = tuple(_check_box(box, f"boxes[{i}]") for i, box in _per_object(boxes, count, "boxes"))
    if isinstance(attributes, (list, tuple)) and not attributes:
        attributes = ((),) * count
    attributes = tuple(
        _check_names(names, f"attributes[{i}]") for i, names in _per_object(attributes, count, "attributes")
    )
    if triples is not None:
        triples = _check_list(triples, "relationships", 'a list such as [[0, "on", 1]]')
        triples = tuple(_check_triple(triple, count, f"relationships[{i}]") for i, triple in enumerate(triples))
    ids = tuple(None if id_ is None else _check_name(id_, f"ids[{i}]") for i, id_ in _per_object(ids, count, "ids"))
    for i, id_ in enumerate(ids):
        if id_ is not None and id_ in ids[:i]:
            raise GraphError(f"ids[{i}]: another object has the id {shorten(id_)} too; give unique ids, or null")
    return objects, boxes, attributes, triples, ids, _check_path(image)


def _check_list(value: Any, place: str, expected: str) -> Sequence:
    if not isinstance(value, (list, tuple)):
        raise GraphError(f"{place}: give {expected}, not {shorten(value)}")
    return value


def _per_object(values: Any, count: int, place: str) -> Iterator[tuple[int, Any]]:
    values = () if values is None else _check_list(values, place, "a list with one entry per object")
    values = values or (None,) * count
    if len(values) != count:
        raise GraphError(f"{place}: {len(values)} entries for {count} objects; give one per object, null if unknown")
    return enumerate(values)


def _check_name(value: Any, place: str) -> str:
    if not isinstance(value, str) or not value.strip() or not value.isprintable():
        raise GraphError(f"{place}: give printable text, not {shorten(value)}")
    return composed(value)


def _check_path(value: Any) -> str | None:
    if value is not None and (not isinstance(value, str) or not value.strip()):
        raise GraphError(f"image: give a path, not {shorten(value)}")
    return value  # a path may hold bytes that are no text


def _check_names(value: Any, place: str) -> tuple[str, ...] | None:
    if value is None:
        return None
    return tuple(_check_name(name, place) for name in _check_list(value, place, 'a list of names such as ["red"]'))


def _is_a(kind: type, value: Any) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


def _check_box(value: Any, place: str) -> Box | None:
    if value is None:
        return None
    if len(_check_list(value, place, "x0, y0, x1, y1 or null")) != 4:
        raise GraphError(f"{place}: give four numbers x0, y0, x1, y1, not {shorten(value)}")
    for number in value:
        if not _is_a(Real, number):
            raise GraphError(f"{place}: give numbers, not {shorten(number)}")
        if not -BOX_TOLERANCE <= number <= 1 + BOX_TOLERANCE:
            raise GraphError(f"{place}: {shorten(number)} is outside the image; give fractions of its size, 0 to 1")
    x0, y0, x1, y1 = (min(max(float(number), 0.0), 1.0) for number in value)
    if x0 >= x1 or y0 >= y1:
        raise GraphError(f"{place}: {shorten(value)} is reversed or has no area; give x0 < x1 and y0 < y1")
    return x0, y0, x1, y1


def _check_triple(value: Any, count: int, place: str) -> Triple:
    if len(_check_list(value, place, '[0, "on", 1]')) != 3:
        raise GraphError(f'{place}: give subject, predicate and object, such as [0, "on", 1], not {shorten(value)}')
    subject, predicate, object_ = value
    for index in (subject, object_):
        if not _is_a(Integral, index):
            raise GraphError(f"{place}: give objects by their index, an integer, not {shorten(index)}")
        if not 0 <= index < count:
            raise GraphError(f"{place}: there is no object {shorten(index)}; give an index from 0 to {count - 1}")
    return int(subject), _check_name(predicate, place), int(object_)


def find_id(name: str, ids: Mapping[str, int], kind: str) -> int:
    """The id of a name; `kind` (object, predicate or attribute) is for the error, which suggests similar names."""
    if (name := composed(name)) in ids:
        return ids[name]
    if not ids:
        raise GraphError(f"the vocabulary has no {kind}s; leave {shorten(name)} out")
    known = list(ids)
    error = GraphError(f"{kind} {shorten(name)} is not in the vocabulary{suggest(name, known)}")
    raise error.coded(f"unknown_{kind}", name=name[:80], similar=", ".join(similar_names(name[:100].lower(), known)))


def suggest(name: str, known: Sequence[str]) -> str:
    """End of an error message: the most similar known names, or else the first eight of them."""
    known = [word for word in known if not word.startswith("__")]
    similar = did_you_mean(name[:100].lower(), known)
    return similar or f"; choose from {', '.join(known[:8])}{', ...' if len(known) > 8 else ''}"


def shorten(value: Any) -> str:
    """`repr` of a value for an error message: at most 80 characters, on one line; never raises."""
    try:
        text = " ".join(reprlib.repr(value).split())
        return text if len(text) <= 80 else f"{text[:77]}..."
    except (ValueError, RecursionError):  # ValueError: Python does not print integers of over 4300 digits
        return f"a {type(value).__name__} too large to print"
