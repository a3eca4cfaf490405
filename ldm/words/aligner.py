"""A linear map that turns embeddings of words in other languages towards those of the English names, learned from pairs.

Ridge regression towards the identity: W minimises |X W - Y|^2 + strength |W - I|^2 for unit vectors X of words and Y of names, and a
mapped vector is scaled to length 1. With a large strength it changes nothing. Whether it helps is measured by cross-validation on
words that are left out, with the strength among STRENGTHS that does best. It wins for a kind of names if more words become right than
wrong by two standard errors of that difference; elsewhere it is not used.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import safetensors
from safetensors.numpy import save_file

from ldm.util.errors import UserError
from ldm.util.files import atomic_write
from ldm.words.lexicon import ENGLISH, KINDS, Lexicon
from ldm.words.names import NameIndex
from ldm.words.sentence_encoder import DIM, SentenceEncoder

STRENGTHS = (0.3, 1.0, 3.0, 10.0, 30.0)
FOLDS = 5
SHOWN = 3


@dataclass(frozen=True)
class LinearMap:
    """Unit vectors times a matrix, scaled to length 1 again; an `Alignment`."""

    matrix: np.ndarray  # (512,512)

    def __call__(self, vectors: np.ndarray) -> np.ndarray:  # (n,512) -> (n,512)
        mapped = vectors @ self.matrix
        return mapped / np.maximum(np.linalg.norm(mapped, axis=-1, keepdims=True), 1e-12)


@dataclass(frozen=True)
class Pair:
    """A word of another language and the names for which it stands."""

    word: str
    language: str
    names: tuple[str, ...]


def fit(x: np.ndarray, y: np.ndarray, strength: float) -> LinearMap:
    """The map of word vectors (n,512) to name vectors (n,512)."""
    identity = np.eye(x.shape[1])
    x, y = x.astype(np.float64), y.astype(np.float64)
    residual = np.linalg.solve(x.T @ x + strength * identity, x.T @ (y - x))
    return LinearMap((identity + residual).astype(np.float32))


def pairs_of(kind: str, lexicon: Lexicon) -> list[Pair]:
    """All words of the lexicon in other languages than English, homonyms excepted."""
    found: dict[tuple[str, str], list[str]] = {}
    for name, forms in lexicon.forms[kind].items():
        for form in forms:
            if form.language != ENGLISH and not form.homonym:
                found.setdefault((form.text, form.language), []).append(name)
    return [Pair(word, language, tuple(names)) for (word, language), names in found.items()]


@dataclass(frozen=True)
class Aligned:
    """A map for one kind of names, and the cross-validation that decides whether it is used.

    Attributes:
        scores: language -> [words, top-1 and top-3 without the map, top-1 and top-3 with it], on words left out.
        gained, lost: words that only the map gets right, and that it alone gets wrong.
    """

    kind: str
    map: LinearMap
    strength: float
    scores: Mapping[str, Sequence[float]]
    gained: int
    lost: int

    @property
    def wins(self) -> bool:
        """Whether the map has the better top-1 by two standard errors, as in McNemar's test."""
        return self.gained - self.lost > 2 * math.sqrt(self.gained + self.lost)


def align(kind: str, names: Sequence[str], lexicon: Lexicon, encoder: SentenceEncoder, seed: int = 0) -> Aligned:
    """Learns and cross-validates the map of one kind of names.

    A fold leaves out names in one of their languages, from the map and from the prototypes, as a word is unknown in use.
    """
    pairs = pairs_of(kind, lexicon)
    rng = np.random.default_rng(seed)
    order = list(dict.fromkeys((name, pair.language) for pair in pairs for name in pair.names))
    fold_of = {order[at]: index % FOLDS for index, at in enumerate(rng.permutation(len(order)))}
    ranks = {
        strength: _ranks(kind, names, lexicon, encoder, pairs, fold_of, strength) for strength in (None, *STRENGTHS)
    }
    best = min(STRENGTHS, key=lambda strength: -_top(ranks[strength], 1))
    languages = dict.fromkeys(pair.language for pair in pairs)
    scores = {}
    for language in languages:
        rows = [
            [rank for rank, pair in zip(ranks[strength], pairs) if pair.language == language]
            for strength in (None, best)
        ]
        scores[language] = [len(rows[0]), *(_top(row, top) for row in rows for top in (1, SHOWN))]
    vectors = encoder.encode([pair.word for pair in pairs])
    mapped = fit(vectors, encoder.encode([pair.names[0] for pair in pairs]), best)
    gained, lost = (
        sum(a == 0 < b for a, b in zip(*each)) for each in ((ranks[best], ranks[None]), (ranks[None], ranks[best]))
    )
    return Aligned(kind, mapped, best, scores, gained, lost)


def _ranks(
    kind: str,
    names: Sequence[str],
    lexicon: Lexicon,
    encoder: SentenceEncoder,
    pairs: Sequence[Pair],
    fold_of: Mapping[tuple[str, str], int],
    strength: float | None,
) -> list[int]:
    """For each pair the rank of the first right name, of a map learned without its names; without a map for None."""
    ranks = [0] * len(pairs)
    for fold in range(FOLDS):
        held = [index for index, pair in enumerate(pairs) if fold_of[pair.names[0], pair.language] == fold]
        kept = [pair for pair in pairs if all(fold_of[name, pair.language] != fold for name in pair.names)]
        forms = {
            name: tuple(form for form in of if fold_of.get((name, form.language)) != fold)
            for name, of in lexicon.forms[kind].items()
        }
        alignment = None
        if strength is not None:
            y = encoder.encode([pair.names[0] for pair in kept])
            alignment = fit(encoder.encode([pair.word for pair in kept]), y, strength)
        index = NameIndex(kind, names, Lexicon({**lexicon.forms, kind: forms}), encoder, alignment)
        order = np.argsort(-index.similarities([pairs[i].word for i in held]), axis=1)
        for i, row in zip(held, order):
            ranks[i] = next(rank for rank, at in enumerate(row) if index.names[at] in pairs[i].names)
    return ranks


def _top(ranks: Sequence[int], top: int) -> float:
    return sum(rank < top for rank in ranks) / max(len(ranks), 1)


def write_alignments(path: str | os.PathLike, found: Sequence[Aligned], encoder: SentenceEncoder, seed: int) -> None:
    """Writes the maps with their cross-validation."""
    told = {
        each.kind: {
            "strength": each.strength,
            "wins": each.wins,
            "gained": each.gained,
            "lost": each.lost,
            "scores": {k: list(v) for k, v in each.scores.items()},
        }
        for each in found
    }
    metadata = {"encoder": encoder.name, "seed": str(seed), "kinds": json.dumps(told)}
    with atomic_write(path) as temporary:
        save_file({each.kind: np.ascontiguousarray(each.map.matrix) for each in found}, temporary, metadata)


def read_alignments(path: str | os.PathLike) -> dict[str, LinearMap]:
    """The maps of a file that won in their cross-validation, by kind.

    Raises:
        UserError: the file cannot be read, or is no file of `write_alignments`.
    """
    try:
        with safetensors.safe_open(path, "numpy") as file:
            told = json.loads((file.metadata() or {})["kinds"])
            maps = {kind: file.get_tensor(kind) for kind in told if kind in KINDS and told[kind]["wins"]}
    except (OSError, safetensors.SafetensorError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: holds no map of words ({error}); make one with scripts/align_words.py") from None
    for kind, matrix in maps.items():
        if matrix.shape != (DIM, DIM):
            raise UserError(
                f"{path}: the map of {kind}s has the shape {matrix.shape}, not ({DIM}, {DIM}); make it again"
            )
    return {kind: LinearMap(matrix) for kind, matrix in maps.items()}
