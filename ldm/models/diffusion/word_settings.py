"""The words that a config wants a model to learn, and the vectors that they start from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ldm.checkpoints.word_files import read_words
from ldm.graph.text_tokens import check_learned_word
from ldm.modules.encoders.modules import TextEncoder
from ldm.modules.encoders.words import initial_vectors
from ldm.util.errors import ConfigError, UserError, did_you_mean

PLACE = "model.params.words"
KEYS = ("word", "init", "vectors")


class TaughtWord(NamedTuple):
    """A word to learn.

    Attributes:
        name: as captions contain it.
        init: the text that it starts from; None for random vectors, or those of a file.
        vectors: the initial ones, (n,D) of each text tower.
    """

    name: str
    init: str | None
    vectors: Sequence[Tensor]

    def settings(self) -> dict[str, Any]:
        """Its entry in a config."""
        return {"word": self.name, "init": self.init, "vectors": len(self.vectors[0])}


def read_taught_words(entries: Sequence[Mapping], words_from: str | None, encoder: TextEncoder) -> list[TaughtWord]:
    """The words of `model.params.words`, which start from their initializers, or from a file that has them.

    Args:
        entries: of the config.
        words_from: file of learned words. If it has one word and the config names one, these are the same.
        encoder: the text encoder.

    Raises:
        ConfigError: an entry is wrong.
        UserError: a word cannot be one, or the file does not have it.
    """
    stored = (
        {check_learned_word(name): word.vectors for name, word in read_words(words_from).words.items()}
        if words_from
        else {}
    )
    if not entries:
        return [TaughtWord(name, None, vectors) for name, vectors in stored.items()]
    found = []
    for number, entry in enumerate(entries):
        name, init, count = _read_entry(entry, f"{PLACE}[{number}]")
        if name in {word.name for word in found}:
            raise ConfigError(f"{PLACE}[{number}]: the word {name!r} is there already; name each once")
        if len(stored) == len(entries) == 1:
            stored = {name: next(iter(stored.values()))}
        if words_from and name not in stored:
            raise UserError(
                f"{words_from}: has no word {name!r}, only {', '.join(stored)}; rename the word in the config"
            )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(number)  # of random vectors, so that they are the same in every process
            vectors = stored.get(name) or initial_vectors(encoder, init, count)
        found.append(TaughtWord(name, init, vectors))
    return found


def _read_entry(entry: Mapping, place: str) -> tuple[str, str | None, int]:
    if not isinstance(entry, Mapping):
        raise ConfigError(f"{place} is {entry!r}; a word has the keys word, init and vectors")
    for key in entry:
        if key not in KEYS:
            raise ConfigError(
                f"{place}: there is no key {key!r}{did_you_mean(key, KEYS)}; a word has word, init and vectors"
            )
    word, init, count = entry.get("word"), entry.get("init"), entry.get("vectors")
    count = 1 if count is None else count
    if not isinstance(word, str) or not isinstance(init, (str, type(None))):
        raise ConfigError(f"{place}: word and init are texts, as in {{word: <my-cat>, init: cat}}")
    if type(count) is not int or not 1 <= count <= 64:
        raise ConfigError(f"{place}.vectors is {count!r}; give a whole number from 1 to 64")
    return check_learned_word(word), init, count
