"""CLIP's transformers (Radford et al. 2103.00020), with the keys, class names and initial weights of open_clip's.

Importing open_clip takes seconds, since it imports torchvision, timm and torch's compiler. Class names matter, since the checksum
of an encoder, by which caches of latents know it, covers them.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class VisionShape:
    """Sizes of an image tower that is a plain ViT, under open_clip's names.

    Attributes:
        embed_dim: E, width of the embedding.
        image_size: side of the input in pixels.
        patch_size: side of a patch.
        width: W, of the tokens.
        layers: number of blocks.
        head_width: width of an attention head.
        mlp_ratio: width of the hidden layer of each block, as a multiple of W.
        quick_gelu: whether the activation is QuickGELU, otherwise GELU; None if that is open.
    """

    embed_dim: int
    image_size: int = 224
    patch_size: int = 16
    width: int = 768
    layers: int = 12
    head_width: int = 64
    mlp_ratio: float = 4.0
    quick_gelu: bool | None = None

    @classmethod
    def of(cls, described: Mapping[str, Any]) -> VisionShape | None:
        """The shape that a mapping describes; None for anything else than a plain ViT of square images."""
        kinds = {"mlp_ratio": (int, float), "quick_gelu": (bool, type(None))}
        is_plain = "embed_dim" in described and all(
            name in cls.__dataclass_fields__ and isinstance(value, kinds.get(name, int))
            for name, value in described.items()
        )
        return cls(**described) if is_plain else None


class LayerNorm(nn.LayerNorm):
    """Layer norm in the type of its input, under autocast too."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input).to(input.dtype)


class QuickGELU(nn.Module):
    """The approximation of GELU that OpenAI's CLIP was trained with."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


class ResidualAttentionBlock(nn.Module):
    """Attention and an MLP, each behind a norm and beside a skip connection."""

    def __init__(self, width: int, heads: int, mlp_ratio: float, activation: type[nn.Module]):
        super().__init__()
        self.ln_1 = LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.ls_1 = nn.Identity()  # open_clip's place of a LayerScale
        self.ln_2 = LayerNorm(width)
        hidden = int(width * mlp_ratio)
        layers = {"c_fc": nn.Linear(width, hidden), "gelu": activation(), "c_proj": nn.Linear(hidden, width)}
        self.mlp = nn.Sequential(OrderedDict(layers))
        self.ls_2 = nn.Identity()

    def forward(self, x: Tensor, attn_mask: Tensor | None = None) -> Tensor:  # (B,N,W) -> (B,N,W)
        h = self.ln_1(x)
        mask = None if attn_mask is None else attn_mask.to(x.dtype)
        x = x + self.attn(h, h, h, need_weights=False, attn_mask=mask)[0]
        return x + self.mlp(self.ln_2(x))


class Transformer(nn.Module):
    """A stack of such blocks."""

    def __init__(self, width: int, layers: int, heads: int, mlp_ratio: float, activation: type[nn.Module]):
        super().__init__()
        blocks = [ResidualAttentionBlock(width, heads, mlp_ratio, activation) for _ in range(layers)]
        self.resblocks = nn.ModuleList(blocks)
        order_inputs_of_attention(self)

    def forward(self, x: Tensor) -> Tensor:  # (B,N,W) -> (B,N,W)
        for block in self.resblocks:
            x = block(x)
        return x


class VisionTransformer(nn.Module):
    """CLIP's image tower, a ViT whose first token is read.

    Attributes:
        output_dim: E, width of the embedding.
        image_size: height and width of the input in pixels.
    """

    def __init__(self, shape: VisionShape):
        super().__init__()
        width, scale = shape.width, shape.width**-0.5
        self.image_size, self.patch_size = (shape.image_size,) * 2, (shape.patch_size,) * 2
        self.output_dim, self.pool_type, self.final_ln_after_pool = shape.embed_dim, "tok", False
        self.conv1 = nn.Conv2d(3, width, shape.patch_size, shape.patch_size, bias=False)
        self.class_embedding = nn.Parameter(scale * torch.randn(width))
        positions = (shape.image_size // shape.patch_size) ** 2 + 1
        self.positional_embedding = nn.Parameter(scale * torch.randn(positions, width))
        self.patch_dropout = nn.Identity()  # open_clip's place of one
        self.ln_pre = LayerNorm(width)
        activation = QuickGELU if shape.quick_gelu else nn.GELU
        heads = width // shape.head_width
        self.transformer = Transformer(width, shape.layers, heads, shape.mlp_ratio, activation)
        self.ln_post = LayerNorm(width)
        self.proj = nn.Parameter(scale * torch.randn(width, shape.embed_dim))

    def forward(self, image: Tensor) -> Tensor:  # (B,3,S,S) -> (B,E)
        patches = self.conv1(image).flatten(2).permute(0, 2, 1)
        first = self.class_embedding.to(patches.dtype).expand(len(image), 1, -1)
        tokens = torch.cat([first, patches], dim=1) + self.positional_embedding.to(patches.dtype)
        tokens = self.ln_post(self.transformer(self.ln_pre(tokens)))
        return tokens[:, 0] @ self.proj


def in_order_of_attention(h: Tensor) -> Tensor:  # (B,N,W) -> (B,N,W)
    """The same values, stored as (N,B,W) under autocast.

    There torch's attention multiplies (N,B,W) by its weight, and unless the values are stored in that order, as N products
    that each copy the weight: 45 % of a training step of configs/vg.yaml in bfloat16. Without autocast, a fused kernel takes
    any order.
    """
    if h.device.type == "meta" or not torch.is_autocast_enabled(h.device.type):
        return h
    return h.transpose(0, 1).contiguous().transpose(0, 1)


def order_inputs_of_attention(tower: nn.Module) -> None:
    """Lets all self-attention of a tower, of (B,N,W), read its input `in_order_of_attention`."""
    for layer in tower.modules():
        if isinstance(layer, nn.MultiheadAttention) and layer.batch_first:
            layer.register_forward_pre_hook(_order_inputs)


def _order_inputs(layer: nn.Module, inputs: tuple) -> tuple:
    q, *others = inputs
    ordered = in_order_of_attention(q)
    return (ordered, *(ordered if other is q else other for other in others))
