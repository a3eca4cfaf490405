"""An embedding table for vocabulary ids that names the wrong config option when an id is out of range."""

from __future__ import annotations

from torch import Tensor, nn


class WordEmbedding(nn.Embedding):
    """nn.Embedding that checks its ids.

    Args:
        size: Number of words.
        dim: Width of the embedding.
        option: Config option that sets `size`, for the error message.

    Raises:
        ValueError: for an id outside 0 .. size - 1. Checked only on the CPU, since a GPU would have to synchronise.
    """

    def __init__(self, size: int, dim: int, option: str):
        super().__init__(size, dim)
        self.option = option

    @property
    def words(self) -> int:
        """Number of words that have an embedding."""
        return self.num_embeddings

    def forward(self, ids: Tensor) -> Tensor:  # (M,) -> (M,dim)
        if ids.device.type == "cpu" and len(ids) and not 0 <= ids.min() <= ids.max() < self.num_embeddings:
            raise ValueError(
                f"the graph has ids {ids.min()} to {ids.max()}, but the graph encoder's {self.option} is "
                f"{self.num_embeddings}; set {self.option} to the size of the vocabulary that encoded the graph"
            )
        return super().forward(ids)
