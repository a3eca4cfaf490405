"""The architecture of Stable Diffusion 1, 2 or XL from the keys and shapes of a file, as parameters of this project's modules.

Two things do not show in shapes: the number of attention heads, which the config.json beside the weights states or the kind of
model tells, and what the U-Net predicts (`ldm.checkpoints.trained_with`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ldm.checkpoints.diffusers_layout import is_diffusers, to_ldm_unet, to_ldm_vae
from ldm.checkpoints.errors import CheckpointError
from ldm.checkpoints.kinds import SUPPORTED, SVD, describe_kind, is_refused
from ldm.checkpoints.loading import own_keys
from ldm.checkpoints.reading import PARTS, read_state_dict
from ldm.checkpoints.sidecars import read_sidecars
from ldm.checkpoints.text_layout import TEXT_PARTS, read_text_settings, tower_state
from ldm.checkpoints.wrappers import unwrap_keys

STEM = "input_blocks.0.0.weight"  # of a U-Net in LDM's layout
HEAD_WIDTH = 64  # of the attention heads of SD 2 and XL, and of all of CLIP's text towers
SD2_LAYERS, SD2_WIDTH = 24, 1024  # of ViT-H, whose last layer diffusers leaves out
SIZES = {"Stable Diffusion 1": 64, "Stable Diffusion 2": 64, "Stable Diffusion XL": 128}  # of the latents in training
SCALES = {"Stable Diffusion XL": 0.13025}  # of the latents, where the weights state none
SCALE = 0.18215


@dataclass(frozen=True)
class Architecture:
    """What a file of Stable Diffusion is.

    Attributes:
        kind: 'Stable Diffusion 1', 'Stable Diffusion 2' or 'Stable Diffusion XL'.
        unet, first_stage: parameters of UNetModel and of AutoencoderKL.
        text: parameters of the text encoder of this kind.
        size: height and width of the latents in training.
        states_size: whether a file beside the weights states the size.
        scale: factor of the latents where the weights state none.
        decided: in words what was decided, and by what.
    """

    kind: str
    unet: dict[str, Any]
    first_stage: dict[str, Any]
    text: dict[str, Any]
    size: int
    states_size: bool
    scale: float
    decided: tuple[str, ...]


def find_architecture(source: str | Path) -> Architecture | None:
    """The architecture of a file, or a folder of diffusers, that holds a whole Stable Diffusion.

    Returns:
        None for anything else, such as a file without a U-Net, or without a text encoder (LDM, SGDiff).

    Raises:
        CheckpointError: the file cannot be read, is of a model that is not supported, or lacks its first stage.
    """
    try:
        unet = part_state(source, "unet")
    except CheckpointError:
        if (Path(source) / "unet" / "config.json").is_file():
            raise
        return None
    if (kind := describe_kind(unet, "unet")) == SVD:
        raise CheckpointError(
            f"{source}: this is {SVD}, which makes a clip of an image and reads no graph by itself; load it in Python with "
            "ldm.models.svd.load_svd"
        )
    if kind and (is_refused(kind) or STEM not in unet):
        refused = ", which is not supported" if is_refused(kind) else ""
        raise CheckpointError(f"{source}: this is {kind}{refused}; {SUPPORTED}")
    if STEM not in unet or not any(".attn2.to_k." in key for key in unet):
        return None
    towers = [_tower(source, number) for number in range(2)]
    if not towers[0]:
        return None
    params = unet_params(unet)
    name, why = kind_of(params)
    if name == "Stable Diffusion XL" and not towers[1]:
        raise CheckpointError(f"{source}: a {name} without its second text encoder; name a file or folder with both")
    first_stage = part_state(source, "first_stage")
    if not any(key.startswith("decoder.") for key in first_stage):
        raise CheckpointError(
            f"{source}: holds no first stage (VAE), which an edit needs; name a file or folder of the whole model"
        )
    sidecar = read_sidecars(source).unet
    stated = sidecar.values.get("sample_size") if sidecar else None
    size = stated if type(stated) is int else SIZES[name]
    inputs = params["in_channels"]
    decided = (
        f"{name}{' for inpainting' if inputs == 9 else ''}: {why}",
        f"latents of {size} x {size}: {sidecar.path if sidecar and type(stated) is int else f'the size of {name}'}",
        f"attention heads: {sidecar.path if sidecar else f'those of {name}'}",
    )
    texts = text_params(source, name, towers)
    scale = SCALES.get(name, SCALE)
    autoencoder = first_stage_params(first_stage)
    if name == "Stable Diffusion XL":  # its activations exceed the range of float16
        autoencoder["force_upcast"] = True
    return Architecture(name, params, autoencoder, texts, size, type(stated) is int, scale, decided)


def kind_of(unet: Mapping[str, Any]) -> tuple[str, str]:
    """The name of a kind of Stable Diffusion, and which keys and shapes tell it, by the parameters of its U-Net."""
    if unet.get("adm_in_channels"):
        return "Stable Diffusion XL", f"its U-Net has a label embedding of width {unet['adm_in_channels']} (label_emb)"
    width = f"cross-attention to tokens of width {unet['context_dim']} (attn2.to_k)"
    if unet["use_linear_in_transformer"]:
        return "Stable Diffusion 2", f"its U-Net has {width} and linear projections (proj_in)"
    return "Stable Diffusion 1", f"its U-Net has {width} and projections by convolution (proj_in)"


def part_state(source: str | Path, part: str) -> dict[str, Tensor]:
    """The tensors of a part in LDM's layout, without prefix; empty if a folder lacks the part."""
    try:
        state = read_state_dict(source, part)
    except CheckpointError:
        if part == "unet" or not Path(source).is_dir():
            raise
        return {}
    state = unwrap_keys(state, PARTS[part].prefix, PARTS[part].folders)
    state = own_keys(state, PARTS[part].prefix)
    if is_diffusers(state):
        state = to_ldm_unet(state) if part == "unet" else to_ldm_vae(state)
    return state


def unet_params(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Parameters of UNetModel from the tensors of a U-Net in LDM's layout.

    Raises:
        CheckpointError: its blocks are not those of a U-Net of LDM.
    """
    levels: list[list[int]] = [[]]
    for number in range(1, _count(state, r"input_blocks\.(\d+)\.")):
        if f"input_blocks.{number}.0.op.weight" in state:
            levels.append([])
        else:
            levels[-1].append(number)
    widths = [_shape(state, f"input_blocks.{blocks[0]}.0.out_layers.3.weight")[0] for blocks in levels if blocks]
    if len(widths) < len(levels):
        raise CheckpointError(
            "the blocks of its U-Net are not those of Stable Diffusion; name its config with --config"
        )
    first, channels = levels[0], _shape(state, STEM)
    depths = [_count(state, rf"input_blocks\.{blocks[0]}\.1\.transformer_blocks\.(\d+)\.") for blocks in levels]
    context = next(value.shape[1] for key, value in state.items() if key.endswith("attn2.to_k.weight"))
    linear = any(key.endswith(".proj_in.weight") and value.ndim == 2 for key, value in state.items())
    label = state.get("label_emb.0.0.weight")
    return {
        "image_size": 32,
        "in_channels": channels[1],
        "out_channels": _shape(state, "out.2.weight")[0],
        "model_channels": channels[0],
        "attention_resolutions": [2**level for level, depth in enumerate(depths) if depth],
        "num_res_blocks": len(first),
        "channel_mult": [width // channels[0] for width in widths],
        "defaults": {"num_head_channels": HEAD_WIDTH} if linear else {"num_heads": 8},
        "use_linear_in_transformer": linear,
        "transformer_depth": [max(depth, 1) for depth in depths],
        "transformer_depth_middle": _count(state, r"middle_block\.1\.transformer_blocks\.(\d+)\."),
        "context_dim": context,
        "legacy": False,
        **({} if label is None else {"num_classes": "sequential", "adm_in_channels": label.shape[1]}),
    }


def first_stage_params(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Parameters of AutoencoderKL from the tensors of one in LDM's layout.

    Raises:
        CheckpointError: it is no AutoencoderKL.
    """
    stem, levels = _shape(state, "encoder.conv_in.weight"), _count(state, r"encoder\.down\.(\d+)\.")
    widths = [_shape(state, f"encoder.down.{level}.block.0.conv1.weight")[0] for level in range(levels)]
    ddconfig = {
        "double_z": True,
        "z_channels": _shape(state, "decoder.conv_in.weight")[1],
        "resolution": 256,
        "in_channels": stem[1],
        "out_ch": _shape(state, "decoder.conv_out.weight")[0],
        "ch": stem[0],
        "ch_mult": [width // stem[0] for width in widths],
        "num_res_blocks": _count(state, r"encoder\.down\.0\.block\.(\d+)\."),
        "attn_resolutions": [256 >> i for i in range(levels) if f"encoder.down.{i}.attn.0.q.weight" in state],
        "dropout": 0.0,
    }
    return {
        "embed_dim": _shape(state, "post_quant_conv.weight")[1],
        "ddconfig": ddconfig,
        "lossconfig": {"target": "torch.nn.Identity"},
    }


def text_params(source: str | Path, kind: str, towers: list[dict[str, Tensor]]) -> dict[str, Any]:
    """Parameters of the text encoder of a kind: FrozenCLIPEmbedder, FrozenOpenCLIPEmbedder or SDXLTextEncoder."""
    first = _tower_shape(source, 0, towers[0], quick_gelu=kind != "Stable Diffusion 2")
    if kind == "Stable Diffusion 1":
        return {"version": first}
    if kind == "Stable Diffusion 2":
        layers = SD2_LAYERS if first["width"] == SD2_WIDTH else first["layers"] + Path(source).is_dir()
        return {"arch": {**first, "layers": layers}, "layer": "penultimate"}
    second = _tower_shape(source, 1, towers[1], quick_gelu=False)
    return {
        "first": {"version": first, "layer": "hidden", "layer_idx": first["layers"] - 1},
        "second": {"arch": second, "layer": "penultimate"},
    }


def _tower(source: str | Path, number: int) -> dict[str, Tensor]:
    try:
        return tower_state(read_state_dict(source, TEXT_PARTS[number]), number)
    except CheckpointError:
        return {}


def _tower_shape(source: str | Path, number: int, state: Mapping[str, Tensor], quick_gelu: bool) -> dict[str, Any]:
    width, settings = _shape(state, "token_embedding.weight")[1], read_text_settings(source, number)
    projection = state.get("text_projection")
    hidden = state.get("transformer.resblocks.0.mlp.c_fc.weight")
    return {
        "width": width,
        "layers": _count(state, r"transformer\.resblocks\.(\d+)\."),
        "heads": (settings and settings.heads) or max(1, width // HEAD_WIDTH),
        "embed_dim": width if projection is None else projection.shape[1],
        "quick_gelu": settings.activation == "quick_gelu" if settings else quick_gelu,
        "mlp_ratio": 4.0 if hidden is None else hidden.shape[0] / width,
    }


def _count(state: Mapping[str, Tensor], pattern: str) -> int:
    """One more than the largest number that the group of `pattern` matches at the start of a key; 0 if none does."""
    return 1 + max((int(found[1]) for key in state if (found := re.match(pattern, key))), default=-1)


def _shape(state: Mapping[str, Tensor], key: str) -> tuple[int, ...]:
    if key not in state:
        raise CheckpointError(f"lacks {key}, which Stable Diffusion has; name its config with --config")
    return tuple(state[key].shape)
