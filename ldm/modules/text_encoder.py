"""CLIP's text transformer with open_clip's keys, as diffusion models read it: last or earlier layer, with or without norm."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ldm.graph.text_tokens import END, LENGTH, VOCABULARY
from ldm.modules.clip_transformer import LayerNorm, QuickGELU, Transformer


@dataclass(frozen=True)
class TowerShape:
    """Sizes of a text tower.

    Attributes:
        width: D, of the tokens.
        layers: number of transformer blocks of the published tower.
        heads: attention heads.
        embed_dim: P, width of the pooled embedding.
        quick_gelu: whether the activation is QuickGELU (OpenAI's weights), otherwise it is GELU.
        mlp_ratio: width of the hidden layer of each block, as a multiple of D.
        vocabulary: rows of the token table.
    """

    width: int
    layers: int
    heads: int
    embed_dim: int
    quick_gelu: bool = False
    mlp_ratio: float = 4.0
    vocabulary: int = VOCABULARY

    @classmethod
    def of(cls, architecture: str | Mapping[str, Any]) -> TowerShape:
        """The shape of open_clip's architecture of this name, or the one that a mapping describes by these attributes.

        Raises:
            ValueError: open_clip has no such architecture, or the mapping has other keys.
        """
        if not isinstance(architecture, str):
            try:
                return cls(**architecture)
            except TypeError as error:
                raise ValueError(
                    "a text tower is described by width, layers, heads, embed_dim, quick_gelu, mlp_ratio and vocabulary "
                    f"({error})"
                ) from error
        import open_clip

        config = open_clip.get_model_config(architecture)
        if config is None or "width" not in config.get("text_cfg", {}):
            raise ValueError(
                f"open_clip has no CLIP of the name {architecture!r}; try ViT-L-14-quickgelu, ViT-H-14 or ViT-bigG-14"
            )
        text = config["text_cfg"]
        return cls(text["width"], text["layers"], text["heads"], config["embed_dim"], config.get("quick_gelu", False))


class TextTower(nn.Module):
    """CLIP's text transformer, without the layers that nothing reads.

    Args:
        shape: sizes of the published tower.
        skip: how many of its last blocks the tokens leave out: 0 is the last hidden state, 1 the penultimate.
        final_norm: whether the final norm is applied to the tokens.
        pooled: whether the pooled embedding is computed: the final norm of the last layer at the end token, projected.

    Raises:
        ValueError: `skip` is out of range.
    """

    def __init__(self, shape: TowerShape, skip: int = 0, final_norm: bool = True, pooled: bool = False):
        super().__init__()
        if not 0 <= skip < shape.layers:
            raise ValueError(f"a text tower of {shape.layers} layers has no output {skip} before the last")
        self.shape, self.final_norm, self.pooled = shape, final_norm, pooled
        self.read_layer = shape.layers - skip
        activation = QuickGELU if shape.quick_gelu else nn.GELU
        self.token_embedding = nn.Embedding(shape.vocabulary, shape.width)
        self.positional_embedding = _normal(LENGTH, shape.width, std=0.01)
        layers = shape.layers if pooled else self.read_layer
        self.transformer = Transformer(shape.width, layers, shape.heads, shape.mlp_ratio, activation)
        self.ln_final = LayerNorm(shape.width) if final_norm or pooled else None
        scale = shape.width**-0.5
        self.text_projection = _normal(shape.width, shape.embed_dim, std=scale) if pooled else None
        nn.init.normal_(self.token_embedding.weight, std=0.02)

    def forward(
        self, ids: Tensor, vectors: Callable[[Tensor], Tensor] | None = None
    ) -> tuple[Tensor, Tensor | None]:  # (B,77) -> (B,77,D), (B,P)
        """Encodes rows of the token table.

        Args:
            ids: of the rows.
            vectors: puts those of learned words in the place of some rows, (B,77,D) -> (B,77,D).

        Returns:
            The tokens, and the pooled embedding or None.
        """
        x = self.token_embedding(ids)
        x = (x if vectors is None else vectors(x)) + self.positional_embedding
        tokens, causal = x, x.new_full((LENGTH, LENGTH), float("-inf")).triu(1)
        for number, block in enumerate(self.transformer.resblocks, 1):
            x = block(x, attn_mask=causal)
            if number == self.read_layer:
                tokens = x
        if self.ln_final is not None and self.final_norm:
            tokens = self.ln_final(tokens)
        if self.ln_final is None or self.text_projection is None:
            return tokens, None
        ends = (ids == END).int().argmax(dim=1)  # the first one
        last = self.ln_final(x[torch.arange(len(ids), device=ids.device), ends])
        return tokens, last @ self.text_projection

    @property
    def activation(self) -> str:
        """The activation in transformers' words."""
        return "quick_gelu" if self.shape.quick_gelu else "gelu"

    def unread_keys(self) -> tuple[str, ...]:
        """Prefixes of what files of the whole tower, or of the whole CLIP, hold and this one does not use."""
        built = len(self.transformer.resblocks)
        layers = [f"transformer.resblocks.{layer}." for layer in range(built, self.shape.layers)]
        norm = [] if self.ln_final is not None else ["ln_final."]
        projection = [] if self.text_projection is not None else ["text_projection"]
        return ("visual.", "logit_scale", "logit_bias", "attn_mask", *layers, *norm, *projection)


def _normal(*size: int, std: float) -> nn.Parameter:
    parameter = nn.Parameter(torch.empty(size))
    nn.init.normal_(parameter, std=std)
    return parameter
