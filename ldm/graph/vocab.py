"""Vocabularies: names of objects, predicates and attributes with their ids, as in sg2im's vocab.json."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

from ldm.graph.json_files import read_json, write_text
from ldm.graph.validation import GraphError, find_id, shorten
from ldm.util.unicode import composed

IMAGE, IN_IMAGE = "__image__", "__in_image__"
KINDS = ("object", "predicate", "attribute")  # of names, in the order of a vocabulary's tables
GAP = "NONE"  # sg2im's name for COCO category ids that are not in use


@dataclass(frozen=True)
class Vocab:
    """Names in the order of their ids, in Unicode's composed form, as in a SceneGraph.

    Attributes:
        objects: object names; the first is `__image__`. The name NONE marks ids that are not in use, as in COCO.
        predicates: predicate names; the first is `__in_image__`.
        attributes: attribute names; empty for data without attributes, such as COCO.
    """

    objects: tuple[str, ...]
    predicates: tuple[str, ...]
    attributes: tuple[str, ...] = ()

    def __post_init__(self):
        for table, first in (("objects", IMAGE), ("predicates", IN_IMAGE), ("attributes", None)):
            names = getattr(self, table)
            if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
                raise GraphError(f"the vocabulary's {table} are {shorten(names)}; give a list of names")
            if first is not None and (not names or names[0] != first):
                raise GraphError(f"the vocabulary's {table} begin with {shorten(names[:1])}; put {first} first")
            names = tuple(map(composed, names))
            used = [name for name in names if name != GAP]
            if len(set(used)) < len(used):
                duplicate = next(name for name in used if used.count(name) > 1)
                raise GraphError(f"the vocabulary's {table} contain {shorten(duplicate)} twice; remove one")
            object.__setattr__(self, table, names)

    @classmethod
    def read(cls, path: str | os.PathLike) -> Vocab:
        """Reads a vocab.json.

        Raises:
            GraphError: the file cannot be read, or holds no vocabulary.
        """
        return cls.from_json(read_json(path), f"{path}")

    @classmethod
    def from_json(cls, data: Any, where: str = "vocabulary") -> Vocab:
        """Builds a Vocab from the lists `object_idx_to_name`, `pred_idx_to_name` and `attribute_idx_to_name`.

        Args:
            data: parsed JSON of any type.
            where: source of the data, such as a path, for error messages.

        Raises:
            GraphError: the data is no vocabulary.
        """
        if not isinstance(data, dict) or not {"object_idx_to_name", "pred_idx_to_name"} <= data.keys():
            raise GraphError(
                f'{where}: give the lists "object_idx_to_name" and "pred_idx_to_name", not {shorten(data)}'
            )
        try:
            return cls(data["object_idx_to_name"], data["pred_idx_to_name"], data.get("attribute_idx_to_name") or ())
        except GraphError as error:
            raise GraphError(f"{where}: {error}") from None

    def to_json(self) -> dict:
        """sg2im's six tables: names by id and ids by name. Without attributes there are four."""
        data, tables = {}, (self.objects, self.predicates, self.attributes)
        for kind, names, ids in zip(("object", "pred", "attribute"), tables, self.ids):
            if names:
                data |= {f"{kind}_idx_to_name": list(names), f"{kind}_name_to_idx": dict(ids)}
        return data

    def write(self, path: str | os.PathLike) -> None:
        """Writes a vocab.json."""
        write_text(path, json.dumps(self.to_json()) + "\n")

    def extended(self, names: Mapping[str, Sequence[str]], sizes: Mapping[str, int] | None = None) -> Vocab:
        """The vocabulary with further names behind its own, which keep their ids.

        Args:
            names: by kind: object, predicate, attribute.
            sizes: least id of a further name by kind, where a table has more rows than there are names.

        Raises:
            GraphError: a name is there already.
        """
        tables = []
        for kind, own in zip(KINDS, (self.objects, self.predicates, self.attributes)):
            added = tuple(names.get(kind, ()))
            gaps = (sizes or {}).get(kind, 0) - len(own) if added else 0
            tables.append((*own, *(GAP,) * gaps, *added))
        return Vocab(*tables)

    def object_id(self, name: str) -> int:
        """The id of an object name; raises GraphError for an unknown one."""
        return find_id(name, self.ids[0], "object")

    def predicate_id(self, name: str) -> int:
        """The id of a predicate; raises GraphError for an unknown one."""
        return find_id(name, self.ids[1], "predicate")

    def attribute_id(self, name: str) -> int:
        """The id of an attribute; raises GraphError for an unknown one."""
        return find_id(name, self.ids[2], "attribute")

    @cached_property
    def ids(self) -> tuple[dict[str, int], dict[str, int], dict[str, int]]:
        """Ids by name: of objects, of predicates, of attributes."""
        objects, predicates, attributes = (
            {name: index for index, name in enumerate(names) if name != GAP}
            for names in (self.objects, self.predicates, self.attributes)
        )
        return objects, predicates, attributes


class OpenVocab(Vocab):
    """A vocabulary of any names, for models that read text or meanings: a name gets the next id when it is first asked for.

    Args:
        known: a vocabulary whose names keep their ids.
    """

    def __init__(self, known: Vocab | None = None):
        tables = (known.objects, known.predicates, known.attributes) if known else ((IMAGE,), (IN_IMAGE,), ())
        self.__dict__["ids"] = tuple(map(_Growing, tables))

    @property
    def objects(self) -> tuple[str, ...]:  # pyright: ignore[reportIncompatibleVariableOverride] - grows
        return self._names(0)

    @property
    def predicates(self) -> tuple[str, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self._names(1)

    @property
    def attributes(self) -> tuple[str, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self._names(2)

    def _names(self, table: int) -> tuple[str, ...]:
        return tuple(cast(_Growing, self.ids[table]).names)

    def object_id(self, name: str) -> int:
        return self.ids[0][name]

    def predicate_id(self, name: str) -> int:
        return self.ids[1][name]

    def attribute_id(self, name: str) -> int:
        return self.ids[2][name]


class _Growing(dict[str, int]):
    """Ids by name, with the next id for a new name.

    Args:
        names: in the order of their ids; gaps are no names.
    """

    def __init__(self, names: tuple[str, ...]):
        super().__init__((name, index) for index, name in enumerate(names) if name != GAP)
        self.names = list(names)

    def __missing__(self, name: str) -> int:
        self[name] = len(self.names)
        self.names.append(name)
        return self[name]
