"""A vector per word of a vocabulary, and a clear word where an id is beyond it."""

from __future__ import annotations

from torch import Tensor, nn


class WordEmbedding(nn.Embedding):
    """nn.Embedding whose size is the encoder's parameter `option`.

    Raises ValueError for an id that it lacks; only on the CPU, as a GPU would have to be waited for.
    """

    def __init__(self, size: int, dim: int, option: str):
        super().__init__(size, dim)
        self.option = option

    def forward(self, ids: Tensor) -> Tensor:  # (M,) -> (M,dim)
        if ids.device.type == "cpu" and len(ids) and not 0 <= ids.min() <= ids.max() < self.num_embeddings:
            raise ValueError(
                f"{self.option} does not cover the ids {ids.min()} to {ids.max()} of this graph; give the encoder the "
                "size of the vocabulary that encoded it"
            )
        return super().forward(ids)
