"""Vectors of words that a text encoder has learned, beside a token table that nothing changes (Gal et al. 2208.01618)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ldm.graph.text_tokens import VOCABULARY, add_learned_word, learned_word_of
from ldm.util.errors import UserError
from ldm.util.moving import mover


class LearnedWords(nn.Module):
    """The vectors of learned words of one text tower. They are spliced into the embedded text, in the place of table rows.

    The table itself has no row for them, and so needs neither gradient, optimizer state nor decay: words that were known
    before keep their bits.

    Args:
        dim: D, width of the tower's token embeddings.

    Attributes:
        vectors: (N,D) of all words, one after another.
        initial: (N,D) what they were when the words were added.
        words: name -> the ids of its vectors in tokenized texts.
        in_use: () how many vectors of each word are read, the first ones; 0 for all. (Progressive words.)
    """

    initial: Tensor
    in_use: Tensor

    def __init__(self, dim: int):
        super().__init__()
        self.vectors = nn.Parameter(torch.zeros(0, dim), requires_grad=False)
        self.register_buffer("initial", torch.zeros(0, dim), persistent=False)
        self.register_buffer("in_use", torch.zeros((), dtype=torch.long))
        self.words: dict[str, tuple[int, ...]] = {}
        self._rows: dict[int, int] = {}  # id -> row of `vectors`

    def add(self, name: str, vectors: Tensor) -> None:  # (n,D)
        """Adds a word.

        Raises:
            UserError: there is a word of this name, or it cannot be a word.
        """
        ids = add_learned_word(name, len(vectors))
        word = learned_word_of(ids[0])
        if word in self.words:
            raise UserError(
                f"the learned word {name!r} is there already; give the other one a new name (--rename OLD=NEW)"
            )
        start = len(self.vectors)
        vectors = vectors.detach().to(self.vectors)
        trains = self.vectors.requires_grad
        self.vectors = nn.Parameter(torch.cat([self.vectors.detach(), vectors]), requires_grad=trains)
        self.initial = torch.cat([self.initial, vectors])
        self.words[word] = ids
        self._rows |= {token: start + number for number, token in enumerate(ids)}

    def of(self, name: str) -> Tensor:  # -> (n,D)
        """The vectors of a word that are in use."""
        ids = self.words[name]
        rows = self.vectors[[self._rows[token] for token in ids]]
        return rows[: int(self.in_use)] if self.in_use else rows

    def shorten(self, ids: Tensor) -> Tensor:  # (B,77) -> (B,77)
        """Leaves out the vectors that are not in use; what follows moves up."""
        numbers = _look_up(
            ids, {token: number for tokens in self.words.values() for number, token in enumerate(tokens)}
        )
        is_unused = (self.in_use > 0) & (numbers >= self.in_use)
        order = is_unused.long().argsort(dim=1, stable=True)
        kept = torch.arange(ids.shape[1], device=ids.device) < (~is_unused).sum(1, keepdim=True)
        return torch.where(kept, ids.gather(1, order), ids[:, -1:])

    def places(self, ids: Tensor) -> tuple[Tensor, Tensor]:  # (B,77) -> (B,77) bool, (B,77) rows of `vectors`
        """Where learned words stand. Raises UserError for words that are not of this text encoder."""
        is_learned, rows = ids >= VOCABULARY, _look_up(ids, self._rows)
        refuse_unknown(ids, is_learned & (rows < 0))
        return is_learned, rows.clamp(min=0)

    def splice(self, x: Tensor, is_learned: Tensor, rows: Tensor) -> Tensor:  # (B,77,D) -> (B,77,D)
        """Puts vectors in the places that `places` found."""
        if not len(self.vectors):
            return x
        return torch.where(is_learned[..., None], F.embedding(rows, self.vectors).to(x.dtype), x)


def _look_up(ids: Tensor, values: Mapping[int, int]) -> Tensor:
    """The value of each id of a learned word, -1 for other ids; nothing is read, so no GPU is waited for."""
    size = max(values, default=VOCABULARY) + 2 - VOCABULARY
    table = torch.full((size,), -1)  # the last one for ids above
    table[[token - VOCABULARY for token in values]] = torch.tensor(list(values.values()), dtype=table.dtype)
    found = mover(ids.device)(table)[(ids - VOCABULARY).clamp(0, size - 1)]
    return torch.where(ids >= VOCABULARY, found, -1)


def refuse_unknown(ids: Tensor, is_unknown: Tensor | None = None) -> None:
    """Raises UserError for a learned word that this text encoder does not have.

    Ids on a GPU are not read, since the program would wait for it; they come from data that were read on the CPU.

    Args:
        ids: of tokens.
        is_unknown: bool of the same shape (default: all ids above the vocabulary).
    """
    is_unknown = ids >= VOCABULARY if is_unknown is None else is_unknown
    if ids.device.type == "cpu" and is_unknown.any():
        word = learned_word_of(int(ids[is_unknown][0]))
        raise UserError(f"the text encoder has no vectors for the learned word {word!r}; name its file with --words")


def spread(rows: Tensor, count: int) -> Tensor:  # (m,D) -> (count,D)
    """Initial vectors from the rows of an initializer's m tokens, in their order.

    Fewer vectors than tokens are means of neighbouring tokens; of more, neighbours share a token.
    """
    number = len(rows)
    bounds = [(index * number // count, (index + 1) * number // count) for index in range(count)]
    return torch.stack([rows[start : max(start + 1, end)].mean(0) for start, end in bounds])
