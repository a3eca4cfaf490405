"""Variants of an edit: a plain loop of DDIM steps with either U-Net, and `ldm.editing`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from ldm.editing import Edit, EditOptions, EditRequest, edit
from ldm.models.diffusion import ddim
from ldm.models.diffusion.ddpm import LatentDiffusion
from ldm.models.preprocess import encode_graph
from ldm.models.runtime import prepare_for_inference
from ldm.profiling import diffusers_peer
from ldm.profiling.measure import Comparison, Variant
from ldm.profiling.workload import Workload, use_plain_convolutions
from ldm.util.images import to_tensor

GUIDANCE = 2.0
DEFAULT_OPTIONS = EditOptions()


def compare_edits(workload: Workload) -> Comparison:
    """An edit of one photograph by a plain DDIM loop, with our U-Net or diffusers', and by `edit` with several options."""
    variants = {"plain": Variant(partial(_plain_edit, workload))}
    ddim_options = EditOptions(sampler="ddim", steps=workload.steps)
    for precision in workload.precisions:
        suffix = "" if precision == "fp32" else f", {precision}"
        for name, build in (
            ("edit", partial(_edit, workload, precision)),
            ("edit, low memory", partial(_edit, workload, precision, low_memory=True)),
            ("edit, ddim", partial(_edit, workload, precision, options=ddim_options)),
        ):
            variants[name + suffix] = Variant(build, precision)
        if diffusers_peer.available():
            variants["diffusers" + suffix] = Variant(partial(_plain_edit, workload, precision), precision, peer=True)
    return Comparison("edit", 1, variants)


def _edit(
    workload: Workload, precision: str, low_memory: bool = False, options: EditOptions = DEFAULT_OPTIONS
) -> Callable[[], Edit]:
    photograph, source, target = workload.edit_example()
    model = _frozen_model(workload)
    prepare_for_inference(model, workload.device, precision, low_memory)
    return lambda: edit(model, EditRequest(photograph, target, source), options, reconstruction=True)


def _plain_edit(workload: Workload, diffusers_precision: str | None = None) -> Callable[[], Tensor]:
    """DDIM inversion with one U-Net call per step, and guided sampling with two calls of one row each.

    Args:
        diffusers_precision: use diffusers' U-Net in this precision; None for ours in fp32.
    """
    model = _frozen_model(workload)
    if diffusers_precision:
        diffusers_peer.replace_unet(model, workload, diffusers_precision)
    else:
        use_plain_convolutions(model.unet)
    photograph, source, target = workload.edit_example()
    image, schedule = to_tensor(photograph)[None].to(workload.device), model.schedule.ddim(workload.steps)

    @torch.no_grad()
    def run() -> Tensor:
        z = model.encode(image)
        known, wanted = (model.condition(encode_graph(graph, model), image) for graph in (source, target))
        null = model.unconditional(1)
        for i in range(len(schedule)):
            eps = model.unet(z, ddim.timestep_batch(schedule, i, z), known)
            z = ddim.step(z, eps, schedule.alphas_prev[i], schedule.alphas[i])
        for i in reversed(range(len(schedule))):
            t = ddim.timestep_batch(schedule, i, z)
            eps, null_eps = model.unet(z, t, wanted), model.unet(z, t, null)
            z = ddim.step(z, null_eps + GUIDANCE * (eps - null_eps), schedule.alphas[i], schedule.alphas_prev[i])
        return model.decode(z)

    return run


def _frozen_model(workload: Workload) -> LatentDiffusion:
    return workload.make_model().eval().requires_grad_(False)
