"""Pictures of an empty canvas: sampled from a graph alone, with the defaults of scripts/ddim_invert_edit.py."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ldm.editing.options import LOCAL_METHOD, default_guidance_scale, default_sampler
from ldm.models.diffusion.ddpm import LatentDiffusion
from ldm.models.diffusion.samplers import SAMPLERS
from ldm.sampling.options import SampleOptions
from ldm.sampling.sample import default_layout
from ldm.util.options import from_mapping

CANVAS_OPTIONS = (
    "sampler",
    "steps",
    "graph_scale",
    "style_scale",
)  # that the script takes for a sampled picture, besides seed


def default_values(model: LatentDiffusion, given: Mapping[str, Any]) -> dict[str, Any]:
    """The options that are not given, with the values that they take."""
    sampler, scale = given.get("sampler") or default_sampler(LOCAL_METHOD), default_guidance_scale(model)
    values = {"sampler": sampler, "graph_scale": scale, "style_scale": scale, "layout": default_layout(model)}
    if sampler in SAMPLERS:
        values["steps"] = SAMPLERS[sampler].default_steps
    return {name: value for name, value in values.items() if name not in given}


def complete_options(model: LatentDiffusion, given: Mapping[str, Any]) -> SampleOptions:
    """All options, but the seed. Raises UserError."""
    return from_mapping(SampleOptions, {**default_values(model, given), **given})
