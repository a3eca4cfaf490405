"""Pictures of many graphs, each of which depends on its own graph and seed alone.

Which of several kernels multiplies a matrix depends on the matrix's size, and so does the last bit of the result, of
which dozens of steps make another pixel. So every pass through the model has the same number of rows, however many
pictures are wanted at a time: one on a CPU, where each pass is one thread's work, and ROWS on a GPU.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from PIL import Image

from ldm.graph.batch import encode
from ldm.graph.layout import generate_layout
from ldm.graph.scene_graph import SceneGraph
from ldm.models.diffusion import ddim, dpm_solver
from ldm.models.diffusion.ddpm import LatentDiffusion
from ldm.models.diffusion.inversion import SAMPLERS, make_schedule
from ldm.models.preprocess import noise_generator, to_style_input
from ldm.modules import conditioning
from ldm.modules.lora import merged
from ldm.util.errors import UserError, did_you_mean
from ldm.util.images import to_image

ROWS = 8  # of a pass on a GPU
LAYOUTS = ("search", "none")


@dataclass(frozen=True)
class SampleOptions:
    """What all pictures of a set share. Scales of 1 are no guidance.

    sampler: 'ddim', or 'dpm++', which is of second order (`ldm.models.diffusion.dpm_solver`): its timesteps are others,
    and it needs fewer of them. layout: 'search', where objects without a box get one first, so that the graph's triples
    hold (`ldm.generate_layout`; from each picture's own seed), or 'none', where the model places them. Raises UserError for any
    other of either, and for DDIM's `eta` with dpm++.
    """

    steps: int = 50
    eta: float = 0.0
    graph_scale: float = 1.0
    style_scale: float = 1.0
    sampler: str = "ddim"
    layout: str = "none"

    def __post_init__(self):
        for what, name, known in (("sampler", self.sampler, SAMPLERS), ("layout", self.layout, LAYOUTS)):
            if name not in known:
                raise UserError(f"there is no {what} {name!r}, only {' and '.join(known)}{did_you_mean(name, known)}")
        if self.eta and self.sampler != "ddim":
            raise UserError(f"an eta of {self.eta} is the noise of ddim; {self.sampler} adds none, so leave it at 0")


def derive_seed(seed: int, graph: int, repeat: int) -> int:
    """Of the `repeat`-th picture of the `graph`-th graph: the same however many others there are."""
    return random.Random(f"{seed}/{graph}/{repeat}").getrandbits(48)


def default_layout(model: LatentDiffusion) -> str:
    """'search' for a model whose attention leans towards boxes, since it places things best by them; 'none' for others."""
    return "search" if model.unet.box_bias else "none"


def apply_layout(graph: SceneGraph, seed: int, settings: SampleOptions) -> tuple[SceneGraph, str]:
    """The graph that the picture of this seed is made of, and what its boxes could not be made to show, as a sentence."""
    return generate_layout(graph, seed) if settings.layout == "search" else (graph, "")


def sample_images(
    model: LatentDiffusion,
    graphs: Sequence[SceneGraph],
    seeds: Sequence[int],
    settings: SampleOptions = SampleOptions(),
    style: Image.Image | None = None,
) -> list[Image.Image]:
    """A picture of each graph from the noise that its seed draws, all of them in the look of `style`, if there is one.

    Raises UserError for a style or a guidance that the model cannot follow.
    """
    graphs = [apply_layout(graph, seed, settings)[0] for graph, seed in zip(graphs, seeds)]
    rows = 1 if model.device.type == "cpu" else ROWS
    chunks = [slice(start, start + rows) for start in range(0, len(graphs), rows)]

    with _passes_of(model.device) as passes:
        plain = model.with_unet(merged(model.unet))  # of one thread too, as bits depend on it

        def one_pass(chunk: slice) -> list[Image.Image]:
            return _sample_pass(plain, graphs[chunk], seeds[chunk], settings, style, rows)

        return [image for images in passes.map(one_pass, chunks) for image in images]


@torch.no_grad()
def _sample_pass(model, graphs, seeds, settings: SampleOptions, style, rows: int) -> list[Image.Image]:
    """Always `rows` rows: the last graph is repeated and its copies are thrown away. What comes before and after the
    U-Net goes through the model one by one, since graphs differ in size and pictures are large."""
    wanted = len(graphs)
    reference = None if style is None else to_style_input(model, style)
    conds = [model.condition(encode([graph], model.vocab).to(model.device), reference) for graph in graphs]
    conds += conds[-1:] * (rows - wanted)
    eps = model.denoiser(conditioning.cat(*conds), settings.graph_scale, settings.style_scale)

    generators = [noise_generator(seed) for seed in [*seeds, *seeds[-1:] * (rows - wanted)]]
    noise = ddim.normal((rows, model.channels, model.latent_size, model.latent_size), generators).to(model.device)
    schedule = make_schedule(model.schedule, settings.sampler, settings.steps)
    if settings.sampler == "ddim":
        z = ddim.sample(eps, schedule, noise, settings.eta, generators)
    else:
        z = dpm_solver.sample(eps, schedule, noise)
    return [to_image(model.decode(row)[0]) for row in z[:wanted].split(1)]


@contextmanager
def _passes_of(device: torch.device) -> Iterator[ThreadPoolExecutor]:
    """On a CPU as many passes at once as torch has threads, a thread to each: how a sum is shared among threads also
    shows in its last bit. On a GPU one after the other, by kernels that are chosen and add up in one way only."""
    if device.type == "cpu":
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
                yield pool
        finally:
            torch.set_num_threads(threads)
    else:
        with torch.backends.cudnn.flags(benchmark=False, deterministic=True), ThreadPoolExecutor(1) as pool:
            yield pool
