"""The first stage of Stable Video Diffusion, whose decoder has temporal layers, and the decoding of clips in chunks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from taming.modules.diffusionmodules.model import Decoder, ResnetBlock
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ldm.models.autoencoder import AutoencoderKL
from ldm.modules.temporal_svd import DECODER_MIX, KERNEL, PADDING, TemporalResBlock, to_clips, to_frames

CHUNK = 8  # frames that are decoded at a time


@runtime_checkable
class DecodesClips(Protocol):
    """A first stage whose decoder sees the frames of a clip together."""

    def decode_clip(self, z: Tensor) -> Tensor:
        """(B,T,C,h,w) -> (B,T,3,H,W)."""
        ...


class Decodes(Protocol):
    """A first stage of images."""

    def decode(self, z: Tensor) -> Tensor:
        """(B,C,h,w) -> (B,3,H,W)."""
        ...


class TemporalResnetBlock(nn.Module):
    """taming's residual block, followed by one over time; it takes over the layers, and with them the keys, of the former.

    `mix_factor` weighs the temporal branch: z + alpha (z' - z), alpha its sigmoid.
    """

    def __init__(self, block: ResnetBlock):
        super().__init__()
        self.norm1, self.conv1, self.norm2, self.conv2 = block.norm1, block.conv1, block.norm2, block.conv2
        self.nin_shortcut = block.nin_shortcut if block.in_channels != block.out_channels else None
        self.time_stack = TemporalResBlock(block.out_channels)
        self.mix_factor = nn.Parameter(torch.tensor([DECODER_MIX]))

    def forward(self, x: Tensor, frames: int) -> Tensor:  # (B T,C,H,W) -> (B T,C',H,W)
        h = self.conv1(nn.functional.silu(self.norm1(x)))
        h = self.conv2(nn.functional.silu(self.norm2(h)))
        h = h + (x if self.nin_shortcut is None else self.nin_shortcut(x))
        z = to_clips(h, frames)
        return to_frames(z + self.mix_factor.sigmoid().to(z.dtype) * (self.time_stack(z) - z))


class TemporalConv2d(nn.Module):
    """A convolution over space, which keeps its keys, and one over time (`time_mix_conv`)."""

    def __init__(self, conv: nn.Conv2d):
        super().__init__()
        self.weight, self.bias = conv.weight, conv.bias
        self.time_mix_conv = nn.Conv3d(conv.out_channels, conv.out_channels, KERNEL, padding=PADDING)

    def forward(self, x: Tensor, frames: int) -> Tensor:  # (B T,C,H,W) -> (B T,3,H,W)
        y = nn.functional.conv2d(x, self.weight, self.bias, padding=1)
        return to_frames(self.time_mix_conv(to_clips(y, frames)))


class TemporalDecoder(nn.Module):
    """taming's decoder with temporal layers; it takes over the former's layers, whose attention stays within frames.

    Attributes:
        recompute: whether a training step recomputes the activations of each block in the backward pass.
    """

    def __init__(self, decoder: Decoder):
        super().__init__()
        self.conv_in, self.mid, self.up, self.norm_out = decoder.conv_in, decoder.mid, decoder.up, decoder.norm_out
        for block in ("block_1", "block_2"):
            setattr(self.mid, block, TemporalResnetBlock(getattr(self.mid, block)))
        level: Any
        for level in self.up:
            level.block = nn.ModuleList(TemporalResnetBlock(block) for block in level.block)
        self.conv_out = TemporalConv2d(decoder.conv_out)
        self.recompute = False

    def forward(self, z: Tensor, frames: int = 1) -> Tensor:  # (B T,C,h,w) -> (B T,3,H,W)
        h = self._run(self.mid.block_1, self.conv_in(z), frames)
        h = self._run(self.mid.block_2, self.mid.attn_1(h), frames)
        level: Any
        for number, level in reversed(list(enumerate(self.up))):
            for index, block in enumerate(level.block):
                h = self._run(block, h, frames)
                if len(level.attn):
                    h = level.attn[index](h)
            if number:
                h = level.upsample(h)
        return self.conv_out(nn.functional.silu(self.norm_out(h)), frames)

    def _run(self, block: nn.Module, h: Tensor, frames: int) -> Tensor:
        if self.recompute and torch.is_grad_enabled():
            return checkpoint(block, h, frames, use_reentrant=False)
        return block(h, frames)


class AutoencoderKLTemporalDecoder(AutoencoderKL):
    """Stable Video Diffusion's first stage: AutoencoderKL's encoder, and a decoder with temporal layers.

    `encode` and `decode` take images, as those of AutoencoderKL; `decode_clip` takes clips.

    Args:
        embed_dim, ddconfig, lossconfig, init, freeze_encoder, force_upcast: as of AutoencoderKL.
        ckpt_path: weights in the layout of SVD's own files, or of diffusers' AutoencoderKLTemporalDecoder.
        ignore_keys: prefixes of its keys to leave out.
        quant_conv: whether a convolution follows the encoder. It does in diffusers' layout; SVD's own files have none.

    Raises:
        CheckpointError: the checkpoint cannot be loaded.
    """

    def __init__(
        self,
        embed_dim: int,
        ddconfig: Mapping,
        lossconfig: Mapping | None = None,
        ckpt_path: str | Path | None = None,
        ignore_keys: Sequence[str] = (),
        init: str | None = None,
        quant_conv: bool = True,
        freeze_encoder: bool = False,
        force_upcast: bool = True,
    ):
        super().__init__(embed_dim, ddconfig, lossconfig, freeze_encoder=freeze_encoder, force_upcast=force_upcast)
        self.decoder = TemporalDecoder(self.decoder)
        self.post_quant_conv = nn.Identity()
        if not quant_conv:
            self.quant_conv = nn.Identity()
        self.load_weights(ckpt_path, ignore_keys, init)

    def decode_clip(self, z: Tensor) -> Tensor:  # (B,T,C,h,w) -> (B,T,3,H,W)
        """Decodes clips whole; see `decode_clip` of this module for long ones."""
        frames = z.shape[1]
        with torch.autocast(z.device.type, enabled=not self.force_upcast and torch.is_autocast_enabled(z.device.type)):
            rows = z.flatten(0, 1)
            image = self.decoder(rows.float() if self.force_upcast else rows, frames)
        return image.unflatten(0, (-1, frames))


def decode_clip(first_stage: Decodes, z: Tensor, chunk: int = CHUNK) -> Tensor:  # (B,T,C,h,w) -> (B,T,3,H,W)
    """Decodes clips in chunks of frames, which bounds the memory.

    A decoder with temporal layers sees the frames of a chunk together; one of images decodes each by itself, where the chunks
    change nothing.

    Args:
        first_stage: a first stage.
        z: latents in the first stage's own scale.
        chunk: frames at a time.
    """
    if isinstance(first_stage, DecodesClips):
        return torch.cat([first_stage.decode_clip(part) for part in z.split(chunk, dim=1)], dim=1)
    images = torch.cat([first_stage.decode(part) for part in z.flatten(0, 1).split(chunk)])
    return images.unflatten(0, z.shape[:2])
