"""Embeddings of names by what they mean: a learned projection of frozen sentence embeddings beside the rows of a table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from ldm.graph.vocab import Vocab
from ldm.modules.word_embedding import WordEmbedding
from ldm.words.lexicon import KINDS, Lexicon, read_lexicon
from ldm.words.sentence_encoder import DIM, SentenceEncoder, load_encoder


@runtime_checkable
class ReadsMeanings(Protocol):
    """A graph encoder that may have open words.

    Attributes:
        open_words: how their projection is trained; None without open words.
    """

    open_words: MeaningOptions | None

    def bind_words(self, vocab: Vocab, encoder: SentenceEncoder | None = None) -> None:
        """Takes the meanings of a vocabulary's names, which may be more than its tables have rows."""
        ...


@dataclass(frozen=True)
class MeaningOptions:
    """How the projection is trained.

    Args:
        synonyms: share of the names that stand in training for one of their forms in the lexicon, in any language.
        row_drop: share of the names whose row is left out in training, as for a word that has none.

    Raises:
        ValueError: a share is not between 0 and 1.
    """

    synonyms: float = 0.5
    row_drop: float = 0.3

    def __post_init__(self):
        for name, share in vars(self).items():
            if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 <= share <= 1:
                raise ValueError(f"open_words.{name}: give a share between 0 and 1, not {share!r}")

    @classmethod
    def of(cls, given: Any) -> MeaningOptions | None:
        """The options of a config: true for the defaults, a mapping, or null or false for no open words."""
        if given in (None, False):
            return None
        if given is True:
            return cls()
        if not isinstance(given, Mapping) or not set(given) <= {"synonyms", "row_drop"}:
            raise ValueError(f"open_words: give true, or a mapping of synonyms and row_drop, not {given!r}")
        return cls(**given)


class MeaningEmbedding(WordEmbedding):
    """A table of names whose embedding is the row plus a projection of the name's sentence embedding.

    The projection is zero at the start, so that the table alone decides, bit by bit. A name beyond the table has the projection
    alone. Sentence embeddings are no parameters: `bind` computes them from the names, and they are not saved.

    Args:
        size, dim, option: see `WordEmbedding`.
        options: of training.
    """

    def __init__(self, size: int, dim: int, option: str, options: MeaningOptions):
        super().__init__(size, dim, option)
        self.options = options
        self.meaning = nn.Linear(DIM, dim, bias=False)
        self.register_buffer("forms", torch.zeros(0, DIM), persistent=False)  # of all names, each name's own first
        self.register_buffer("starts", torch.zeros(0, dtype=torch.long), persistent=False)
        self.register_buffer("counts", torch.zeros(0, dtype=torch.long), persistent=False)

    @property
    def words(self) -> int:
        return max(self.rows, len(self.starts))

    def bind(self, names: Sequence[str], kind: str, encoder: SentenceEncoder, lexicon: Lexicon) -> None:
        """Takes the meanings of names, in the order of their ids, and of their forms."""
        texts, starts = [], []
        for name in names:
            starts.append(len(texts))
            texts += [name.strip(), *(form.text for form in lexicon.forms_of(kind, name) if not form.homonym)]
        device, dtype = self.weight.device, self.meaning.weight.dtype
        vectors = encoder.encode(texts) if texts else np.zeros((0, DIM), np.float32)
        # Unit vectors have elements of 1 / sqrt(512); a linear layer learns faster from elements of size 1.
        self.forms = (torch.from_numpy(np.array(vectors)) * math.sqrt(DIM)).to(device, dtype)
        self.starts = torch.tensor(starts, dtype=torch.long, device=device)
        self.counts = torch.tensor([*starts[1:], len(texts)], dtype=torch.long, device=device) - self.starts

    def forward(self, ids: Tensor) -> Tensor:  # (M,) -> (M,dim)
        known = len(self.starts)
        if not known:
            if self.training:
                raise RuntimeError("open words are trained without names: call bind_words(vocab) first")
            return super().forward(ids)
        if ids.device.type == "cpu" and len(ids) and int(ids.max()) >= self.words:
            return super().forward(ids)  # which names the option that is wrong
        has_row = ids < self.rows
        rows = super().forward(torch.where(has_row, ids, 0)) * has_row[:, None]
        has_meaning = ids < known  # a table may have more rows than there are names
        name = torch.where(has_meaning, ids, 0)
        form = self.starts[name]
        if self.training:
            other = (torch.rand(len(ids), device=ids.device) * self.counts[name]).long()
            form = form + other * self._chosen(ids, self.options.synonyms)
            rows = rows * ~self._chosen(ids, self.options.row_drop)[:, None]
        return rows + self.meaning(self.forms[form]) * has_meaning[:, None]

    @staticmethod
    def _chosen(ids: Tensor, share: float) -> Tensor:  # (M,) bool
        return torch.rand(len(ids), device=ids.device) < share


def bind_tables(
    tables: Sequence[nn.Module | None], vocab: Vocab, encoder: SentenceEncoder | None, lexicon: Lexicon | None = None
) -> None:
    """Binds tables of objects, predicates and attributes to a vocabulary's names."""
    encoder, lexicon = encoder or load_encoder(), lexicon or read_lexicon()
    for table, kind, names in zip(tables, KINDS, (vocab.objects, vocab.predicates, vocab.attributes)):
        if isinstance(table, MeaningEmbedding):
            table.bind(names, kind, encoder, lexicon)
