"""Transformer blocks by which an image attends to itself and to tokens, under LDM's published keys."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ldm.modules.boxes import box_preference
from ldm.modules.kernels.sdpa import attend

if TYPE_CHECKING:
    from ldm.modules.attention_control import Control, ControlAt


Keys = tuple[Tensor, Tensor]  # of one attention layer, and the values, (B,heads,N,d) each


class Context(NamedTuple):
    """What cross-attention reads, made ready once for all layers of a forward pass.

    tokens      (B,N,D)      zero where padded
    bias        (B,1,1,N)    what to add to the logits: 0, or -inf where a token is not to be seen
    preference  {(h,w): (B,1,h*w,N)} or None: +1 inside the token's box, -1 outside, 0 for a token without one
    keys        of the tokens in each block of each SpatialTransformer, by its `layer`; or None, and each makes its own
    """

    tokens: Tensor
    bias: Tensor
    preference: dict[tuple[int, int], Tensor] | None = None
    keys: tuple[tuple[Keys, ...], ...] | None = None

    @classmethod
    def of(cls, tokens: Tensor, mask: Tensor, boxes: Tensor | None = None,
           sizes: list[tuple[int, int]] = ()) -> Context:
        """tokens (B,N,D), mask (B,N) True where real, boxes (B,N,4) for a preference at each of the `sizes` (h,w)."""
        tokens = torch.where(mask[..., None], tokens, 0)
        # A softmax over nothing is NaN. A row without a real token looks at its padding instead, which adds nothing:
        # keys and values have no bias, so those of a zero token are zero.
        seen = mask | ~mask.any(dim=1, keepdim=True)
        bias = torch.zeros_like(seen, dtype=tokens.dtype).masked_fill(~seen, float("-inf"))
        preference = None if boxes is None else {size: box_preference(boxes, *size) for size in sizes}
        return cls(tokens, bias[:, None, None], preference)


class CrossAttention(nn.Module):
    """softmax(q k^T / sqrt(d) + bias) v over `heads` heads; self-attention when it is given no context.

    `linear` makes the four projections. With `box_bias`, a learned weight per head, zero at start, draws each
    place towards the tokens whose box it lies in. A `control` may change what comes out before it is projected."""

    def __init__(self, query_dim: int, context_dim: int, heads: int, dim_head: int,
                 linear: Callable[..., nn.Linear] = nn.Linear, box_bias: bool = False):
        super().__init__()
        self.heads = heads
        self.to_q = linear(query_dim, heads * dim_head, bias=False)
        self.to_k = linear(context_dim, heads * dim_head, bias=False)
        self.to_v = linear(context_dim, heads * dim_head, bias=False)
        self.to_out = nn.Sequential(linear(heads * dim_head, query_dim))
        self.box_bias = nn.Parameter(torch.zeros(heads)) if box_bias else None

    def forward(
        self,
        x: Tensor,
        context: Context | None = None,
        preference: Tensor | None = None,
        control: ControlAt | None = None,
        keys: Keys | None = None,
    ) -> Tensor:  # (B,M,C) -> (B,M,C)
        """keys: of the context's tokens, where they are known already."""
        tokens, bias = (x, None) if context is None else (context.tokens, context.bias)
        q, (k, v) = self._by_head(self.to_q(x)), keys or self.keys(tokens)
        if self.box_bias is not None and preference is not None:
            bias = bias + self.box_bias[:, None, None] * preference
        y = attend(q, k, v, bias)
        if control is not None:
            y = control.self_attention(y, q, k, v) if context is None else control.cross_attention(y, q, k, v, bias)
        return self.to_out(rearrange(y, "b heads n d -> b n (heads d)"))

    def keys(self, tokens: Tensor) -> Keys:  # (B,N,D) -> (B,heads,N,d) twice
        return self._by_head(self.to_k(tokens)), self._by_head(self.to_v(tokens))

    def _by_head(self, y: Tensor) -> Tensor:
        return rearrange(y, "b n (heads d) -> b heads n d", heads=self.heads)


class GEGLU(nn.Module):
    """x W + b, gated by the GELU of a second such projection: Shazeer, GLU Variants Improve Transformer (2020)."""

    def __init__(self, dim_in: int, dim_out: int):
        super().__init__()
        self.proj = nn.Linear(dim_in, 2 * dim_out)

    def forward(self, x: Tensor) -> Tensor:
        x, gate = self.proj(x).chunk(2, dim=-1)
        return x * F.gelu(gate)


class FeedForward(nn.Module):
    def __init__(self, dim: int):
        super().__init__()
        # The published layers hold a dropout in the middle, never used, which counts in the keys.
        self.net = nn.Sequential(GEGLU(dim, 4 * dim), nn.Identity(), nn.Linear(4 * dim, dim))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class BasicTransformerBlock(nn.Module):
    """Self-attention, cross-attention, feed-forward, each after a norm and added to its input."""

    def __init__(self, dim: int, context_dim: int, heads: int, dim_head: int,
                 linear: Callable[..., nn.Linear] = nn.Linear, box_bias: bool = False):
        super().__init__()
        self.attn1 = CrossAttention(dim, dim, heads, dim_head)
        self.attn2 = CrossAttention(dim, context_dim, heads, dim_head, linear, box_bias)
        self.ff = FeedForward(dim)
        self.norm1, self.norm2, self.norm3 = nn.LayerNorm(dim), nn.LayerNorm(dim), nn.LayerNorm(dim)

    def forward(
        self,
        x: Tensor,
        context: Context,
        preference: Tensor | None,
        control: ControlAt | None = None,
        keys: Keys | None = None,
    ) -> Tensor:
        x = x + self.attn1(self.norm1(x), control=control)
        x = x + self.attn2(self.norm2(x), context, preference, control, keys)
        return x + self.ff(self.norm3(x))


class SpatialTransformer(nn.Module):
    """Transformer blocks over the places of a feature map, added to it. `layer` is its number among a U-Net's own, by
    which a control knows it."""

    def __init__(self, channels: int, context_dim: int, heads: int, dim_head: int, depth: int = 1,
                 linear: Callable[..., nn.Linear] = nn.Linear, box_bias: bool = False):
        super().__init__()
        inner = heads * dim_head
        self.layer = 0
        self.norm = nn.GroupNorm(32, channels, eps=1e-6)
        self.proj_in = nn.Conv2d(channels, inner, 1)
        self.transformer_blocks = nn.ModuleList(
            BasicTransformerBlock(inner, context_dim, heads, dim_head, linear, box_bias) for _ in range(depth)
        )
        self.proj_out = nn.Conv2d(inner, channels, 1)

    def forward(self, x: Tensor, context: Context, control: Control | None = None) -> Tensor:
        # (B,C,h,w) -> (B,C,h,w)
        h, w = x.shape[-2:]
        here = None if control is None else control.at(self.layer, (h, w))
        preference = context.preference[h, w] if context.preference else None
        y = rearrange(self.proj_in(self.norm(x)), "b c h w -> b (h w) c")
        known = context.keys[self.layer] if context.keys else [None] * len(self.transformer_blocks)
        for block, keys in zip(self.transformer_blocks, known):
            y = block(y, context, preference, here, keys)
        return x + self.proj_out(rearrange(y, "b (h w) c -> b c h w", h=h))

    def keys(self, context: Context) -> tuple[Keys, ...]:
        """Of the context's tokens, in each block's cross-attention."""
        return tuple(block.attn2.keys(context.tokens) for block in self.transformer_blocks)
