"""Dictionary files: names by the words of a user, such as ko.json with {"양": "sheep"}."""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import chain

from ldm.graph.json_files import read_json
from ldm.graph.validation import GraphError, shorten, suggest
from ldm.graph.vocab import Vocab
from ldm.util.unicode import composed


def read_dictionary(paths: Sequence[str | os.PathLike], vocab: Vocab) -> dict[str, str]:
    """Reads dictionary files; a word of several has the name of the last one.

    Raises:
        GraphError: a file cannot be read or holds no dictionary, or a name is not in the vocabulary.
    """
    known = set(chain.from_iterable(vocab.ids))
    dictionary: dict[str, str] = {}
    for path in paths:
        data = read_json(path)
        if not isinstance(data, dict) or not all(isinstance(name, str) for name in data.values()):
            raise GraphError(f'{path}: give names by words, such as {{"양": "sheep"}}, not {shorten(data)}')
        for word, name in data.items():
            name = composed(name)
            if not word.strip():
                raise GraphError(f"{path}: a word is empty; remove it")
            if name not in known:
                raise GraphError(
                    f"{path}: {shorten(word)} stands for {shorten(name)}, which is not in the vocabulary"
                    f"{suggest(name, sorted(known))}"
                )
            dictionary[word] = name
    return dictionary
