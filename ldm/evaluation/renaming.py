"""Scenes whose words are all replaced, by synonyms or another language, and read again as names of the vocabulary or embedded.

A file lists words by kind and name: {"object": {"circle": ["disk", "round shape"]}, ...}.
"""

from __future__ import annotations

import os
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from ldm.graph.json_files import read_json
from ldm.graph.resolving import Slot, resolve_names
from ldm.graph.scene_graph import SceneGraph
from ldm.graph.validation import GraphError, shorten
from ldm.graph.vocab import Vocab
from ldm.words.lexicon import KINDS
from ldm.words.open_words import OpenWords

Words = Mapping[str, Mapping[str, Sequence[str]]]


@dataclass(frozen=True)
class Renaming:
    """Replaces and reads words.

    Args:
        words: by kind and name.
        seed: of the choice among several words.
        embeds: whether a model with open words is given the words as they are.
    """

    words: Words
    seed: int = 0
    embeds: bool = False

    @classmethod
    def read(cls, path: str | os.PathLike, seed: int = 0, embeds: bool = False) -> Renaming:
        """Raises GraphError: the file cannot be read, or has another form."""
        data = read_json(path)
        tables = list(data.values()) if isinstance(data, dict) and set(data) <= set(KINDS) else [None]
        lists = [words for table in tables for words in (table.values() if isinstance(table, dict) else [None])]
        if not all(
            isinstance(words, list) and words and all(isinstance(word, str) for word in words) for words in lists
        ):
            raise GraphError(f'{path}: give {{"object": {{"circle": ["disk"]}}, ...}}, not {shorten(data)}')
        return cls(data, seed, embeds)

    def rename(self, graph: SceneGraph, number: int) -> SceneGraph:
        """The graph in other words. Names without any stay.

        Args:
            number: of the scene, which chooses among several words.
        """
        rng = random.Random(f"{self.seed} {number}")

        def word_of(name: str, slot: Slot) -> str:
            return rng.choice(self.words.get(slot.kind, {}).get(name) or [name])

        return resolve_names(graph, word_of)

    def asked(self, graph: SceneGraph, number: int, vocab: Vocab) -> tuple[SceneGraph | None, list[str]]:
        """What the model is asked for, or None if a word is not accepted; and what is wrong with it."""
        if self.embeds:
            return self.rename(graph, number), []
        return self.read_again(graph, number, vocab)

    def read_again(self, graph: SceneGraph, number: int, vocab: Vocab) -> tuple[SceneGraph | None, list[str]]:
        """The renamed graph in the vocabulary's names, or None if a word is not accepted; and what is wrong with it."""
        words = _open_words(vocab)
        try:
            named = words.name_graph(self.rename(graph, number))[0].named
        except GraphError as error:
            return None, [str(error)]
        return named, [] if named == graph else ["a word was read as another name"]


@lru_cache(maxsize=1)
def _open_words(vocab: Vocab) -> OpenWords:
    return OpenWords(vocab)
