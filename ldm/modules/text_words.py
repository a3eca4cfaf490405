"""Word tables of a graph encoder that start from what a frozen text encoder knows of each name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from ldm.graph.text_spans import count_tokens
from ldm.graph.text_tokens import LENGTH
from ldm.graph.vocab import Vocab
from ldm.modules.encoders.modules import TextEncoder

BATCH = 64  # names that are encoded at a time
STD = 0.02  # of the values, as of the other tables of an NSGEncoder


@runtime_checkable
class HasWordTables(Protocol):
    """A graph encoder with embeddings of object names, predicates and attributes (None for none)."""

    def word_tables(self) -> tuple[nn.Embedding, nn.Embedding, nn.Embedding | None]: ...


@torch.no_grad()
def start_from_text(encoder: HasWordTables, vocab: Vocab, text_encoder: TextEncoder) -> None:
    """Overwrites the rows of a vocabulary's words, in place; further rows keep their values."""
    names = vocab.objects, vocab.predicates, vocab.attributes
    for table, words in zip(encoder.word_tables(), names):
        if table is not None and words:
            rows = to_width(word_features(words, text_encoder), table.weight.shape[1])
            table.weight[: len(words)] = rows.to(table.weight)


def word_features(words: Sequence[str], text_encoder: TextEncoder) -> Tensor:  # -> (V,D)
    """The mean over the tokens of each word, encoded by itself. Underscores separate words."""
    texts = [" ".join(word.replace("_", " ").split()) for word in words]
    rows = []
    for start in range(0, len(texts), BATCH):
        batch = texts[start : start + BATCH]
        for text, tokens in zip(batch, text_encoder(batch).tokens):
            end = max(2, min(count_tokens(text), LENGTH) - 1)  # the position of the end token
            rows.append(tokens[1:end].float().mean(0))
    return torch.stack(rows)


def to_width(features: Tensor, dim: int) -> Tensor:  # (V,D) -> (V,dim)
    """The first `dim` principal components, scaled to a standard deviation of STD.

    Distances between words keep their ratios if dim is at least V - 1, or D.
    """
    centred = features - features.mean(0)
    left, values, _ = torch.linalg.svd(centred, full_matrices=False)
    components = (left * values)[:, :dim]
    rows = features.new_zeros(len(features), dim)
    rows[:, : components.shape[1]] = components
    return rows * (STD / rows.std().clamp(min=1e-12)) if len(rows) > 1 else rows
