"""Low-rank adapters that leave the base layer's keys as they were.

y = W x + b + (alpha / rank) B A x, with B zero at start: Hu et al., LoRA (2021), section 4.1.
"""

from __future__ import annotations

import copy
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LoRALinear(nn.Linear):
    """nn.Linear with `lora_A` (rank, in) and `lora_B` (out, rank) beside its weight and bias."""

    def __init__(self, in_features: int, out_features: int, bias: bool = True, *,
                 rank: int, alpha: float | None = None):
        super().__init__(in_features, out_features, bias)
        if rank < 1:
            raise ValueError(f"a LoRA rank must be at least 1, not {rank}; leave lora_rank out for plain layers")
        self.rank = rank
        self.alpha = float(rank if alpha is None else alpha)
        self.lora_A = nn.Parameter(torch.empty(rank, in_features))
        self.lora_B = nn.Parameter(torch.zeros(out_features, rank))
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:  # (...,in) -> (...,out)
        return super().forward(x) + self.alpha / self.rank * F.linear(F.linear(x, self.lora_A), self.lora_B)

    @torch.no_grad()
    def plain(self) -> nn.Linear:
        """A layer that computes the same without an adapter, its weight a new one and frozen."""
        with torch.device("meta"):
            layer = nn.Linear(self.in_features, self.out_features, bias=False)
        precise = torch.promote_types(self.weight.dtype, torch.float32)
        weight, up, down = (part.to(precise) for part in (self.weight, self.lora_B, self.lora_A))
        weight = weight + self.alpha / self.rank * (up @ down)
        layer.weight = nn.Parameter(weight.to(self.weight.dtype), requires_grad=False)
        layer.bias = self.bias
        return layer.train(self.training)


def lora_layers(module: nn.Module) -> dict[str, LoRALinear]:
    """The adapted layers by their dotted path in `module`."""
    return {name: layer for name, layer in module.named_modules() if isinstance(layer, LoRALinear)}


def merged(module: nn.Module) -> nn.Module:
    """The same function of plain layers, for inference at their cost, with everything shared but the layers that adapters
    are folded into and what leads to them. `module` stays as it was."""
    if isinstance(module, LoRALinear):
        return module.plain()
    parts = {name: part and merged(part) for name, part in module._modules.items()}
    if all(part is module._modules[name] for name, part in parts.items()):
        return module
    view = copy.copy(module)
    view._modules = parts
    return view


def peft_state_dict(module: nn.Module) -> dict[str, Tensor]:
    """The adapters in the key layout of Hugging Face peft's adapter_model.safetensors."""
    return {
        f"base_model.model.{name}.{part}.weight": getattr(layer, part).detach().contiguous()
        for name, layer in lora_layers(module).items()
        for part in ("lora_A", "lora_B")
    }


def peft_config(module: nn.Module) -> dict:
    """The content of the adapter_config.json that goes with `peft_state_dict`.

    The layers are named in full, since peft matches by suffix and `to_q` alone would also match self-attention."""
    layers = lora_layers(module)
    if not layers:
        raise ValueError("there is no LoRA layer to describe; build the model with lora_rank")
    sizes = {(layer.rank, layer.alpha) for layer in layers.values()}
    if len(sizes) > 1:
        raise ValueError(f"the LoRA layers differ in (rank, alpha), {sorted(sizes)}, which one peft config cannot say")
    rank, alpha = sizes.pop()
    return {"peft_type": "LORA", "r": rank, "lora_alpha": alpha, "target_modules": sorted(layers),
            "lora_dropout": 0.0, "bias": "none", "fan_in_fan_out": False, "inference_mode": True}
