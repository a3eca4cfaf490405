"""Adds published LoRA files to a U-Net and its text encoder, and writes their own LoRA in the layouts of diffusers, kohya and peft."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ldm.checkpoints.diffusers_layout import to_diffusers_names
from ldm.checkpoints.errors import CheckpointError, list_names
from ldm.checkpoints.kinds import CONTEXTS
from ldm.checkpoints.lora_layout import LoRAFile, LowRank, read_lora
from ldm.checkpoints.text_layout import to_hugging_face_layer
from ldm.modules.encoders.modules import TextEncoder
from ldm.modules.lora import LoRALayer, lora_layers, peft_settings, peft_state

logger = logging.getLogger(__name__)

KOHYA = "lora_unet_"
KOHYA_TEXT = ("lora_te_", "lora_te1_", "lora_te2_")  # of the only tower, and of SDXL's two
TEXT_KEYS = ("text_encoder.", "text_encoder_2.")  # diffusers'
TEXT_ENCODER = "text encoder, which this model has not"
UNKNOWN = "no layer of this model"
# Which modules of a transformer block the lists of cloneofsimo's lora hold, in the orders that diffusers had.
BLOCK_ORDERS = (("attn1", "ff.net.0.proj", "attn2"), ("attn1", "attn2", "ff.net.0.proj"), ("attn1", "attn2"))
ATTENTION_ORDER = ("to_q", "to_k", "to_v", "to_out.0")
TEXT_ORDER = ("k_proj", "v_proj", "q_proj", "out_proj")  # of transformers' CLIPAttention


class Place(NamedTuple):
    """A weight to which a LoRA is added.

    Attributes:
        weight: the whole parameter.
        rows: those that belong to the layer; of query, key and value of a text tower, which share a weight.
        kind: 'U-Net' or 'text encoder', for messages.
    """

    weight: Tensor
    rows: slice
    kind: str

    @property
    def part(self) -> Tensor:
        return self.weight[self.rows]


@torch.no_grad()
def add_lora(unet: nn.Module, path: str | Path, scale: float = 1.0, text: TextEncoder | None = None) -> int:
    """Adds a LoRA to the weights of a U-Net and of its text encoder, in place.

    Args:
        unet: has LDM's keys.
        path: a file of kohya, diffusers, peft or cloneofsimo, or a folder of diffusers or peft.
        scale: factor of what it adds; 0 changes nothing.
        text: the text encoder; layers for one are left out, and said, without it.

    Returns:
        The number of layers that were changed.

    Raises:
        CheckpointError: the file is damaged, or fits none of the layers, or some of them in another shape. The model is
            unchanged then.
    """
    file = read_lora(path)
    places = layer_places(unet, text)
    if file.unnamed:
        name_layers(file, unet, text, places)
    changes: list[tuple[Place, Tensor]] = []
    unused: dict[str, str] = dict.fromkeys(file.other, UNKNOWN)
    for name, pair in file.layers.items():
        if not (found := places.get(name)):
            is_text = text is None and name.startswith(("lora_te", "text_encoder", "te1_", "te2_", "text_model."))
            unused[name] = TEXT_ENCODER if is_text else UNKNOWN
            continue
        place = next((each for each in found if _fits(pair, each.part)), found[0])
        changes.append((place, scale * difference(pair, place.part, f"{file.source}: the layer {name}", place.kind)))
    refuse_foreign(file, len(changes), unused)
    for place, change in changes:
        place.part.add_(change.to(place.weight))
    logger.info("LoRA: %d layers from %s, scale %g", len(changes), file.source, scale)
    if unused:
        counts = ", ".join(f"{count} ({reason})" for reason, count in Counter(unused.values()).items())
        logger.warning("LoRA: %d of the layers in %s are not used: %s", len(unused), file.source, counts)
    return len(changes)


def layer_places(unet: nn.Module, text: TextEncoder | None) -> dict[str, list[Place]]:
    """Every name that a LoRA file may have for a layer -> where it is; several places for a name that does not tell the tower."""
    whole = slice(None)
    found = {
        name: [Place(unet.get_parameter(f"{layer}.weight"), whole, "U-Net")]
        for name, layer in layer_names(unet).items()
    }
    towers = [] if text is None else text.towers()
    for number, tower in enumerate(towers):
        for name, (weight, rows) in text_layers(tower.model).items():
            place = Place(weight, rows, "text encoder")
            for known in (name, name.removeprefix("text_model.")):
                flat = known.replace(".", "_")
                prefixes = [KOHYA_TEXT[1 + number], *([KOHYA_TEXT[0]] if number == 0 else [])]
                for alias in (known, TEXT_KEYS[number] + known, *(prefix + flat for prefix in prefixes)):
                    found.setdefault(alias, []).append(place)
    return found


def text_layers(tower: nn.Module) -> dict[str, tuple[Tensor, slice]]:
    """The layers of a text tower by their names in transformers: the weight, and which of its rows."""
    found: dict[str, tuple[Tensor, slice]] = {}
    for name, weight in tower.named_parameters():
        if name.endswith(".attn.in_proj_weight"):
            width = weight.shape[1]
            for number, projection in enumerate(("q_proj", "k_proj", "v_proj")):
                layer = to_hugging_face_layer(name.replace("in_proj_weight", projection))
                found[layer] = weight, slice(number * width, (number + 1) * width)
        elif name.startswith("transformer.resblocks.") and name.endswith(".weight") and weight.ndim == 2:
            found[to_hugging_face_layer(name.removesuffix(".weight"))] = weight, slice(None)
    return found


def name_layers(file: LoRAFile, unet: nn.Module, text: TextEncoder | None, places: dict[str, list[Place]]) -> None:
    """Gives the pairs of a file without names the layers of the order that fits, and says what was assumed.

    Raises:
        CheckpointError: no order fits.
    """
    orders = [("U-Net", unet_order(unet, order)) for order in BLOCK_ORDERS]
    for number, tower in enumerate([] if text is None else text.towers()):
        names = [name for name in text_layers(tower.model) if name.endswith(TEXT_ORDER)]
        names.sort(key=lambda name: (int(name.split(".")[3]), TEXT_ORDER.index(name.rpartition(".")[2])))
        orders.append((f"text encoder {number + 1}", [TEXT_KEYS[number] + name for name in names]))
    for kind, names in orders:
        if len(names) == len(file.unnamed) and all(_fits(p, places[n][0].part) for p, n in zip(file.unnamed, names)):
            file.layers = dict(zip(names, file.unnamed))
            logger.warning(
                "%s: has no names; its %d pairs are taken for the layers of the %s in the order of diffusers' modules (%s, %s, "
                "...), at full strength",
                file.source, len(names), kind, names[0], names[1],
            )  # fmt: skip
            return
    raise CheckpointError(
        f"{file.source}: a list of {len(file.unnamed)} pairs of matrices without names, which fits neither the attention of this "
        "U-Net nor its text encoder; use a LoRA of this model"
    )


def unet_order(unet: nn.Module, order: Sequence[str]) -> list[str]:
    """diffusers' names of a U-Net's attention layers in the order of its modules: down, up, then the middle."""
    sides = {"down_blocks": 0, "up_blocks": 1, "mid_block": 2}
    found = []
    for name in set(to_diffusers_names(set(layer_names(unet).values())).values()):
        block, inside, rest = name.partition(".transformer_blocks.")
        depth, _, layer = rest.partition(".")
        first = next((index for index, part in enumerate(order) if f"{layer}.".startswith(f"{part}.")), None)
        if inside and first is not None:
            numbers = [int(part) for part in block.split(".") if part.isdecimal()]
            last = next((index for index, part in enumerate(ATTENTION_ORDER) if layer.endswith(part)), 0)
            found.append(((sides[block.split(".")[0]], *numbers, int(depth), first, last), name))
    return [name for _, name in sorted(found)]


def _fits(pair: LowRank, weight: Tensor) -> bool:
    assert pair.down is not None and pair.up is not None
    return (len(pair.up), pair.down.flatten(1).shape[1]) == (len(weight), weight[0].numel())


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


def difference(pair: LowRank, weight: Tensor, name: str, part: str = "U-Net") -> Tensor:
    """alpha / rank B A in the shape of the weight, in float32. Raises CheckpointError if it does not fit, or is not finite."""
    assert pair.down is not None and pair.up is not None
    down, up = pair.down.float().flatten(1), pair.up.float().flatten(1)
    if not _fits(pair, weight):
        family = CONTEXTS.get(down.shape[1]) if "attn2" in name else None
        kind = f"; it was made for {family}" if family else ""
        raise CheckpointError(
            f"{name} is {len(up)}x{down.shape[1]}, but {len(weight)}x{weight[0].numel()} in this {part}{kind}; use a LoRA of "
            "this model"
        )
    rank = len(down)
    alpha = rank if pair.alpha is None else pair.alpha
    change = alpha / (math.sqrt(rank) if pair.by_root else rank) * (up @ down)
    if not change.isfinite().all():
        raise CheckpointError(f"{name} holds values that are not finite; the file is damaged")
    return change.view_as(weight)


def refuse_foreign(file: LoRAFile, changes: int, unused: dict[str, str]) -> None:
    """Raises CheckpointError if no layer of the file is one of the model."""
    if changes:
        return
    if set(unused.values()) == {TEXT_ENCODER}:
        raise CheckpointError(
            f"{file.source}: a LoRA of a text encoder only, which this model has not; use one of a U-Net"
        )
    raise CheckpointError(
        f"{file.source}: none of its {len(unused)} layers can be used with this U-Net ({list_names(unused)}); use a LoRA of "
        "this model"
    )


# Writing ------------------------------------------------------------------------------------------------------------


def diffusers_lora(unet: nn.Module, text: TextEncoder | None = None) -> dict[str, Tensor]:
    """The LoRA layers with the keys of diffusers' pytorch_lora_weights.safetensors.

    diffusers takes the rank for alpha where a file does not state it, so alpha / rank is multiplied into `lora_B`.
    """
    named = {f"unet.{name}": layer for name, layer in _by_diffusers_name(unet).items()}
    for number, tower in enumerate([] if text is None else text.towers()):
        named |= {TEXT_KEYS[number] + name: layer for name, layer in text_lora_layers(tower.model).items()}
    return {
        f"{name}.{side}.weight": weight.detach().contiguous()
        for name, layer in named.items()
        for side, weight in (("lora_A", layer.lora_A), ("lora_B", layer.alpha / layer.rank * layer.lora_B))
    }


def kohya_lora(unet: nn.Module, text: TextEncoder | None = None) -> dict[str, Tensor]:
    """The LoRA layers with the keys of kohya's sd-scripts, which most user interfaces read."""
    named = {KOHYA + name.replace(".", "_"): layer for name, layer in _by_diffusers_name(unet).items()}
    towers = [] if text is None else text.towers()
    for tower, prefix in zip(towers, KOHYA_TEXT[1:] if len(towers) > 1 else KOHYA_TEXT):
        named |= {prefix + name.replace(".", "_"): layer for name, layer in text_lora_layers(tower.model).items()}
    found: dict[str, Tensor] = {}
    for key, layer in named.items():
        found[f"{key}.lora_down.weight"] = layer.lora_A.detach().contiguous()
        found[f"{key}.lora_up.weight"] = layer.lora_B.detach().contiguous()
        found[f"{key}.alpha"] = torch.tensor(layer.alpha)
    return found


def text_lora_layers(tower: nn.Module) -> dict[str, LoRALayer]:
    """The LoRA layers of a text tower by their names in transformers."""
    return {to_hugging_face_layer(name): layer for name, layer in lora_layers(tower).items()}


def peft_text_files(tower: nn.Module) -> tuple[dict[str, Tensor], dict]:
    """adapter_model.safetensors and adapter_config.json of peft, for a text model of transformers 5, which has no `text_model.`"""
    layers = {name.removeprefix("text_model."): layer for name, layer in text_lora_layers(tower).items()}
    patterns = {
        "rank_pattern": {name: layer.rank for name, layer in layers.items()},
        "alpha_pattern": {name: layer.alpha for name, layer in layers.items()},
    }
    settings = peft_settings(layers, max((layer.rank for layer in layers.values()), default=1), 1.0)
    return peft_state(layers), settings | patterns


def _by_diffusers_name(unet: nn.Module) -> dict[str, LoRALayer]:
    names = to_diffusers_names(name.removesuffix(".weight") for name in unet.state_dict())
    return {names[name]: layer for name, layer in lora_layers(unet).items()}
