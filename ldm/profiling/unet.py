"""Variants of the U-Net: forward, forward and backward with a frozen body, and attention alone."""

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
from ldm.modules.kernels.sdpa import attend
from ldm.profiling import diffusers_peer
from ldm.profiling.measure import Comparison, Variant
from ldm.profiling.workload import PRECISIONS, Workload
from ldm.util.errors import UserError

# Largest difference of outputs or gradients, as a share of the largest value: float32 sums in another order, and bfloat16
# rounds in a few hundred layers.
TOLERANCES = {"fp32": 1e-3, "bf16": 0.2}
TF32_TOLERANCE = 2e-2  # by default, convolutions on a GPU round float32 to TF32's ten bits


def compare_forward(workload: Workload) -> Comparison:
    """The forward pass of the U-Net without adapters, which diffusers has too."""
    x, t, cond = workload.unet_inputs()

    def evaluate(unet: nn.Module) -> Callable[[], Tensor]:
        return lambda: torch.no_grad()(unet)(x, t, cond)

    def build(
        precision: str, layout: torch.memory_format | None = None, compiled: bool = False
    ) -> Callable[[], Tensor]:
        unet = workload.make_unet().to(PRECISIONS[precision])
        if layout:
            unet.to(memory_format=layout)
        else:
            prepare_for_training(unet, workload.device, compiled=compiled)
        return evaluate(unet)

    def build_peer(precision: str) -> Callable[[], Tensor]:
        return evaluate(_diffusers_unet(workload, precision))

    return Comparison("U-Net forward", workload.batch, _list_variants(workload, build, build_peer), check_agreement)


def compare_backward(workload: Workload) -> Comparison:
    """The forward and backward pass of the frozen U-Net, down to its tokens, where the graph encoder's gradient begins."""
    x, t, cond = workload.unet_inputs()
    cond = cond._replace(tokens=cond.tokens.requires_grad_())

    def differentiate(unet: nn.Module, precision: str) -> Callable[[], Tensor]:
        def run() -> Tensor:
            cond.tokens.grad = None
            with torch.autocast(torch.device(workload.device).type, torch.bfloat16, enabled=precision == "bf16"):
                eps = unet(x, t, cond)
            eps.float().square().mean().backward()
            assert cond.tokens.grad is not None
            return cond.tokens.grad

        return run

    def build(
        precision: str, layout: torch.memory_format | None = None, compiled: bool = False
    ) -> Callable[[], Tensor]:
        unet = workload.make_unet()
        is_plain = layout == torch.contiguous_format and precision == "fp32"
        if not is_plain:
            skip_saving_inputs(unet)
        if precision == "bf16":
            cast_frozen_weights(torch.bfloat16, unet)
        if layout:
            unet.to(memory_format=layout)
        else:
            prepare_for_training(unet, workload.device, compiled=compiled)
        return differentiate(unet, precision)

    def build_peer(precision: str) -> Callable[[], Tensor]:
        return differentiate(_diffusers_unet(workload, precision), precision)

    variants = _list_variants(workload, build, build_peer)
    return Comparison("U-Net forward + backward, frozen body", workload.batch, variants, check_agreement)


def compare_attention(workload: Workload) -> Comparison:
    """Self-attention at the U-Net's highest resolution, forward and backward, with each of torch's kernels.

    `ldm.modules.kernels.sdpa` chooses the kernel by these measurements.
    """
    params = workload.unet_params
    side, channels = workload.params["image_size"], params["model_channels"]
    heads = (
        params["num_heads"] if params.get("num_head_channels", -1) == -1 else channels // params["num_head_channels"]
    )
    shape = workload.batch, heads, side**2, channels // heads

    def draw(precision: str) -> list[Tensor]:
        return [
            torch.randn(shape, device=workload.device, dtype=PRECISIONS[precision]).requires_grad_() for _ in range(3)
        ]

    def build(precision: str, backend: SDPBackend, computed_in: str) -> Callable[[], object]:
        inputs = draw(precision)

        def run() -> None:
            with sdpa_kernel(backend):
                query, key, value = (each.to(PRECISIONS[computed_in]) for each in inputs)
                F.scaled_dot_product_attention(query, key, value).to(PRECISIONS[precision]).sum().backward()

        return run

    def build_chosen(precision: str) -> Callable[[], object]:
        inputs = draw(precision)
        return lambda: attend(*inputs).sum().backward()

    variants = {}
    for precision in workload.precisions:
        fused, unfused = (
            partial(build, precision, backend, precision) for backend in (SDPBackend.FLASH_ATTENTION, SDPBackend.MATH)
        )
        variants[f"{precision} fused"] = Variant(fused, precision)
        variants[f"{precision} in full"] = Variant(unfused, precision)
    if "bf16" in workload.precisions:
        variants["bf16, fused in fp32"] = Variant(partial(build, "bf16", SDPBackend.FLASH_ATTENTION, "fp32"), "bf16")
        variants["bf16, as in training"] = Variant(partial(build_chosen, "bf16"), "bf16")
    if workload.device.startswith("cuda"):  # a GPU's fused kernel supports half precision only
        for name in ("fp32 fused", "bf16, fused in fp32"):
            variants.pop(name, None)
    return Comparison("attention forward + backward", workload.batch, variants)


def check_agreement(outputs: dict[str, Tensor], variants: dict[str, Variant]) -> None:
    """Raises UserError for an output that differs from the baseline's by more than rounding."""
    baseline_name, baseline = next(iter(outputs.items()))
    for name, output in outputs.items():
        error = float((output - baseline).abs().max() / baseline.abs().max())
        tolerance = TOLERANCES[variants[name].precision]
        if output.device.type == "cuda" and torch.backends.cudnn.allow_tf32:
            tolerance = max(tolerance, TF32_TOLERANCE)
        if not error <= tolerance:
            raise UserError(
                f"{name}: its output differs from that of {baseline_name} by {error:.1e} of the largest value, which is "
                "more than rounding; its time would not be comparable"
            )


def _list_variants(
    workload: Workload, build: Callable[..., Callable], build_peer: Callable[[str], Callable]
) -> dict[str, Variant]:
    """Only fp32 has a variant 'plain': in bf16, frozen weights are always cast."""
    contiguous, channels_last = torch.contiguous_format, torch.channels_last
    variants = {}
    for precision in workload.precisions:
        suffix = "" if precision == "fp32" else f", {precision}"
        baseline = "plain" if precision == "fp32" else "contiguous" + suffix
        variants[baseline] = Variant(partial(build, precision, contiguous), precision)
        variants["channels last" + suffix] = Variant(partial(build, precision, channels_last), precision)
        if workload.device == "cpu":
            variants["Winograd" + suffix] = Variant(partial(build, precision), precision)
        if workload.compiled:
            variants["compiled" + suffix] = Variant(partial(build, precision, compiled=True), precision)
        if diffusers_peer.available():
            variants["diffusers" + suffix] = Variant(partial(build_peer, precision), precision, peer=True)
    return variants


def _diffusers_unet(workload: Workload, precision: str) -> nn.Module:
    unet = diffusers_peer.to_diffusers_unet(workload.make_unet(), workload.unet_params)
    return diffusers_peer.DiffusersUNet(unet.to(workload.device, PRECISIONS[precision]))
