"""The names of one kind in a vocabulary, found by spelling, by the lexicon, and by meaning."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple, Protocol

import numpy as np

from ldm.graph.vocab import GAP
from ldm.words.lexicon import ENGLISH, Lexicon
from ldm.words.policy import Candidate
from ldm.words.sentence_encoder import DIM, SentenceEncoder
from ldm.words.spelling import key_of, look_up, similar_keys

ENGLISH_WEIGHT = 0.5


class Listed(NamedTuple):
    """A name that the lexicon gives for a word."""

    name: str
    homonym: bool
    language: str


class Alignment(Protocol):
    """A map of sentence embeddings; see `ldm.words.aligner`."""

    def __call__(self, vectors: np.ndarray) -> np.ndarray:
        """(n,512) unit vectors -> (n,512) unit vectors."""
        ...


class NameIndex:
    """Names of one kind.

    A name's prototype is the direction of a sum: the embedding of the name, ENGLISH_WEIGHT times that of each further English
    form, and the mean over the lexicon's other languages, homonyms excepted. It is nearer to words of further languages than the
    name alone.

    Args:
        kind: object, predicate or attribute.
        names: of the vocabulary; those that begin with two underscores, and gaps, are never found.
        lexicon: forms of names.
        encoder: of texts.
        alignment: a map of the embeddings of words and forms, or None.
    """

    def __init__(
        self,
        kind: str,
        names: Sequence[str],
        lexicon: Lexicon,
        encoder: SentenceEncoder,
        alignment: Alignment | None = None,
    ):
        self.kind, self.lexicon, self.encoder, self.alignment = kind, lexicon, encoder, alignment
        distinct: dict[str, str] = {}
        for name in names:
            if name != GAP and not name.startswith("__"):
                distinct.setdefault(key_of(name), name)  # Visual Genome has 'white' and 'white '
        self.names = list(distinct.values())
        self.by_key = {key: [name] for key, name in distinct.items()}
        self.listed: dict[str, list[Listed]] = {}
        for name in self.names:
            for form in lexicon.forms_of(kind, name):
                found = self.listed.setdefault(key_of(form.text), [])
                if all(each.name != name for each in found):
                    found.append(Listed(name, form.homonym, form.language))

    def spelled(self, text: str) -> str | None:
        """The name that a word is, apart from case, plural and the like."""
        return next(iter(look_up(text, self.by_key)), None)

    def in_lexicon(self, text: str) -> list[Listed]:
        """The names for which the lexicon lists a word."""
        return look_up(text, self.listed)

    def misspelt(self, text: str, cutoff: float) -> list[Candidate]:
        """Names that a word misspells, if the encoder does not know the word, the best first."""
        words = key_of(text).split()
        if all(self.encoder.pieces(word) == 1 for word in words):
            return []
        english = {key: found for key, found in self.listed.items() if any(each.language == ENGLISH for each in found)}
        for table in (english, self.listed):
            best: dict[str, float] = {}
            for key, ratio in similar_keys(text, {**self.by_key, **table}, cutoff):
                for name in [*self.by_key.get(key, []), *(each.name for each in table.get(key, []))]:
                    best[name] = max(ratio, best.get(name, 0.0))
            if best:
                return sorted((Candidate(*item) for item in best.items()), key=lambda each: -each.score)
        return []

    def nearest(self, text: str) -> list[Candidate]:
        """All names by the similarity of meaning, the best first."""
        scores = self.similarities([text])[0]
        return [Candidate(self.names[i], float(scores[i])) for i in np.argsort(-scores, kind="stable")]

    def similarities(self, texts: Sequence[str]) -> np.ndarray:  # -> (n, names)
        """Cosines of texts and prototypes."""
        return self.embed(texts) @ self.prototypes.T

    def embed(self, texts: Sequence[str]) -> np.ndarray:  # -> (n,512)
        vectors = self.encoder.encode(list(texts))
        return vectors if self.alignment is None else self.alignment(vectors)

    @cached_property
    def prototypes(self) -> np.ndarray:  # (names,512)
        """Unit vectors."""
        if not self.names:
            return np.zeros((0, DIM), np.float32)
        sums = np.stack([self._sum_of_forms(name) for name in self.names])
        return sums / np.linalg.norm(sums, axis=1, keepdims=True)

    def _sum_of_forms(self, name: str) -> np.ndarray:  # (512,)
        by_language: dict[str, list[str]] = {}
        for form in self.lexicon.forms_of(self.kind, name):
            if not form.homonym:
                by_language.setdefault(form.language, []).append(form.text)
        total = self.embed([name.strip()])[0]
        if english := by_language.pop(ENGLISH, []):
            total = total + ENGLISH_WEIGHT * self.embed(english).sum(0)
        if by_language:
            total = total + np.mean([self.embed(texts).mean(0) for texts in by_language.values()], axis=0)
        return total
