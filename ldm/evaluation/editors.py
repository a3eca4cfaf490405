"""The editors that the benchmark compares: functions (model, task, **options) -> EditResult.

    autoencoder   encodes and decodes the image; edits nothing
    truth         the true answer, encoded, decoded and composed as `edit` does it: shows the loss of the autoencoder alone.
                  Not an upper bound, since an edit may happen to decode better
    answer        the true answer itself: what the judge says of it
    plain         DDIM inversion under the source graph, guided sampling under the target graph (Song et al. 2010.02502)
    sdedit        adds noise to the image and denoises it under the target graph (Meng et al. 2108.01073)
    edit          `ldm.editing.edit` with its defaults; the name of an inversion method (ddim, fixed-point, ...) stands for
                  `edit` with that method
    a.b.function  any function of that kind in the module a.b

Options follow the name: 'sdedit:strength=0.7', 'edit:sampler=dpm++:steps=10'. They are the function's parameters, or the
fields of `EditOptions`.
"""

from __future__ import annotations

import importlib
import inspect
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from ldm.editing import EditOptions, EditRequest, edit
from ldm.editing.diagnostics import round_trip_error
from ldm.editing.options import GLOBAL_METHOD, LOCAL_METHOD, RANDOM_METHODS, default_sampler
from ldm.editing.pipeline import planned_region
from ldm.editing.plan import make_plan
from ldm.editing.region import paste
from ldm.evaluation.edit_tasks import EditTask
from ldm.graph.scene_graph import SceneGraph
from ldm.models.diffusion import inversion
from ldm.models.diffusion.ddim import Denoiser, gaussian_noise, invert, sample
from ldm.models.diffusion.latent_diffusion import LatentDiffusion
from ldm.models.diffusion.samplers import SAMPLERS, refuse_divergence
from ldm.models.preprocess import encode_graph, to_model_input
from ldm.util.config import resolve
from ldm.util.errors import UserError, did_you_mean
from ldm.util.files import digest
from ldm.util.images import to_image
from ldm.util.options import accepts, option_types, parse_assignments


class EditResult(NamedTuple):
    """The result of an editor.

    Args:
        image: the edited image, of the source image's size.
        evaluations: rows that the U-Net computed, those of guidance included.
        round_trip_error: |z0' - z0| / |z0| of an inversion and sampling without an edit, or a function that computes it
            outside the measured time; None for editors without inversion.
        region: (H,W), 0 where the image is the source's; None for editors without a region.
    """

    image: Image.Image
    evaluations: int
    round_trip_error: float | Callable[[], float | None] | None = None
    region: np.ndarray | None = None


NO_TRUTH = (
    "the methods truth and answer show the true result of an edit, which nobody knows of these pictures; leave them out"
)

Editor = Callable[[EditTask], EditResult]
EditorFunction = Callable[..., EditResult]  # (model, task, **options)


# From a name to an editor --------------------------------------------------------------------------------------------


def make_editor(name: str, model: LatentDiffusion, **shared_options: Any) -> Editor:
    """The editor of this name, with its options.

    Args:
        name: as `parse_editor` reads it.
        shared_options: options for all editors that take them, unless the name gives others. Of these, 'edit' takes the
            seed only and keeps its own defaults.

    Raises:
        UserError: see `parse_editor`.
    """
    function, options = parse_editor(name)
    accepted = {"seed": int} if name.partition(":")[0] == "edit" else _option_types(function)
    options = {key: value for key, value in shared_options.items() if accepts(key, accepted)} | options
    return partial(_call, function, model, options)


def parse_editor(name: str) -> tuple[EditorFunction, dict[str, Any]]:
    """Reads 'name:key=value:...'.

    Returns:
        The function and the options.

    Raises:
        UserError: there is no such editor or option, or options do not go together.
    """
    base_name, *assignments = name.split(":")
    function, options = _find_function(base_name)
    types = {key: kind for key, kind in _option_types(function).items() if key not in options}
    options |= parse_assignments(assignments, types, f"method {name!r}")
    if function is edit_by_graph:
        method = EditOptions(**options).method or LOCAL_METHOD
        inversion.get_method(method, options.get("sampler") or default_sampler(method))
    return function, options


def needs_truth(name: str) -> bool:
    """Whether an editor of this project shows the true answer."""
    return parse_editor(name)[0] in (truth, answer)


def draws_noise(name: str) -> bool:
    """Whether edits by this method depend on a seed that the name does not give."""
    function, options = parse_editor(name)
    if "seed" in options or not accepts("seed", _option_types(function)):
        return False
    return function is not edit_by_graph or (options.get("method") or LOCAL_METHOD) in RANDOM_METHODS


def code_digest(name: str) -> str | None:
    """Hash of the module of an editor that does not belong to this project; None for the project's own editors."""
    module = name.partition(":")[0].rpartition(".")[0]
    if not module:
        return None
    file = importlib.import_module(module).__file__
    return digest(Path(file))[:8] if file else None


def describe_default_edit() -> str:
    """The defaults of `edit` that matter for its results, as a sentence."""
    sampler = default_sampler(LOCAL_METHOD)
    return (
        f"By default, `edit` uses the method {LOCAL_METHOD} where it changes a region and {GLOBAL_METHOD} where everything "
        f"may change, with the sampler {sampler} in {SAMPLERS[sampler].default_steps} steps."
    )


def _call(function: EditorFunction, model: LatentDiffusion, options: dict[str, Any], task: EditTask) -> EditResult:
    return function(model, task, **options)


def _find_function(name: str) -> tuple[EditorFunction, dict[str, Any]]:
    if name in inversion.METHODS:
        return edit_by_graph, {"method": name}
    if name in EDITORS:
        return EDITORS[name], {}
    if "." not in name:
        known = [*EDITORS, *inversion.METHODS]
        raise UserError(
            f"there is no method {name!r}: choose one of {', '.join(known)}, or name a function as package.module.function"
            f"{did_you_mean(name, known)}"
        )
    function = resolve(name)
    try:
        inspect.signature(function).bind_partial(None, None)
    except (TypeError, ValueError):
        raise UserError(f"method {name!r}: an editor is a function (model, task, **options)") from None
    return function, {}


def _option_types(function: EditorFunction) -> dict[str, Any]:
    if function is edit_by_graph:
        return option_types(EditOptions)
    return option_types(function, list(inspect.signature(function).parameters)[:2])


# The editors ---------------------------------------------------------------------------------------------------------


def autoencoder(model: LatentDiffusion, task: EditTask) -> EditResult:
    """Reconstructs the source image."""
    return EditResult(reconstruct(model, task.picture), 0)


def truth(model: LatentDiffusion, task: EditTask) -> EditResult:
    """Reconstructs the true answer within the region that `edit` would change. Raises UserError if there is none."""
    if task.truth_graph is None:
        raise UserError(NO_TRUTH)
    picture, cells = reconstruct(model, true_answer(task)), (model.latent_size, model.latent_size)
    if task.reference is not None:
        return EditResult(picture, 0)
    plan = make_plan(EditRequest(task.picture, task.truth_graph, task.source), EditOptions(), model)
    region = planned_region(plan, cells, picture.size)
    return EditResult(paste(picture, task.picture, region.pixels), 0, region=region.pixels)


def answer(model: LatentDiffusion, task: EditTask) -> EditResult:
    """Returns the true answer as it is, which shows how often the judge errs. Raises UserError if there is none."""
    return EditResult(true_answer(task), 0)


@torch.no_grad()
def plain(
    model: LatentDiffusion, task: EditTask, steps: int = 50, graph_scale: float = 2.0, style_scale: float = 2.0
) -> EditResult:
    """Samples the whole image anew from the noise that its DDIM inversion ends in."""
    schedule, z0 = model.schedule.ddim(steps), model.encode(to_model_input(model, task.picture))
    source = _denoiser(model, task.source, task.picture)
    target = _denoiser(model, task.target, task.reference or task.picture, graph_scale, style_scale)
    with counted_rows(model.unet) as rows:
        noise = invert(source, schedule, z0)[-1]
        image = _decode(model, sample(target, schedule, noise), task.picture)

    def error() -> float:
        return float((sample(source, schedule, noise) - z0).norm() / z0.norm())

    return EditResult(image, sum(rows), error)


@torch.no_grad()
def sdedit(
    model: LatentDiffusion,
    task: EditTask,
    strength: float = 0.6,
    steps: int = 50,
    graph_scale: float = 2.0,
    style_scale: float = 2.0,
    seed: int = 0,
) -> EditResult:
    """Adds noise to the image and denoises it under the target graph.

    Args:
        strength: share of the noise levels that are added; more follows the graph better and keeps less of the image.
    """
    z0 = model.encode(to_model_input(model, task.picture))
    schedule = model.schedule.ddim(steps).up_to(strength * len(model.schedule))
    noise = gaussian_noise(z0.shape, torch.Generator().manual_seed(task_seed(seed, task))).to(z0)
    z = model.schedule.add_noise(z0, noise, schedule.timesteps[-1:])
    target = _denoiser(model, task.target, task.reference or task.picture, graph_scale, style_scale)
    with counted_rows(model.unet) as rows:
        image = _decode(model, sample(target, schedule, z), task.picture)
    return EditResult(image, sum(rows))


def edit_by_graph(model: LatentDiffusion, task: EditTask, seed: int = 0, **options: Any) -> EditResult:
    """This project's editor; the options are the fields of `EditOptions`."""
    request = EditRequest(task.picture, task.target, task.source, task.reference)
    with counted_rows(model.unet) as rows:
        result = edit(model, request, EditOptions(seed=task_seed(seed, task), **options))
    error = result.source and partial(round_trip_error, result.source)
    return EditResult(result.image, sum(rows), error, result.region)


EDITORS: dict[str, EditorFunction] = {
    "autoencoder": autoencoder,
    "truth": truth,
    "answer": answer,
    "plain": plain,
    "sdedit": sdedit,
    "edit": edit_by_graph,
}


# What they share -----------------------------------------------------------------------------------------------------


def true_answer(task: EditTask) -> Image.Image:
    """The image that should result. Raises UserError where nobody knows it."""
    if task.truth is None:
        raise UserError(NO_TRUTH)
    return task.truth


def task_seed(seed: int, task: EditTask) -> int:
    """A seed for the noise of one task, so that each task has its own noise."""
    return random.Random(f"{seed}/{task.scenes}/{task.operation}/{task.index}").getrandbits(48)


@contextmanager
def counted_rows(unet: nn.Module) -> Iterator[list[int]]:
    """Records the batch size of each call of the U-Net, also through copies that share its hooks."""
    rows: list[int] = []
    hook = unet.register_forward_hook(lambda module, inputs, eps: rows.append(len(eps)))
    try:
        yield rows
    finally:
        hook.remove()


@torch.no_grad()
def reconstruct(model: LatentDiffusion, picture: Image.Image) -> Image.Image:
    """Encodes and decodes an image."""
    return _decode(model, model.encode(to_model_input(model, picture)), picture)


def _denoiser(
    model: LatentDiffusion, graph: SceneGraph, style: Image.Image, graph_scale: float = 1.0, style_scale: float = 1.0
) -> Denoiser:
    reference = None if model.global_stage_model is None else to_model_input(model, style)
    conditioning = model.condition(encode_graph(graph, model), reference)
    return model.denoiser(conditioning, graph_scale, style_scale)


def _decode(model: LatentDiffusion, z: Tensor, original: Image.Image) -> Image.Image:
    """The decoded latent at the size of the original image. Raises UserError for infinite latents."""
    refuse_divergence(z)
    return to_image(model.decode(z)[0]).resize(original.size, Image.Resampling.BICUBIC)
