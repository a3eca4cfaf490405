"""The difference of two scene graphs, as the operations of an edit.

Every operation has the index of its object in the first graph (`source`) and in the second (`target`), and the known
boxes that it concerns, old ones first. Converted to text, it is a sentence for users; object numbers in it refer to the
source graph unless it says otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass

from ldm.graph.inheritance import share_known
from ldm.graph.matching import box_change, match_objects
from ldm.graph.scene_graph import SceneGraph
from ldm.graph.validation import Box, Triple

MIN_BOX_CHANGE = 1e-3  # fraction of the image; smaller shifts and growths of a box are no operation


@dataclass(frozen=True)
class Replace:
    """An object of another name in the same place. `name` and `new` include the attributes."""

    source: int
    target: int
    name: str
    new: str
    boxes: tuple[Box, ...]

    def __str__(self) -> str:
        return f"replace {self.name!r} (object {self.source}) by {self.new!r}"


@dataclass(frozen=True)
class Remove:
    """Removal of an object with its relations."""

    source: int
    name: str
    boxes: tuple[Box, ...]

    def __str__(self) -> str:
        return f"remove {self.name!r} (object {self.source})"


@dataclass(frozen=True)
class Add:
    """A new object. Its relations are operations of their own, AddRelation."""

    target: int
    name: str
    boxes: tuple[Box, ...]

    def __str__(self) -> str:
        return f"add {self.name!r} (object {self.target} of the edited graph)"


@dataclass(frozen=True)
class Move:
    """A new centre of the box. `boxes` are the old box and the new one."""

    source: int
    target: int
    name: str
    boxes: tuple[Box, Box]

    def __str__(self) -> str:
        (dx, dy), _ = box_change(*self.boxes)
        changes = _describe_change(dx, "left", "right"), _describe_change(dy, "up", "down")
        return f"move {self.name!r} (object {self.source}) {' and '.join(filter(None, changes))}"


@dataclass(frozen=True)
class Resize:
    """A new width or height of the box. `boxes` are the old box and the new one."""

    source: int
    target: int
    name: str
    boxes: tuple[Box, Box]

    def __str__(self) -> str:
        _, (width, height) = box_change(*self.boxes)
        changes = _describe_change(width, "narrower", "wider"), _describe_change(height, "shorter", "taller")
        return f"make {self.name!r} (object {self.source}) {' and '.join(filter(None, changes))}"


@dataclass(frozen=True)
class ChangeAttribute:
    """Attributes that an object loses (`old`) and gains (`new`). One of the two may be empty."""

    source: int
    target: int
    name: str
    old: tuple[str, ...]
    new: tuple[str, ...]
    boxes: tuple[Box, ...]

    def __str__(self) -> str:
        thing = f"{self.name!r} (object {self.source})"
        if not self.new:
            return f"make {thing} no longer {' and '.join(self.old)}"
        instead = f" instead of {' and '.join(self.old)}" if self.old else ""
        return f"make {thing} {' and '.join(self.new)}{instead}"


@dataclass(frozen=True)
class RemoveRelation:
    """Removal of a relation between two objects that remain. `names` are those of subject and object."""

    source: Triple
    names: tuple[str, str]
    boxes: tuple[Box, ...]

    def __str__(self) -> str:
        return f"remove the relation {_describe_relation(self.source, self.names)}"


@dataclass(frozen=True)
class AddRelation:
    """A new relation. `names` are those of subject and object."""

    target: Triple
    names: tuple[str, str]
    boxes: tuple[Box, ...]

    def __str__(self) -> str:
        return f"add the relation {_describe_relation(self.target, self.names, ' of the edited graph')}"


@dataclass(frozen=True)
class ChangeRelation:
    """A new predicate between the same subject and object, whose names are `names`."""

    source: Triple
    target: Triple
    names: tuple[str, str]
    boxes: tuple[Box, ...]

    def __str__(self) -> str:
        return f"change the relation {_describe_relation(self.source, self.names)} to {self.target[1]!r}"


Operation = Replace | Remove | Add | Move | Resize | ChangeAttribute | RemoveRelation | AddRelation | ChangeRelation


def diff(a: SceneGraph, b: SceneGraph) -> list[Operation]:
    """The operations that turn `a` into `b`.

    What one graph does not say is as in the other one (`share_known`), boxes included. The order of objects and triples,
    and repeated triples, make no difference.

    Returns:
        First the changes of the objects of `a` in their order, then new objects, then changes of relations.
    """
    match = match_objects(a, b)
    a, b = share_known(a, b, match)
    operations = []
    for i, box in enumerate(a.boxes):
        if i in match:
            operations += _object_operations(a, i, b, match[i])
        else:
            operations.append(Remove(i, a.describe(i), _known_boxes(box)))
    for j, box in enumerate(b.boxes):
        if j not in match.values():
            operations.append(Add(j, b.describe(j), _known_boxes(box)))
    return operations + _relation_operations(a, b, match)


def _object_operations(a: SceneGraph, i: int, b: SceneGraph, j: int) -> list[Operation]:
    operations, name, old, new = [], a.describe(i), a.boxes[i], b.boxes[j]
    before, after = a.known_attributes[i], b.known_attributes[j]
    if a.objects[i] != b.objects[j]:
        operations.append(Replace(i, j, name, b.describe(j), _known_boxes(old, new)))
    elif set(before) != set(after):
        lost = tuple(attribute for attribute in before if attribute not in after)
        gained = tuple(attribute for attribute in after if attribute not in before)
        operations.append(ChangeAttribute(i, j, name, lost, gained, _known_boxes(old, new)))
    if old is not None and new is not None:
        shift, growth = box_change(old, new)
        if max(map(abs, shift)) > MIN_BOX_CHANGE:
            operations.append(Move(i, j, name, (old, new)))
        if max(map(abs, growth)) > MIN_BOX_CHANGE:
            operations.append(Resize(i, j, name, (old, new)))
    return operations


def _relation_operations(a: SceneGraph, b: SceneGraph, match: dict[int, int]) -> list[Operation]:
    """A removed and a new predicate between the same two objects are one ChangeRelation."""
    source_of = {j: i for i, j in match.items()}
    changes = {}  # (subject, object) in b -> (removed triples of a, new triples of b)
    for s, predicate, o in dict.fromkeys(a.known_triples):
        if s in match and o in match and (match[s], predicate, match[o]) not in b.known_triples:
            changes.setdefault((match[s], match[o]), ([], []))[0].append((s, predicate, o))
    for s, predicate, o in dict.fromkeys(b.known_triples):
        if (source_of.get(s), predicate, source_of.get(o)) not in a.known_triples:
            changes.setdefault((s, o), ([], []))[1].append((s, predicate, o))
    operations = []
    for ends, (removed, new) in changes.items():
        sources = [source_of[j] for j in ends if j in source_of]
        boxes = _known_boxes(*(a.boxes[i] for i in sources), *(b.boxes[j] for j in ends))
        old_names, new_names = tuple(map(a.describe, sources)), tuple(map(b.describe, ends))
        operations += [ChangeRelation(old, other, old_names, boxes) for old, other in zip(removed, new)]
        operations += [RemoveRelation(old, old_names, boxes) for old in removed[len(new) :]]
        operations += [AddRelation(other, new_names, boxes) for other in new[len(removed) :]]
    return operations


def _describe_relation(triple: Triple, names: tuple[str, str], suffix: str = "") -> str:
    return f"{names[0]!r} {triple[1]} {names[1]!r} (objects {triple[0]} and {triple[2]}{suffix})"


def _describe_change(change: float, less: str, more: str) -> str:
    """Such as 'left by 0.20'; empty if there is no change to speak of."""
    if abs(change) <= MIN_BOX_CHANGE:
        return ""
    return f"{less if change < 0 else more} by {abs(change):{'.2f' if abs(change) >= 0.01 else '.3f'}}"


def _known_boxes(*boxes: Box | None) -> tuple[Box, ...]:
    return tuple(dict.fromkeys(box for box in boxes if box is not None))
