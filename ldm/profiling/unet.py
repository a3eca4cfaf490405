"""The U-Net's own cases: forward, forward and backward with a frozen body, its attention."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from ldm.models.runtime import prepare_for_training
from ldm.modules.kernels.conv import skip_saving_inputs
from ldm.modules.kernels.frozen import cast_frozen_weights
from ldm.profiling import diffusers_peer
from ldm.profiling.measure import Group, Way
from ldm.profiling.setting import PRECISIONS, Setting, without_forgetting
from ldm.util.errors import UserError

# Of outputs, and of gradients, as a share of the largest number: sums in another order, and what bfloat16 rounds off in a
# few hundred layers.
AGREE = {"fp32": 1e-3, "bf16": 0.2}


def forward(setting: Setting) -> Group:
    """Of the body that diffusers has too: no FiLM, no LoRA."""
    x, t, cond = setting.x_t_cond()

    def evaluate(unet: nn.Module) -> Callable[[], Tensor]:
        return lambda: torch.no_grad()(unet)(x, t, cond)

    def ours(precision: str, layout: torch.memory_format | None = None, compiled: bool = False) -> Callable[[], Tensor]:
        unet = setting.unet().to(PRECISIONS[precision])
        if layout:
            unet.to(memory_format=layout)
        else:  # as training has it
            prepare_for_training(unet, setting.device, compiled=compiled)
        return evaluate(unet)

    def theirs(precision: str) -> Callable[[], Tensor]:
        return evaluate(diffusers_peer.Told(_peer(setting).to(PRECISIONS[precision])))

    return Group("U-Net forward", setting.batch, _ways(setting, ours, theirs), agreement)


def backward(setting: Setting) -> Group:
    """Down to the tokens, which is where a graph encoder's gradient begins; and with our adapters, to these as well."""
    x, t, cond = setting.x_t_cond()
    cond = cond._replace(tokens=cond.tokens.requires_grad_())

    def differentiate(unet: nn.Module, precision: str) -> Callable[[], Tensor]:
        def run() -> Tensor:
            cond.tokens.grad = None
            with torch.autocast(torch.device(setting.device).type, torch.bfloat16, enabled=precision == "bf16"):
                eps = unet(x, t, cond)
            eps.float().square().mean().backward()
            return cond.tokens.grad

        return run

    def ours(precision: str, layout: torch.memory_format | None = None, compiled: bool = False) -> Callable[[], Tensor]:
        unet = setting.unet()
        if layout != torch.contiguous_format or precision != "fp32":  # else the plain path
            skip_saving_inputs(unet)
        if precision == "bf16":
            cast_frozen_weights(torch.bfloat16, unet)
        if layout:
            unet.to(memory_format=layout)
        else:
            prepare_for_training(unet, setting.device, compiled=compiled)
        return differentiate(unet, precision)

    def theirs(precision: str) -> Callable[[], Tensor]:
        return differentiate(diffusers_peer.Told(_peer(setting).to(PRECISIONS[precision])), precision)

    return Group("U-Net forward + backward, frozen body", setting.batch, _ways(setting, ours, theirs), agreement)


def attention(setting: Setting) -> Group:
    """Forward and backward over all places of the first level, each way that torch has: what ldm/modules/sdpa.py chooses
    by."""
    body = setting.body
    side, channels = setting.params["image_size"], body["model_channels"]
    heads = body["num_heads"] if body.get("num_head_channels", -1) == -1 else channels // body["num_head_channels"]
    shape = setting.batch, heads, side**2, channels // heads

    def run(precision: str, backend: SDPBackend, computed: str) -> Callable[[], object]:
        q, k, v = (torch.randn(shape, device=setting.device, dtype=PRECISIONS[precision]) for _ in range(3))
        q.requires_grad_()

        def attend() -> None:
            with sdpa_kernel(backend):
                each = (y.to(PRECISIONS[computed]) for y in (q, k, v))
                F.scaled_dot_product_attention(*each).to(q.dtype).sum().backward()

        return attend

    ways = {}
    for precision in setting.precisions:
        ways[f"{precision} fused"] = Way(partial(run, precision, SDPBackend.FLASH_ATTENTION, precision), precision)
        ways[f"{precision} in full"] = Way(partial(run, precision, SDPBackend.MATH, precision), precision)
    if "bf16" in setting.precisions:
        ways["bf16, fused in fp32"] = Way(partial(run, "bf16", SDPBackend.FLASH_ATTENTION, "fp32"), "bf16")
    if setting.device.startswith("cuda"):  # where the fused kernel is one for half precision
        for name in ("fp32 fused", "bf16, fused in fp32"):
            ways.pop(name, None)
    return Group("attention forward + backward", setting.batch, ways)


def agreement(outputs: dict[str, Tensor], ways: dict[str, Way]) -> None:
    """All give what the first one gives. Raises UserError."""
    first, *_ = outputs.values()
    for name, output in outputs.items():
        error = float((output - first).abs().max() / first.abs().max())
        if not error <= AGREE[ways[name].precision]:
            raise UserError(f"{name} is not {next(iter(outputs))}: they differ by {error:.1e} of the largest number")


def _ways(setting: Setting, ours: Callable, theirs: Callable) -> dict[str, Way]:
    """Only fp32 has a plain way: in bf16 weights are held as they are the fastest."""
    plain, last = torch.contiguous_format, torch.channels_last
    ways = {}
    for precision in setting.precisions:
        end = "" if precision == "fp32" else f", {precision}"
        ways["plain" if precision == "fp32" else "contiguous" + end] = Way(partial(ours, precision, plain), precision)
        ways["channels last" + end] = Way(partial(ours, precision, last), precision)
        if precision == "fp32" and setting.device == "cpu":
            ways["Winograd"] = Way(partial(ours, precision), precision)
        if setting.compiled:
            ways["compiled" + end] = Way(partial(ours, precision, compiled=True), precision)
        if diffusers_peer.available():
            ways["diffusers" + end] = Way(partial(theirs, precision), precision, peer=True)
    return ways


def _peer(setting: Setting) -> nn.Module:
    return diffusers_peer.like(without_forgetting(setting.unet()), setting.body).to(setting.device)
