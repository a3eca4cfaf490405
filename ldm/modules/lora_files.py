"""Adds published LoRA files to a U-Net, and writes a U-Net's own LoRA in the layouts of diffusers and kohya."""

from __future__ import annotations

import logging
import math
from collections import Counter
from pathlib import Path

import torch
from torch import Tensor, nn

from ldm.checkpoints.diffusers_layout import to_diffusers_names
from ldm.checkpoints.errors import CheckpointError, list_names
from ldm.checkpoints.kinds import CONTEXTS
from ldm.checkpoints.lora_layout import LoRAFile, LowRank, read_lora
from ldm.modules.lora import lora_layers

logger = logging.getLogger(__name__)

KOHYA = "lora_unet_"
TEXT_ENCODER = "text encoder, which this model has not"
CONVOLUTION = "convolution, not supported yet"
UNKNOWN = "no layer of this U-Net"


@torch.no_grad()
def add_lora(unet: nn.Module, path: str | Path, scale: float = 1.0) -> int:
    """Adds a LoRA to the weights of a U-Net, in place.

    Args:
        unet: has LDM's keys.
        path: a file of kohya, diffusers or peft, or a folder of one of the last two.
        scale: factor of what it adds; 0 changes nothing.

    Returns:
        The number of layers that were changed.

    Raises:
        CheckpointError: the file is damaged, or fits none of the layers, or some of them in another shape. The U-Net is
            unchanged then.
    """
    file = read_lora(path)
    names = layer_names(unet)
    changes: dict[str, Tensor] = {}
    unused: dict[str, str] = dict.fromkeys(file.other, UNKNOWN)
    for name, pair in file.layers.items():
        layer = names.get(name)
        if layer is None:
            is_text = name.startswith(("lora_te", "text_encoder", "te1_", "te2_"))
            unused[name] = TEXT_ENCODER if is_text else UNKNOWN
            continue
        weight = unet.get_parameter(f"{layer}.weight")
        if weight.ndim == 4 and weight.shape[2:] != (1, 1):
            unused[name] = CONVOLUTION
            continue
        changes[layer] = scale * difference(pair, weight, f"{file.source}: the layer {name}")
    refuse_foreign(file, changes, unused)
    for layer, change in changes.items():
        weight = unet.get_parameter(f"{layer}.weight")
        weight += change.to(weight)
    logger.info("LoRA: %d layers from %s, scale %g", len(changes), file.source, scale)
    if unused:
        counts = ", ".join(f"{count} ({reason})" for reason, count in Counter(unused.values()).items())
        logger.warning("LoRA: %d of the layers in %s are not used: %s", len(unused), file.source, counts)
    return len(changes)


def layer_names(unet: nn.Module) -> dict[str, str]:
    """Every name that a LoRA file may have for a layer with a matrix or kernel -> the layer's name here."""
    layers = [name.removesuffix(".weight") for name, weight in unet.named_parameters() if weight.ndim in (2, 4)]
    diffusers = to_diffusers_names([name for name in layers if not name.endswith(("lora_A", "lora_B"))])
    found: dict[str, str] = {}
    for layer, name in diffusers.items():
        for known in (layer, name):
            flat = KOHYA + known.replace(".", "_")
            for alias in (known, flat, known.removesuffix(".0") if known.endswith("to_out.0") else known):
                found[alias] = layer
    return found


def difference(pair: LowRank, weight: Tensor, name: str) -> Tensor:
    """alpha / rank B A in the shape of the weight, in float32. Raises CheckpointError if it does not fit, or is not finite."""
    assert pair.down is not None and pair.up is not None
    down, up = pair.down.float().flatten(1), pair.up.float().flatten(1)
    if (len(up), down.shape[1]) != (len(weight), weight[0].numel()):
        family = CONTEXTS.get(down.shape[1]) if "attn2" in name else None
        kind = f"; it was made for {family}" if family else ""
        raise CheckpointError(
            f"{name} is {len(up)}x{down.shape[1]}, but {len(weight)}x{weight[0].numel()} in this U-Net{kind}; use a LoRA of "
            "this model"
        )
    rank = len(down)
    alpha = rank if pair.alpha is None else pair.alpha
    change = alpha / (math.sqrt(rank) if pair.by_root else rank) * (up @ down)
    if not change.isfinite().all():
        raise CheckpointError(f"{name} holds values that are not finite; the file is damaged")
    return change.view_as(weight)


def refuse_foreign(file: LoRAFile, changes: dict[str, Tensor], unused: dict[str, str]) -> None:
    """Raises CheckpointError if no layer of the file is one of the U-Net."""
    if changes:
        return
    if set(unused.values()) == {TEXT_ENCODER}:
        raise CheckpointError(
            f"{file.source}: a LoRA of a text encoder only, which this model has not; use one of a U-Net"
        )
    raise CheckpointError(
        f"{file.source}: none of its {len(unused)} layers can be used with this U-Net ({list_names(unused)}); use a LoRA of "
        "the attention of this model"
    )


def diffusers_lora(unet: nn.Module) -> dict[str, Tensor]:
    """The LoRA layers with the keys of diffusers' pytorch_lora_weights.safetensors.

    diffusers takes the rank for alpha where a file does not state it, so alpha / rank is multiplied into `lora_B`.
    """
    return {
        f"unet.{name}.{side}.weight": weight.detach().contiguous()
        for name, layer in _by_diffusers_name(unet).items()
        for side, weight in (("lora_A", layer.lora_A), ("lora_B", layer.alpha / layer.rank * layer.lora_B))
    }


def kohya_lora(unet: nn.Module) -> dict[str, Tensor]:
    """The LoRA layers with the keys of kohya's sd-scripts, which most user interfaces read."""
    found: dict[str, Tensor] = {}
    for name, layer in _by_diffusers_name(unet).items():
        key = KOHYA + name.replace(".", "_")
        found[f"{key}.lora_down.weight"] = layer.lora_A.detach().contiguous()
        found[f"{key}.lora_up.weight"] = layer.lora_B.detach().contiguous()
        found[f"{key}.alpha"] = torch.tensor(layer.alpha)
    return found


def _by_diffusers_name(unet: nn.Module) -> dict:
    names = to_diffusers_names(name.removesuffix(".weight") for name in unet.state_dict())
    return {names[name]: layer for name, layer in lora_layers(unet).items()}
