"""Editors to compare, each behind one function from a task to a picture: published baselines, and this project's own.

    autoencoder   the picture encoded and decoded, which edits nothing
    truth         the right answer encoded and decoded, put into the picture as `edit` does: what the autoencoder alone loses
                  of it. No bound: what an editor draws may by chance decode better
    plain         DDIM inversion under the source graph, sampled back under the target's with guidance (2010.02502)
    sdedit        noise on the picture, taken off under the target graph (Meng et al. 2108.01073)
    edit          ldm.editing.edit as it comes; a name of ldm.models.diffusion.inversion.METHODS is edit with that method
    a.b.function  anybody's: (model, task, **options) -> Edited, of the module a.b

Options follow the name: 'sdedit:strength=0.7', 'edit:sampler=dpm++:steps=10'. They are the functions' own.
"""

from __future__ import annotations

import copy
import hashlib
import importlib
import inspect
import random
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor, nn

from ldm.editing import options
from ldm.editing.batch import OPTIONS
from ldm.editing.edit import edit
from ldm.editing.options import kinds, read, takes
from ldm.editing.region import Region, paste
from ldm.evaluation.edit_tasks import Task
from ldm.graph.batch import encode
from ldm.graph.diff import diff
from ldm.graph.scene_graph import SceneGraph
from ldm.models.diffusion import inversion, paths
from ldm.models.diffusion.ddim import normal, sample
from ldm.models.diffusion.ddpm import LatentDiffusion
from ldm.models.preprocess import to_model_input
from ldm.util.config import resolve
from ldm.util.errors import UserError, did_you_mean
from ldm.util.images import to_image


class Edited(NamedTuple):
    """evaluations       rows that the U-Net was given, guidance's included
    round_trip_error  |z0' - z0| / |z0| of an inversion without an edit; a function where it takes time of its own
    """

    image: Image.Image
    evaluations: int
    round_trip_error: float | Callable[[], float] | None = None


Editor = Callable[[Task], Edited]
VERSION = "@"


def editor(text: str, model: LatentDiffusion, **shared: Any) -> Editor:
    """The one that `text` names, with its options, and those of `shared` that it takes and `text` does not say; but of
    these 'edit' takes the seed alone, and has its own defaults for what is not said."""
    function, options = parse(text)
    taken = ("seed",) if text.partition(":")[0] == "edit" else _kinds(function)
    options = {key: value for key, value in shared.items() if takes(key, taken)} | options
    return lambda task: function(model, task, **options)


def parse(text: str) -> tuple[Callable[..., Edited], dict[str, Any]]:
    """'name:key=value' -> the function and its options. Raises UserError for what does not exist or go together."""
    name, *words = text.split(":")
    name, options = name.partition(VERSION)[0], {}
    if name in inversion.METHODS:
        function, options = ours, {"method": name}
    elif "." in name:
        function = resolve(name)
        try:
            inspect.signature(function).bind_partial(None, None)
        except (TypeError, ValueError):
            raise UserError(f"method {text!r}: an editor is a function (model, task, **options)") from None
    elif name in EDITORS:
        function = EDITORS[name]
    else:
        known = [*EDITORS, *inversion.METHODS]
        raise UserError(
            f"there is no method {name!r}; there are {', '.join(known)}, and functions named as package.module.function"
            f"{did_you_mean(name, known)}"
        )
    free = {key: kind for key, kind in _kinds(function).items() if key not in options}
    options |= read(words, free, f"method {text!r}")
    if function is ours:  # refuses what does not go together
        method = options.get("method") or options.WITHIN
        inversion.get_method(method, options.get("sampler") or options.default_sampler(method))
    return function, options


def own_way() -> str:
    """What 'edit' does where no options say otherwise, as a sentence."""
    sampler = options.default_sampler(options.WITHIN)
    return (
        f"`edit` by itself goes by the method {options.WITHIN} where it changes a region and by {options.EVERYWHERE} where "
        f"it may change everything, with the sampler {sampler} in {options.STEPS[sampler]} steps."
    )


def versioned(text: str) -> str:
    """The same text, with a digest of its file for an editor from elsewhere: what an earlier version of it made is
    not taken for its own."""
    name, colon, options = text.partition(":")
    if "." not in name:
        return text
    name = name.partition(VERSION)[0]
    file = Path(importlib.import_module(name.rpartition(".")[0]).__file__)
    return f"{name}{VERSION}{hashlib.sha256(file.read_bytes()).hexdigest()[:8]}{colon}{options}"


def seed_of(seed: int, task: Task) -> int:
    """Of the noise that an editor draws for a task: each task has its own."""
    return random.Random(f"{seed}/{task.scenes}/{task.operation}/{task.index}").getrandbits(48)


def counted(model: LatentDiffusion) -> tuple[LatentDiffusion, Callable[[], int]]:
    """The same model, with the same weights, and how many rows its U-Net has been given since."""
    rows: list[int] = []
    view, unet = copy.copy(model), copy.copy(model.unet)
    unet._forward_hooks = OrderedDict(unet._forward_hooks)  # the copy's own: the model goes on uncounted
    unet.register_forward_hook(lambda module, given, eps: rows.append(len(eps)))
    view._modules = {**model._modules, "model": nn.ModuleDict({"diffusion_model": unet})}
    return view, lambda: sum(rows)


def autoencoder(model: LatentDiffusion, task: Task) -> Edited:
    return Edited(reconstructed(model, task.picture), 0)


def truth(model: LatentDiffusion, task: Task) -> Edited:
    picture, cells = reconstructed(model, task.truth), (model.latent_size, model.latent_size)
    if task.reference is not None:
        return Edited(picture, 0)
    region = Region.of(diff(task.source, task.shown), cells, picture.size)
    return Edited(paste(picture, task.picture, region.pixels), 0)


@torch.no_grad()
def reconstructed(model: LatentDiffusion, picture: Image.Image) -> Image.Image:
    return _picture(model, model.encode(to_model_input(model, picture)), picture)


@torch.no_grad()
def plain(
    model: LatentDiffusion, task: Task, steps: int = 50, graph_scale: float = 2.0, style_scale: float = 2.0
) -> Edited:
    """The whole picture is sampled anew from the noise that its inversion ends in."""
    counting, rows = counted(model)
    schedule, z0 = model.schedule.ddim(steps), model.encode(to_model_input(model, task.picture))
    noise = paths.ddim(_denoiser(counting, task.source, task.picture), schedule, z0)[-1]
    target = _denoiser(counting, task.target, task.reference or task.picture, graph_scale, style_scale)
    image = _picture(model, sample(target, schedule, noise), task.picture)

    def round_trip_error() -> float:
        back = sample(_denoiser(model, task.source, task.picture), schedule, noise)
        return float((back - z0).norm() / z0.norm())

    return Edited(image, rows(), round_trip_error)


@torch.no_grad()
def sdedit(
    model: LatentDiffusion,
    task: Task,
    strength: float = 0.6,
    steps: int = 50,
    graph_scale: float = 2.0,
    style_scale: float = 2.0,
    seed: int = 0,
) -> Edited:
    """strength: the share of the noise levels that the picture is taken up; more follows the graph better, and keeps
    less of the picture."""
    counting, rows = counted(model)
    schedule, z0 = model.schedule.ddim(steps), model.encode(to_model_input(model, task.picture))
    schedule = schedule.below(strength * len(model.schedule))
    noise = normal(z0.shape, torch.Generator().manual_seed(seed_of(seed, task))).to(z0)
    z = model.schedule.add_noise(z0, noise, schedule.timesteps[-1:])
    target = _denoiser(counting, task.target, task.reference or task.picture, graph_scale, style_scale)
    return Edited(_picture(model, sample(target, schedule, z), task.picture), rows())


def ours(model: LatentDiffusion, task: Task, seed: int = 0, **options: Any) -> Edited:
    counting, rows = counted(model)
    options |= {"source": task.source, "style": task.reference, "seed": seed_of(seed, task), "reconstruct": False}
    result = edit(counting, task.picture, task.target, **options)
    return Edited(result.image, rows(), result.round_trip)


EDITORS: dict[str, Callable[..., Edited]] = {
    "autoencoder": autoencoder, "truth": truth, "plain": plain, "sdedit": sdedit, "edit": ours,
}  # fmt: skip


def _kinds(function: Callable[..., Edited]) -> dict[str, Any]:
    """Of the options of an editor's function: all but its first two parameters."""
    if function is ours:
        return OPTIONS
    return kinds(function, list(inspect.signature(function).parameters)[:2])


def _denoiser(model: LatentDiffusion, graph: SceneGraph, style: Image.Image, *scales: float):
    reference = None if model.global_stage_model is None else to_model_input(model, style)
    return model.denoiser(model.condition(encode([graph], model.vocab).to(model.device), reference), *scales)


def _picture(model: LatentDiffusion, z: Tensor, like: Image.Image) -> Image.Image:
    """Decoded, at the size of the picture that was edited. Raises UserError for a latent that is none."""
    if not z.isfinite().all():
        raise UserError("the edit ran away to infinity: lower the scales, or look at how the model was trained")
    return to_image(model.decode(z)[0]).resize(like.size, Image.Resampling.BICUBIC)
