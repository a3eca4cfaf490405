"""Edit a photograph: say what two graphs differ in, find out where, and sample that anew under the second graph.

    operations   what leads from the source graph to the edited one; what has no place yet is placed (`understood`)
    region       where the picture may change: boxes, or else where the U-Net looks for an object; the rest is put back
    inversion    the photograph's trajectory, which is also what the latents outside the region follow
    keep         what moves sees the photograph as it was, through the U-Net's attention, and so keeps its look
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ldm import conditioning
from ldm.conditioning import Conditioning
from ldm.data.images import to_image
from ldm.diff import Add, ChangeAttribute, Move, Operation, Remove, Replace, Resize, diff
from ldm.graph import SceneGraph, encode
from ldm.layout import place
from ldm.models.diffusion import inversion
from ldm.models.diffusion.ddim import Denoiser, timestep
from ldm.models.diffusion.ddpm import LatentDiffusion
from ldm.models.diffusion.inversion import Inverted, Source
from ldm.modules.attention_control import Control, Maps, Mutual, Pair, Words, common_tokens
from ldm.region import Region, object_maps, paste, touched
from ldm.sampling import as_seen, as_style
from ldm.schedule import DDIMSchedule
from ldm.util import UserError, nearest

REGIONS = ("auto", "none")
GUIDANCE = 2.0  # towards graph and style, where the model was trained for it
LOOKS = 8  # levels at which the U-Net is asked where it sees the objects
RANDOM = ("ddpm", "noise")  # methods whose edits differ by the seed


class Settings(NamedTuple):
    """How an edit was made, with what was chosen where nothing was asked for: the arguments of `edit`."""

    method: str
    steps: int
    strength: float
    graph_scale: float
    style_scale: float
    interval: tuple[float, float]
    rescale: float
    keep: bool
    margin: float
    feather: float
    seed: int


class Edit(NamedTuple):
    """What an edit made, with its pictures at the photograph's own size.

    reconstruction    what the inversion returns to without an edit; of a method that inverts nothing, or when it was not
                      asked for, what the first stage alone returns
    region            (H,W) in [0,1]: the share that the edit has in each pixel; where it is 0, the photograph's is untouched
    operations        what changes from the source graph to the edited one; empty without a source graph
    graph             the edited graph, with the boxes that were chosen
    chosen            what was chosen, as a sentence; empty where there was nothing to choose
    round_trip_error  |z0' - z0| / |z0| of the latent that was inverted and sampled back unchanged; None of a method that
                      inverts nothing
    psnr              dB, reconstruction against photograph, at the model's resolution
    psnr_autoencoder  dB, the same of the first stage alone: no inversion can do better
    attention         (O,h,w) for each object of the source graph where it is looked at (of the edited graph, where there
                      is no other); None where it was not needed or asked for
    previews          what the edit was heading for at some steps, in their order
    """

    image: Image.Image
    reconstruction: Image.Image
    region: np.ndarray
    operations: list[Operation]
    graph: SceneGraph
    chosen: str
    settings: Settings
    round_trip_error: float | None
    psnr: float
    psnr_autoencoder: float
    attention: Tensor | None = None
    previews: tuple[Image.Image, ...] = ()


@torch.no_grad()
def edit(
    model: LatentDiffusion,
    photograph: Image.Image,
    graph: SceneGraph,
    source: SceneGraph | None = None,
    style: Image.Image | None = None,
    method: str | None = None,
    steps: int = 50,
    graph_scale: float | None = None,
    style_scale: float | None = None,
    mask: Image.Image | None = None,
    region: str = "auto",
    strength: float = 1.0,
    interval: tuple[float, float] = (0.0, 1.0),
    rescale: float = 0.0,
    keep: bool = False,
    margin: float = 1.0,
    feather: float = 1.0,
    seed: int = 0,
    previews: int = 0,
    attention: bool = False,
    reconstruct: bool = True,
    progress: Callable = lambda steps, what: steps,
) -> Edit:
    """`photograph`, described by `source` (or by nothing: the null graph), as `graph` and `style` describe it.

    style        another image to take the look from, everywhere; without it the photograph keeps its own
    mask         white where the picture may change, instead of where the operations say
    region       'auto', or 'none' to let the whole picture change
    method       one of ldm.models.diffusion.inversion.METHODS; by default `noise` within a region, `direct` without one
    strength     share of the noise levels that the target is sampled through; less stays nearer to the photograph
    graph_scale, style_scale, interval, rescale: guidance, as LatentDiffusion.denoiser takes it; 1 is none, and the default
                 GUIDANCE, if the model was trained for it
    keep         what moves keeps its look, and after a restyle everything its place, by attention to the photograph;
                 twice the U-Net's work
    margin, feather: in latent cells, how far around boxes the region is whole, and how far beyond that it fades
    seed         of what is drawn, by the methods that draw
    previews     how many pictures of the way
    attention    whether to look where the objects are seen, even if boxes tell
    reconstruct  whether to sample the photograph back as well
    progress     wraps the steps of each pass, e.g. in a bar: progress(range, 'inverting')

    Where the graphs say the same and there is no style, the photograph is returned as it is. Raises UserError.
    """
    if region not in REGIONS:
        raise UserError(f"there is no region {region!r}, only {' and '.join(REGIONS)}{nearest(region, REGIONS)}")
    if not 0 < strength <= 1:
        raise UserError(f"a strength of {strength}: it is a share of the noise levels, more than 0 and at most 1")
    operations, graph, chosen = understood(source, graph)
    everywhere = mask is None and (source is None or style is not None or region == "none")
    settings = Settings(
        _method(method, everywhere), steps, strength, _scale(model, graph_scale), _scale(model, style_scale),
        tuple(interval), rescale, keep, margin, feather, seed,
    )  # fmt: skip
    schedule = model.schedule.ddim(steps)
    look = as_seen(model, photograph)
    z0 = model.encode(look)
    known = model.unconditional(1) if source is None else model.condition(_encode(source, model), look)
    alone = model.decode(z0)
    result = Edit(
        photograph.copy(), photograph.copy(), np.zeros(photograph.size[::-1], np.float32), operations, graph, chosen,
        settings, None, psnr(alone, look), psnr(alone, look),
    )  # fmt: skip
    if source is not None and style is None and not (operations if everywhere or mask else _places(operations)):
        maps = _seen(model, source, known, _path("noise", known, model, schedule, z0, settings)) if attention else None
        return result._replace(attention=maps)

    inverted = _path(settings.method, known, model, schedule, z0, settings, progress)
    back = _reconstruct(model, known, schedule, inverted, settings, progress) if reconstruct else None
    cells, size, maps = tuple(z0.shape[-2:]), photograph.size, None
    if attention or not (everywhere or mask or all(isinstance(it, tuple) for it in _places(operations))):
        of = graph if source is None else source
        cond = known if source is not None else model.condition(_encode(graph, model), look)
        maps = _seen(model, of, cond, inverted)
    if mask:
        where = Region.of_mask(mask, cells, size)
    elif everywhere:
        where = Region.everywhere(cells, size)
    else:
        where = Region.of(operations, cells, size, maps, margin, feather)

    target = model.condition(_encode(graph, model), look if style is None else as_style(model, style))
    control = keeping(model, source, graph, operations, everywhere, style is not None) if keep and source else None
    if control is None:
        eps = _guided(model, target, settings)
    else:
        eps = beside(_guided(model, conditioning.cat(known, target), settings), inverted, schedule, control)
    start, ways = _start(settings), []
    if previews:
        eps = watched(eps, schedule, start, previews, ways)
    inside = None if everywhere and mask is None else where.latent.to(z0)
    z = inversion.resample(
        inverted, schedule, eps, inside, start, progress=lambda r: progress(r[::-1], "editing")
    )
    if not (z.isfinite().all() and (back is None or back.isfinite().all())):
        raise UserError("the edit ran away to infinity: lower the scales, or look at how the model was trained")

    def picture(z: Tensor) -> Image.Image:
        return paste(_own_size(model.decode(z), photograph), photograph, where.pixels)

    reconstruction = alone if back is None else model.decode(back)
    return result._replace(
        image=picture(z),
        reconstruction=_own_size(reconstruction, photograph),
        region=where.pixels,
        round_trip_error=None if back is None else float((back - z0).norm() / z0.norm()),
        psnr=psnr(reconstruction, look),
        attention=maps,
        previews=tuple(map(picture, ways)),
    )


def variants(count: int, *arguments, seed: int = 0, **options) -> list[Edit]:
    """`count` edits that differ by what is drawn; the other arguments are those of `edit`. Raises UserError for a method
    that draws nothing."""
    made = [edit(*arguments, seed=seed, **options)]
    method = made[0].settings.method
    if count > 1 and method not in RANDOM and made[0].region.any():
        raise UserError(f"{method} draws nothing, so there is one edit and not {count}; try {' or '.join(RANDOM)}")
    return made + [edit(*arguments, seed=seed + number, **options) for number in range(1, count)]


def understood(source: SceneGraph | None, graph: SceneGraph) -> tuple[list[Operation], SceneGraph, str]:
    """What to do, the graph with a box for each object that one is known of or was chosen for, and what was chosen.

    Raises GraphError where a relation is new that says nothing about places, or that there is no room for."""
    if source is None:
        return [], graph, ""
    operations = diff(source, graph)
    if not operations:
        return [], graph, ""
    graph, chosen = place(source, graph, operations)
    return diff(source, graph), graph, chosen


def psnr(a: Tensor, b: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of images in [-1,1], whose peak-to-peak is 2; infinite when equal."""
    error = (a.clamp(-1, 1) - b.clamp(-1, 1)).double().square().mean()
    return float(10 * torch.log10(4 / error))


# Attention to the photograph ------------------------------------------------------------------------------------------


def keeping(
    model: LatentDiffusion,
    source: SceneGraph,
    graph: SceneGraph,
    operations: Sequence[Operation],
    everywhere: bool,
    restyled: bool,
) -> Control | None:
    """What the target's row, the second, sees of the source's, the first; None where that would change nothing.

    Mutual self-attention carries moved things to their new boxes, and shows no thing that goes or is to look otherwise;
    places that are to look new look at themselves. Without a region, words that both graphs say are also looked at from
    the same places; within one the rest of the picture keeps itself.
    """
    shifts, new = [], []
    for operation in operations:
        if isinstance(operation, (Move, Resize)):
            shifts.append(operation.boxes)  # of a thing that does both, twice the same
        elif isinstance(operation, Remove):
            shifts += [(box, None) for box in operation.boxes]
        elif isinstance(operation, (Add, Replace, ChangeAttribute)):
            new += operation.boxes
            shifts += [(box, None) for box in operation.boxes[:1] if not isinstance(operation, Add)]
    moved = {old for old, goal in shifts if goal is not None}
    shifts = list(dict.fromkeys(shift for shift in shifts if shift[1] is not None or shift[0] not in moved))
    mutual = words = None
    if any(goal is not None for _, goal in shifts):
        size = model.latent_size, model.latent_size
        covered = Region.of([Add(0, "", (box,)) for box in dict.fromkeys(new)], size, size, margin=0.0)
        mutual = Mutual(tuple(shifts), where=1 - covered.latent[0, 0])
    if everywhere and hasattr(model.cond_stage_model, "layout"):
        layouts = [model.cond_stage_model.layout(_encode(it, model)) for it in (source, graph)]
        words = Words(common_tokens(source, graph, layouts, style=not restyled and model.null_style is not None))
    return Control((Pair(0, 1, mutual, words),)) if mutual or words else None


def beside(both: Callable[..., Tensor], inverted: Inverted, schedule: DDIMSchedule, control: Control) -> Denoiser:
    """eps of the target from a denoiser of the rows (source, target), with the source where its path is at that level."""
    level = {int(t): i + 1 for i, t in enumerate(schedule.timesteps)}

    def eps(x: Tensor, t: Tensor, *null: Tensor) -> Tensor:
        rows = torch.cat([inverted.path[level[int(t[0])]], x])
        return both(rows, t.repeat(2), *(tokens.repeat(2, 1, 1) for tokens in null), control=control)[1:]

    return eps


def watched(eps: Denoiser, schedule: DDIMSchedule, start: int, count: int, ways: list[Tensor]) -> Denoiser:
    """The same, which adds the x0 that it heads for at `count` of the steps from `start` down to `ways`."""
    steps = {int(schedule.timesteps[i]): i for i in np.linspace(start - 1, 0, min(count, start)).round().astype(int)}

    def eps_(x: Tensor, t: Tensor, *null: Tensor) -> Tensor:
        noise = eps(x, t, *null)
        if int(t[0]) in steps:
            a = schedule.alphas[steps[int(t[0])]]
            ways.append((x - (1 - a).sqrt() * noise) / a.sqrt())  # DDIM eq. 9
        return noise

    return eps_


# Its parts ------------------------------------------------------------------------------------------------------------


def _method(method: str | None, everywhere: bool) -> str:
    if method is None:
        return "direct" if everywhere else "noise"
    if method not in inversion.METHODS:
        known = inversion.METHODS
        raise UserError(f"there is no method {method!r}, only {', '.join(known)}{nearest(method, known)}")
    return method


def _scale(model: LatentDiffusion, asked: float | None) -> float:
    return asked if asked is not None else GUIDANCE if model.graph_drop and model.style_drop else 1.0


def _start(settings: Settings) -> int:
    return max(1, round(settings.strength * settings.steps))


def _guided(model: LatentDiffusion, cond: Conditioning, settings: Settings) -> Denoiser:
    return model.denoiser(cond, settings.graph_scale, settings.style_scale, settings.interval, settings.rescale)


def _path(
    method: str,
    known: Conditioning,
    model: LatentDiffusion,
    schedule: DDIMSchedule,
    z0: Tensor,
    settings: Settings,
    progress: Callable = lambda steps, what: steps,
) -> Inverted:
    generator = torch.Generator().manual_seed(settings.seed)
    source = Source(model.denoiser(known), _guided(model, known, settings), model.null_tokens, generator)
    return inversion.METHODS[method](source, schedule, z0, lambda steps: progress(steps, "inverting"))


def _reconstruct(
    model: LatentDiffusion,
    known: Conditioning,
    schedule: DDIMSchedule,
    inverted: Inverted,
    settings: Settings,
    progress: Callable,
) -> Tensor | None:
    """x0 again, by the denoiser that the method answers for; None of one that answers for none."""
    if settings.method == "noise":
        return None
    guided = settings.method in ("direct", "ddpm", "null")
    eps = _guided(model, known, settings) if guided else model.denoiser(known)
    return inversion.resample(inverted, schedule, eps, progress=lambda r: progress(r[::-1], "reconstructing"))


def _places(operations: Sequence[Operation]) -> list:
    return [it for operation in operations for it in touched(operation, operations)]


def _seen(model: LatentDiffusion, graph: SceneGraph, cond: Conditioning, inverted: Inverted) -> Tensor | None:
    """(O,h,w): where each object of the graph is looked at, over levels from little noise to much; None where tokens do not
    stand for objects."""
    if not hasattr(model.cond_stage_model, "layout"):
        return None
    levels = np.unique(np.linspace(0, 0.7 * (len(inverted.path) - 2), LOOKS).round().astype(int))
    schedule, maps = model.schedule.ddim(len(inverted.path) - 1), Maps()
    eps = model.denoiser(cond)
    for i in levels:
        x = inverted.path[i + 1]
        eps(x, timestep(schedule, int(i), x), control=Control(maps=maps))
    encoded = _encode(graph, model)
    tokens = model.cond_stage_model.layout(encoded).object_token[: len(graph.objects)]
    return object_maps(maps.mean()[0].cpu(), tokens.cpu())


def _encode(graph: SceneGraph, model: LatentDiffusion):
    return encode([graph], model.vocab).to(model.device)


def _own_size(image: Tensor, photograph: Image.Image) -> Image.Image:
    return to_image(image[0]).resize(photograph.size, Image.Resampling.BICUBIC)
