"""How images of scene graphs are sampled: the one list of options of the command line, the records and the docs."""

from __future__ import annotations

from dataclasses import dataclass

from ldm.models.diffusion.samplers import SAMPLERS
from ldm.util.errors import UserError
from ldm.util.options import option, validate

LAYOUTS = ("search", "none")
TEXT_GUIDANCE = 7.5  # for models that read graphs as text alone, as Stable Diffusion is used


@dataclass(frozen=True)
class SampleOptions:
    """What all images of a set share.

    Raises:
        UserError: an option is out of its bounds, or `eta` is used with another sampler than ddim.
    """

    steps: int = option(
        50, "sampler steps, one call of the U-Net each", minimum=1, default_text="50; 10 for storyboards"
    )
    eta: float = option(0.0, "noise of the sampler ddim; 0 is deterministic, 1 is DDPM", minimum=0)
    graph_scale: float = option(
        1.0,
        "guidance scale of the graph; 1 is no guidance",
        default_text="7.5 for models that read graphs as text alone, 2.0 for storyboards, else 1.0",
    )
    style_scale: float = option(
        1.0,
        "guidance scale of the style; 1 is no guidance",
        default_text="as --graph-scale without an image encoder and for storyboards, else 1.0",
    )
    text_scale: float | None = option(
        None,
        "guidance scale of the text, for models that read graphs beside it; 1 is no guidance",
        default_text="as --graph-scale",
    )
    steer: float | None = option(
        None,
        "of models that read text: how strongly attention to an object's words is drawn to its box (paint with words, "
        "Balaji et al. 2211.01324); 0 is off",
        minimum=0,
        default_text="0",
    )
    steer_peak: float | None = option(
        None,
        "the constant that --steer multiplies; without explicit logits, attention is faster",
        above=0,
        default_text="the largest logit of each layer",
    )
    sampler: str = option(
        "ddim",
        "dpm++ (second order) needs fewer steps",
        choices=tuple(SAMPLERS),
        default_text="ddim; dpm++ for storyboards",
    )
    layout: str | None = option(
        "none",
        "search: objects without a box get one before sampling, so that the relations hold; none: the model places them",
        choices=LAYOUTS,
        default_text="search for models whose attention is biased towards boxes, else none",
    )

    def __post_init__(self):
        validate(self)
        if self.eta and self.sampler != "ddim":
            raise UserError(f"eta {self.eta}: only the sampler ddim adds noise; leave eta at 0 with {self.sampler}")
