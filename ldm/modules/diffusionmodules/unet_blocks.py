"""Building blocks of the latent-diffusion U-Net, with the published keys."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ldm.modules.attention import AttentionControl, Context, SpatialTransformer
from ldm.modules.kernels.conv import Conv2d


def timestep_embedding(t: Tensor, dim: int) -> Tensor:  # (B,) -> (B,dim)
    """Returns cos and sin of t at dim / 2 frequencies from 1 down to 1/10000, in float32."""
    half = dim // 2
    frequencies = torch.exp(-math.log(10000) * torch.arange(half, dtype=torch.float32, device=t.device) / half)
    angles = t[:, None].float() * frequencies
    return F.pad(torch.cat([angles.cos(), angles.sin()], dim=1), (0, dim % 2))


def coordinate_features(x: Tensor, frequencies: int) -> Tensor:  # (B,C,h,w) -> (B,4F,h,w)
    """Returns sines and cosines of each location's x and y in [0,1] (NeRF eq. 4), from half a period per image on."""
    rows, columns = ((torch.arange(n, device=x.device, dtype=x.dtype) + 0.5) / n for n in x.shape[-2:])
    grid = torch.stack(torch.meshgrid(rows, columns, indexing="ij"))  # (2,h,w)
    angles = (grid * (math.pi * 2.0 ** torch.arange(frequencies, device=x.device))[:, None, None, None]).flatten(0, 1)
    return torch.cat([angles.sin(), angles.cos()]).expand(len(x), -1, -1, -1)


class ResBlock(nn.Module):
    """Two convolutions with the time embedding added between them, and a skip connection."""

    def __init__(self, c_in: int, c_out: int, time_dim: int, dropout: float):
        super().__init__()
        self.in_layers = nn.Sequential(nn.GroupNorm(32, c_in), nn.SiLU(), Conv2d(c_in, c_out, 3, padding=1))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(time_dim, c_out))
        self.out_layers = nn.Sequential(
            nn.GroupNorm(32, c_out), nn.SiLU(), nn.Dropout(dropout), Conv2d(c_out, c_out, 3, padding=1)
        )
        self.skip_connection = nn.Identity() if c_in == c_out else Conv2d(c_in, c_out, 1)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:  # (B,c_in,h,w), (B,time_dim) -> (B,c_out,h,w)
        h = self.in_layers(x) + self.emb_layers(time)[:, :, None, None]
        return self.skip_connection(x) + self.out_layers(h)


class Downsample(nn.Module):
    """Halves the resolution by a strided convolution (`learned`) or by average pooling."""

    def __init__(self, channels: int, learned: bool):
        super().__init__()
        self.op = Conv2d(channels, channels, 3, stride=2, padding=1) if learned else nn.AvgPool2d(2)

    def forward(self, x: Tensor) -> Tensor:  # (B,C,h,w) -> (B,C,h/2,w/2)
        return self.op(x)


class Upsample(nn.Module):
    """Doubles the resolution by nearest-neighbour interpolation, followed by a convolution if `learned`."""

    def __init__(self, channels: int, learned: bool):
        super().__init__()
        self.conv = Conv2d(channels, channels, 3, padding=1) if learned else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:  # (B,C,h,w) -> (B,C,2h,2w)
        return self.conv(F.interpolate(x, scale_factor=2, mode="nearest"))


class TimestepEmbedSequential(nn.Sequential):
    """A sequence of layers that passes the time embedding to ResBlocks and the context to SpatialTransformers."""

    def forward(self, x: Tensor, time: Tensor, context: Context, control: AttentionControl | None = None) -> Tensor:
        for layer in self:
            if isinstance(layer, ResBlock):
                x = layer(x, time)
            elif isinstance(layer, SpatialTransformer):
                x = layer(x, context, control)
            else:
                x = layer(x)
        return x


@dataclass(frozen=True)
class BlockBuilder:
    """Builds the blocks of a U-Net from its constructor arguments.

    The random initial weights depend on the order of construction: input blocks, middle block, output blocks.

    Attributes:
        model_channels: Channels of the first convolution.
        widths: Channels of each level, from the full resolution down.
        num_res_blocks: ResBlocks per level of the input blocks; the output blocks have one more.
        attention_resolutions: Downsampling factors of the levels with attention.
        time_dim: Width of the time embedding.
        dropout: Dropout in ResBlocks.
        learned_resampling: Whether up- and downsampling include a convolution (`conv_resample`).
        head_size: (number of heads, width of a head) for a number of channels.
        context_dim: Width of the cross-attention tokens.
        transformer_depth: Transformer blocks per SpatialTransformer of each level.
        middle_depth: The same of the middle block.
        linear: Constructor of the cross-attention projections.
        box_bias: Whether cross-attention has a box bias.
        linear_projections: Whether the projections around the transformer blocks are linear layers.
        graph_attention: Whether cross-attention to the graph's tokens is added to that of the text's.
        res_block: Class of the ResBlocks.
        transformer: Class of the SpatialTransformers.
    """

    model_channels: int
    widths: Sequence[int]
    num_res_blocks: int
    attention_resolutions: Sequence[int]
    time_dim: int
    dropout: float
    learned_resampling: bool
    head_size: Callable[[int], tuple[int, int]]
    context_dim: int
    transformer_depth: Sequence[int]
    middle_depth: int
    linear: Callable[..., nn.Linear]
    box_bias: bool
    linear_projections: bool = False
    graph_attention: bool = False
    res_block: ClassVar[type[ResBlock]] = ResBlock
    transformer: ClassVar[type[SpatialTransformer]] = SpatialTransformer

    def input_blocks(self, in_channels: int) -> tuple[nn.ModuleList, list[int]]:
        """Returns the input blocks and the number of output channels of each."""
        c = self.model_channels
        blocks = [TimestepEmbedSequential(Conv2d(in_channels, c, 3, padding=1))]
        channels = [c]
        for level, width in enumerate(self.widths):
            for _ in range(self.num_res_blocks):
                blocks.append(TimestepEmbedSequential(*self._level_layers(c, width, level)))
                c = width
                channels.append(c)
            if level < len(self.widths) - 1:
                blocks.append(TimestepEmbedSequential(Downsample(c, self.learned_resampling)))
                channels.append(c)
        return nn.ModuleList(blocks), channels

    def middle_block(self) -> TimestepEmbedSequential:
        """Returns the block at the lowest resolution, which has attention whatever `attention_resolutions` says."""
        c = self.widths[-1]
        return TimestepEmbedSequential(
            self._res_block(c, c), self._transformer(c, self.middle_depth), self._res_block(c, c)
        )

    def output_blocks(self, skip_channels: Sequence[int]) -> tuple[nn.ModuleList, list[int]]:
        """Returns the output blocks and the number of output channels of each.

        Args:
            skip_channels: Output channels of the input blocks, whose outputs are concatenated in reverse order.
        """
        skips, c = list(skip_channels), self.widths[-1]
        blocks, channels = [], []
        for level, width in reversed(list(enumerate(self.widths))):
            for i in range(self.num_res_blocks + 1):
                layers = self._level_layers(c + skips.pop(), width, level)
                c = width
                if level > 0 and i == self.num_res_blocks:
                    layers.append(Upsample(c, self.learned_resampling))
                blocks.append(TimestepEmbedSequential(*layers))
                channels.append(c)
        return nn.ModuleList(blocks), channels

    def _level_layers(self, c_in: int, c_out: int, level: int) -> list[nn.Module]:
        layers: list[nn.Module] = [self._res_block(c_in, c_out)]
        if 2**level in self.attention_resolutions:
            layers.append(self._transformer(c_out, self.transformer_depth[level]))
        return layers

    def _res_block(self, c_in: int, c_out: int) -> ResBlock:
        return self.res_block(c_in, c_out, self.time_dim, self.dropout)

    def _transformer(self, channels: int, depth: int) -> SpatialTransformer:
        return self.transformer(
            channels,
            self.context_dim,
            *self.head_size(channels),
            depth,
            self.linear,
            self.box_bias,
            self.linear_projections,
            self.graph_attention,
        )


def time_mlp(channels: int, time_dim: int) -> nn.Sequential:
    """The layers of the time embedding (`time_embed`)."""
    return nn.Sequential(nn.Linear(channels, time_dim), nn.SiLU(), nn.Linear(time_dim, time_dim))


def context_projections(context_dim: int, token_dim: int | None, style_dim: int | None) -> tuple[nn.Module, nn.Module]:
    """The projections of tokens (`context_local_mlp`) and of the style (`context_global_mlp`) to context_dim."""
    tokens = nn.Identity() if token_dim is None else nn.Sequential(nn.Linear(token_dim, context_dim))
    style = nn.Identity() if style_dim in (None, context_dim) else nn.Linear(style_dim, context_dim)
    return tokens, style


def output_layers(channels: int, out_channels: int) -> nn.Sequential:
    """The last layers (`out`)."""
    # Not initialised with zeros as in the published code: behind a zero layer that is frozen, no adapter gets a gradient.
    return nn.Sequential(nn.GroupNorm(32, channels), nn.SiLU(), Conv2d(channels, out_channels, 3, padding=1))
