"""AnimateDiff's motion modules (Guo et al. 2307.04725): residual transformers over time beside a frozen image U-Net.

The keys are those of AnimateDiff's own files. Versions 1 and 3 have modules in the levels, version 2 has one in the middle block
too; version 1 has positions for 24 frames, the others for 32. The frames of a clip are consecutive rows of the batch.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import torch
from einops import rearrange
from torch import Tensor, nn

from ldm.checkpoints.errors import CheckpointError
from ldm.checkpoints.folders import read_json_object
from ldm.checkpoints.kinds import MOTION
from ldm.checkpoints.loading import LoadReport, assign_tensors, log_report, match_keys, refuse_mismatch
from ldm.checkpoints.reading import read_state_dict
from ldm.checkpoints.video_architecture import (
    HEADS,
    NATIVE,
    MotionArchitecture,
    motion_architecture,
    to_motion_keys,
)
from ldm.modules.attention import CrossAttention, FeedForward
from ldm.modules.diffusionmodules.openaimodel import UNetModel
from ldm.modules.temporal import GROUPS, AttachedLayers

logger = logging.getLogger(__name__)

NORMS = ("frame", "clip")
POSITIONS_KEY = r"\.pos_encoder\.pe$"


class PositionalEncoding(nn.Module):
    """Adds sines and cosines of a frame's number (Vaswani et al. 1706.03762, section 3.5)."""

    pe: Tensor

    def __init__(self, dim: int, frames: int):
        super().__init__()
        angles = torch.arange(frames)[:, None] * torch.exp(torch.arange(0, dim, 2) * (-math.log(10000.0) / dim))
        self.register_buffer("pe", torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)[None])

    def forward(self, x: Tensor) -> Tensor:  # (N,T,C) -> (N,T,C)
        return x + self.pe[:, : x.shape[1]].to(x.dtype)


class MotionAttention(CrossAttention):
    """Self-attention over frames."""

    def __init__(self, dim: int, heads: int, frames: int):
        super().__init__(dim, dim, heads, dim // heads)
        self.pos_encoder = PositionalEncoding(dim, frames)

    def attend_frames(self, x: Tensor) -> Tensor:  # (N,T,C) -> (N,T,C)
        return super().forward(self.pos_encoder(x))


class MotionBlock(nn.Module):
    """Two self-attentions over frames and a feed-forward, each with a pre-norm and a residual connection."""

    def __init__(self, dim: int, heads: int, frames: int):
        super().__init__()
        self.attention_blocks = nn.ModuleList(MotionAttention(dim, heads, frames) for _ in range(2))
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(2))
        self.ff, self.ff_norm = FeedForward(dim), nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:  # (N,T,C) -> (N,T,C)
        for attention, norm in zip(self.attention_blocks, self.norms):
            x = x + attention.attend_frames(norm(x))
        return x + self.ff(self.ff_norm(x))


class MotionTransformer(nn.Module):
    """A transformer along time at each location of a feature map; the identity at initialisation (`proj_out` is 0).

    Args:
        channels: C.
        heads: attention heads.
        depth: blocks.
        frames: the longest clip.
        norm: over what the group norm's statistics are taken: each 'frame', as in AnimateDiff, or the whole 'clip', as in
            diffusers.
    """

    def __init__(self, channels: int, heads: int, depth: int, frames: int, norm: str = "frame"):
        super().__init__()
        self.over_clip = norm == "clip"
        self.norm = nn.GroupNorm(GROUPS, channels, eps=1e-6)
        self.proj_in = nn.Linear(channels, channels)
        self.transformer_blocks = nn.ModuleList(MotionBlock(channels, heads, frames) for _ in range(depth))
        self.proj_out = nn.Linear(channels, channels)
        nn.init.zeros_(self.proj_out.weight)
        nn.init.zeros_(self.proj_out.bias)

    def forward(self, x: Tensor, frames: int) -> Tensor:  # (B T,C,h,w) -> (B T,C,h,w)
        h, w = x.shape[-2:]
        if self.over_clip:
            y = rearrange(self.norm(rearrange(x, "(b t) c h w -> b c t h w", t=frames)), "b c t h w -> (b h w) t c")
        else:
            y = rearrange(self.norm(x), "(b t) c h w -> (b h w) t c", t=frames)
        y = self.proj_in(y)
        for block in self.transformer_blocks:
            y = block(y)
        return x + rearrange(self.proj_out(y), "(b h w) t c -> (b t) c h w", h=h, w=w)


class MotionModules(AttachedLayers):
    """The motion modules of a U-Net, which runs them once they are attached (`ldm.modules.temporal.Temporal`).

    Args:
        channels: of each level, from the full resolution down.
        modules: modules of a level on the way down (the U-Net's `num_res_blocks`); there is one more on the way up.
        depth: blocks of each transformer.
        middle: whether the middle block has a module.
        frames: the longest clip.
        heads: attention heads.
        norm: 'frame' or 'clip', see MotionTransformer.
        recompute: see AttachedLayers.

    Attributes:
        weights_from: where the weights are from.

    Raises:
        ValueError: `norm` is not known.
    """

    def __init__(
        self,
        channels: Sequence[int] = (320, 640, 1280, 1280),
        modules: int = 2,
        depth: int = 1,
        middle: bool = False,
        frames: int = 32,
        heads: int = HEADS,
        norm: str = "frame",
        recompute: bool = False,
    ):
        super().__init__(recompute)
        if norm not in NORMS:
            raise ValueError(f"MotionModules: norm={norm!r} is not known; set it to {' or '.join(NORMS)}")
        self.architecture = MotionArchitecture(tuple(channels), modules, depth, middle, frames, heads)
        self.weights_from = "random"

        def level(width: int, count: int) -> nn.ModuleDict:
            transformers = [MotionTransformer(width, heads, depth, frames, norm) for _ in range(count)]
            wrapped = [nn.ModuleDict({"temporal_transformer": transformer}) for transformer in transformers]
            return nn.ModuleDict({"motion_modules": nn.ModuleList(wrapped)})

        self.down_blocks = nn.ModuleList(level(width, modules) for width in channels)
        self.mid_block = level(channels[-1], 1) if middle else None
        self.up_blocks = nn.ModuleList(level(width, modules + 1) for width in reversed(channels))

    def set_clip(self, frames: int) -> None:
        """Sets the number of frames of the clips that come next; 1 for images. Raises ValueError if there are no positions for them."""
        if frames > self.architecture.frames:
            raise ValueError(
                f"a clip of {frames} frames: these motion modules know 1 to {self.architecture.frames}; make long clips by "
                "overlapping windows"
            )
        super().set_clip(frames)

    def attach(self, unet: UNetModel) -> None:
        """Lets a U-Net run these modules inside its blocks.

        Raises:
            ValueError: the U-Net has other levels than the modules were made for.
        """
        made_for = self.architecture
        if (list(made_for.channels), made_for.modules) != (list(unet.widths), unet.num_res_blocks):
            raise ValueError(
                f"motion modules for levels of {list(made_for.channels)} channels with {made_for.modules} blocks do not fit a "
                f"U-Net of {list(unet.widths)} with {unet.num_res_blocks}; use those of its own kind (AnimateDiff: Stable "
                "Diffusion 1)"
            )
        layers = places(unet)
        for place, transformer in self.transformers().items():
            self.run_after(layers[place], transformer)

    def transformers(self) -> dict[str, MotionTransformer]:
        """The transformers by their place, such as 'down_blocks.0.1', 'mid_block.0' and 'up_blocks.3.2'."""
        found = {
            name.replace(".motion_modules", "").removesuffix(".temporal_transformer"): module
            for name, module in self.named_modules()
        }
        return {place: module for place, module in found.items() if isinstance(module, MotionTransformer)}


def places(unet: UNetModel) -> dict[str, nn.Module]:
    """The layer of a U-Net that the motion module of each place follows.

    It is the last layer of a block before a change of resolution; in the middle block, the transformer.
    """
    count = unet.num_res_blocks
    block: Any
    found: dict[str, nn.Module] = {"mid_block.0": cast(nn.Sequential, unet.middle_block)[1]}
    for number, block in enumerate(unet.input_blocks):
        level, index = divmod(number - 1, count + 1)
        if number > 0 and index < count:
            found[f"down_blocks.{level}.{index}"] = block[-1]
    for number, block in enumerate(unet.output_blocks):
        level, index = divmod(number, count + 1)
        attends = unet.levels - 1 - level in unet.attended
        found[f"up_blocks.{level}.{index}"] = block[int(attends)]
    return found


def load_motion(
    source: str | Path | Mapping[str, Tensor], norm: str = "frame", recompute: bool = False
) -> MotionModules:
    """Builds motion modules from a file, by its keys and shapes, and loads it.

    Args:
        source: a file of AnimateDiff (mm_sd_v14.ckpt, mm_sd_v15_v2.ckpt, v3_sd15_mm.ckpt), a file or folder of diffusers'
            MotionAdapter, or a state dict of either.
        norm, recompute: see MotionModules.

    Raises:
        CheckpointError: it holds no motion modules, or some of them only.
    """
    name = "memory" if isinstance(source, Mapping) else str(source)
    published = source if isinstance(source, Mapping) else read_state_dict(source, "motion")
    layout = "AnimateDiff" if any(NATIVE in key for key in published) else "diffusers"
    state = to_motion_keys(published)
    found = motion_architecture(state, name)
    heads = HEADS if isinstance(source, Mapping) else _stated_heads(Path(source).expanduser())
    if any(width % GROUPS or width % heads for width in found.channels):
        raise CheckpointError(f"{name}: levels of {list(found.channels)} channels do not divide into {heads} heads")
    motion = MotionModules(**asdict(found) | {"heads": heads}, norm=norm, recompute=recompute)
    match = match_keys(state, motion.state_dict(), "", (POSITIONS_KEY,), (), prefer_ema=False)
    refuse_mismatch(match, "motion", name, kind=MOTION)
    assign_tensors(motion, match.tensors)
    motion.weights_from = name
    report = LoadReport(
        "motion", name, layout, tuple(match.tensors), 0, match.not_loaded, match.unused, tuple(match.lost)
    )
    log_report(report, {key for key, _ in motion.named_parameters()})
    return motion


def _stated_heads(path: Path) -> int:
    """The heads that the config.json of diffusers beside the weights states; AnimateDiff's own files have none."""
    config = (path if path.is_dir() else path.parent) / "config.json"
    if not config.is_file():
        return HEADS
    heads = read_json_object(config).get("motion_num_attention_heads", HEADS)
    if type(heads) is not int or heads < 1:
        raise CheckpointError(
            f"{config}: motion_num_attention_heads {heads!r} is not one number of heads; it is not supported"
        )
    return heads
