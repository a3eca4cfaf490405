"""Learned words of a whole text encoder, which may have two towers: added, initialised, and read back."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ldm.graph.text_tokens import tokenize
from ldm.modules.encoders.modules import TextEncoder
from ldm.modules.learned_words import LearnedWords, spread
from ldm.util.errors import UserError

Vectors = Sequence[Tensor]  # (n,D) for each tower of a text encoder


def add_word(encoder: TextEncoder, name: str, vectors: Vectors) -> None:
    """Adds a learned word.

    Args:
        encoder: the text encoder.
        name: the word as texts contain it.
        vectors: (n,D) for each tower.

    Raises:
        UserError: the name is taken or cannot be a word, or the vectors do not fit the towers.
    """
    towers = encoder.towers()
    if len(vectors) != len(towers) or len({len(each) for each in vectors}) != 1:
        raise UserError(
            f"the word {name!r} has vectors for {len(vectors)} text towers, and this text encoder has {len(towers)}; use words "
            "of this model"
        )
    for tower, rows in zip(towers, vectors):
        width = tower.model.token_embedding.weight.shape[1]
        if rows.ndim != 2 or rows.shape[1] != width:
            raise UserError(
                f"the word {name!r} has vectors of width {rows.shape[-1]}, and those of this text encoder have {width}; use words "
                "of this model"
            )
    for tower, rows in zip(towers, vectors):
        if tower.learned is None:
            tower.learned = LearnedWords(rows.shape[1]).to(tower.model.positional_embedding.device)
        tower.learned.add(name, rows)


def initial_vectors(encoder: TextEncoder, text: str | None, count: int) -> list[Tensor]:
    """The vectors (count,D) from which a word starts, for each tower: those of an initializer's tokens (see `spread`).

    Without a text they are random, with the standard deviation of the table.

    Raises:
        UserError: the text contains no word.
    """
    found = []
    for tower in encoder.towers():
        table = tower.model.token_embedding.weight.detach()
        if text is None:
            found.append(table.std() * torch.randn(count, table.shape[1]))
            continue
        ids = torch.tensor(tokenize(text, learned=tower.learned.words if tower.learned is not None else {}).chunks)
        if not ids.numel():
            raise UserError(f"the initializer {text!r} contains no word; give a word such as cat")
        if tower.learned is None:
            embedded = table[tower.table_rows(ids).to(table.device)]
        else:
            is_learned, rows = tower.learned.places(ids)
            embedded = table[tower.table_rows(ids.masked_fill(is_learned, 0)).to(table.device)]
            embedded = tower.learned.splice(embedded, is_learned.to(table.device), rows.to(table.device))
        found.append(spread(embedded[0].detach(), count))
    return found


def learned_words(encoder: TextEncoder) -> dict[str, list[Tensor]]:
    """The learned words, with the vectors (n,D) of each tower that are in use."""
    learned = [tower.learned for tower in encoder.towers() if tower.learned is not None]
    names = learned[0].words if learned else {}
    return {name: [each.of(name).detach().cpu() for each in learned] for name in names}
