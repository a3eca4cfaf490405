"""The spatio-temporal blocks of Stable Video Diffusion (SVD, Blattmann et al. 2311.15127), with the keys of its files.

The frames of a clip are consecutive rows of the batch: (B T) C h w for space, B C T h w for time.
"""

from __future__ import annotations

from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from ldm.modules.attention import BasicTransformerBlock, Context, FeedForward, SpatialTransformer
from ldm.modules.diffusionmodules.unet_blocks import ResBlock, timestep_embedding

KERNEL, PADDING = (3, 1, 1), (1, 0, 0)  # over frames, rows and columns
# Initial mix_factor, of which alpha is the sigmoid: of the U-Net's blocks, and of those of the temporal decoder, where it weighs
# the temporal branch and not the spatial one.
UNET_MIX, DECODER_MIX = 0.5, 0.0


class TimeMixer(nn.Module):
    """Interpolates between the spatial and the temporal branch by a learned alpha = sigmoid(mix_factor)."""

    def __init__(self, mix_factor: float = UNET_MIX):
        super().__init__()
        self.mix_factor = nn.Parameter(torch.tensor([mix_factor]))

    def forward(self, spatial: Tensor, temporal: Tensor) -> Tensor:  # two of one shape -> that shape
        """Returns alpha z + (1 - alpha) z', as z + (1 - alpha)(z' - z): exactly z where both branches agree."""
        return spatial + self.mix_factor.neg().sigmoid().to(spatial.dtype) * (temporal - spatial)


class TemporalResBlock(nn.Module):
    """A residual block of convolutions over time, with the keys of a ResBlock.

    Args:
        channels: C.
        time_dim: D, width of the time embedding; None for a block without one, as in the temporal decoder.
        dropout: Dropout before the last convolution.
    """

    def __init__(self, channels: int, time_dim: int | None = None, dropout: float = 0.0):
        super().__init__()
        self.in_layers = nn.Sequential(nn.GroupNorm(32, channels), nn.SiLU(), _conv(channels))
        self.emb_layers = None if time_dim is None else nn.Sequential(nn.SiLU(), nn.Linear(time_dim, channels))
        self.out_layers = nn.Sequential(nn.GroupNorm(32, channels), nn.SiLU(), nn.Dropout(dropout), _conv(channels))

    def forward(self, x: Tensor, time: Tensor | None = None) -> Tensor:  # (B,C,T,h,w), (B,T,D) -> (B,C,T,h,w)
        h = self.in_layers(x)
        if self.emb_layers is not None and time is not None:
            h = h + rearrange(self.emb_layers(time), "b t c -> b c t 1 1")
        return x + self.out_layers(h)


class VideoResBlock(ResBlock):
    """A spatial residual block (its own keys) and a temporal one (`time_stack`), mixed by `time_mixer`."""

    def __init__(self, c_in: int, c_out: int, time_dim: int, dropout: float):
        super().__init__(c_in, c_out, time_dim, dropout)
        self.time_stack = TemporalResBlock(c_out, time_dim, dropout)
        self.time_mixer = TimeMixer()

    def forward(self, x: Tensor, time: Tensor) -> Tensor:  # (B T,c_in,h,w), (B,T,D) -> (B T,c_out,h,w)
        z = to_clips(super().forward(x, time.flatten(0, 1)), time.shape[1])
        return to_frames(self.time_mixer(z, self.time_stack(z, time)))


class VideoTransformerBlock(BasicTransformerBlock):
    """Feed-forward, self-attention over frames, cross-attention and feed-forward, at each location of the feature map."""

    def __init__(self, dim: int, context_dim: int, heads: int, dim_head: int):
        super().__init__(dim, context_dim, heads, dim_head)
        self.norm_in, self.ff_in = nn.LayerNorm(dim), FeedForward(dim)

    def across(self, x: Tensor, context: Context) -> Tensor:  # (B,M,T,C) -> (B,M,T,C)
        """Attends along T at each of M locations.

        Args:
            x: (B,M,T,C).
            context: One row for each clip. Queries of a cross-attention do not depend on each other, so that those of all
                locations form one sequence.
        """
        clips = len(x)
        x = x.flatten(0, 1)
        x = x + self.ff_in(self.norm_in(x))
        x = x + self.attn1(self.norm1(x))
        sequence = rearrange(x, "(b m) t c -> b (m t) c", b=clips)
        x = x + self.attn2(self.norm2(sequence), context).view_as(x)
        return (x + self.ff(self.norm3(x))).unflatten(0, (clips, -1))


class SpatialVideoTransformer(SpatialTransformer):
    """A SpatialTransformer whose blocks are each followed by one over time (`time_stack`), mixed by `time_mixer`.

    The positions in time are an embedding of the frame's number (`time_pos_embed`), added before each temporal block. A temporal
    block attends to the text (SVD: the image's embedding) of the clip's first frame. The arguments are those of SpatialTransformer.
    """

    def __init__(
        self,
        channels: int,
        context_dim: int,
        heads: int,
        dim_head: int,
        depth: int = 1,
        *options: Any,
    ):
        super().__init__(channels, context_dim, heads, dim_head, depth, *options)
        inner = heads * dim_head
        self.channels = channels
        self.time_stack = nn.ModuleList(
            VideoTransformerBlock(inner, context_dim, heads, dim_head) for _ in range(depth)
        )
        self.time_pos_embed = nn.Sequential(
            nn.Linear(channels, 4 * channels), nn.SiLU(), nn.Linear(4 * channels, channels)
        )
        self.time_mixer = TimeMixer()

    def across_frames(self, number: int, y: Tensor, context: Context) -> Tensor:  # (B T,M,C) -> (B T,M,C)
        frames = context.frames
        numbers = torch.arange(frames, device=y.device)
        positions = self.time_pos_embed(timestep_embedding(numbers, self.channels).to(y.dtype))  # (T,C)
        first = Context(context.tokens[::frames], context.bias[::frames])
        z = rearrange(y, "(b t) m c -> b m t c", t=frames)
        z = self.time_mixer(z, self.time_stack[number].across(z + positions, first))
        return rearrange(z, "b m t c -> (b t) m c")


def to_clips(x: Tensor, frames: int) -> Tensor:  # (B T,C,h,w) -> (B,C,T,h,w)
    """Groups the rows of a batch into clips."""
    return rearrange(x, "(b t) c h w -> b c t h w", t=frames)


def to_frames(x: Tensor) -> Tensor:  # (B,C,T,h,w) -> (B T,C,h,w)
    """Makes each frame of a batch of clips a row."""
    return rearrange(x, "b c t h w -> (b t) c h w")


def _conv(channels: int) -> nn.Conv3d:
    return nn.Conv3d(channels, channels, KERNEL, padding=PADDING)
