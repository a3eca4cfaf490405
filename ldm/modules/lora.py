"""Low-rank adapters (LoRA) whose layers keep the base layer's state-dict keys.

y = W x + b + (alpha / rank) B A x, with B zero at initialisation (Hu et al. 2021, arXiv 2106.09685, section 4.1).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ldm.modules.kernels.conv import Conv2d
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
        self.rank = refuse_no_rank(rank)
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
        layer.weight = nn.Parameter(merged_weight(self.weight, self), requires_grad=False)
        layer.bias = self.bias
        return layer.train(self.training)


class LoRAConv2d(Conv2d):
    """The U-Net's convolution with a low-rank adapter, as kohya's LoCon: a kernel down to `rank` channels, and 1 x 1 up.

    Args:
        *geometry, options: as of nn.Conv2d.
        rank, alpha: see LoRALinear.
    """

    def __init__(self, *geometry, rank: int, alpha: float | None = None, **options):
        super().__init__(*geometry, **options)
        self.rank = refuse_no_rank(rank)
        self.alpha = float(rank if alpha is None else alpha)
        self.lora_A = nn.Parameter(torch.empty(rank, self.in_channels, *self.kernel_size))
        self.lora_B = nn.Parameter(torch.zeros(self.out_channels, rank, 1, 1))
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:  # (B,C,h,w) -> (B,O,h',w')
        change = F.conv2d(F.conv2d(x, self.lora_A, None, self.stride, self.padding, self.dilation), self.lora_B)
        return super().forward(x) + self.alpha / self.rank * change

    @torch.no_grad()
    def merge(self) -> Conv2d:
        """Returns a convolution with the adapter added to the weight. The new weight is frozen; the bias is shared."""
        with torch.device("meta"):
            layer = Conv2d(
                self.in_channels, self.out_channels, self.kernel_size, self.stride, self.padding, self.dilation
            )
        layer.skip_saving_input, layer.winograd = self.skip_saving_input, self.winograd
        layer.winograd = layer.supports_winograd() and self.winograd
        layer.weight = nn.Parameter(merged_weight(self.weight, self), requires_grad=False)
        layer.bias = self.bias
        return layer.train(self.training)


class LoRAPair(nn.Module):
    """The two matrices of a low-rank adapter by themselves, for a layer whose weight is a part of a larger one."""

    def __init__(self, in_features: int, out_features: int, rank: int, alpha: float | None = None):
        super().__init__()
        self.rank = refuse_no_rank(rank)
        self.alpha = float(rank if alpha is None else alpha)
        self.lora_A = nn.Parameter(torch.empty(rank, in_features))
        self.lora_B = nn.Parameter(torch.zeros(out_features, rank))
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))

    def change(self) -> Tensor:  # -> (out,in)
        return self.alpha / self.rank * (self.lora_B @ self.lora_A)


class LoRAAttention(nn.MultiheadAttention):
    """torch's self-attention with low-rank adapters of the query, key and value, which share one weight there.

    Args:
        layer: the attention, whose parameters are shared.

    Attributes:
        q_proj, k_proj, v_proj: the adapters, LoRAPair or None.
    """

    def __init__(self, layer: nn.MultiheadAttention):
        with torch.device("meta"):
            super().__init__(layer.embed_dim, layer.num_heads, batch_first=layer.batch_first)
        self.in_proj_weight, self.in_proj_bias, self.out_proj = layer.in_proj_weight, layer.in_proj_bias, layer.out_proj
        self.q_proj: LoRAPair | None = None
        self.k_proj: LoRAPair | None = None
        self.v_proj: LoRAPair | None = None
        self.train(layer.training)

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, **options: Any
    ) -> tuple:
        """Self-attention of (B,L,D), or (L,B,D) unless `batch_first`; returns the output and None, whatever the other options."""
        if key is not query or value is not query:
            raise ValueError("LoRAAttention is for self-attention")
        x = query.transpose(0, 1) if self.batch_first else query
        out = self.out_proj
        weight = merged_weight(out.weight, out) if isinstance(out, LoRALinear) else out.weight
        y, _ = F.multi_head_attention_forward(
            x, x, x, self.embed_dim, self.num_heads, self.input_weight(), self.in_proj_bias, None, None, False, 0.0, weight,
            out.bias, training=self.training, need_weights=False, attn_mask=attn_mask,
        )  # fmt: skip
        return y.transpose(0, 1) if self.batch_first else y, None

    def input_weight(self) -> Tensor:  # -> (3D,D)
        """The weight of query, key and value with their adapters."""
        zeros = torch.zeros_like(self.in_proj_weight[: self.embed_dim])
        pairs = self.q_proj, self.k_proj, self.v_proj
        return self.in_proj_weight + torch.cat([zeros if pair is None else pair.change() for pair in pairs])

    @torch.no_grad()
    def merge(self) -> nn.MultiheadAttention:
        """Returns torch's attention with the adapters added to its weights."""
        with torch.device("meta"):
            layer = nn.MultiheadAttention(self.embed_dim, self.num_heads, batch_first=self.batch_first)
        layer.in_proj_weight = nn.Parameter(self.input_weight(), requires_grad=False)
        out = self.out_proj
        layer.in_proj_bias = self.in_proj_bias
        layer.out_proj.weight = out.weight
        if isinstance(out, LoRALinear):
            layer.out_proj.weight = nn.Parameter(merged_weight(out.weight, out), requires_grad=False)
        layer.out_proj.bias = out.bias
        return layer.train(self.training)


LoRALayer = LoRALinear | LoRAConv2d | LoRAPair


def merged_weight(weight: Tensor, layer: LoRALayer) -> Tensor:
    """weight + alpha / rank B A, computed in float32 or better."""
    precise = torch.promote_types(weight.dtype, torch.float32)
    up, down = layer.lora_B.flatten(1).to(precise), layer.lora_A.flatten(1).to(precise)
    return (weight.to(precise) + layer.alpha / layer.rank * (up @ down).view_as(weight)).to(weight.dtype)


def refuse_no_rank(rank: int) -> int:
    if rank < 1:
        raise ValueError(f"a LoRA rank must be at least 1, not {rank}; leave lora_rank out for layers without LoRA")
    return rank


def with_lora(layer: nn.Linear | Conv2d, rank: int, alpha: float | None = None) -> LoRALinear | LoRAConv2d:
    """Returns a layer with an adapter that shares the parameters of `layer`.

    Raises:
        ValueError: the layer has groups or another padding than zeros, or the rank is below 1.
    """
    if isinstance(layer, nn.Linear):
        adapted: LoRALinear | LoRAConv2d = LoRALinear(
            layer.in_features, layer.out_features, False, rank=rank, alpha=alpha
        )
    else:
        if layer.groups != 1 or layer.padding_mode != "zeros":
            raise ValueError("LoRA is for convolutions of one group, padded with zeros")
        geometry = layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride, layer.padding, layer.dilation
        adapted = LoRAConv2d(*geometry, bias=False, rank=rank, alpha=alpha)
        adapted.skip_saving_input, adapted.winograd = layer.skip_saving_input, layer.winograd
    adapted.weight, adapted.bias = layer.weight, layer.bias  # pyright: ignore[reportAttributeAccessIssue] - may be None
    return adapted.train(layer.training)


def lora_layers(module: nn.Module) -> dict[str, LoRALayer]:
    """Returns the LoRA layers of a module by their dotted path."""
    kinds = (LoRALinear, LoRAConv2d, LoRAPair)
    return {name: layer for name, layer in module.named_modules() if isinstance(layer, kinds)}


def merge_lora(module: nn.Module) -> nn.Module:
    """Returns a copy with all adapters merged into their base weights, for faster inference.

    Like diffusers' `fuse_lora`, but not in place: the copy shares all other weights with `module`, which is unchanged.
    """
    attention = {name: layer.merge() for name, layer in module.named_modules() if isinstance(layer, LoRAAttention)}
    layers = {
        name: layer.merge()
        for name, layer in module.named_modules()
        if isinstance(layer, (LoRALinear, LoRAConv2d)) and name.rpartition(".")[0] not in attention
    }
    return with_submodules(module, {**layers, **attention})


def peft_state_dict(module: nn.Module) -> dict[str, Tensor]:
    """Returns the adapters with the keys of Hugging Face peft's adapter_model.safetensors."""
    return peft_state(lora_layers(module))


def peft_state(layers: Mapping[str, LoRALayer]) -> dict[str, Tensor]:
    """The same of layers by the names that they have in the file."""
    return {
        f"base_model.model.{name}.{part}.weight": weight.detach().contiguous()
        for name, layer in layers.items()
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
    return peft_settings(layers, *sizes.pop())


def peft_settings(names: Iterable[str], rank: int, alpha: float) -> dict:
    """The content of an adapter_config.json.

    Args:
        names: of the layers.
        rank, alpha: of all layers, unless the caller adds a rank_pattern and an alpha_pattern.
    """
    return {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": alpha,
        "target_modules": sorted(names),
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
    }
