"""Other views and other mixtures of rendered scenes, made of pictures in batches, with what they then show.

A picture may be zoomed and shifted a little; and a window of another picture, with the things in it, may take the place of
a part of a picture. That is CutMix (Yun et al., arXiv:1905.04899) without mixed labels: a window cuts no thing that it
brings, and hides what was there altogether, or no more of it than a scene may.

Everything runs in batches on the device of the pictures, (N,3,H,W) floats in 0..1.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from ldm.synthetic.rendered.detector import STYLE, WORDS
from ldm.synthetic.rendered.scenes import MARGIN, MIN_CELLS, VISIBLE, VISIBLE_INSIDE
from ldm.synthetic.rendered.targets import NOTHING, SceneTensors
from ldm.synthetic.rendered.vocabulary import RELATIONS
from ldm.util.constants import constant

ZOOM = 1.12  # at most, or its inverse; sizes differ by 1.6
STRETCH = 1.03  # at most, of one axis
SHIFT = 0.1  # at most, as a share of the side
TRIES = 64  # windows for each picture, the first possible of which is used
REACH = 0.12  # of a window beyond the box of a thing, at most, as a share of the side
SPARE = 0.05  # of the visible share of a thing: a silhouette does not fill its box evenly
GONE = 0.999  # share of a visible box from which on nothing is left
INSIDE = RELATIONS.index("inside")
SATURATION = (0.3, 1.2)  # factor of what is colourful, if hues are rotated
LIKE = ("floor", "light", "side", "wall")  # two mixed pictures are alike in these, the first before the last


def zoom_and_shift(pictures: Tensor, scenes: SceneTensors, where: Tensor) -> tuple[Tensor, SceneTensors]:
    """Some of the pictures as another lens and another aim would show them, with all things still in the picture.

    Their floor positions are no longer known. Edges of a picture that comes out smaller are continued.

    Args:
        where: (N,) bool, pictures to change.
    """
    zoom, offset = _random_view(scenes)
    changed = where[:, None]
    zoom, offset = torch.where(changed, zoom, 1.0), torch.where(changed, offset, 0.0)

    def move(boxes: Tensor) -> Tensor:  # (N,T,4)
        return torch.where(changed[..., None], boxes * zoom.repeat(1, 2)[:, None] + offset.repeat(1, 2)[:, None], boxes)

    moved = torch.where(changed[..., None, None], resample(pictures, zoom, offset), pictures)
    return moved, scenes._replace(
        boxes=move(scenes.boxes), visible_boxes=move(scenes.visible_boxes), placed=scenes.placed & ~changed
    )


def resample(pictures: Tensor, zoom: Tensor, offset: Tensor) -> Tensor:
    """Pictures in which a point p, in shares of the sides, has moved to `zoom` * p + `offset`.

    Args:
        zoom, offset: (N,2), across and down.
    """
    scale = 1 / zoom
    theta = torch.cat([torch.diag_embed(scale), ((1 - 2 * offset) * scale - 1)[..., None]], 2)
    grid = F.affine_grid(theta, list(pictures.shape), align_corners=False)
    return F.grid_sample(pictures, grid, mode="bicubic", padding_mode="border", align_corners=False).clamp(0, 1)


def _random_view(scenes: SceneTensors) -> tuple[Tensor, Tensor]:  # (N,2), (N,2)
    """Zoom and offset that leave every thing in the picture."""
    absent = (scenes.layers < 0)[..., None]
    low = scenes.boxes[..., :2].masked_fill(absent, 1.0).amin(1)
    high = scenes.boxes[..., 2:].masked_fill(absent, 0.0).amax(1)

    def uniform(columns: int) -> Tensor:
        return 2 * torch.rand(len(low), columns, device=low.device) - 1

    zoom = torch.exp(math.log(ZOOM) * uniform(1) + math.log(STRETCH) * uniform(2))
    room = ((1 - 2 * MARGIN) / (high - low).clamp(min=1e-3) / zoom).amin(1, keepdim=True)
    zoom = zoom * room.clamp(max=1)
    offset = (1 - zoom) / 2 + SHIFT * uniform(2)
    return zoom, torch.clamp(offset, MARGIN - zoom * low, 1 - MARGIN - zoom * high)


def rotate_hues(pictures: Tensor, scenes: SceneTensors, where: Tensor) -> tuple[Tensor, SceneTensors]:
    """Rotates the hues of some pictures by a random angle each, and scales their saturation; grey stays grey. Their colours become unknown.

    Args:
        where: (N,) bool, pictures to change.
    """
    angle = 2 * math.pi * torch.rand(len(where), 1, 1, device=where.device)
    low, high = SATURATION
    saturation = low + (high - low) * torch.rand_like(angle)
    grey = torch.full((3, 3), 1 / 3, device=where.device)
    turn = constant((0.0, -1.0, 1.0), grey)[(torch.arange(3)[:, None] - torch.arange(3)) % 3] / math.sqrt(3)
    matrix = grey + saturation * (angle.cos() * (torch.eye(3, device=where.device) - grey) + angle.sin() * turn)
    turned = torch.einsum("nij,njhw->nihw", matrix, pictures).clamp(0, 1)
    words, colour = scenes.words.clone(), WORDS.index("colour")
    words[..., colour] = words[..., colour].masked_fill(where[:, None], NOTHING)
    return torch.where(where[:, None, None, None], turned, pictures), scenes._replace(words=words)


def transplant(pictures: Tensor, scenes: SceneTensors, where: Tensor) -> tuple[Tensor, SceneTensors]:
    """Some of the pictures with a window of another picture of like style, where a window is possible.

    Parts of the style that differ are no longer known, nor are the floor positions of the things in the window.

    Args:
        where: (N,) bool, pictures to change.

    Returns:
        Pictures and scenes; these have twice as many slots, the second half for the things in the window.
    """
    slots = scenes.layers.shape[1]
    partner = like_style(scenes)
    donor = scenes.select(partner)
    windows = _random_windows(donor)
    taken, whole = _taken(donor, windows)
    gone, clear = _gone(scenes, windows)
    possible = whole & clear & where[:, None]
    mixed, first = possible.any(1), possible.float().argmax(1)
    batch = torch.arange(len(first), device=first.device)
    window, changed = windows[batch, first], mixed[:, None]
    taken, gone = taken[batch, first] & changed, gone[batch, first] & changed
    left = torch.where(changed[..., None], _without(scenes.visible_boxes, window), scenes.visible_boxes)
    covered = torch.where(changed, _covered(scenes.visible_boxes, window[:, None]), 0.0)
    kept = scenes._replace(
        layers=scenes.layers.masked_fill(gone, -1), visible_boxes=left, visible=scenes.visible * (1 - covered)
    )
    brought = donor._replace(
        layers=donor.layers.masked_fill(~taken, -1),
        supports=torch.where(donor.supports >= 0, donor.supports + slots, -1),
        placed=torch.zeros_like(donor.placed),
    )
    both = SceneTensors(*(torch.cat(pair, 1) for pair in zip(kept, brought)))  # the style is put right below
    both = both._replace(style=scenes.style.masked_fill(changed & (scenes.style != donor.style), NOTHING))
    inside = _pixels_of(window, pictures.shape[-1]) & mixed[:, None, None]
    return torch.where(inside[:, None], pictures[partner], pictures), both


def like_style(scenes: SceneTensors) -> Tensor:  # (N,)
    """For each picture another one that comes next in an order by style."""
    parts = list(STYLE)
    key = torch.zeros_like(scenes.style[:, 0])
    for part in LIKE:
        key = key * len(STYLE[part]) + scenes.style[:, parts.index(part)]
    order = key.argsort()
    return torch.empty_like(order).scatter_(0, order, order.roll(1))


def _random_windows(donor: SceneTensors) -> Tensor:  # (N,TRIES,4), on a grid of 128
    """Each around a random thing, with more or less beside it."""
    chosen = torch.multinomial((donor.layers >= 0).float(), TRIES, replacement=True)
    boxes = donor.boxes.gather(1, chosen[..., None].expand(-1, -1, 4))
    low, high = (boxes + REACH * torch.rand_like(boxes).square() * constant((-1, -1, 1, 1), boxes)).chunk(2, -1)
    return torch.cat([(128 * low).floor(), (128 * high).ceil()], -1).clamp(0, 128) / 128


def _taken(donor: SceneTensors, windows: Tensor) -> tuple[Tensor, Tensor]:  # (N,K,T), (N,K)
    """Which things are in each window, and whether it cuts none and parts none from its support."""
    low, high = donor.boxes[:, None].chunk(2, -1)
    start, end = windows[:, :, None].chunk(2, -1)
    inside = ((low >= start) & (high <= end)).all(-1)
    outside = ((high <= start) | (low >= end)).any(-1)
    present = (donor.layers >= 0)[:, None]
    taken = inside & present
    together = (donor.supports < 0)[:, None] | (taken == _of_support(taken, donor))
    return taken, ((inside | outside) & together | ~present).all(-1)


def _gone(scenes: SceneTensors, windows: Tensor) -> tuple[Tensor, Tensor]:  # (N,K,T), (N,K)
    """Which things each window hides altogether, and whether enough is left of all others and of their supports."""
    boxes = scenes.visible_boxes[:, None]
    covered = _covered(boxes, windows[:, :, None])
    present = (scenes.layers >= 0)[:, None]
    gone = present & (covered > GONE)
    lies_inside = scenes.words[..., WORDS.index("relation")] == INSIDE
    least = torch.where(lies_inside, VISIBLE_INSIDE, VISIBLE)[:, None] + SPARE
    cells = 64 * 64 * (boxes[..., 2:] - boxes[..., :2]).prod(-1) * (1 - covered)
    enough = (covered == 0) | (scenes.visible[:, None] * (1 - covered) >= least) & (cells >= 2 * MIN_CELLS)
    carried = (scenes.supports >= 0)[:, None] & _of_support(gone, scenes)
    return gone, (gone | enough & ~carried | ~present).all(-1)


def _of_support(values: Tensor, scenes: SceneTensors) -> Tensor:  # (N,K,T), of each thing its support's
    return values.gather(2, scenes.supports.clamp(min=0)[:, None].expand_as(values))


def _covered(boxes: Tensor, windows: Tensor) -> Tensor:
    """Share of each box (...,4) that the window covers; 0 for an empty box."""
    low = torch.maximum(boxes[..., :2], windows[..., :2])
    high = torch.minimum(boxes[..., 2:], windows[..., 2:])
    area = (boxes[..., 2:] - boxes[..., :2]).prod(-1)
    return (high - low).clamp(min=0).prod(-1) / area.clamp(min=1e-9)


def _without(boxes: Tensor, window: Tensor) -> Tensor:
    """The boxes (N,T,4) of what a window (N,4) leaves of boxes; one that is covered altogether stays as it is."""
    x0, y0, x1, y1 = boxes.unbind(-1)
    left, top, right, bottom = window[:, None].unbind(-1)
    apart = (right <= x0) | (left >= x1) | (bottom <= y0) | (top >= y1)
    across = (left <= x0) & (right >= x1) & ~apart
    down = (top <= y0) & (bottom >= y1) & ~apart
    across, down = across & ~down, down & ~across
    return torch.stack(
        [
            torch.where(down & (left <= x0), right, x0),
            torch.where(across & (top <= y0), bottom, y0),
            torch.where(down & (right >= x1), left, x1),
            torch.where(across & (bottom >= y1), top, y1),
        ],
        -1,
    )


def _pixels_of(window: Tensor, side: int) -> Tensor:  # (N,4) -> (N,side,side) bool
    middles = (torch.arange(side, device=window.device) + 0.5) / side
    left, top, right, bottom = window[:, :, None].unbind(1)
    across, down = (middles >= left) & (middles < right), (middles >= top) & (middles < bottom)
    return down[:, :, None] & across[:, None, :]
