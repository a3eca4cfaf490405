"""What layers along time cost: the U-Net on the frames of a clip, with and without them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from ldm.modules.temporal_animatediff import MotionModules
from ldm.profiling.measure import Comparison, Variant
from ldm.profiling.workload import Workload


def compare_clips(workload: Workload) -> Comparison:
    """Forward and backward pass of the frozen U-Net on a clip, whose frames are the images of a batch.

    The variants train nothing ('image model', down to its tokens), or layers along time.
    """
    variants = {"image model": Variant(partial(_build, workload, None))}
    variants["motion modules"] = Variant(partial(_build, workload, _motion))
    variants["motion modules, recompute"] = Variant(partial(_build, workload, partial(_motion, recompute=True)))
    return Comparison("U-Net on a clip, forward + backward", workload.batch, variants)


def _build(workload: Workload, attach: Callable | None) -> Callable[[], Tensor]:
    unet = workload.make_unet()
    layers = None if attach is None else attach(workload, unet)
    unet.to(workload.device)
    x, t, cond = workload.unet_inputs()
    cond = cond._replace(tokens=cond.tokens.requires_grad_())
    trained = [cond.tokens, *(() if layers is None else layers.parameters())]
    if layers is not None:
        layers.set_clip(workload.batch)

    def run() -> Tensor:
        for tensor in trained:
            tensor.grad = None
        loss = unet(x, t[:1].expand(len(x)), cond).float().square().mean()
        loss.backward()
        return loss.detach()

    return run


def _motion(workload: Workload, unet, recompute: bool = False) -> MotionModules:
    torch.manual_seed(0)
    frames = max(workload.batch, 2)
    modules = MotionModules(unet.widths, unet.num_res_blocks, frames=frames, recompute=recompute)
    modules.attach(unet)
    return modules
