"""Temporal layers beside a frozen image U-Net: convolution and attention along time, the identity at initialisation.

They follow the blocks of the U-Net, as in VideoLDM (Blattmann et al. 2304.08818, section 3.1): what a layer makes of a clip is
mixed with its input by a learned weight. The frames of a clip are consecutive rows of the U-Net's batch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Protocol, cast, runtime_checkable

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ldm.modules.attention import FeedForward
from ldm.modules.diffusionmodules.openaimodel import UNetModel
from ldm.modules.diffusionmodules.unet_blocks import ResBlock
from ldm.modules.kernels.sdpa import attend

GROUPS = 32  # of the group norms


@runtime_checkable
class Temporal(Protocol):
    """Temporal layers that a U-Net runs (`UNetModel` with attached layers, or a U-Net of videos)."""

    def set_clip(self, frames: int) -> None:
        """Sets the number of frames of the clips that come next; 1 for images.

        Raises:
            ValueError: the layers know no clips of this length.
        """
        ...


class TemporalResBlock(nn.Module):
    """Two convolutions over three frames each with a residual connection; `out` is 0 at initialisation."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm, self.out_norm = nn.GroupNorm(GROUPS, channels), nn.GroupNorm(GROUPS, channels)
        self.conv, self.out = (nn.Conv3d(channels, channels, (3, 1, 1), padding=(1, 0, 0)) for _ in range(2))
        _zero(self.out)

    def forward(self, x: Tensor) -> Tensor:  # (B,C,T,h,w) -> (B,C,T,h,w)
        h = self.conv(F.silu(self.norm(x)))
        return x + self.out(F.silu(self.out_norm(h)))


class TemporalAttention(nn.Module):
    """A transformer block along time at each location: attention to all frames, feed-forward.

    The positions in time are sines and cosines (Vaswani et al. 1706.03762, section 3.5), followed by a learned projection, so that
    clips of any length are possible.
    """

    def __init__(self, channels: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm, self.ff_norm = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.position = nn.Linear(channels, channels)
        self.qkv = nn.Linear(channels, 3 * channels, bias=False)
        self.out = nn.Linear(channels, channels)
        self.ff = FeedForward(channels)
        _zero(self.out)
        _zero(self.ff.net[-1])

    def forward(self, x: Tensor) -> Tensor:  # (N,T,C) -> (N,T,C)
        y = self.norm(x) + self.position(frame_positions(x.shape[1], x.shape[2], x.device).to(x.dtype))
        q, k, v = (rearrange(part, "n t (h d) -> n h t d", h=self.heads) for part in self.qkv(y).chunk(3, dim=-1))
        x = x + self.out(rearrange(attend(q, k, v), "n h t d -> n t (h d)"))
        return x + self.ff(self.ff_norm(x))


class TemporalBlock(nn.Module):
    """Residual block and attention along time, mixed with their input: z + (1 - alpha)(z' - z), with alpha = sigmoid(mix_factor).

    Args:
        channels: C.
        heads: attention heads.
    """

    def __init__(self, channels: int, heads: int):
        super().__init__()
        self.res, self.attention = TemporalResBlock(channels), TemporalAttention(channels, heads)
        self.mix_factor = nn.Parameter(torch.zeros(2))  # of the residual block and of the attention

    def forward(self, z: Tensor, frames: int) -> Tensor:  # (B T,C,h,w) -> (B T,C,h,w)
        h, w = z.shape[-2:]
        share = 1 - self.mix_factor.sigmoid()
        clip = rearrange(z, "(b t) c h w -> b c t h w", t=frames)
        clip = clip + share[0].to(z.dtype) * (self.res(clip) - clip)
        rows = rearrange(clip, "b c t h w -> (b h w) t c")
        rows = rows + share[1].to(z.dtype) * (self.attention(rows) - rows)
        return _in_layout_of(z, rearrange(rows, "(b h w) t c -> (b t) c h w", h=h, w=w))


class AttachedLayers(nn.Module):
    """Base of temporal layers that a U-Net of images runs after blocks of its own, of which they do not become a part.

    Args:
        recompute: whether training recomputes each layer's activations in the backward pass, which takes less memory.

    Attributes:
        clip: T, frames of the clips that come next; with 1, the U-Net is one of images and the layers do nothing.
    """

    def __init__(self, recompute: bool = False):
        super().__init__()
        self.recompute, self.clip = recompute, 1

    def set_clip(self, frames: int) -> None:
        """Sets the number of frames of the clips that come next; 1 for images."""
        if frames < 1:
            raise ValueError(f"a clip of {frames} frames; give 1 or more")
        self.clip = frames

    def run(self, layer: nn.Module, z: Tensor) -> Tensor:  # (B T,C,h,w) -> (B T,C,h,w)
        """Runs one of the layers on the frames of clips."""
        if self.clip == 1:
            return z
        if len(z) % self.clip:
            raise ValueError(f"{len(z)} frames are not whole clips of {self.clip}; give a multiple of it")
        if self.recompute and torch.is_grad_enabled():
            return checkpoint(layer, z, self.clip, use_reentrant=False)
        return layer(z, self.clip)

    def run_after(self, block: nn.Module, layer: nn.Module) -> None:
        """From now on, one of the layers runs on the output of a block."""

        def hook(block: nn.Module, inputs: tuple, output: Tensor) -> Tensor:
            return self.run(layer, output)

        block.register_forward_hook(hook)


class TemporalLayers(AttachedLayers):
    """A TemporalBlock after each block of a U-Net that has residual blocks.

    Args:
        channels: of each of these blocks, in their order (`block_channels`); `attach` compares.
        head_channels: channels of an attention head.
        recompute: see AttachedLayers.
    """

    def __init__(self, channels: list[int], head_channels: int = 32, recompute: bool = False):
        super().__init__(recompute)
        for width in channels:
            if width % head_channels or width % GROUPS:
                raise ValueError(f"{width} channels do not divide into heads of {head_channels} and {GROUPS} groups")
        self.blocks = nn.ModuleList(TemporalBlock(width, width // head_channels) for width in channels)

    def attach(self, unet: UNetModel) -> None:
        """Lets a U-Net run these layers after its blocks.

        Raises:
            ValueError: the U-Net has other blocks than the layers were made for.
        """
        followed = list(followed_blocks(unet))
        widths = block_channels(unet)
        mine = [cast(TemporalBlock, block).res.conv.in_channels for block in self.blocks]
        if widths != mine:
            raise ValueError(
                f"temporal layers for blocks of {mine} channels do not fit a U-Net with blocks of {widths}"
            )
        for block, layer in zip(followed, self.blocks):
            self.run_after(block, layer)


def followed_blocks(unet: UNetModel) -> Iterator[nn.Sequential]:
    """The blocks of a U-Net that temporal layers follow, in forward order: all but the first convolution and changes of resolution."""
    block: Any
    for block in (*unet.input_blocks[1:], unet.middle_block, *unet.output_blocks):
        if any(isinstance(layer, ResBlock) for layer in block):
            yield block


def block_channels(unet: UNetModel) -> list[int]:
    """The channels of the blocks that temporal layers follow."""
    blocks = followed_blocks(unet)
    return [
        next(cast(nn.Conv2d, layer.out_layers[-1]).out_channels for layer in block if isinstance(layer, ResBlock))
        for block in blocks
    ]


def frame_positions(frames: int, dim: int, device: torch.device) -> Tensor:  # -> (T,dim)
    """Sines and cosines of the frames' numbers, computed on the device, since a copy to a GPU would wait for it."""
    rates = torch.exp(torch.arange(0, dim, 2, device=device) * (-math.log(1000.0) / dim))
    angles = torch.arange(frames, device=device)[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def clip_noise(noise: Tensor, base: Tensor, share: float) -> Tensor:  # (B,T,...), (B,1,...), -> (B,T,...)
    """Standard normal noise of which `share` of the variance is the same in all frames (PYoCo, Ge et al. 2305.10474, eq. 3)."""
    return share**0.5 * base + (1 - share) ** 0.5 * noise


def _in_layout_of(like: Tensor, x: Tensor) -> Tensor:
    """The same values in the memory layout of another tensor, on which the last bit of a convolution's output depends."""
    is_last = like.is_contiguous(memory_format=torch.channels_last) and not like.is_contiguous()
    return x.contiguous(memory_format=torch.channels_last if is_last else torch.contiguous_format)


def _zero(layer: nn.Module) -> None:
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
