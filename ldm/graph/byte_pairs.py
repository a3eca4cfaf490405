"""Byte pair encoding (Sennrich et al. 1508.07909) of words with CLIP's vocabulary, which open_clip brings along as a file.

The file is read without importing open_clip, which takes seconds.
"""

from __future__ import annotations

import gzip
from functools import lru_cache
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

VOCABULARY_FILE = "bpe_simple_vocab_16e6.txt.gz"
MERGES = 49152 - 256 - 2  # of the file's lines, behind its first one, those that CLIP uses
WORD_END = "</w>"
# Bytes that the vocabulary writes as the Latin-1 character; the others follow from 256 on (GPT-2).
PRINTABLE = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]


class Vocabulary(NamedTuple):
    """CLIP's vocabulary.

    Attributes:
        characters: how each byte is written.
        ids: token of each piece of a word; a piece at the end of one ends in WORD_END.
        ranks: order in which pairs of pieces are merged.
    """

    characters: dict[int, str]
    ids: dict[str, int]
    ranks: dict[tuple[str, str], int]


@lru_cache(maxsize=1)
def clip_vocabulary() -> Vocabulary:
    """Reads the vocabulary. Raises ModuleNotFoundError if open_clip is not installed."""
    package = find_spec("open_clip")
    if package is None or not package.submodule_search_locations:
        raise ModuleNotFoundError("No module named 'open_clip'", name="open_clip")
    text = gzip.decompress((Path(package.submodule_search_locations[0]) / VOCABULARY_FILE).read_bytes()).decode()
    others = [byte for byte in range(256) if byte not in PRINTABLE]
    characters = {byte: chr(byte) for byte in PRINTABLE} | {byte: chr(256 + n) for n, byte in enumerate(others)}
    merges: list[tuple[str, str]] = []
    for line in text.split("\n")[1 : MERGES + 1]:
        first, second = line.split()
        merges.append((first, second))
    pieces = [*characters.values(), *(f"{character}{WORD_END}" for character in characters.values())]
    pieces += [first + second for first, second in merges]
    return Vocabulary(
        characters, {piece: id_ for id_, piece in enumerate(pieces)}, {pair: rank for rank, pair in enumerate(merges)}
    )


def split_word(word: str) -> list[str]:
    """The pieces of a word, which is not empty: pairs of neighbours are merged in the order of the vocabulary."""
    vocabulary = clip_vocabulary()
    pieces = [vocabulary.characters[byte] for byte in word.encode()]
    pieces[-1] += WORD_END
    while known := [pair for pair in pairwise(pieces) if pair in vocabulary.ranks]:
        pieces = _merge(pieces, *min(known, key=vocabulary.ranks.__getitem__))
    return pieces


def _merge(pieces: list[str], first: str, second: str) -> list[str]:
    """Merges a pair of neighbours wherever it stands, from the left."""
    merged: list[str] = []
    open_pair = False  # whether the last piece may still be the first of a pair
    for piece in pieces:
        if open_pair and piece == second:
            merged[-1] += piece
            open_pair = False
        else:
            merged.append(piece)
            open_pair = piece == first
    return merged
