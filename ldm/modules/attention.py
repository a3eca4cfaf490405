"""Transformer blocks with self-attention and cross-attention to conditioning tokens, with latent diffusion's keys."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ldm.modules.boxes import box_preference
from ldm.modules.kernels.conv import Conv2d
from ldm.modules.kernels.sdpa import attend

KeysValues = tuple[Tensor, Tensor]  # of one attention layer, (B,heads,N,d) each


class LayerAttentionControl(Protocol):
    """Modifies the outputs of one transformer's attention layers, before their output projection."""

    def self_attention(self, y: Tensor, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Returns the new output in place of y; all tensors are (B,heads,h*w,d)."""
        ...

    def cross_attention(self, y: Tensor, q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
        """Returns the new output in place of y: y, q (B,heads,h*w,d), k, v (B,heads,N,d), bias to (B,heads,h*w,N)."""
        ...


class AttentionControl(Protocol):
    """Modifies the attention of a whole U-Net; implemented by `ldm.modules.attention_control.Control`."""

    def at(self, layer: int, size: tuple[int, int]) -> LayerAttentionControl:
        """Returns the control of transformer number `layer`, whose feature map has `size` (h,w)."""
        ...


class Context(NamedTuple):
    """Input of all cross-attention layers, computed once per forward pass.

    Attributes:
        tokens: (B,N,D), zero where padded.
        bias: (B,1,1,N), added to the logits: 0 for a token, -inf for padding.
        preference: {(h,w): (B,1,h*w,N)} for each feature map size, +1 inside a token's box, -1 outside, 0 for a token
            without a box; None if no layer has a box bias.
        keys: Keys and values of the tokens in each block of each SpatialTransformer, indexed by its `layer`; None if each
            layer computes its own.
        graph: The tokens of a scene graph, where `tokens` are those of a text and layers attend to both (`graph_attention`).
        frames: Number of frames of a clip; the frames of each clip are consecutive rows of the batch.
    """

    tokens: Tensor
    bias: Tensor
    preference: dict[tuple[int, int], Tensor] | None = None
    keys: tuple[tuple[KeysValues, ...], ...] | None = None
    graph: Context | None = None
    frames: int = 1

    @classmethod
    def from_tokens(
        cls, tokens: Tensor, mask: Tensor, boxes: Tensor | None = None, sizes: Sequence[tuple[int, int]] = ()
    ) -> Context:
        """Builds the context of a batch.

        Args:
            tokens: (B,N,D).
            mask: (B,N) bool, False for padding.
            boxes: (B,N,4), -1 throughout for a token without a box; given only if layers have a box bias.
            sizes: Sizes (h,w) of the feature maps for which to compute the preference.
        """
        tokens = torch.where(mask[..., None], tokens, 0)
        # A softmax over no token is NaN. A row of nothing but padding therefore attends to its padding, which adds zero:
        # key and value projections have no bias, so they map the zero tokens to zero.
        visible = mask | ~mask.any(dim=1, keepdim=True)
        bias = torch.zeros_like(visible, dtype=tokens.dtype).masked_fill(~visible, float("-inf"))
        preference = None if boxes is None else {size: box_preference(boxes, *size) for size in sizes}
        return cls(tokens, bias[:, None, None], preference)


class CrossAttention(nn.Module):
    """Multi-head attention softmax(q k^T / sqrt(d) + bias) v; self-attention if called without a context.

    Args:
        query_dim: C, width of the input and output.
        context_dim: D, width of the tokens; C for self-attention.
        heads: Number of heads.
        dim_head: d, width of each head.
        linear: Constructor of the four projections, e.g. of LoRA layers.
        box_bias: Whether to learn a weight per head, 0 at initialisation, of the preference for tokens whose box covers
            the query's location.
        graph_attention: Whether to attend to the graph's tokens beside the text's, by keys and values of their own whose
            result is added (decoupled cross-attention, IP-Adapter, Ye et al. 2308.06721 eq. 5). Its values are 0 at
            initialisation.
    """

    def __init__(
        self,
        query_dim: int,
        context_dim: int,
        heads: int,
        dim_head: int,
        linear: Callable[..., nn.Linear] = nn.Linear,
        box_bias: bool = False,
        graph_attention: bool = False,
    ):
        super().__init__()
        self.heads = heads
        self.to_q = linear(query_dim, heads * dim_head, bias=False)
        self.to_k = linear(context_dim, heads * dim_head, bias=False)
        self.to_v = linear(context_dim, heads * dim_head, bias=False)
        self.to_out = nn.Sequential(linear(heads * dim_head, query_dim))
        self.box_bias = nn.Parameter(torch.zeros(heads)) if box_bias else None
        self.to_k_graph = nn.Linear(context_dim, heads * dim_head, bias=False) if graph_attention else None
        self.to_v_graph = nn.Linear(context_dim, heads * dim_head, bias=False) if graph_attention else None
        if self.to_v_graph is not None:
            nn.init.zeros_(self.to_v_graph.weight)

    def forward(
        self,
        x: Tensor,
        context: Context | None = None,
        preference: Tensor | None = None,
        control: LayerAttentionControl | None = None,
        keys: KeysValues | None = None,
    ) -> Tensor:  # (B,M,C) -> (B,M,C)
        """Attends to the context's tokens, or to x without a context.

        Args:
            x: (B,M,C), the locations of a feature map.
            context: Tokens and their mask.
            preference: (B,1,M,N), see Context, for a layer with a box bias; of the graph's tokens if there are any.
            control: Modifies the output before the projection `to_out`.
            keys: Keys and values of the context's tokens, if already computed.
        """
        q = self._split_heads(self.to_q(x))
        if context is None:
            k, v = self.keys(x)
            y = attend(q, k, v)
            y = y if control is None else control.self_attention(y, q, k, v)
        else:
            k, v = keys or self.keys(context.tokens)
            bias = self._bias(context, None if context.graph else preference)
            y = attend(q, k, v, bias)
            y = y if control is None else control.cross_attention(y, q, k, v, bias)
            if context.graph is not None and self.to_k_graph is not None and self.to_v_graph is not None:
                tokens = context.graph.tokens
                k, v = self._split_heads(self.to_k_graph(tokens)), self._split_heads(self.to_v_graph(tokens))
                y = y + attend(q, k, v, self._bias(context.graph, preference))
        return self.to_out(rearrange(y, "b heads n d -> b n (heads d)"))

    def keys(self, tokens: Tensor) -> KeysValues:  # (B,N,D) -> 2 x (B,heads,N,d)
        """Returns the keys and values of the tokens."""
        return self._split_heads(self.to_k(tokens)), self._split_heads(self.to_v(tokens))

    def _bias(self, context: Context, preference: Tensor | None) -> Tensor:  # to (B,heads,M,N)
        if self.box_bias is None or preference is None:
            return context.bias
        return context.bias + self.box_bias[:, None, None] * preference

    def _split_heads(self, y: Tensor) -> Tensor:
        return rearrange(y, "b n (heads d) -> b heads n d", heads=self.heads)


class GEGLU(nn.Module):
    """Linear layer gated by the GELU of a second linear layer (Shazeer 2020, GLU Variants Improve Transformer)."""

    def __init__(self, dim_in: int, dim_out: int):
        super().__init__()
        self.proj = nn.Linear(dim_in, 2 * dim_out)

    def forward(self, x: Tensor) -> Tensor:
        x, gate = self.proj(x).chunk(2, dim=-1)
        return x * F.gelu(gate)


class FeedForward(nn.Module):
    """GEGLU of four times the width, and a projection back."""

    def __init__(self, dim: int):
        super().__init__()
        # The published module has an unused dropout at index 1, which the keys count.
        self.net = nn.Sequential(GEGLU(dim, 4 * dim), nn.Identity(), nn.Linear(4 * dim, dim))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class BasicTransformerBlock(nn.Module):
    """Self-attention, cross-attention and feed-forward, each with a pre-norm and a residual connection."""

    def __init__(
        self,
        dim: int,
        context_dim: int,
        heads: int,
        dim_head: int,
        linear: Callable[..., nn.Linear] = nn.Linear,
        box_bias: bool = False,
        graph_attention: bool = False,
    ):
        super().__init__()
        self.attn1 = CrossAttention(dim, dim, heads, dim_head)
        self.attn2 = CrossAttention(dim, context_dim, heads, dim_head, linear, box_bias, graph_attention)
        self.ff = FeedForward(dim)
        self.norm1, self.norm2, self.norm3 = nn.LayerNorm(dim), nn.LayerNorm(dim), nn.LayerNorm(dim)

    def forward(
        self,
        x: Tensor,
        context: Context,
        preference: Tensor | None,
        control: LayerAttentionControl | None = None,
        keys: KeysValues | None = None,
    ) -> Tensor:  # (B,M,C) -> (B,M,C)
        x = x + self.attn1(self.norm1(x), control=control)
        x = x + self.attn2(self.norm2(x), context, preference, control, keys)
        return x + self.ff(self.norm3(x))


class SpatialTransformer(nn.Module):
    """Transformer blocks over the locations of a feature map, with a residual connection around them.

    `linear_projections` (LDM's `use_linear`, diffusers' `use_linear_projection`) makes the projections around the blocks linear
    layers, whose weights have two dimensions instead of a convolution's four.

    Attributes:
        layer: Number of this transformer in its U-Net, in forward order; set by the U-Net. An attention control and
            `Context.keys` use it as index.
    """

    def __init__(
        self,
        channels: int,
        context_dim: int,
        heads: int,
        dim_head: int,
        depth: int = 1,
        linear: Callable[..., nn.Linear] = nn.Linear,
        box_bias: bool = False,
        linear_projections: bool = False,
        graph_attention: bool = False,
    ):
        super().__init__()
        inner = heads * dim_head
        self.layer = 0
        self.norm = nn.GroupNorm(32, channels, eps=1e-6)
        self.proj_in = nn.Linear(channels, inner) if linear_projections else Conv2d(channels, inner, 1)
        self.transformer_blocks = nn.ModuleList(
            BasicTransformerBlock(inner, context_dim, heads, dim_head, linear, box_bias, graph_attention)
            for _ in range(depth)
        )
        self.proj_out = nn.Linear(inner, channels) if linear_projections else Conv2d(inner, channels, 1)

    def forward(self, x: Tensor, context: Context, control: AttentionControl | None = None) -> Tensor:
        # (B,C,h,w) -> (B,C,h,w)
        h, w = x.shape[-2:]
        layer_control = None if control is None else control.at(self.layer, (h, w))
        preferences = (context.graph or context).preference
        preference = preferences[h, w] if preferences else None
        if self.linear_projections:
            y = self.proj_in(rearrange(self.norm(x), "b c h w -> b (h w) c"))
        else:
            y = rearrange(self.proj_in(self.norm(x)), "b c h w -> b (h w) c")
        keys_of_blocks = context.keys[self.layer] if context.keys else [None] * len(self.transformer_blocks)
        for number, (block, keys) in enumerate(zip(self.transformer_blocks, keys_of_blocks)):
            y = self.across_frames(number, block(y, context, preference, layer_control, keys), context)
        if self.linear_projections:
            return x + rearrange(self.proj_out(y), "b (h w) c -> b c h w", h=h)
        return x + self.proj_out(rearrange(y, "b (h w) c -> b c h w", h=h))

    def across_frames(self, number: int, y: Tensor, context: Context) -> Tensor:  # (B,M,C) -> (B,M,C)
        """What follows block `number` in a transformer of clips; nothing in one of images."""
        return y

    @property
    def linear_projections(self) -> bool:
        """Whether the projections around the blocks are linear layers, as in SD 2 and SDXL, or 1 x 1 convolutions."""
        return isinstance(self.proj_in, nn.Linear)

    def keys(self, context: Context) -> tuple[KeysValues, ...]:
        """Returns the keys and values of the context's tokens in each block."""
        blocks = [block for block in self.transformer_blocks if isinstance(block, BasicTransformerBlock)]
        return tuple(block.attn2.keys(context.tokens) for block in blocks)
