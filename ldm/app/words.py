"""Names that a user may type: completion, spelling, and which attributes exclude each other."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from ldm.app.errors import RequestError
from ldm.graph.spatial_relations import KIND
from ldm.graph.vocab import GAP, Vocab
from ldm.synthetic.worlds import WorldReader
from ldm.util.unicode import composed

KINDS = ("object", "predicate", "attribute")
SIMILARITY = 0.6  # of difflib, from which on a name is offered for a misspelt one
MOST_SUGGESTIONS = 100


class Suggestion(NamedTuple):
    """A name to choose, and what the page shows beside it."""

    name: str
    note: str = ""


class Resolution(NamedTuple):
    """What a typed text stands for.

    Args:
        name: the name that is used for exactly this text; None if it is not accepted as it stands.
        suggestions: names to choose from, the best first.
    """

    name: str | None
    suggestions: Sequence[Suggestion]


class Resolver(Protocol):
    """Turns what a user types into names of the model; a model of open words brings its own."""

    def resolve(self, kind: str, text: str, limit: int) -> Resolution:
        """`kind` is object, predicate or attribute; `text` may be empty."""
        ...


class VocabResolver:
    """Completes and corrects by the names of a vocabulary; a `Resolver`."""

    def __init__(self, vocab: Vocab):
        tables = vocab.objects, vocab.predicates, vocab.attributes
        self.names = {kind: _shown(names) for kind, names in zip(KINDS, tables)}

    def resolve(self, kind: str, text: str, limit: int) -> Resolution:
        """First names that begin with the text, then those with a word that does, then those that contain it, then similar ones.

        Raises:
            RequestError: there is no such kind.
        """
        if kind not in self.names:
            raise RequestError(f"kind: choose one of {', '.join(KINDS)}")
        names, typed = self.names[kind], " ".join(composed(text).split()).lower()
        by_key = {name.lower(): name for name in names}
        ranked = [name for name in names if name.lower().startswith(typed)]
        ranked += [name for name in names if f" {typed}" in name.lower()]
        ranked += [name for name in names if typed in name.lower()]
        if typed:
            close = difflib.get_close_matches(typed, by_key, n=limit, cutoff=SIMILARITY)
            ranked += [by_key[key] for key in close]
        chosen = list(dict.fromkeys(ranked))[: min(limit, MOST_SUGGESTIONS)]
        return Resolution(by_key.get(typed), [Suggestion(name) for name in chosen])


def describe(vocab: Vocab, reader: WorldReader | None) -> dict:
    """The names of a model, and what the world says of them."""
    objects, predicates, attributes = map(_shown, (vocab.objects, vocab.predicates, vocab.attributes))
    groups = [reader.sizes, reader.colours, reader.finishes] if reader else []
    return {
        "objects": objects,
        "predicates": predicates,
        "attributes": attributes,
        "attribute_groups": [list(group) for group in groups if group],
        "converse": dict(reader.converse) if reader else {},
        "spatial": [name for name in predicates if name in KIND],
    }


def _shown(names: Sequence[str]) -> list[str]:
    return [name for name in names if name != GAP and not name.startswith("__")]
