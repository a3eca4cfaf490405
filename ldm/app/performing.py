"""Makes what a request asks for with the model, one variant after the other: progress, previews, and an end at any step."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ldm.app.pictures import encode_webp
from ldm.app.planning import count_passes, count_steps, tell_operations
from ldm.app.requests import EditAsked, Variant
from ldm.app.sampling import complete_options
from ldm.editing.diagnostics import Previews
from ldm.editing.options import EditOptions, EditRequest
from ldm.editing.outputs import measurements, sentences
from ldm.editing.pipeline import edit
from ldm.editing.plan import make_plan
from ldm.editing.region import Region, paste
from ldm.graph.scene_graph import SceneGraph
from ldm.models.diffusion.latent_diffusion import LatentDiffusion
from ldm.sampling.sample import apply_layout, sample_images
from ldm.util.images import to_image
from ldm.util.options import from_mapping

PREVIEW_SIDE = 384  # pixels
PREVIEW_PAUSE = 0.2  # seconds between two previews, at least
PREVIEW_SHARE = 0.2  # of the time that previews may take, where decoding is slow
MAP_SIDE = 128  # pixels of an attention map
REGION_SIDE = 512

Decode = Callable[[Tensor], Tensor]  # latent (1,C,h,w) -> image (1,3,H,W) in [-1,1]


class Cancelled(Exception):
    """Someone cancelled the job."""


class Listener(Protocol):
    """Who follows a job. Any of these methods may raise `Cancelled`, which ends it."""

    def progress(self, stage: str, step: int, steps: int, fraction: float) -> None:
        """`fraction` is of the variant at hand."""
        ...

    def preview(self, image: str, size: tuple[int, int]) -> None:
        """`image` is a data URL."""
        ...


class Inputs(NamedTuple):
    """The pictures of a request; no photograph for a canvas."""

    photograph: Image.Image | None
    style: Image.Image | None = None
    mask: Image.Image | None = None


class Made(NamedTuple):
    """One picture, and what belongs to it.

    Args:
        image: the result; None for attention alone.
        graph: what it was to show.
        sentences: the operations in words.
        operations: the same, of which a page makes sentences; None for a sampled picture.
        options: all options with the values that were used.
        region: L image, white where the edit decided; None for a sampled picture.
        attention: L images by the index of the object in `attention_graph`.
        measured: for the record.
        steps: number of steps, for estimates.
        seconds: how long it took.
    """

    image: Image.Image | None
    graph: SceneGraph
    sentences: list[str]
    operations: list[dict] | None
    options: dict[str, Any]
    region: Image.Image | None
    attention: list[Image.Image]
    attention_graph: SceneGraph | None
    measured: dict[str, Any]
    steps: int
    seconds: float


@dataclass
class Performer:
    """A model, and how its previews are decoded.

    Args:
        decode: a quick decoder for previews; by default the model's tiny autoencoder, or its first stage without one.
    """

    model: LatentDiffusion
    decode: Decode | None = None

    def make(self, asked: EditAsked, variant: Variant, inputs: Inputs, listener: Listener) -> Made:
        """Makes one variant.

        Raises:
            UserError: the request does not fit the model, or sampling diverges.
            Cancelled: the listener said so.
        """
        before = time.perf_counter()
        if inputs.photograph is None:
            made = self._sample(asked, variant, listener, inputs.style)
        else:
            request = EditRequest(inputs.photograph, asked.graph, asked.source_graph, inputs.style, inputs.mask)
            made = self._edit(asked, variant, request, listener)
        return made._replace(seconds=round(time.perf_counter() - before, 3))

    def _edit(self, asked: EditAsked, variant: Variant, request: EditRequest, listener: Listener) -> Made:
        options = from_mapping(EditOptions, variant.options)
        plan = make_plan(request, options, self.model)
        steps = _Steps(listener, count_passes(plan.options))
        show = _Shown(self._decoder(), listener, request.photograph) if asked.previews else None
        result = edit(
            self.model,
            request,
            options,
            attention=asked.attention,
            progress=steps,
            watch=show,
        )
        graph = request.source_graph or result.plan.graph
        maps = [] if result.attention is None or not asked.attention else [_as_map(each) for each in result.attention]
        image = None if asked.kind == "attention" else result.image
        return Made(
            image,
            result.plan.graph,
            sentences(result, request),
            tell_operations(result.plan.operations, result.plan.source_graph, result.plan.graph),
            result.settings,
            _as_mask(result.region),
            maps,
            graph,
            measurements(result),
            count_steps(self.model, plan.options),
            0.0,
        )

    def _sample(self, asked: EditAsked, variant: Variant, listener: Listener, style: Image.Image | None) -> Made:
        seed = variant.options["seed"]
        given = {name: value for name, value in variant.options.items() if name != "seed"}
        options = complete_options(self.model, given)
        graph, complaint = apply_layout(asked.graph, seed, options)
        show = _Shown(self._decoder(), listener, None) if asked.previews else None
        done = iter(range(1, options.steps + 1))

        def watch(x0: Tensor) -> None:
            step = next(done, options.steps)
            listener.progress("sampling", step, options.steps, step / options.steps)
            if show:
                show.image(x0)

        image = sample_images(self.model, [graph], [seed], options, style, Previews(0, watch).watch)[0]
        used = {**vars(options), "seed": seed}
        told = ["sample a picture of the graph", *([complaint] if complaint else [])]
        measured = {"settings": used, "graph": graph.to_json(), "complaint": complaint}
        return Made(image, graph, told, None, used, None, [], None, measured, options.steps, 0.0)

    def _decoder(self) -> Decode:
        return self.decode or self.model.preview


class _Steps:
    """Wraps the steps of each pass: tells how far the edit is, and lets the listener end it before every step."""

    def __init__(self, listener: Listener, passes: int):
        self.listener, self.passes, self.begun = listener, passes, 0

    def __call__(self, steps: Sequence[int], description: str) -> Iterable[int]:
        self.begun += 1
        return self._iterate(steps, description, min(self.begun, self.passes) - 1)

    def _iterate(self, steps: Sequence[int], description: str, passed: int) -> Iterator[int]:
        for number, step in enumerate(steps):
            self.listener.progress(description, number, len(steps), (passed + number / len(steps)) / self.passes)
            yield step
        self.listener.progress(description, len(steps), len(steps), (passed + 1) / self.passes)


class _Shown:
    """Previews of the way, as often as decoding takes little of the time.

    Args:
        photograph: what stays outside of the region; None for a sampled picture.
    """

    def __init__(self, decode: Decode, listener: Listener, photograph: Image.Image | None):
        self.decode, self.listener = decode, listener
        self.small = photograph and photograph.convert("RGB")
        if self.small:
            self.small.thumbnail((PREVIEW_SIDE, PREVIEW_SIDE))
        self.next = 0.0  # time before which there is none

    def __call__(self, x0: Tensor, region: Region) -> None:
        if (decoded := self._decoded(x0)) is None:
            return
        assert self.small is not None
        mask = Image.fromarray(region.pixels).resize(self.small.size, Image.Resampling.BILINEAR)
        decoded = decoded.resize(self.small.size, Image.Resampling.BICUBIC)
        self._send(paste(decoded, self.small, np.asarray(mask).clip(0, 1)))

    def image(self, x0: Tensor) -> None:
        """The same without a photograph."""
        if (decoded := self._decoded(x0)) is not None:
            decoded.thumbnail((PREVIEW_SIDE, PREVIEW_SIDE))
            self._send(decoded)

    def _decoded(self, x0: Tensor) -> Image.Image | None:
        before = time.perf_counter()
        if before < self.next:
            return None
        with torch.no_grad():
            image = to_image(self.decode(x0)[0])
        after = time.perf_counter()
        self.next = after + max(PREVIEW_PAUSE, (after - before) / PREVIEW_SHARE)
        return image

    def _send(self, image: Image.Image) -> None:
        text = base64.b64encode(encode_webp(image)).decode()
        self.listener.preview(f"data:image/webp;base64,{text}", image.size)


def _as_mask(region: np.ndarray) -> Image.Image:
    """(H,W) in [0,1] -> L, its longer side at most REGION_SIDE pixels."""
    image = Image.fromarray((region * 255).round().astype(np.uint8))
    image.thumbnail((REGION_SIDE, REGION_SIDE), Image.Resampling.BILINEAR)
    return image


def _as_map(attention: Tensor) -> Image.Image:
    """(h,w) -> L, white at the strongest attention."""
    values = attention.float().cpu().numpy()
    low, high = float(values.min()), float(values.max())
    scaled = (values - low) / (high - low) if high > low else np.zeros_like(values)
    image = Image.fromarray((scaled * 255).round().astype(np.uint8))
    return image.resize((MAP_SIDE, MAP_SIDE), Image.Resampling.BICUBIC)
