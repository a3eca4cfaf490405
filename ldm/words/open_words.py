"""What a word means in a vocabulary: by a dictionary, by spelling, by the lexicon, then by meaning; a graph decides homonyms."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from ldm.graph.resolving import Resolve, Slot, Wording, resolve_names
from ldm.graph.scene_graph import SceneGraph
from ldm.graph.validation import GraphError, shorten
from ldm.graph.vocab import Vocab
from ldm.util.unicode import composed
from ldm.words.lexicon import KINDS, Lexicon, read_lexicon
from ldm.words.names import Alignment, NameIndex
from ldm.words.phrases import phrases_of
from ldm.words.policy import Candidate, Outcome, Policy
from ldm.words.sentence_encoder import SentenceEncoder, load_encoder
from ldm.words.spelling import key_of, look_up

SHOWN = 3  # names in an error message and in a choice
RERANKED = 8  # names by meaning among which a word's relations decide
LONGEST = 100  # characters; a longer text is no name


@dataclass(frozen=True)
class Reading:
    """A word of a graph and the name for which it was taken.

    Attributes:
        by: name, dictionary, spelling, lexicon, relations (of a homonym) or meaning.
        score: similarity by which it was found; None where there is none.
    """

    kind: str
    word: str
    name: str
    by: str
    score: float | None = None

    def __str__(self) -> str:
        score = "" if self.score is None else f" {self.score:.2f}"
        how = score.strip() if self.by == "meaning" else f"{self.by}{score}"
        return f"{self.word!r} read as {self.name!r} ({how})"


class Decision(NamedTuple):
    """What is to happen with a word.

    Args:
        outcome: accept, ask or refuse.
        reading: if accepted.
        candidates: the nearest names, the best first.
    """

    outcome: Outcome
    reading: Reading | None
    candidates: Sequence[Candidate]


@dataclass
class OpenWords:
    """Reads words in the names of a vocabulary.

    Args:
        vocab: of the model.
        encoder: of texts; by default the installed one.
        policy: thresholds.
        lexicon: by default the project's.
        dictionary: names by words, which go before everything else; see `ldm.words.dictionary`.
        alignments: maps of embeddings by kind, where one is better than none (`ldm.words.aligner`).

    Raises:
        UserError: no encoder is given and none is installed.
    """

    vocab: Vocab
    encoder: SentenceEncoder | None = None
    policy: Policy = field(default_factory=Policy)
    lexicon: Lexicon | None = None
    dictionary: Mapping[str, str] = field(default_factory=dict)
    alignments: Mapping[str, Alignment] = field(default_factory=dict)

    def __post_init__(self):
        self.encoder = self.encoder or load_encoder()
        lexicon = self.lexicon or read_lexicon()
        tables = self.vocab.objects, self.vocab.predicates, self.vocab.attributes
        self.index = {
            kind: NameIndex(kind, names, lexicon, self.encoder, self.alignments.get(kind))
            for kind, names in zip(KINDS, tables)
        }
        self._dictionary = {key_of(word): [name] for word, name in self.dictionary.items()}

    def read(self, kind: str, word: str, graph: SceneGraph | None = None, slot: Slot | None = None) -> Decision:
        """Decides what a word means.

        Args:
            kind: object, predicate or attribute.
            word: in any spelling and language.
            graph, slot: the graph in the user's words, and where in it the word stands; they decide homonyms.
        """
        index, word = self.index[kind], " ".join(composed(word).split())
        if not word or len(word) > LONGEST or not index.names:
            return Decision(Outcome.REFUSE, None, ())
        for name in look_up(word, self._dictionary):
            if name in self._names(kind):
                return _accepted(kind, word, Candidate(name, math.nan), "dictionary")
        if (name := self._literal(kind, word)) is not None:
            return _accepted(kind, word, Candidate(name, math.nan), "name")
        listed = index.in_lexicon(word)
        if len(listed) == 1:
            return _accepted(kind, word, Candidate(listed[0].name, math.nan), "lexicon")
        if listed:
            return self._homonym(kind, word, [each.name for each in listed], graph, slot)
        meant = self._by_meaning(kind, word, graph, slot)
        if misspelt := index.misspelt(word, self.policy.typo):
            if meant.reading is not None and meant.reading.name not in {each.name for each in misspelt}:
                return Decision(Outcome.ASK, None, [*misspelt[: SHOWN - 1], meant.candidates[0]])
            if len(misspelt) == 1:
                return _accepted(kind, word, misspelt[0], "spelling", misspelt)
            return Decision(Outcome.ASK, None, misspelt)
        return meant

    def of(self, graph: SceneGraph, readings: list[Reading] | None = None) -> Resolve:
        """A function for `SceneGraph.validate` that resolves the names of this graph.

        Args:
            readings: gets what is not a name of the vocabulary already, once for each word.
        """

        def resolve(name: str, slot: Slot) -> str:
            if name in self._names(slot.kind):
                return name
            decision = self.read(slot.kind, name, graph, slot)
            if decision.reading is None:
                raise self.complaint(slot.kind, name, decision)
            if readings is not None and decision.reading not in readings:
                readings.append(decision.reading)
            return decision.reading.name

        return resolve

    def name_graph(self, graph: SceneGraph, where: str = "graph") -> tuple[Wording, list[Reading]]:
        """A graph in the vocabulary's names, and what was read as what.

        Raises:
            GraphError: a word means nothing here, or may mean several names.
        """
        readings: list[Reading] = []
        return Wording(graph, graph.validate(self.vocab, where, resolve=self.of(graph, readings))), readings

    def readings_of(self, graph: SceneGraph) -> list[Reading]:
        """What is read as what in a graph whose words are all accepted."""
        return self.name_graph(graph)[1]

    def complaints(self, graph: SceneGraph) -> dict[str, str]:
        """The words of a graph that are not accepted, by a sentence on each place."""
        found: dict[str, str] = {}
        resolve = self.of(graph)

        def collect(name: str, slot: Slot) -> str:
            try:
                return resolve(name, slot)
            except GraphError as error:
                found[f"{slot.place}: {error}"] = name
                return name

        resolve_names(graph, collect)
        return found

    def complaint(self, kind: str, word: str, decision: Decision) -> GraphError:
        """Why a word is not accepted, with the nearest names."""
        if not self.index[kind].names:
            return GraphError(f"the vocabulary has no {kind}s; leave {shorten(word)} out")
        near = decision.candidates[:SHOWN] or self.index[kind].nearest(word[:LONGEST])[:SHOWN]
        names = ", ".join(f"{name!r}" if math.isnan(score) else f"{name!r} ({score:.2f})" for name, score in near)
        shown, nearest = shorten(word), ", ".join(name for name, _ in near)
        if decision.outcome is Outcome.ASK:
            sentence = (
                f"{kind} {shorten(word)} may mean {names}; write the one that you mean, or give it in --dictionary"
            )
            return GraphError(sentence).coded("word_may_mean", word=shown, names=nearest)
        sentence = f"{kind} {shorten(word)} means no name of the vocabulary; the nearest are {names}: write a name, or give it in --dictionary"
        return GraphError(sentence).coded("word_means_nothing", word=shown, names=nearest)

    def _names(self, kind: str) -> Mapping[str, int]:
        return self.vocab.ids[KINDS.index(kind)]

    def _literal(self, kind: str, word: str) -> str | None:
        return word if word in self._names(kind) else self.index[kind].spelled(word)

    def _homonym(
        self, kind: str, word: str, names: Sequence[str], graph: SceneGraph | None, slot: Slot | None
    ) -> Decision:
        """Chooses by the word's relations; without any, the user is asked."""
        unranked = [Candidate(name, math.nan) for name in names]
        ranked = self.rank(kind, word, names, graph, slot)
        if ranked is None:
            return Decision(Outcome.ASK, None, unranked)
        if ranked[0].score - ranked[1].score < self.policy.rank_margin:
            return Decision(Outcome.ASK, None, [Candidate(each.name, math.nan) for each in ranked])
        return _accepted(kind, word, Candidate(ranked[0].name, math.nan), "relations", ranked)

    def _by_meaning(self, kind: str, word: str, graph: SceneGraph | None, slot: Slot | None) -> Decision:
        near = self.index[kind].nearest(word)[:RERANKED]
        outcome = self.policy.decide(near)
        if outcome is Outcome.ACCEPT:
            return _accepted(kind, word, near[0], "meaning", near)
        close = [each for each in near if near[0].score - each.score < self.policy.margin]
        if outcome is Outcome.ASK and near[0].score >= self.policy.accept:
            ranked = self.rank(kind, word, [each.name for each in close], graph, slot)
            if ranked and ranked[0].score - ranked[1].score >= self.policy.margin:
                score = next(each.score for each in close if each.name == ranked[0].name)
                return _accepted(kind, word, Candidate(ranked[0].name, score), "relations", near)
        return Decision(outcome, None, near)

    def rank(
        self, kind: str, word: str, names: Sequence[str], graph: SceneGraph | None, slot: Slot | None
    ) -> list[Candidate] | None:
        """Names by their similarity to the word in its relations, the best first; None for a word without relations.

        The phrase of a triple in the user's words is compared with the English phrase that has the name in the word's place;
        and the name with the English names of the other objects, since things that belong together have similar embeddings.
        """
        phrases = [] if graph is None or slot is None else phrases_of(graph, slot)
        if not phrases:
            return None
        index, policy = self.index[kind], self.policy
        own = index.similarities([word])[0]
        scores = policy.word * np.array([own[index.names.index(name)] for name in names])
        for phrase in phrases:
            english = phrase.translated(self._guess)
            texts = [phrase.text, *(english.with_word(name) for name in names), *names, *english.neighbours]
            vectors = index.embed(texts)
            whole, single, others = np.split(vectors[1:], [len(names), 2 * len(names)])
            scores += policy.phrase * (whole @ vectors[0]) / len(phrases)
            if len(others):
                scores += policy.neighbour * (single @ others.T).mean(1) / len(phrases)
        return [Candidate(names[i], float(scores[i])) for i in np.argsort(-scores, kind="stable")]

    def _guess(self, kind: str, word: str) -> str:
        """The most probable name of another word of a phrase, whatever its score."""
        if (name := self._literal(kind, word)) is not None:
            return name
        index = self.index[kind]
        listed = index.in_lexicon(word)
        if not index.names or not (listed or index.nearest(word)[0].score >= self.policy.refuse):
            return word
        return listed[0].name if listed else index.nearest(word)[0].name


def _accepted(
    kind: str, word: str, best: Candidate, by: str, candidates: Sequence[Candidate] | None = None
) -> Decision:
    score = None if math.isnan(best.score) else round(best.score, 4)
    return Decision(Outcome.ACCEPT, Reading(kind, word, best.name, by, score), candidates or (best,))
