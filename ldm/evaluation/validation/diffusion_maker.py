"""Pictures of a latent diffusion model: samples of graphs or of prompts, and edits of photographs."""

from __future__ import annotations

import gc
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from ldm.editing.pipeline import edit
from ldm.evaluation.validation.lines import ValidationLine
from ldm.evaluation.validation.models import (
    ModelSpec,
    edit_options,
    edit_request,
    sample_options,
    text_options,
)
from ldm.graph.scene_graph import SceneGraph
from ldm.models.loading import fingerprint, load_model
from ldm.sampling.sample import default_options, sample_images
from ldm.sampling.text_options import Prompt
from ldm.sampling.text_to_image import sample_texts
from ldm.util.config_merging import ConfigPaths
from ldm.util.errors import UserError
from ldm.util.images import read_image


class DiffusionMaker:
    """A loaded model; a `Maker`.

    Args:
        spec: which one.
        config: of published weights; None for the one in the checkpoint.
        device: where it runs.
        options: of sampling and editing; those of a line come before them.

    Raises:
        UserError: the model cannot be loaded.
    """

    def __init__(self, spec: ModelSpec, config: ConfigPaths | None, device: str, options: Mapping[str, Any]):
        gc.collect()  # the model before this one, whose parts refer to each other
        checkpoint: str | None = spec.source
        if spec.source.endswith((".yaml", ".yml")):
            first = [config] if isinstance(config, str | Path) else list(config or ())
            checkpoint, config = None, [*first, spec.source]
        self.model = load_model(checkpoint, config, device, spec.loras)
        self.options = {**default_options(self.model), **options}
        self.identity = {
            "weights": fingerprint(self.model),
            "options": dict(sorted(self.options.items())),
            "device": device.partition(":")[0],
        }

    def make(self, lines: Sequence[ValidationLine]) -> list[Image.Image]:
        """The pictures. Samples with the same options and style share forward passes, which changes none of them."""
        if len(lines) > 1 and _can_share(lines):
            return self._sample(lines)
        return [self._edit(line) if line.is_edit else self._sample([line])[0] for line in lines]

    def _sample(self, lines: Sequence[ValidationLine]) -> list[Image.Image]:
        if lines[0].graph is None:
            return self._sample_prompts(lines)
        style = lines[0].style and read_image(lines[0].style, upright=True)
        graphs = [self._checked(line.graph) for line in lines]
        options = sample_options(lines[0], self.options)
        return sample_images(self.model, graphs, [line.seed for line in lines], options, style)

    def _sample_prompts(self, lines: Sequence[ValidationLine]) -> list[Image.Image]:
        if self.model.text_stage_model is None:
            raise UserError(
                "has no graph (sg), and this model reads no prompt; name a model with a text encoder, or a function of your own"
            )
        if lines[0].style is not None:
            raise UserError("style: pictures of prompts take none; leave it out, or give a graph (sg)")
        prompts = [Prompt(line.prompt or "") for line in lines]
        options = text_options(lines[0], self.options)
        return sample_texts(self.model, prompts, [line.seed for line in lines], options)

    def _edit(self, line: ValidationLine) -> Image.Image:
        request = edit_request(line)
        self._checked(request.graph)
        if request.source_graph is not None:
            self._checked(request.source_graph)
        return edit(self.model, request, edit_options(line, self.options)).image

    def _checked(self, graph: SceneGraph | None) -> SceneGraph:
        if graph is None:
            raise UserError("has no graph (sg); edits need one, or a function of your own as the model")
        graph.validate(self.model.vocab, "sg", self.model.cond_stage_model.max_objects)
        return graph


def _can_share(lines: Sequence[ValidationLine]) -> bool:
    first = lines[0]
    return all(
        not line.is_edit
        and line.options == first.options
        and line.style == first.style
        and (line.graph is None) == (first.graph is None)
        for line in lines
    )
