"""The phrases of a graph in which a word stands: 'man riding horse' for each of its triples, 'red ball' for an attribute."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from ldm.graph.resolving import Slot
from ldm.graph.scene_graph import SceneGraph


@dataclass(frozen=True)
class Phrase:
    """Words in a row, one of which is in question.

    Args:
        words: pairs of kind and word.
        position: of the word in question.
    """

    words: tuple[tuple[str, str], ...]
    position: int

    @property
    def text(self) -> str:
        return " ".join(word for _, word in self.words)

    @property
    def neighbours(self) -> list[str]:
        """The words of the phrase's other objects."""
        return [word for index, (kind, word) in enumerate(self.words) if kind == "object" and index != self.position]

    def translated(self, name_of: Callable[[str, str], str]) -> Phrase:
        """The same with names, given kind and word, for all other words."""
        words = tuple(
            (kind, word if index == self.position else name_of(kind, word))
            for index, (kind, word) in enumerate(self.words)
        )
        return replace(self, words=words)

    def with_word(self, word: str) -> str:
        """The text with another word in the place in question."""
        return " ".join(word if index == self.position else other for index, (_, other) in enumerate(self.words))


def phrases_of(graph: SceneGraph, slot: Slot) -> list[Phrase]:
    """The phrases in which the word of a slot stands; none for an object without relations."""
    phrases = []
    for index, (subject, predicate, object_) in enumerate(graph.known_triples):
        words = (("object", graph.objects[subject]), ("predicate", predicate), ("object", graph.objects[object_]))
        if slot.kind == "predicate" and index == slot.index:
            phrases.append(Phrase(words, 1))
        elif slot.kind == "object" and slot.index in (subject, object_):
            phrases.append(Phrase(words, 0 if slot.index == subject else 2))
    if slot.kind == "attribute":
        word = graph.known_attributes[slot.index][slot.number]
        phrases.append(Phrase((("attribute", word), ("object", graph.objects[slot.index])), 0))
    return phrases
