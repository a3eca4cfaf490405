"""Scene graphs: what is where, as names in a file and as numbers in a batch.

The file is the one that sg2im's users write (github.com/google/sg2im, scene_graphs/*.json), one graph or a list of
them. Only `objects` is required; null or a missing key stands for what is not known:

    {"objects": ["sheep", "grass"],                     names from the vocabulary
     "relationships": [[0, "standing on", 1]],          subject index, predicate, object index
     "boxes": [[0.2, 0.4, 0.6, 0.9], null],             x0 y0 x1 y1 as fractions of the image's width and height
     "attributes": [["white"], []],                     a list of names per object
     "ids": ["a", null],                                what makes an object the same one in an edited graph
     "image": "sheep.png"}                              the photograph that the graph is about

Published files hold two things that a SceneGraph does not, and reading drops them: relations of an object with
itself, which say nothing about another object (with a warning that names them), and the `__image__` object with its
`__in_image__` relations, which `encode` adds to every graph anyway. Triples that occur twice are kept.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ldm.graph.validation import Box, GraphError, Triple, checked, did_you_mean, find, show

IMAGE, IN_IMAGE = "__image__", "__in_image__"
GAP = "NONE"  # sg2im's name for the COCO category ids that stand for nothing


@dataclass(frozen=True)
class SceneGraph:
    """Objects, what is known of each, and the relations between them; anything wrong raises a GraphError.

    objects     O names, at least one
    boxes       O times x0 y0 x1 y1 in [0,1] with x0 < x1 and y0 < y1, or None
    attributes  O times any number of names
    triples     T times subject index, predicate, object index; the two objects differ
    ids         O times a text that no other object has, or None
    image       path of the photograph, or None
    """

    objects: tuple[str, ...]
    boxes: tuple[Box | None, ...] = ()
    attributes: tuple[tuple[str, ...], ...] = ()
    triples: tuple[Triple, ...] = ()
    ids: tuple[str | None, ...] = ()
    image: str | None = None

    def __post_init__(self):
        fields = checked(self.objects, self.boxes, self.attributes, self.triples, self.ids, self.image)
        for name, value in zip(self.__dataclass_fields__, fields):
            object.__setattr__(self, name, value)
        for index, name in enumerate(self.objects):
            if name == IMAGE:
                raise GraphError(f"objects[{index}]: {IMAGE} is added by encode; leave it out")
        for index, (subject, predicate, object_) in enumerate(self.triples):
            if predicate == IN_IMAGE:
                raise GraphError(f"relationships[{index}]: {IN_IMAGE} is added by encode; leave it out")
            if subject == object_:
                raise GraphError(f"relationships[{index}]: object {subject} cannot relate to itself; leave it out")

    @classmethod
    def from_json(cls, data: Any, where: str = "graph") -> SceneGraph:
        """The graph that a parsed JSON value holds; `where` opens every error and warning."""
        if not isinstance(data, dict):
            raise GraphError(f'{where}: a graph is written {{"objects": [...], ...}}, not {show(data)}')
        keys = {"objects": None, "boxes": (), "attributes": (), "relationships": (), "ids": (), "image": None}
        for key in data:
            if key not in keys:
                raise GraphError(f"{where}: unknown key {show(key)}{did_you_mean(key, keys)}")
        if "objects" not in data:
            raise GraphError(f'{where}: the key "objects" is missing; list the names of the objects under it')
        try:
            values = (default if data.get(key) is None else data[key] for key, default in keys.items())
            return cls(*_without_image(*checked(*values), where))
        except GraphError as error:
            raise GraphError(f"{where}, {error}") from None

    def to_json(self) -> dict:
        """The same in the file's form, without what is not known."""
        data = {"objects": list(self.objects), "relationships": [list(triple) for triple in self.triples]}
        if any(self.boxes):
            data["boxes"] = [box and list(box) for box in self.boxes]
        if any(self.attributes):
            data["attributes"] = [list(names) for names in self.attributes]
        if any(self.ids):
            data["ids"] = list(self.ids)
        if self.image is not None:
            data["image"] = self.image
        return data

    def validate(self, vocab: Vocab, where: str = "graph", max_objects: int | None = None) -> None:
        """Raise a GraphError for a name that `vocab` does not have, or for more than `max_objects` objects (the
        `__image__` object, which encode adds, is not counted)."""
        if max_objects is not None and len(self.objects) > max_objects:
            raise GraphError(f"{where}: {len(self.objects)} objects do not fit in {max_objects}; leave some out")
        attributes = [(index, name) for index, names in enumerate(self.attributes) for name in names]
        names = [(f"objects[{index}]", vocab.object_id, name) for index, name in enumerate(self.objects)]
        names += [(f"relationships[{index}]", vocab.predicate_id, t[1]) for index, t in enumerate(self.triples)]
        names += [(f"attributes[{index}]", vocab.attribute_id, name) for index, name in attributes]
        for place, to_id, name in names:
            try:
                to_id(name)
            except GraphError as error:
                raise GraphError(f"{where}, {place}: {error}") from None


def read_graphs(path: str | os.PathLike) -> list[SceneGraph]:
    """The graphs of a file that holds one or a list of them; whatever is wrong with it is a GraphError."""
    data = _read_json(path)
    if not isinstance(data, list):
        return [SceneGraph.from_json(data, f"{path}: graph")]
    if not data:
        raise GraphError(f"{path}: the list holds no graph; write at least one")
    return [SceneGraph.from_json(graph, f"{path}: graph {index}") for index, graph in enumerate(data)]


def read_graph(path: str | os.PathLike) -> SceneGraph:
    """The graph of a file that holds exactly one. Raises GraphError for anything else."""
    graphs = read_graphs(path)
    if len(graphs) != 1:
        raise GraphError(f"{path}: holds {len(graphs)} graphs, but one is needed; put it into a file of its own")
    return graphs[0]


def write_graphs(path: str | os.PathLike, graphs: Sequence[SceneGraph]) -> None:
    """One graph is written as itself, several as a list; the file is there as a whole or not at all."""
    if not graphs:
        raise GraphError(f"{path}: there is no graph to write")
    texts = []
    for graph in graphs:  # a line per key, where json.dumps has either one line for all or one for every number
        lines = (f'  "{key}": {json.dumps(value, ensure_ascii=False)}' for key, value in graph.to_json().items())
        texts.append("{\n" + ",\n".join(lines) + "\n}")
    _write(path, (texts[0] if len(texts) == 1 else "[\n" + ",\n".join(texts) + "\n]") + "\n")


@dataclass(frozen=True)
class Vocab:
    """Names by id, from sg2im's vocab.json. Object 0 is `__image__` and predicate 0 is `__in_image__`; attributes
    begin with a name of their own, and COCO has none. An object named NONE is an id that stands for nothing."""

    objects: tuple[str, ...]
    predicates: tuple[str, ...]
    attributes: tuple[str, ...] = ()

    def __post_init__(self):
        for table, first in (("objects", IMAGE), ("predicates", IN_IMAGE), ("attributes", None)):
            names = getattr(self, table)
            if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
                raise GraphError(f"the vocabulary's {table} are {show(names)}; give a list of names")
            if first is not None and (not names or names[0] != first):
                raise GraphError(f"the vocabulary's {table} begin with {show(names[:1])}; put {first} first")
            real = [name for name in names if name != GAP]
            if len(set(real)) < len(real):
                twice = next(name for name in real if real.count(name) > 1)
                raise GraphError(f"the vocabulary's {table} have {show(twice)} twice; leave one out")
            object.__setattr__(self, table, tuple(names))

    @classmethod
    def read(cls, path: str | os.PathLike) -> Vocab:
        """From a vocab.json; whatever is wrong with it is a GraphError."""
        return cls.from_json(_read_json(path), f"{path}")

    @classmethod
    def from_json(cls, data: Any, where: str = "vocabulary") -> Vocab:
        """From the parsed JSON, of which only the lists of names are read; `where` opens every error."""
        if not isinstance(data, dict) or not {"object_idx_to_name", "pred_idx_to_name"} <= data.keys():
            raise GraphError(f'{where}: give the lists "object_idx_to_name" and "pred_idx_to_name", not {show(data)}')
        try:
            return cls(data["object_idx_to_name"], data["pred_idx_to_name"], data.get("attribute_idx_to_name") or ())
        except GraphError as error:
            raise GraphError(f"{where}: {error}") from None

    def to_json(self) -> dict:
        """sg2im's six tables, or four where there are no attributes."""
        data, tables = {}, (self.objects, self.predicates, self.attributes)
        for what, names, ids in zip(("object", "pred", "attribute"), tables, self.ids):
            if names:
                data |= {f"{what}_idx_to_name": list(names), f"{what}_name_to_idx": dict(ids)}
        return data

    def write(self, path: str | os.PathLike) -> None:
        _write(path, json.dumps(self.to_json()) + "\n")

    def object_id(self, name: str) -> int:
        return find(name, self.ids[0], "object")

    def predicate_id(self, name: str) -> int:
        return find(name, self.ids[1], "predicate")

    def attribute_id(self, name: str) -> int:
        return find(name, self.ids[2], "attribute")

    @cached_property
    def ids(self) -> tuple[dict[str, int], ...]:
        """Ids by name: of the objects, of the predicates, of the attributes."""
        tables = (self.objects, self.predicates, self.attributes)
        return tuple({name: index for index, name in enumerate(names) if name != GAP} for names in tables)


def _without_image(objects, boxes, attributes, triples, ids, image, where: str) -> tuple:
    """The same fields without self-relations, `__image__` and `__in_image__`; warns of what a user might miss."""
    index = {old: new for new, old in enumerate(i for i, name in enumerate(objects) if name != IMAGE)}
    kept, selves, unclear = [], [], []
    for i, (subject, predicate, object_) in enumerate(triples):
        if subject == object_:
            selves.append(i)
        elif predicate != IN_IMAGE and subject in index and object_ in index:
            kept.append((index[subject], predicate, index[object_]))
        elif predicate != IN_IMAGE or objects[object_] != IMAGE:
            unclear.append(i)
    if selves:
        warnings.warn(f"{where}, relationships{selves}: dropped, as a relation of an object with itself says nothing")
    if unclear:
        warnings.warn(f"{where}, relationships{unclear}: dropped, as {IN_IMAGE} is the one relation with {IMAGE}")
    objects, boxes, attributes, ids = (tuple(x[i] for i in index) for x in (objects, boxes, attributes, ids))
    return objects, boxes, attributes, kept, ids, image


def _read_json(path: str | os.PathLike) -> Any:
    try:
        text = Path(path).read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise GraphError(f"{path}: byte {error.start} is not UTF-8; save the file as UTF-8 text") from None
    except (OSError, ValueError) as error:  # ValueError: a path that no file can have
        raise GraphError(f"{path}: cannot be read ({getattr(error, 'strerror', error)}); check the path") from None
    try:
        return json.loads(text, object_pairs_hook=_unique)
    except json.JSONDecodeError as error:
        place = f"{path}: line {error.lineno}, column {error.colno}"
        if error.msg == "Extra data":
            raise GraphError(f"{place}: something follows the end; remove it, or put graphs in one list") from None
        raise GraphError(f"{place}: this is not JSON ({error.msg}); mend it there") from None
    except RecursionError:
        raise GraphError(f"{path}: lists are nested too deeply for a graph; check the brackets") from None
    except GraphError as error:
        raise GraphError(f"{path}: {error}") from None
    except ValueError:
        raise GraphError(f"{path}: a whole number has thousands of digits; no graph needs it, take it out") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict:
    """json's way to build an object, but that the second of two equal keys does not hide the first."""
    data = {}
    for key, value in pairs:
        if key in data:
            raise GraphError(f"the key {show(key)} occurs twice in one object; keep one of them")
        data[key] = value
    return data


def _write(path: str | os.PathLike, text: str) -> None:
    """Beside, then renamed, so that a reader never finds half a file."""
    path = Path(path)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.write_text(text, encoding="utf-8")
        os.replace(beside, path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise GraphError(f"{path}: cannot be written ({error.strerror}); check the folder and the space") from None
