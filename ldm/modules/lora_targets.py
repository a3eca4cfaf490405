"""Adds LoRA to layers of a U-Net and of text towers by the names that diffusers and transformers have for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from ldm.checkpoints.diffusers_layout import to_diffusers_names
from ldm.checkpoints.text_layout import to_hugging_face_layer
from ldm.modules.encoders.modules import TextEncoder
from ldm.modules.kernels.conv import Conv2d
from ldm.modules.lora import LoRAAttention, LoRAConv2d, LoRALinear, LoRAPair, lora_layers, with_lora
from ldm.util.errors import ConfigError

PARTS = ("unet", "text")
ATTENTION = ("to_q", "to_k", "to_v", "to_out.0"), ("q_proj", "k_proj", "v_proj", "out_proj")  # default targets of each
PROJECTIONS = ("q_proj", "k_proj", "v_proj")


@dataclass(frozen=True)
class LoRATarget:
    """Which layers get an adapter, and of what size.

    Args:
        part: 'unet' or 'text', all towers.
        targets: names of layers, or components of their names, as diffusers and transformers have them: to_q, attn2.to_k, resnets,
            conv1, ff.net, q_proj, mlp, ... By default the attention's four projections.
        rank: of the adapters.
        alpha: their scale, as alpha / rank; by default the rank.
    """

    part: str
    targets: tuple[str, ...] = ()
    rank: int = 4
    alpha: float | None = None

    @classmethod
    def of(cls, config: Mapping[str, Any], place: str) -> LoRATarget:
        """Reads an entry of `model.params.lora`. Raises ConfigError, which begins with `place`."""
        known = {"part", "targets", "rank", "alpha"}
        if unknown := sorted(config.keys() - known):
            raise ConfigError(f"{place}: there is no key {unknown[0]!r}; it has part, targets, rank and alpha")
        part, targets, rank, alpha = (config.get(key) for key in ("part", "targets", "rank", "alpha"))
        rank = 4 if rank is None else rank
        if part not in PARTS:
            raise ConfigError(f"{place}.part is {part!r}; set it to unet or text")
        if not isinstance(targets, (list, tuple, type(None))) or not all(
            isinstance(name, str) for name in targets or ()
        ):
            raise ConfigError(f"{place}.targets is {targets!r}; give a list of layers such as [to_q, to_v]")
        if type(rank) is not int or rank < 1:
            raise ConfigError(f"{place}.rank is {rank!r}; give a whole number, at least 1")
        if alpha is not None and (type(alpha) not in (int, float) or alpha <= 0):
            raise ConfigError(f"{place}.alpha is {alpha!r}; give a number above 0")
        return cls(part, tuple(targets or ATTENTION[PARTS.index(part)]), rank, alpha)


def add_lora_layers(unet: nn.Module, text: TextEncoder | None, targets: Sequence[Mapping[str, Any]], place: str) -> int:
    """Adds adapters, which begin as the identity, in place; a layer that several entries name gets the first one's.

    Args:
        unet: has LDM's keys.
        text: the text encoder, or None.
        targets: see LoRATarget.
        place: of these in the config, for messages.

    Returns:
        The number of adapters.

    Raises:
        ConfigError: an entry is wrong, or names no layer.
    """
    count = 0
    for number, config in enumerate(targets):
        target = LoRATarget.of(config, f"{place}[{number}]")
        modules = [unet] if target.part == "unet" else [] if text is None else [tower.model for tower in text.towers()]
        if not modules:
            raise ConfigError(f"{place}[{number}].part is 'text', but the model has no text encoder; leave it out")
        for name in target.targets:
            added = sum(_add(module, name, target) for module in modules)
            if not added:
                known = sorted({each.rpartition(".")[2] for module in modules for each in adaptable(module)})
                raise ConfigError(
                    f"{place}[{number}].targets: {name!r} is no layer without LoRA in it; some are {', '.join(known[:12])}"
                )
            count += added
    return count


def adaptable(module: nn.Module) -> dict[str, str]:
    """Every layer that can have an adapter and has none: its name in diffusers or transformers -> its name here."""
    taken = lora_layers(module)
    names = [
        name
        for name, layer in module.named_modules()
        if isinstance(layer, (nn.Linear, Conv2d)) and not isinstance(layer, (LoRALinear, LoRAConv2d))
    ]
    for name, layer in module.named_modules():
        if isinstance(layer, nn.MultiheadAttention):
            names += [f"{name}.{each}" for each in PROJECTIONS]
    names = [name for name in names if name not in taken]
    if any(name.startswith("transformer.resblocks.") for name in names):
        return {to_hugging_face_layer(name): name for name in names}
    return {theirs: name for name, theirs in to_diffusers_names(names).items()}


def _add(module: nn.Module, wanted: str, target: LoRATarget) -> int:
    found = [ours for theirs, ours in adaptable(module).items() if f".{wanted}." in f".{theirs}."]
    for name in found:
        parent_name, _, child = name.rpartition(".")
        parent = module.get_submodule(parent_name)
        if isinstance(parent, nn.MultiheadAttention) and not isinstance(parent, LoRAAttention):
            above, _, place = parent_name.rpartition(".")
            parent = LoRAAttention(parent)
            setattr(module.get_submodule(above), place, parent)
        if child in PROJECTIONS:
            assert isinstance(parent, LoRAAttention)
            width = parent.embed_dim
            adapter = LoRAPair(width, width, target.rank, target.alpha).to(parent.in_proj_weight.device)
        else:
            layer = parent.get_submodule(child)
            assert isinstance(layer, (nn.Linear, Conv2d))
            adapter = with_lora(layer, target.rank, target.alpha).to(layer.weight.device)
        setattr(parent, child, adapter)
    return len(found)
