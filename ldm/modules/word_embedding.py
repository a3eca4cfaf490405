"""An embedding table for vocabulary ids that names the wrong config option when an id is out of range, and takes further rows."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class WordEmbedding(nn.Embedding):
    """nn.Embedding that checks its ids.

    Rows of words that are learned later are a parameter of their own, so that the table needs neither gradient, optimizer state
    nor decay meanwhile: words that were known before keep their bits.

    Args:
        size: Number of words.
        dim: Width of the embedding.
        option: Config option that sets `size`, for the error message.

    Attributes:
        added: (N,dim) rows behind the table's own; None for none.

    Raises:
        ValueError: for an id outside 0 .. size - 1. Checked only on the CPU, since a GPU would have to synchronise.
    """

    def __init__(self, size: int, dim: int, option: str):
        super().__init__(size, dim)
        self.option = option
        self.added: nn.Parameter | None = None

    @property
    def rows(self) -> int:
        """Number of words that have a row."""
        return self.num_embeddings + (0 if self.added is None else len(self.added))

    @property
    def words(self) -> int:
        """Number of words that have an embedding."""
        return self.rows

    def add_rows(self, rows: Tensor) -> None:  # (n,dim)
        """Appends rows, which have the next ids."""
        old = self.weight.new_zeros(0, self.embedding_dim) if self.added is None else self.added.detach()
        trains = self.added is not None and self.added.requires_grad
        self.added = nn.Parameter(torch.cat([old, rows.detach().to(self.weight)]), requires_grad=trains)

    def forward(self, ids: Tensor) -> Tensor:  # (M,) -> (M,dim)
        if ids.device.type == "cpu" and len(ids) and not 0 <= ids.min() <= ids.max() < self.rows:
            raise ValueError(
                f"the graph has ids {ids.min()} to {ids.max()}, but the graph encoder's {self.option} is "
                f"{self.rows}; set {self.option} to the size of the vocabulary that encoded the graph"
            )
        if self.added is None:
            return super().forward(ids)
        is_added = ids >= self.num_embeddings
        own = super().forward(ids.masked_fill(is_added, 0))
        return torch.where(is_added[:, None], F.embedding((ids - self.num_embeddings).clamp(min=0), self.added), own)
