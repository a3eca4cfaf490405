"""A small text encoder of few words, to be trained from scratch together with its U-Net."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ldm.graph.text_tokens import END, LENGTH, START, VOCABULARY, split_words
from ldm.modules.encoders.modules import ClipEmbedder
from ldm.modules.text_encoder import TextTower, TowerShape


class SmallTextEncoder(ClipEmbedder):
    """CLIP's text transformer in small, whose table has rows for the tokens of some words only.

    Texts are split into CLIP's tokens, so that all that reads token positions works as with published text encoders. Tokens of
    other words share row 0, which is 0 at initialisation. State-dict keys are those of FrozenCLIPEmbedder.

    Args:
        words: the words and punctuation marks with rows of their own.
        width, layers, heads: sizes of the transformer.
        ckpt_path: file of the weights; by default that of the whole model.
        init: 'random' for random weights, to train it.

    Raises:
        CheckpointError: the weights do not fit.
        ValueError: a value is not supported.
    """

    rows: Tensor

    def __init__(
        self,
        words: Sequence[str],
        width: int,
        layers: int,
        heads: int,
        ckpt_path: str | Path | None = None,
        init: str | None = None,
    ):
        known = sorted({START, END, *(token for word in words for part in split_words(word) for token in part.ids)})
        shape = TowerShape(width, layers, heads, embed_dim=width, vocabulary=1 + len(known))
        with torch.device("cpu" if init else "meta"):
            tower = TextTower(shape)
        if init:
            with torch.no_grad():
                tower.token_embedding.weight[0] = 0
        super().__init__(tower, END, LENGTH, ckpt_path, init)
        rows = torch.zeros(VOCABULARY, dtype=torch.long)
        rows[torch.tensor(known)] = torch.arange(1, 1 + len(known))
        self.register_buffer("rows", rows, persistent=False)

    def table_rows(self, ids: Tensor) -> Tensor:
        return self.rows[ids.to(self.rows.device)]
