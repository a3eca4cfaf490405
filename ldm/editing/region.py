"""Where an edit may change the image: a soft mask of latent cells for the sampler, and one of pixels for compositing.

An operation touches boxes, old and new; where objects have no boxes, it touches the cells from which the U-Net attends to
them. In latents, the region is 1 wherever a touched box reaches, grown by a margin, and fades out beyond. In pixels, it
fades to 0 within that margin, so everything further away is exactly the photograph.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ldm.graph.diff import Add, AddRelation, ChangeRelation, Move, Operation, Remove, RemoveRelation, Replace, Resize
from ldm.graph.spatial_relations import relation_holds
from ldm.graph.validation import Box
from ldm.modules.boxes import box_coverage
from ldm.util.errors import UserError

LOW, HIGH = 0.35, 0.65  # share of an object's strongest attention at which its region begins, and at which it is full


SPARED_EDGE = 0.25  # latent cells over which the region ends at the box of an object that stays
RESHAPING = (Replace, Remove, Add, Move, Resize)  # operations after which shadows fall elsewhere

Reach = tuple[float, float, float, float]  # beyond a box to the left, top, right and bottom
Place = Box | int | None  # a box, or the index of a source object without one, or unknown


class Region(NamedTuple):
    """Soft masks of an edit: 1 where the edit decides, 0 where the photograph stays.

    Args:
        latent: (1,1,h,w) in [0,1].
        pixels: (H,W) in [0,1], at the photograph's size.
    """

    latent: Tensor
    pixels: np.ndarray

    @classmethod
    def everywhere(cls, cells: tuple[int, int], size: tuple[int, int]) -> Region:
        """1 throughout, for an edit without a region.

        Args:
            cells: (h, w) of the latent.
            size: (width, height) of the photograph.
        """
        return cls(torch.ones(1, 1, *cells), np.ones(size[::-1], np.float32))

    @classmethod
    def of_mask(cls, mask: Image.Image, cells: tuple[int, int], size: tuple[int, int]) -> Region:
        """The white parts of a mask of any size. Raises UserError for a mask without any."""
        mask = mask.convert("L")
        if not mask.getextrema()[1]:
            raise UserError("the mask is entirely black: paint white what the edit may change").coded("black_mask")
        small = mask.resize((cells[1], cells[0]), Image.Resampling.BOX)
        pixels = mask.resize(size, Image.Resampling.BILINEAR)
        return cls(_tensor(small)[None, None], _tensor(pixels).numpy())

    @classmethod
    def of(
        cls,
        operations: Sequence[Operation],
        cells: tuple[int, int],
        size: tuple[int, int],
        attention: Tensor | None = None,
        margin: float = 1.0,
        feather: float = 1.0,
    ) -> Region:
        """The union over operations; 0 throughout where they change nothing that can be seen.

        Args:
            cells: (h, w) of the latent.
            size: (width, height) of the photograph.
            attention: (O,h',w'), attention to each object of the source graph (see `object_maps`), for operations
                without a box; without it, these change everything.
            margin: distance from a box at which the region is still full, in latent cells.
            feather: further distance over which it fades out, in latent cells.
        """
        latent, pixels = torch.zeros(1, 1, *cells), np.zeros(size[::-1], np.float32)
        places = dict.fromkeys(touched_places(operations))
        for box in (place for place in places if isinstance(place, tuple)):
            latent = torch.maximum(latent, in_cells(box, cells, margin, feather))
            pixels = np.maximum(pixels, in_pixels(box, size, cells, margin))
        for index in (place for place in places if not isinstance(place, tuple)):
            if attention is None or index is None:
                return cls.everywhere(cells, size)
            soft = _dilate(from_attention(attention[index], cells), margin)
            fine = F.interpolate(soft, size=size[::-1], mode="bilinear", align_corners=False)
            latent, pixels = torch.maximum(latent, soft), np.maximum(pixels, fine[0, 0].numpy())
        return cls(latent, pixels)

    def with_reach(
        self, operations: Sequence[Operation], reach: Reach, spared: Sequence[Box] = (), feather: float = 1.0
    ) -> Region:
        """The union with the shadows and reflections of what is new, gone, elsewhere or of another shape.

        Args:
            reach: how far they reach beyond a box to the left, top, right and bottom, as shares of its longer side.
            spared: boxes that stay as they are, except where the region covers them already.
            feather: distance over which the region fades out, in latent cells.
        """
        height, width = self.pixels.shape
        cells, size = (self.latent.shape[-2], self.latent.shape[-1]), (width, height)
        latent, pixels = torch.zeros_like(self.latent), np.zeros_like(self.pixels)
        for box in dict.fromkeys(box for each in operations if isinstance(each, RESHAPING) for box in each.boxes):
            box = grown(box, reach)
            latent = torch.maximum(latent, in_cells(box, cells, 0, feather))
            pixels = np.maximum(pixels, in_pixels(box, size, cells, feather))
        for box in spared:
            latent = latent * (1 - in_cells(box, cells, 0, 0))
            pixels = pixels * (1 - in_pixels(box, size, cells, SPARED_EDGE))
        return Region(torch.maximum(self.latent, latent), np.maximum(self.pixels, pixels))


def grown(box: Box, reach: Reach) -> Box:
    """The box, larger by shares of its longer side to the left, top, right and bottom; may exceed the image."""
    side = max(box[2] - box[0], box[3] - box[1])
    left, top, right, bottom = (side * share for share in reach)
    return box[0] - left, box[1] - top, box[2] + right, box[3] + bottom


def shrunk(box: Box, share: float) -> Box:
    """The box with a share of its sides, about its middle."""
    x, y, width, height = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2, box[2] - box[0], box[3] - box[1]
    return x - share * width / 2, y - share * height / 2, x + share * width / 2, y + share * height / 2


def touched_places(operations: Sequence[Operation]) -> list[Place]:
    """What the operations change in the image: boxes, or indices of source objects without one, or None where unknown."""
    return [place for operation in operations for place in touched(operation, operations)]


def touched(operation: Operation, operations: Sequence[Operation]) -> Iterator[Place]:
    """What one of the operations changes in the image, as in `touched_places`.

    A changed relation between objects that stay changes the intersection of their boxes, or both boxes if they do not
    overlap, unless the boxes satisfy it already. Where one of its objects moves or is new, that operation covers it.
    """
    if isinstance(operation, RemoveRelation):
        return
    if not isinstance(operation, (ChangeRelation, AddRelation)):
        if operation.boxes:
            yield from operation.boxes
        else:
            yield None if isinstance(operation, Add) else operation.source
        return
    subject, predicate, object_ = operation.target
    moved = {other.target for other in operations if isinstance(other, (Move, Resize, Add))}
    if moved & {subject, object_}:
        return
    if len(operation.boxes) < 2:
        yield from operation.boxes
        if isinstance(operation, ChangeRelation):
            yield from (operation.source[0], operation.source[2])
        else:
            yield None
        return
    first, second = operation.boxes
    if relation_holds(first, predicate, second):
        return
    shared = max(first[0], second[0]), max(first[1], second[1]), min(first[2], second[2]), min(first[3], second[3])
    if shared[0] < shared[2] and shared[1] < shared[3]:
        yield shared
    else:
        yield from (first, second)


def in_cells(box: Box, cells: tuple[int, int], margin: float = 1.0, feather: float = 1.0) -> Tensor:
    """(1,1,h,w): coverage of latent cells by a box grown by `margin` cells, averaged over growing by up to `feather` more."""
    h, w = cells
    x0, y0, x1, y1 = box
    growths = [margin + feather * (k + 0.5) / 8 for k in range(8)] if feather else [margin]
    grown = [(x0 - g / w, y0 - g / h, x1 + g / w, y1 + g / h) for g in growths]
    coverage = box_coverage(torch.tensor([grown], dtype=torch.float64), h, w).clamp(max=1)
    return coverage.mean(1).view(1, 1, h, w).float()


def in_pixels(box: Box, size: tuple[int, int], cells: tuple[int, int], margin: float = 1.0) -> np.ndarray:
    """(H,W) float32: 1 at each pixel that a box reaches, 0 at a distance of `margin` latent cells, a cosine in between."""

    def along(low: float, high: float, pixels: int, cells: int) -> np.ndarray:
        edge = np.arange(pixels) / pixels
        gap = np.maximum(np.maximum(low - edge - 1 / pixels, edge - high), 0)  # from the box to the pixel
        distance = gap * cells / margin if margin else np.where(gap > 0, 1.0, 0.0)
        return 0.5 + 0.5 * np.cos(math.pi * np.minimum(distance + 1e-9 * (distance > 0), 1))

    rows, columns = along(box[1], box[3], size[1], cells[0]), along(box[0], box[2], size[0], cells[1])
    return (rows[:, None] * columns).astype(np.float32)


def object_maps(attention: Tensor, object_token: Tensor) -> Tensor:
    """Attention to each object.

    Args:
        attention: (N,h,w), attention to each token of one graph.
        object_token: (O,), NSGEncoder.layout's token of each object, -1 for an object without one.

    Returns:
        (O,h,w), 0 for an object without a token.
    """
    maps = attention[object_token.clamp(min=0)]
    return maps * (object_token >= 0).to(maps)[:, None, None]


def from_attention(attention: Tensor, cells: tuple[int, int]) -> Tensor:
    """(h',w') -> (1,1,h,w): a soft mask, 1 where attention to an object is close to its maximum, 0 where it is weak."""
    smooth = _blur(attention[None, None].float())
    smooth = F.interpolate(smooth, size=cells, mode="bilinear", align_corners=False)
    low, high = smooth.amin(), smooth.amax()
    if high <= low:
        return torch.ones_like(smooth)  # uniform attention: the object may be anywhere
    return (((smooth - low) / (high - low) - LOW) / (HIGH - LOW)).clamp(0, 1)


def paste(edited: Image.Image, photograph: Image.Image, pixels: np.ndarray) -> Image.Image:
    """Blends the edit into the photograph by a mask (H,W) in [0,1]; where it is 0, the pixels are exactly the photograph's."""
    new, old = (np.asarray(image.convert("RGB"), np.float32) for image in (edited, photograph))
    mixed = old + pixels[..., None] * (new - old)
    return Image.fromarray(mixed.round().clip(0, 255).astype(np.uint8))


def _dilate(soft: Tensor, margin: float) -> Tensor:
    reach = math.ceil(min(margin, max(soft.shape)))
    return _blur(F.max_pool2d(soft, 2 * reach + 1, 1, reach)).maximum(soft) if reach else soft


def _blur(maps: Tensor) -> Tensor:  # (1,1,h,w), binomial over 3 x 3 cells
    taps = torch.tensor([0.25, 0.5, 0.25], dtype=maps.dtype, device=maps.device)
    return F.conv2d(F.pad(maps, (1, 1, 1, 1), mode="replicate"), (taps[:, None] * taps)[None, None])


def _tensor(image: Image.Image) -> Tensor:  # L -> (h,w) in [0,1]
    return torch.from_numpy(np.asarray(image, np.float32) / 255)
