"""Names the graphs of a program: what it was told to do with words that the vocabulary lacks, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ldm.graph.resolving import Wording
from ldm.graph.scene_graph import SceneGraph
from ldm.graph.vocab import OpenVocab, Vocab
from ldm.util.words_option import EMBEDDED, RESOLVED
from ldm.words.aligner import read_alignments
from ldm.words.dictionary import read_dictionary
from ldm.words.open_words import OpenWords, Reading


@dataclass
class Naming:
    """How graphs are named, and the words of those that were.

    Args:
        words: open, embed, or None for names of the vocabulary only.
        dictionaries: paths of dictionary files.
        alignment: path of a file of `ldm.words.aligner`, or None.
    """

    words: str | None = None
    dictionaries: Sequence[str] = ()
    alignment: str | None = None
    readings: list[Reading] = field(default_factory=list, init=False)
    _wordings: dict[SceneGraph, tuple[Wording, list[Reading]]] = field(default_factory=dict, init=False)
    _open_words: tuple[Vocab, OpenWords] | None = field(default=None, init=False)

    @property
    def embeds(self) -> bool:
        """Whether words without a name are given to the model as they are."""
        return self.words == EMBEDDED

    def name(self, graph: SceneGraph, vocab: Vocab, where: str, max_objects: int | None = None) -> SceneGraph:
        """The graph in the vocabulary's names; unchanged where any word is a name.

        Raises:
            GraphError: a word has no name, or there are too many objects.
        """
        if self.words != RESOLVED or isinstance(vocab, OpenVocab):
            return graph.validate(vocab, where, max_objects)
        readings: list[Reading] = []
        words = self.open_words(vocab)
        named = graph.validate(vocab, where, max_objects, resolve=words.of(graph, readings))
        self.readings += [each for each in readings if each not in self.readings]
        if named != graph:
            self._wordings[named] = Wording(graph, named), readings
        return named

    def name_all(
        self, graphs: Mapping[str, SceneGraph], vocab: Vocab, max_objects: int | None = None
    ) -> dict[str, SceneGraph]:
        """Graphs by where they come from, named. Graphs that are named already stay."""
        return {where: self.name(graph, vocab, where, max_objects) for where, graph in graphs.items()}

    @property
    def remarks(self) -> tuple[str, ...]:
        """What was read as what, in one sentence; none if all words were names."""
        return ("; ".join(map(str, self.readings)),) if self.readings else ()

    def wordings(self, *named: SceneGraph | None) -> tuple[Wording, ...]:
        """The user's words of graphs that were named here; none for those in the vocabulary's names."""
        return tuple(self._wordings[each][0] for each in named if each is not None and each in self._wordings)

    def open_words(self, vocab: Vocab) -> OpenWords:
        """The reader of words for a vocabulary. Raises UserError: a file cannot be read, or the encoder is not installed."""
        if self._open_words is None or self._open_words[0] != vocab:
            words = OpenWords(vocab, dictionary=read_dictionary(self.dictionaries, vocab))
            if self.alignment:
                words = OpenWords(
                    vocab, words.encoder, dictionary=words.dictionary, alignments=read_alignments(self.alignment)
                )
            self._open_words = vocab, words
        return self._open_words[1]

    def record(self) -> dict:
        """Entries for a record of all graphs; empty if all words were names."""
        return _record(self.readings)

    def record_of(self, *named: SceneGraph | None) -> dict:
        """The same for some graphs that were named here."""
        found = [self._wordings[each][1] for each in named if each is not None and each in self._wordings]
        return _record(list(dict.fromkeys(reading for readings in found for reading in readings)))


def _record(readings: Sequence[Reading]) -> dict:
    listed = [
        {"kind": each.kind, "word": each.word, "name": each.name, "by": each.by, "score": each.score}
        for each in readings
    ]
    return {"words": listed} if listed else {}
