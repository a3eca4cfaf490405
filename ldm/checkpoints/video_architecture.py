"""The architecture of a published video model from the keys and shapes of a file: Stable Video Diffusion, AnimateDiff."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ldm.checkpoints.architecture import SCALE, first_stage_params, part_state, unet_params
from ldm.checkpoints.diffusers_layout import count_blocks
from ldm.checkpoints.errors import CheckpointError, list_names
from ldm.checkpoints.sidecars import read_sidecars, scale_factor_of

FRAMES = 14  # of SVD's clips; SVD-XT's have 25, which no key tells
HEADS = 8  # of AnimateDiff's motion modules, which no key tells
NATIVE = "temporal_transformer."  # in the keys of AnimateDiff's own files
POSITIONS = "pos_encoder.pe"
MODULE = re.compile(r"(down_blocks\.\d+|mid_block|up_blocks\.\d+)\.motion_modules\.\d+\.")
WRAPPERS = re.compile(r"^(module\.|unet\.|motion_adapter\.)+")
# diffusers' names of the layers of a block -> AnimateDiff's own.
BLOCK_LAYERS = {
    "norm1.": "norms.0.",
    "norm2.": "norms.1.",
    "norm3.": "ff_norm.",
    "attn1.": "attention_blocks.0.",
    "attn2.": "attention_blocks.1.",
}


@dataclass(frozen=True)
class VideoArchitecture:
    """What a file of Stable Video Diffusion is.

    Attributes:
        unet, first_stage: parameters of VideoUNetModel and of AutoencoderKLTemporalDecoder.
        scale: factor of the latents.
        decided: in words what was decided, and by what.
    """

    unet: dict[str, Any]
    first_stage: dict[str, Any]
    scale: float
    decided: tuple[str, ...]


def find_video_architecture(source: str | Path) -> VideoArchitecture | None:
    """The architecture of a file, or a folder of diffusers, of Stable Video Diffusion; None for anything else.

    Raises:
        CheckpointError: the file cannot be read, or lacks its first stage.
    """
    unet = part_state(source, "unet")
    if not is_video_unet(unet):
        return None
    first_stage = part_state(source, "first_stage")
    if not any(key.startswith("decoder.") for key in first_stage):
        raise CheckpointError(f"{source}: holds no first stage (VAE); name a file or folder of the whole model")
    sidecars = read_sidecars(source)
    stated = sidecars.unet.values.get("num_frames") if sidecars.unet else None
    frames = stated if type(stated) is int and stated > 0 else FRAMES
    params = {**unet_params(unet), "num_frames": frames}
    decided = (
        f"Stable Video Diffusion: its U-Net has blocks over time (time_stack) and {params['in_channels']} input channels",
        f"clips of {frames} frames: {sidecars.unet.path if frames is stated else 'those of SVD; SVD-XT has 25'}",
    )
    scale = scale_factor_of(sidecars.first_stage) or SCALE
    return VideoArchitecture(params, temporal_first_stage_params(first_stage), scale, decided)


def is_video_unet(state: Mapping[str, Tensor]) -> bool:
    """Whether a U-Net in LDM's layout has SVD's blocks over time."""
    return any(".time_stack." in key for key in state)


def temporal_first_stage_params(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Parameters of AutoencoderKLTemporalDecoder from its tensors in LDM's layout.

    Raises:
        CheckpointError: its decoder has no blocks over time.
    """
    if "decoder.mid.block_1.mix_factor" not in state:
        raise CheckpointError("its first stage has no temporal layers (mix_factor); use AutoencoderKL for it")
    channels = state["decoder.conv_in.weight"]
    known = {**state, "post_quant_conv.weight": channels.new_empty(1, channels.shape[1])}
    params = first_stage_params(known)
    return {**params, "quant_conv": "quant_conv.weight" in state}


@dataclass(frozen=True)
class MotionArchitecture:
    """What a file of AnimateDiff's motion modules is, the parameters of `MotionModules`.

    Attributes:
        channels: of each level, from the full resolution down.
        modules: motion modules of a level on the way down; there is one more on the way up.
        depth: transformer blocks of a module.
        middle: whether the middle block has one (v2, but neither v1 nor v3).
        frames: the longest clip, by the number of positions in time.
        heads: attention heads.
    """

    channels: tuple[int, ...]
    modules: int
    depth: int
    middle: bool
    frames: int
    heads: int = HEADS


def motion_architecture(state: Mapping[str, Tensor], source: str = "memory") -> MotionArchitecture:
    """The architecture of motion modules with AnimateDiff's own keys (see `to_motion_keys`).

    Raises:
        CheckpointError: the state dict holds none.
    """
    levels = count_blocks(state, r"down_blocks\.(\d+)\.motion_modules\.")
    first = "down_blocks.{}.motion_modules.0." + NATIVE + "norm.weight"
    if not all(first.format(level) in state for level in range(levels)):
        raise CheckpointError(
            f"{source}: holds no motion modules of AnimateDiff (its keys are {list_names(state)}); name an mm_sd_*.ckpt, "
            "v3_sd15_mm.ckpt, or a folder of diffusers' MotionAdapter"
        )
    frames = next((value.shape[1] for key, value in state.items() if key.endswith(POSITIONS)), None)
    return MotionArchitecture(
        tuple(state[first.format(level)].shape[0] for level in range(levels)),
        count_blocks(state, r"down_blocks\.0\.motion_modules\.(\d+)\."),
        count_blocks(state, rf"down_blocks\.0\.motion_modules\.0\.{re.escape(NATIVE)}transformer_blocks\.(\d+)\."),
        any(key.startswith("mid_block.") for key in state),
        frames or 32,
    )


def to_motion_keys(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Renames motion modules, of AnimateDiff's own files or of diffusers' MotionAdapter, to AnimateDiff's own keys.

    diffusers stores the positions in time once for each block, AnimateDiff once for each attention layer. Keys of other parts,
    such as those of a whole UNetMotionModel, stay as they are.
    """
    renamed: dict[str, Tensor] = {}
    for key, value in state.items():
        key = WRAPPERS.sub("", key)
        found = MODULE.match(key)
        if found is None or key.startswith(found[0] + NATIVE):
            renamed[key] = value
            continue
        place, rest = found[0] + NATIVE, key.removeprefix(found[0])
        block = re.match(r"transformer_blocks\.\d+\.", rest)
        if block and rest.endswith("pos_embed.pe"):
            for number in range(2):
                renamed[f"{place}{block[0]}attention_blocks.{number}.{POSITIONS}"] = value
            continue
        for old, new in BLOCK_LAYERS.items() if block else ():
            if rest.startswith(block[0] + old):
                rest = block[0] + new + rest.removeprefix(block[0] + old)
                break
        renamed[place + rest] = value
    return renamed
