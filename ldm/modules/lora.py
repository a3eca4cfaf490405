"""Low-rank adapters (LoRA) whose layers keep the base layer's state-dict keys.

y = W x + b + (alpha / rank) B A x, with B zero at initialisation (Hu et al. 2021, arXiv 2106.09685, section 4.1).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ldm.modules.shallow_copy import with_submodules
from ldm.modules.without_values import without_values


class LoRALinear(nn.Linear):
    """nn.Linear with a low-rank adapter: `lora_A` (rank, in) and `lora_B` (out, rank) beside `weight` and `bias`.

    Args:
        in_features: Width of the input.
        out_features: Width of the output.
        bias: Whether the base layer has a bias.
        rank: Rank of the adapter.
        alpha: Scale of the adapter, applied as alpha / rank; the rank by default, as in diffusers.

    Raises:
        ValueError: for a rank below 1.
    """

    def __init__(
        self, in_features: int, out_features: int, bias: bool = True, *, rank: int, alpha: float | None = None
    ):
        super().__init__(in_features, out_features, bias)
        if rank < 1:
            raise ValueError(f"a LoRA rank must be at least 1, not {rank}; leave lora_rank out for layers without LoRA")
        self.rank = rank
        self.alpha = float(rank if alpha is None else alpha)
        self.lora_A = nn.Parameter(torch.empty(rank, in_features))
        self.lora_B = nn.Parameter(torch.zeros(out_features, rank))
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:  # (...,in) -> (...,out)
        return super().forward(x) + self.alpha / self.rank * F.linear(F.linear(x, self.lora_A), self.lora_B)

    @torch.no_grad()
    def merge(self) -> nn.Linear:
        """Returns a linear layer with the adapter added to the weight. The new weight is frozen; the bias is shared."""
        with without_values():
            layer = nn.Linear(self.in_features, self.out_features, bias=False)
        precise = torch.promote_types(self.weight.dtype, torch.float32)
        weight, up, down = (part.to(precise) for part in (self.weight, self.lora_B, self.lora_A))
        weight = weight + self.alpha / self.rank * (up @ down)
        layer.weight = nn.Parameter(weight.to(self.weight.dtype), requires_grad=False)
        layer.bias = self.bias
        return layer.train(self.training)


def lora_layers(module: nn.Module) -> dict[str, LoRALinear]:
    """Returns the LoRA layers of a module by their dotted path."""
    return {name: layer for name, layer in module.named_modules() if isinstance(layer, LoRALinear)}


def merge_lora(module: nn.Module) -> nn.Module:
    """Returns a copy with all adapters merged into their base weights, for faster inference.

    Like diffusers' `fuse_lora`, but not in place: the copy shares all other weights with `module`, which is unchanged.
    """
    return with_submodules(module, {name: layer.merge() for name, layer in lora_layers(module).items()})


def peft_state_dict(module: nn.Module) -> dict[str, Tensor]:
    """Returns the adapters with the keys of Hugging Face peft's adapter_model.safetensors."""
    return {
        f"base_model.model.{name}.{part}.weight": weight.detach().contiguous()
        for name, layer in lora_layers(module).items()
        for part, weight in (("lora_A", layer.lora_A), ("lora_B", layer.lora_B))
    }


def peft_config(module: nn.Module) -> dict:
    """Returns the content of the adapter_config.json that belongs to `peft_state_dict`.

    `target_modules` lists full paths, since peft matches suffixes and `to_q` alone would also match self-attention.

    Raises:
        ValueError: for a module without LoRA layers, or with layers of different ranks or alphas.
    """
    layers = lora_layers(module)
    if not layers:
        raise ValueError("the model has no LoRA layers to export; build it with lora_rank")
    sizes = {(layer.rank, layer.alpha) for layer in layers.values()}
    if len(sizes) > 1:
        raise ValueError(f"LoRA layers differ in (rank, alpha), {sorted(sizes)}, but one peft config has one of each")
    rank, alpha = sizes.pop()
    return {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": alpha,
        "target_modules": sorted(layers),
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
    }
