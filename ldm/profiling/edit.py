"""The cases of an edit: what a plain loop of steps takes, and what ldm.editing does instead."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from ldm.editing.edit import Edit, edit
from ldm.graph.batch import encode
from ldm.models.diffusion import ddim
from ldm.models.diffusion.ddpm import LatentDiffusion
from ldm.models.runtime import prepare_for_inference
from ldm.profiling import diffusers_peer
from ldm.profiling.measure import Group, Way
from ldm.profiling.setting import Setting, without_forgetting
from ldm.synthetic.shapes import VOCAB
from ldm.util.images import to_tensor

GUIDANCE = 2.0


def edits(setting: Setting) -> Group:
    """An edit of one photograph: plainly `steps` up, and as many down, which diffusers' U-Net goes by as well; as it comes;
    and by as many of DDIM's steps. With low memory, nothing is there that only makes it faster."""
    photograph, source, target = setting.edited()

    def ours(precision: str, low_memory: bool = False, **options: object) -> Callable[[], Edit]:
        model = _ready(replace(setting, device="cpu"))  # or its peak would be that of moving there
        prepare_for_inference(model, setting.device, precision, low_memory)
        return lambda: edit(model, photograph, target, source, **options)

    ways = {"plain": Way(partial(_plain, setting))}
    for precision in setting.precisions:
        end = "" if precision == "fp32" else f", {precision}"
        ways["edit" + end] = Way(partial(ours, precision), precision)
        ways["edit, low memory" + end] = Way(partial(ours, precision, True), precision)
        ways["edit, ddim" + end] = Way(partial(ours, precision, sampler="ddim", steps=setting.steps), precision)
        if diffusers_peer.available():
            ways["diffusers" + end] = Way(partial(_plain, setting, precision), precision, peer=True)
    return Group("edit", 1, ways)


def _plain(setting: Setting, theirs: str | None = None) -> Callable[[], Tensor]:
    """Inversion, one evaluation to a step; sampling, two to a step, one after the other; nothing computed beforehand.
    theirs: a precision, for diffusers' U-Net in it instead of ours."""
    model = _ready(setting)
    if theirs:
        diffusers_peer.take_over(model, setting, theirs)
    else:
        without_forgetting(model.unet)
    photograph, source, target = setting.edited()
    image, schedule = to_tensor(photograph)[None].to(setting.device), model.schedule.ddim(setting.steps)

    @torch.no_grad()
    def run() -> Tensor:
        z = model.encode(image)
        known, cond = (model.condition(encode([graph], VOCAB).to(setting.device), image) for graph in (source, target))
        null = model.unconditional(1)
        for i in range(len(schedule)):
            eps = model.unet(z, ddim.timestep_batch(schedule, i, z), known)
            z = ddim.step(z, eps, schedule.alphas_prev[i], schedule.alphas[i])
        for i in reversed(range(len(schedule))):
            t = ddim.timestep_batch(schedule, i, z)
            eps, away = model.unet(z, t, cond), model.unet(z, t, null)
            z = ddim.step(z, away + GUIDANCE * (eps - away), schedule.alphas[i], schedule.alphas_prev[i])
        return model.decode(z)

    return run


def _ready(setting: Setting) -> LatentDiffusion:
    return setting.model().eval().requires_grad_(False)
