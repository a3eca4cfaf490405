"""Images of scene graphs, sampled from noise; each depends on its own graph and seed alone.

The kernel that multiplies two matrices depends on their sizes, and with it the last bit of the result, which after dozens of
steps changes pixels. So each forward pass has the same number of rows, however many images are sampled: one on a CPU, where
each pass runs on one thread, and `ROWS` on a GPU.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import torch
from PIL import Image

from ldm.graph.batch import encode
from ldm.graph.layout import generate_layout
from ldm.graph.scene_graph import SceneGraph
from ldm.models.diffusion.ddim import Denoiser, gaussian_noise
from ldm.models.diffusion.ddpm import LatentDiffusion
from ldm.models.diffusion.guidance import controlled
from ldm.models.diffusion.samplers import get_sampler
from ldm.models.diffusion.schedule import DDIMSchedule
from ldm.models.preprocess import noise_generator, to_style_input
from ldm.modules import conditioning
from ldm.modules.attention_control import Control
from ldm.modules.graph_encoder import NoGraphEncoder
from ldm.modules.graph_text import GraphText, steering
from ldm.modules.lora import merge_lora
from ldm.sampling.options import TEXT_GUIDANCE, SampleOptions
from ldm.util.errors import UserError
from ldm.util.images import to_image

ROWS = 8  # of a forward pass on a GPU

Watch = Callable[[Denoiser, DDIMSchedule], Denoiser]


def derive_seed(seed: int, graph: int, repeat: int) -> int:
    """The seed of the `repeat`-th image of the `graph`-th graph, independent of how many others are sampled."""
    return random.Random(f"{seed}/{graph}/{repeat}").getrandbits(48)


def default_options(model: LatentDiffusion) -> dict[str, Any]:
    """The options whose defaults depend on the model, by name."""
    is_text_alone = isinstance(model.cond_stage_model, NoGraphEncoder)
    scales = dict.fromkeys(("graph_scale", "style_scale"), TEXT_GUIDANCE) if is_text_alone else {}
    return {"layout": default_layout(model), **scales}


def default_layout(model: LatentDiffusion) -> str:
    """'search' for models whose attention is biased towards boxes, since these place objects best by them; else 'none'."""
    return "search" if model.unet.box_bias else "none"


def apply_layout(graph: SceneGraph, seed: int, options: SampleOptions) -> tuple[SceneGraph, str]:
    """Generates missing boxes by layout search, if the options say so.

    Returns:
        The graph that the image of this seed is sampled from, and a sentence on the relations that its boxes could not
        satisfy (empty if all are).
    """
    return generate_layout(graph, seed) if options.layout == "search" else (graph, "")


def sample_images(
    model: LatentDiffusion,
    graphs: Sequence[SceneGraph],
    seeds: Sequence[int],
    options: SampleOptions = SampleOptions(),
    style: Image.Image | None = None,
    watch: Watch | None = None,
) -> list[Image.Image]:
    """Samples one image of each graph.

    Args:
        seeds: of the initial noise of each image.
        style: reference image whose look all images take; None for the learned null style.
        watch: wraps the denoiser of each pass, to see its predictions (`ldm.editing.diagnostics.Previews`) or to stop it by
            an exception; on a CPU, from several threads.

    Raises:
        UserError: the model has no image encoder for the style, has no text to steer, or was not trained for guidance.
    """
    if options.steer and model.text_stage_model is None:
        raise UserError(f"steer {options.steer}: this model reads no text; leave the option out")
    graphs = [apply_layout(graph, seed, options)[0] for graph, seed in zip(graphs, seeds)]
    rows = 1 if model.device.type == "cpu" else ROWS
    chunks = [slice(start, start + rows) for start in range(0, len(graphs), rows)]
    with worker_pool(model.device) as pool:
        plain = model.with_unet(merge_lora(model.unet))  # merged on one thread too, since bits depend on it
        passes = [pool.submit(_sample_pass, plain, graphs[c], seeds[c], options, style, rows, watch) for c in chunks]
        return [image for future in passes for image in future.result()]


@torch.no_grad()
def _sample_pass(
    model, graphs, seeds, options: SampleOptions, style, rows: int, watch: Watch | None = None
) -> list[Image.Image]:
    """One forward pass of `rows` rows: the last graph is repeated, its copies are discarded. Graph encoder and first stage
    process the images one by one, since graphs differ in size and images are large."""
    wanted = len(graphs)
    reference = None if style is None else to_style_input(model, style)
    conds = [model.condition(encode([graph], model.vocab).to(model.device), reference) for graph in graphs]
    conds += conds[-1:] * (rows - wanted)
    scales = options.graph_scale, options.style_scale
    denoiser = model.denoiser(conditioning.cat(*conds), *scales, text_scale=options.text_scale)
    if options.steer:
        texts = [GraphText.of(graph) for graph in graphs]
        control = Control(steering=steering([*texts, *texts[-1:] * (rows - wanted)], options.steer, options.steer_peak))
        denoiser = controlled(denoiser, control, model.schedule)

    generators = [noise_generator(seed) for seed in [*seeds, *seeds[-1:] * (rows - wanted)]]
    noise = gaussian_noise((rows, model.channels, model.latent_size, model.latent_size), generators).to(model.device)
    sampler = get_sampler(options.sampler)
    schedule = sampler.make_schedule(model.schedule, options.steps)
    denoiser = watch(denoiser, schedule) if watch else denoiser
    z = sampler.sample(denoiser, schedule, noise, options.eta, generators)
    return [to_image(model.decode(row)[0]) for row in z[:wanted].split(1)]


@contextmanager
def worker_pool(device: torch.device) -> Iterator[ThreadPoolExecutor]:
    """On a CPU, as many workers as torch has threads, with one thread each: how a sum is split among threads shows in its
    last bit. On a GPU one worker, with deterministic kernels."""
    if device.type == "cpu":
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
                yield pool
        finally:
            torch.set_num_threads(threads)
    else:
        cudnn = torch.backends.cudnn  # `flags` sets what it is not given to its own defaults, cuDNN itself to off
        exact = cudnn.flags(enabled=cudnn.enabled, deterministic=True, allow_tf32=cudnn.allow_tf32)
        with exact, ThreadPoolExecutor(1) as pool:
            yield pool
