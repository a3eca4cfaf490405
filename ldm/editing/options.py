"""What is asked of an edit, and how it is to be done: `EditRequest` and `EditOptions`.

`EditOptions` is the one list of options. The command line, batch files, sweeps, benchmark specifications, the record of an
edit and the documentation are all made from its fields.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ldm.models.diffusion.samplers import SAMPLERS
from ldm.util.errors import UserError
from ldm.util.options import from_mapping, option, validate

if TYPE_CHECKING:
    from PIL import Image

    from ldm.graph.scene_graph import SceneGraph
    from ldm.models.diffusion.ddpm import LatentDiffusion

METHODS = ("ddim", "fixed-point", "bdia", "direct", "null", "ddpm", "noise")
LOCAL_METHOD, GLOBAL_METHOD = "noise", "direct"  # defaults within a region, and where everything may change
RANDOM_METHODS = ("ddpm", "noise")  # their edits differ by the seed
MARGIN = FEATHER = 1.0  # latent cells
FAST_METHODS = ("noise", "direct")  # their default sampler is dpm++
DEFAULT_GUIDANCE = 2.0  # for models that were trained for guidance
TEXT_GUIDANCE = 7.5  # for models that read graphs as text alone, as Stable Diffusion is used
RESTYLE_PASSES = 2  # after a single pass, too much of the photograph's own style remains
FORMS = ("long", "short")  # those of ldm.graph.caption, whose import takes seconds


@dataclass(frozen=True)
class EditRequest:
    """What is asked for.

    Args:
        photograph: the image to edit, of any size and mode.
        graph: scene graph of what the edited image should show.
        source_graph: scene graph of the photograph; without it the photograph is inverted under the null graph and all
            of it may change.
        style: another image to take the look from, everywhere; without it the photograph keeps its own.
        mask: white where the image may change; without it the region follows from the operations.
    """

    photograph: Image.Image
    graph: SceneGraph
    source_graph: SceneGraph | None = None
    style: Image.Image | None = None
    mask: Image.Image | None = None


@dataclass(frozen=True)
class EditOptions:
    """How an edit is done. None stands for a default that depends on the request and the model (`ldm.editing.plan`).

    A model's config may have its own defaults for these, as `edit_defaults`.

    Raises:
        UserError: an option is out of its bounds.
    """

    method: str | None = option(
        None,
        "inversion method; noise adds noise to the photograph and inverts nothing",
        choices=METHODS,
        default_text="noise within a region, direct where everything may change",
    )
    sampler: str | None = option(
        None,
        "sampler, for inversion as well; dpm++ (second order) needs fewer steps and works with the methods ddim, direct "
        "and noise",
        choices=tuple(SAMPLERS),
        default_text="dpm++ with the methods noise and direct, else ddim",
    )
    steps: int | None = option(
        None,
        "sampler steps over all noise levels",
        default_text=", ".join(f"{sampler.default_steps} of {name}" for name, sampler in SAMPLERS.items()),
    )
    strength: float = option(
        1.0,
        "share of the noise levels that the edit goes through; a smaller share stays closer to the photograph",
        above=0,
        maximum=1,
    )
    graph_scale: float | None = option(
        None,
        "guidance scale of the graph; 1 is no guidance",
        default_text="2 for models trained with graph and style dropout, 7.5 for those that go by text alone, else 1",
    )
    text_scale: float | None = option(
        None,
        "guidance scale of the text, for models that read graphs beside it; 1 is no guidance",
        default_text="as --graph-scale",
    )
    style_scale: float | None = option(
        None, "guidance scale of the style; 1 is no guidance", default_text="as --graph-scale"
    )
    interval: tuple[float, float] = option(
        (0.0, 1.0),
        "shares of the noise levels between which guidance is applied (Kynkäänniemi et al. 2404.07724)",
        minimum=0,
        maximum=1,
        metavar=("LOW", "HIGH"),
    )
    rescale: float = option(
        0.0,
        "share of the contrast added by guidance that is taken back (Lin et al. 2305.08891)",
        minimum=0,
        maximum=1,
    )
    region: str = option(
        "auto", "auto: change only what the operations touch; none: everything may change", choices=("auto", "none")
    )
    margin: float | None = option(
        None, "distance around boxes at which the region is still full, in latent cells", minimum=0, default_text="1"
    )
    feather: float | None = option(
        None, "further distance over which the region fades out, in latent cells", minimum=0, default_text="1"
    )
    reach: tuple[float, float, float, float] | None = option(
        None,
        "how far shadows and reflections of what is new, gone or elsewhere reach beyond its box, as shares of the box's "
        "longer side; the region covers them, except on other objects (see --spare)",
        minimum=0,
        metavar=("LEFT", "TOP", "RIGHT", "BOTTOM"),
        default_text="0 0 0 0",
    )
    spare: float | None = option(
        None,
        "share of the sides of other objects' boxes, about their middle, within which shadows and reflections change "
        "nothing; 0 lets them fall on other objects too",
        minimum=0,
        maximum=1,
        default_text="1",
    )
    floor: tuple[float, float, float] | None = option(
        None,
        "a floor on which all objects stand: heights of its horizon, of its far and of its near end from the top of the "
        "image, as shares of its height; places that are chosen are on it, and sizes follow the perspective",
        metavar=("HORIZON", "FAR", "NEAR"),
        default_text="what the graph's relations show",
    )
    keep: bool = option(
        False,
        "objects that move keep their appearance, by attention to the photograph (MasaCtrl, prompt-to-prompt); doubles "
        "the U-Net's work",
    )
    passes: int | None = option(
        None,
        "how often a style is transferred, each pass starting from the result of the previous one",
        minimum=1,
        default_text="2 with a style and the method direct, else 1",
    )
    seed: int = option(0, "seed of the noise, any whole number")
    caption: str = option(
        "long",
        "of models that read text: how graphs are put into words, long with relations or short without",
        choices=FORMS,
    )
    negative: str = option("", "of models that read text: what the edit should not show", metavar="TEXT")
    steer: float = option(
        0.0,
        "of models that read text: how strongly attention to an object's words is drawn to its box (paint with words, "
        "Balaji et al. 2211.01324); 0 is off",
        minimum=0,
    )
    steer_peak: float | None = option(
        None,
        "the constant that --steer multiplies; without explicit logits, attention is faster",
        above=0,
        default_text="the largest logit of each layer",
    )

    def __post_init__(self):
        validate(self)
        object.__setattr__(self, "interval", tuple(self.interval))
        object.__setattr__(self, "reach", self.reach and tuple(self.reach))
        object.__setattr__(self, "floor", self.floor and tuple(self.floor))
        if self.floor and not self.floor[0] < self.floor[1] < self.floor[2]:
            raise UserError("floor: horizon, far and near end must be given from top to bottom, as in -0.1 0.5 0.9")

    def replace(self, **changes: object) -> EditOptions:
        """A copy with some options changed."""
        return dataclasses.replace(self, **changes)

    def or_defaults(self, defaults: Mapping[str, Any]) -> EditOptions:
        """A copy in which other defaults stand for what is None.

        Args:
            defaults: by name, such as the `edit_defaults` of a model's config.

        Raises:
            UserError: there is no such option, it cannot be None, or a value is out of its bounds.
        """
        fixed = [name for name, value in EditOptions().as_dict().items() if value is not None]
        for name in defaults:
            if name in fixed:
                raise UserError(f"edit_defaults: {name} has the same default for all models; leave it out")
        try:
            known = from_mapping(EditOptions, defaults)
        except UserError as error:
            raise UserError(f"edit_defaults: {error}") from None
        given = {name: getattr(known, name) for name in defaults if getattr(self, name) is None}
        return self.replace(**given)

    def as_dict(self) -> dict:
        """The options by name, for JSON."""
        return dataclasses.asdict(self)


def default_sampler(method: str) -> str:
    """The sampler of a method where none is given."""
    return "dpm++" if method in FAST_METHODS else "ddim"


def default_guidance_scale(model: LatentDiffusion) -> float:
    """The guidance scale of graph and style where none is given."""
    from ldm.modules.graph_encoder import NoGraphEncoder  # imports torch, which --help must not wait for

    if isinstance(model.cond_stage_model, NoGraphEncoder):
        return TEXT_GUIDANCE
    return DEFAULT_GUIDANCE if model.graph_drop and model.style_drop else 1.0
