"""Names that a config adds to a vocabulary, to be learned: a list of {word, kind, init}."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ldm.graph.vocab import GAP, KINDS, Vocab
from ldm.util.errors import ConfigError, did_you_mean
from ldm.util.unicode import composed

KEYS = ("word", "kind", "init")


class NewName(NamedTuple):
    """A name to learn.

    Attributes:
        name: as graphs have it.
        kind: object, predicate or attribute.
        init: the name of its kind that it starts from; None for the mean of all.
    """

    name: str
    kind: str
    init: str | None


def read_new_names(entries: Sequence[Mapping] | None, place: str) -> list[NewName]:
    """The entries of a config.

    Raises:
        ConfigError: an entry is wrong, or there is none.
    """
    found: list[NewName] = []
    for number, entry in enumerate(entries or ()):
        new = _read(entry, f"{place}[{number}]")
        if new.name in {other.name for other in found}:
            raise ConfigError(f"{place}[{number}]: the word {new.name!r} is there already; name each once")
        found.append(new)
    if not found:
        raise ConfigError(f"{place}: nothing would be learned; name a word (--placeholder_string)")
    return found


def _read(entry: Any, place: str) -> NewName:
    if not isinstance(entry, Mapping):
        raise ConfigError(f"{place} is {entry!r}; a word has the keys {', '.join(KEYS)}")
    for key in entry:
        if key not in KEYS:
            raise ConfigError(
                f"{place}: there is no key {key!r}{did_you_mean(f'{key}', KEYS)}; a word has {', '.join(KEYS)}"
            )
    word, kind, init = entry.get("word"), entry.get("kind") or KINDS[0], entry.get("init")
    if kind not in KINDS:
        raise ConfigError(f"{place}.kind: {kind!r}; choose {', '.join(KINDS)}{did_you_mean(f'{kind}', KINDS)}")
    if not isinstance(word, str) or not isinstance(init, (str, type(None))):
        raise ConfigError(f"{place}: word and init are texts, as in {{word: zorp, init: triangle}}")
    if not word.strip() or word != word.strip() or not word.isprintable() or word.startswith("__") or word == GAP:
        raise ConfigError(f"{place}: a name cannot be {word!r}; give printable text such as zorp")
    return NewName(composed(word), kind, init)


def with_new_names(vocab: Vocab, names: Sequence[NewName], place: str, sizes: Mapping[str, int] | None = None) -> Vocab:
    """The vocabulary with new names behind its own (see `Vocab.extended`).

    Raises:
        ConfigError: a name is there already.
    """
    for new in names:
        if new.name in vocab.ids[KINDS.index(new.kind)]:
            raise ConfigError(f"{place}: {new.name!r} is a name of the vocabulary already; choose another word")
    return vocab.extended({kind: [new.name for new in names if new.kind == kind] for kind in KINDS}, sizes)
