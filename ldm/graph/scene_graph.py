"""SceneGraph: objects with boxes and attributes, and the relations between them.

What a graph does not say (None) differs from what it says is not there (empty): an object with attributes None may have any,
one with () has none. In an edit, the other graph tells what one graph does not say (`ldm.graph.inheritance`); a model is
conditioned on what is known (`known_attributes`, `known_triples`).
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

from ldm.graph.resolving import Resolve, resolve_names
from ldm.graph.validation import Box, Fields, GraphError, Triple, shorten, suggest, validate_fields
from ldm.graph.vocab import IMAGE, IN_IMAGE, Vocab

UNKNOWN: Any = None


@dataclass(frozen=True)
class SceneGraph:
    """A scene graph with O objects and T relations. What is left out is unknown: `SceneGraph(("cat",))` is a cat of any kind.

    Every field is validated and converted to tuples, names to Unicode's composed form. None for a whole field stands for a
    None per object; so does an empty `boxes` or `ids`, while an empty `attributes` says that no object has any.

    Attributes:
        objects: O names, at least one.
        boxes: for each object x0, y0, x1, y1 as fractions of the image's width and height, with x0 < x1 and y0 < y1;
            None if unknown.
        attributes: for each object any number of names; None if unknown.
        triples: T relations (index of the subject, predicate, index of the object) between different objects; None if
            unknown.
        ids: for each object a text that no other object has, or None. Objects of two graphs with equal ids are the same.
        image: path of the photograph that the graph describes, or None.

    Raises:
        GraphError: a field is invalid.
    """

    objects: tuple[str, ...]
    boxes: tuple[Box | None, ...] = ()
    attributes: tuple[tuple[str, ...] | None, ...] = UNKNOWN
    triples: tuple[Triple, ...] | None = UNKNOWN
    ids: tuple[str | None, ...] = ()
    image: str | None = None

    def __post_init__(self):
        fields = validate_fields(self.objects, self.boxes, self.attributes, self.triples, self.ids, self.image)
        for name, value in zip(self.__dataclass_fields__, fields):
            object.__setattr__(self, name, value)
        for index, name in enumerate(self.objects):
            if name == IMAGE:
                raise GraphError(f"objects[{index}]: encode() adds {IMAGE}; leave it out")
        for index, (subject, predicate, object_) in enumerate(self.known_triples):
            if predicate == IN_IMAGE:
                raise GraphError(f"relationships[{index}]: encode() adds {IN_IMAGE}; leave it out")
            if subject == object_:
                raise GraphError(
                    f"relationships[{index}]: relates object {subject} to itself; relate two different objects"
                )

    @property
    def known_attributes(self) -> tuple[tuple[str, ...], ...]:
        """For each object its attributes, () where they are unknown."""
        return tuple(names or () for names in self.attributes)

    @property
    def known_triples(self) -> tuple[Triple, ...]:
        """The triples, () where they are unknown."""
        return self.triples or ()

    @classmethod
    def from_json(cls, data: Any, where: str = "graph") -> SceneGraph:
        """Builds a graph from parsed JSON; `ldm.graph.graph_files` describes the format.

        `__image__`, `__in_image__` and self-relations are dropped. A warning names relations that carried information.

        Args:
            data: parsed JSON of any type.
            where: source of the data, such as a path, for errors and warnings.

        Raises:
            GraphError: the data is no valid graph.
        """
        if not isinstance(data, dict):
            raise GraphError(f'{where}: a graph is an object {{"objects": [...], ...}}, not {shorten(data)}')
        keys = ("objects", "boxes", "attributes", "relationships", "ids", "image")
        for key in data:
            if key not in keys:
                raise GraphError(f"{where}: unknown key {shorten(key)}{suggest(str(key), keys)}")
        if "objects" not in data:
            raise GraphError(f'{where}: the key "objects" is missing; give the list of object names')
        try:
            return cls(*_drop_image_object(validate_fields(*map(data.get, keys)), where))
        except GraphError as error:
            raise GraphError(f"{where}, {error}") from None

    def to_json(self) -> dict:
        """The graph as JSON data, without unknown fields."""
        data: dict[str, Any] = {"objects": list(self.objects)}
        if self.triples is not None:
            data["relationships"] = [list(triple) for triple in self.triples]
        if any(self.boxes):
            data["boxes"] = [box and list(box) for box in self.boxes]
        if any(names is not None for names in self.attributes):
            data["attributes"] = [names if names is None else list(names) for names in self.attributes]
        if any(self.ids):
            data["ids"] = list(self.ids)
        if self.image is not None:
            data["image"] = self.image
        return data

    def validate(
        self, vocab: Vocab, where: str = "graph", max_objects: int | None = None, resolve: Resolve | None = None
    ) -> SceneGraph:
        """Checks that a model can encode the graph.

        Args:
            vocab: vocabulary of the model.
            where: source of the graph, for error messages.
            max_objects: largest number of objects, without `__image__`; None for any number.
            resolve: tells what names mean that the vocabulary lacks; None refuses them.

        Returns:
            The graph in the vocabulary's names; this graph without `resolve`.

        Raises:
            GraphError: a name is not in the vocabulary, or there are too many objects.
        """
        if max_objects is not None and len(self.objects) > max_objects:
            raise GraphError(
                f"{where}: {len(self.objects)} objects, but the model encodes at most {max_objects}; remove some"
            ).coded("too_many_objects", count=len(self.objects), most=max_objects)
        if resolve is not None:
            return resolve_names(self, resolve, where).validate(vocab, where)
        attributes = [(index, name) for index, names in enumerate(self.known_attributes) for name in names]
        names = [(f"objects[{index}]", vocab.object_id, name) for index, name in enumerate(self.objects)]
        names += [(f"relationships[{index}]", vocab.predicate_id, t[1]) for index, t in enumerate(self.known_triples)]
        names += [(f"attributes[{index}]", vocab.attribute_id, name) for index, name in attributes]
        for place, to_id, name in names:
            try:
                to_id(name)
            except GraphError as error:
                raise GraphError(f"{where}, {place}: {error}").coded_like(error) from None
        return self

    def describe(self, index: int) -> str:
        """An object in words: its attributes and its name, such as 'large red circle'."""
        return " ".join((*self.known_attributes[index], self.objects[index]))


def _drop_image_object(fields: Fields, where: str) -> Fields:
    """Removes `__image__`, `__in_image__` and self-relations; warns of dropped relations that carried information."""
    objects, boxes, attributes, triples, ids, image = fields
    kept_objects = [i for i, name in enumerate(objects) if name != IMAGE]
    new_index = {old: new for new, old in enumerate(kept_objects)}
    remaining, self_relations, unsupported = [], [], []
    for i, (subject, predicate, object_) in enumerate(triples or ()):
        if subject == object_:
            self_relations.append(i)
        elif predicate != IN_IMAGE and subject in new_index and object_ in new_index:
            remaining.append((new_index[subject], predicate, new_index[object_]))
        elif predicate != IN_IMAGE or objects[object_] != IMAGE:
            unsupported.append(i)
    if self_relations:
        warnings.warn(
            f"{where}, relationships{self_relations}: dropped, since they relate an object to itself", stacklevel=3
        )
    if unsupported:
        warnings.warn(
            f"{where}, relationships{unsupported}: dropped, since {IN_IMAGE} goes with {IMAGE} and only it",
            stacklevel=3,
        )
    return (
        tuple(objects[i] for i in kept_objects),
        tuple(boxes[i] for i in kept_objects),
        tuple(attributes[i] for i in kept_objects),
        None if triples is None else tuple(remaining),
        tuple(ids[i] for i in kept_objects),
        image,
    )
