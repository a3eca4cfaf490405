"""What a scene graph may hold, and what is said of one that holds something else.

Values come from files that people write, so anything may stand anywhere: each check takes any value at all, and either
gives it back in its plain form or raises a GraphError that begins with the place.
"""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Iterable, Iterator, Sequence
from numbers import Integral, Real
from typing import Any

from ldm.util.errors import UserError

Box = tuple[float, float, float, float]
Triple = tuple[int, str, int]

ROUNDING = 1e-6  # a box may lie this far outside of the image, and is moved back


class GraphError(UserError):
    """What is wrong with a graph, where, and what to do about it, in one sentence."""


def checked(objects, boxes, attributes, triples, ids, image) -> tuple:
    """The fields of a SceneGraph. Self-relations and `__image__` occur in files, and are left to the caller."""
    if not _list(objects, "objects", "a list of names"):
        raise GraphError("objects: the graph is empty; give at least one object")
    count = len(objects)
    objects = tuple(_name(name, f"objects[{i}]") for i, name in enumerate(objects))
    boxes = tuple(_box(box, f"boxes[{i}]") for i, box in _per_object(boxes, count, "boxes"))
    attributes = tuple(_names(own, f"attributes[{i}]") for i, own in _per_object(attributes, count, "attributes"))
    triples = _list(triples, "relationships", 'a list such as [[0, "on", 1]]')
    triples = tuple(_triple(triple, count, f"relationships[{i}]") for i, triple in enumerate(triples))
    ids = tuple(None if own is None else _name(own, f"ids[{i}]") for i, own in _per_object(ids, count, "ids"))
    for i, own in enumerate(ids):
        if own is not None and own in ids[:i]:
            raise GraphError(f"ids[{i}]: another object has the id {show(own)}; give each its own, or null")
    return objects, boxes, attributes, triples, ids, None if image is None else _name(image, "image")


def _list(value: Any, place: str, what: str) -> Sequence:
    if not isinstance(value, (list, tuple)):
        raise GraphError(f"{place}: give {what}, not {show(value)}")
    return value


def _per_object(values: Any, count: int, place: str) -> Iterator[tuple[int, Any]]:
    values = _list(values, place, "a list with one entry per object") or (None,) * count
    if len(values) != count:
        raise GraphError(f"{place}: {len(values)} entries for {count} objects; give one each, null where unknown")
    return enumerate(values)


def _name(value: Any, place: str) -> str:
    if not isinstance(value, str) or not value.strip() or not value.isprintable():
        raise GraphError(f"{place}: give a printable text, not {show(value)}")
    return value


def _names(value: Any, place: str) -> tuple[str, ...]:
    if value is None:
        return ()
    return tuple(_name(name, place) for name in _list(value, place, 'a list of names such as ["red"]'))


def _box(value: Any, place: str) -> Box | None:
    if value is None:
        return None
    if len(_list(value, place, "x0, y0, x1, y1 or null")) != 4:
        raise GraphError(f"{place}: give four numbers x0, y0, x1, y1, not {show(value)}")
    for number in value:
        if not isinstance(number, Real) or isinstance(number, bool):
            raise GraphError(f"{place}: give numbers, not {show(number)}")
        if not -ROUNDING <= number <= 1 + ROUNDING:
            raise GraphError(f"{place}: {show(number)} is outside of the image; give fractions of its size, 0 to 1")
    x0, y0, x1, y1 = box = tuple(min(max(float(number), 0.0), 1.0) for number in value)
    if x0 >= x1 or y0 >= y1:
        raise GraphError(f"{place}: {show(value)} is reversed or has no area; give x0 < x1 and y0 < y1")
    return box


def _triple(value: Any, count: int, place: str) -> Triple:
    if len(_list(value, place, '[0, "on", 1]')) != 3:
        raise GraphError(f'{place}: give subject, predicate and object, such as [0, "on", 1], not {show(value)}')
    subject, predicate, object_ = value
    for index in (subject, object_):
        if not isinstance(index, Integral) or isinstance(index, bool):
            raise GraphError(f"{place}: give objects by their index, a whole number, not {show(index)}")
        if not 0 <= index < count:
            raise GraphError(f"{place}: there is no object {show(index)}; give an index from 0 to {count - 1}")
    return int(subject), _name(predicate, place), int(object_)


def find(name: str, ids: dict[str, int], what: str) -> int:
    """ids[name], or a GraphError that names the nearest."""
    try:
        return ids[name]
    except KeyError:
        if not ids:
            raise GraphError(f"the vocabulary has no {what}s; leave {show(name)} out") from None
        raise GraphError(f"{what} {show(name)} is not in the vocabulary{did_you_mean(name, ids)}") from None


def did_you_mean(name: Any, names: Iterable[str]) -> str:
    """The end of a sentence: the nearest names, or the first few where none is near."""
    names = [known for known in names if not known.startswith("__")]
    near = difflib.get_close_matches(str(name)[:100].lower(), names)
    if near:
        return f"; did you mean {' or '.join(map(repr, near))}?"
    return f"; choose from {', '.join(names[:8])}{', ...' if len(names) > 8 else ''}"


def show(value: Any) -> str:
    """A value in an error: short, on one line, and never an error of its own."""
    try:
        text = " ".join(reprlib.repr(value).split())
        return text if len(text) <= 80 else f"{text[:77]}..."
    except (ValueError, RecursionError):  # ValueError: Python does not print integers of over 4300 digits
        return f"a {type(value).__name__} too large to print"
