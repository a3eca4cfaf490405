"""What temporal layers cost: the U-Net on the frames of a clip, with and without them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from ldm.modules.diffusionmodules.openaimodel import UNetModel
from ldm.modules.temporal import TemporalLayers, block_channels
from ldm.modules.temporal_animatediff import MotionModules
from ldm.profiling.measure import Comparison, Variant
from ldm.profiling.workload import Workload


def compare_clips(workload: Workload) -> Comparison:
    """Forward and backward pass of the frozen U-Net on a clip, whose frames are the images of a batch.

    The variants train nothing ('image model', down to its tokens), or temporal layers.
    """
    variants = {"image model": Variant(partial(_build, workload, None))}
    for name, attach in (("temporal layers", _temporal), ("motion modules", _motion)):
        variants[name] = Variant(partial(_build, workload, attach))
        variants[f"{name}, recompute"] = Variant(partial(_build, workload, partial(attach, recompute=True)))
    return Comparison("U-Net on a clip, forward + backward", workload.batch, variants)


def _build(workload: Workload, attach: Callable | None) -> Callable[[], Tensor]:
    unet = workload.make_unet()
    layers = None if attach is None else attach(workload, unet)
    unet.to(workload.device)
    if layers is not None:
        layers.to(workload.device).set_clip(workload.batch)
    x, t, cond = workload.unet_inputs()
    cond = cond._replace(tokens=cond.tokens.requires_grad_())
    trained = [cond.tokens, *(() if layers is None else layers.parameters())]

    def run() -> Tensor:
        for tensor in trained:
            tensor.grad = None
        loss = unet(x, t[:1].expand(len(x)), cond).float().square().mean()
        loss.backward()
        return loss.detach()

    return run


def _temporal(workload: Workload, unet: UNetModel, recompute: bool = False) -> TemporalLayers:
    torch.manual_seed(0)
    widths = block_channels(unet)
    layers = TemporalLayers(widths, head_channels=min(32, *widths), recompute=recompute)
    layers.attach(unet)
    return layers


def _motion(workload: Workload, unet: UNetModel, recompute: bool = False) -> MotionModules:
    torch.manual_seed(0)
    frames = max(workload.batch, 2)
    modules = MotionModules(unet.widths, unet.num_res_blocks, frames=frames, recompute=recompute)
    modules.attach(unet)
    return modules
