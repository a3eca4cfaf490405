"""Where an edit may change the picture: softly in latent cells for the sampler, and in pixels for what is put back.

What an operation touches is known from boxes, old and new, where there are any, and else from where the U-Net looked
for that object while it saw the source. In latents a region is 1 wherever a touched box reaches, grown by a margin, and
fades out beyond; in pixels it fades to 0 within that margin, so whatever is further away is the photograph's own.
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

from ldm.graph.diff import Add, AddRelation, ChangeRelation, Move, Operation, RemoveRelation, Resize
from ldm.graph.spatial_relations import relation_holds
from ldm.graph.validation import Box
from ldm.modules.boxes import box_coverage
from ldm.util.errors import UserError

LOW, HIGH = 0.35, 0.65  # of an object's strongest attention: where its region begins, and where it is whole


class Region(NamedTuple):
    """latent (1,1,h,w) and pixels (H,W) of the photograph, both in [0,1]: 1 where the edit decides, 0 the source."""

    latent: Tensor
    pixels: np.ndarray

    @classmethod
    def everywhere(cls, cells: tuple[int, int], size: tuple[int, int]) -> Region:
        """Of `cells` (h,w) and a photograph of `size` (width, height): 1 throughout, for an edit without a region."""
        return cls(torch.ones(1, 1, *cells), np.ones(size[::-1], np.float32))

    @classmethod
    def of_mask(cls, mask: Image.Image, cells: tuple[int, int], size: tuple[int, int]) -> Region:
        """What is white in a picture of any size, as the user says. Raises UserError where nothing is."""
        mask = mask.convert("L")
        if not mask.getextrema()[1]:
            raise UserError("the mask is black throughout: paint white what the edit may change")
        small = mask.resize(cells[::-1], Image.Resampling.BOX)
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
        """The union over operations; nothing, 0 throughout, where they change nothing that can be seen.

        attention: (O,h',w') of each object of the source graph (see `object_maps`), for operations without a box;
        without it these change everything. margin and feather in latent cells: how far from a box the region is whole,
        and how far beyond that it fades.
        """
        latent, pixels = torch.zeros(1, 1, *cells), np.zeros(size[::-1], np.float32)
        boxes, unplaced = [], []
        for operation in operations:
            own = list(touched(operation, operations))
            boxes += [box for box in own if isinstance(box, tuple)]
            unplaced += [index for index in own if not isinstance(index, tuple)]
        for box in dict.fromkeys(boxes):
            latent = torch.maximum(latent, in_cells(box, cells, margin, feather))
            pixels = np.maximum(pixels, in_pixels(box, size, cells, margin))
        for index in dict.fromkeys(unplaced):
            if attention is None or index is None:
                return cls.everywhere(cells, size)
            soft = _dilate(from_attention(attention[index], cells), margin)
            fine = F.interpolate(soft, size=size[::-1], mode="bilinear", align_corners=False)
            latent, pixels = torch.maximum(latent, soft), np.maximum(pixels, fine[0, 0].numpy())
        return cls(latent, pixels)


def touched(operation: Operation, operations: Sequence[Operation]) -> Iterator[Box | int | None]:
    """What an operation changes in the picture: boxes, or else indices of objects of the source graph, or None where
    nothing is known.

    A relation that changes between things that stay changes what they share, or both where they are apart, unless
    their boxes say already that it holds; where one of its ends moves or is new, that is what changes."""
    if isinstance(operation, RemoveRelation):
        return
    if not isinstance(operation, (ChangeRelation, AddRelation)):
        yield from operation.boxes or (getattr(operation, "source", None),)
        return
    subject, predicate, object = operation.target
    moved = {other.target for other in operations if isinstance(other, (Move, Resize, Add))}
    if moved & {subject, object}:
        return
    if len(operation.boxes) < 2:
        yield from operation.boxes
        yield from operation.source[::2] if isinstance(operation, ChangeRelation) else (None,)
        return
    first, second = operation.boxes
    if relation_holds(first, predicate, second):
        return
    shared = tuple(map(max, first[:2], second[:2])) + tuple(map(min, first[2:], second[2:]))
    yield from (shared,) if shared[0] < shared[2] and shared[1] < shared[3] else (first, second)


def in_cells(box: Box, cells: tuple[int, int], margin: float = 1.0, feather: float = 1.0) -> Tensor:  # (1,1,h,w)
    """Coverage of cells by the box grown by `margin` cells, averaged over what it is on growing by `feather` more."""
    h, w = cells
    x0, y0, x1, y1 = box
    growths = [margin + feather * (k + 0.5) / 8 for k in range(8)] if feather else [margin]
    grown = [(x0 - g / w, y0 - g / h, x1 + g / w, y1 + g / h) for g in growths]
    coverage = box_coverage(torch.tensor([grown], dtype=torch.float64), h, w).clamp(max=1)
    return coverage.mean(1).view(1, 1, h, w).float()


def in_pixels(box: Box, size: tuple[int, int], cells: tuple[int, int], margin: float = 1.0) -> np.ndarray:  # (H,W)
    """1 at each pixel that the box reaches, 0 at `margin` latent cells from it, along a cosine in between."""

    def along(low: float, high: float, pixels: int, cells: int) -> np.ndarray:
        edge = np.arange(pixels) / pixels
        apart = np.maximum(np.maximum(low - edge - 1 / pixels, edge - high), 0)  # from the box to the pixel
        far = apart * cells / margin if margin else np.where(apart > 0, 1.0, 0.0)
        return 0.5 + 0.5 * np.cos(math.pi * np.minimum(far + 1e-9 * (far > 0), 1))

    return (along(box[1], box[3], size[1], cells[0])[:, None] * along(box[0], box[2], size[0], cells[1])).astype(
        np.float32
    )


def object_maps(attention: Tensor, object_token: Tensor) -> Tensor:  # (N,h,w), (O,) -> (O,h,w)
    """Attention to each object's token, of a row of Maps.mean; object_token as in NSGEncoder.layout of its one graph,
    0 for an object that had no token."""
    maps = attention[object_token.clamp(min=0)]
    return maps * (object_token >= 0).to(maps)[:, None, None]


def from_attention(attention: Tensor, cells: tuple[int, int]) -> Tensor:  # (h',w') -> (1,1,h,w)
    """1 where an object is looked at nearly as much as anywhere, 0 where little, smoothly."""
    smooth = _blur(attention[None, None].float())
    smooth = F.interpolate(smooth, size=cells, mode="bilinear", align_corners=False)
    low, high = smooth.amin(), smooth.amax()
    if high <= low:
        return torch.ones_like(smooth)  # looked at alike everywhere: it may be anywhere
    return (((smooth - low) / (high - low) - LOW) / (HIGH - LOW)).clamp(0, 1)


def paste(edited: Image.Image, photograph: Image.Image, pixels: np.ndarray) -> Image.Image:
    """The photograph with the edit in the region; where `pixels` is 0, the photograph's own to the last bit."""
    new, old = (np.asarray(image.convert("RGB"), np.float32) for image in (edited, photograph))
    mixed = old + pixels[..., None] * (new - old)
    return Image.fromarray(mixed.round().clip(0, 255).astype(np.uint8))


def _dilate(soft: Tensor, margin: float) -> Tensor:
    reach = math.ceil(min(margin, max(soft.shape)))  # beyond the picture there is nothing
    return _blur(F.max_pool2d(soft, 2 * reach + 1, 1, reach)).maximum(soft) if reach else soft


def _blur(maps: Tensor) -> Tensor:  # (1,1,h,w)
    """Binomial, over three cells each way."""
    taps = torch.tensor([0.25, 0.5, 0.25], dtype=maps.dtype, device=maps.device)
    return F.conv2d(F.pad(maps, (1, 1, 1, 1), mode="replicate"), (taps[:, None] * taps)[None, None])


def _tensor(image: Image.Image) -> Tensor:  # L -> (h,w) in [0,1]
    return torch.from_numpy(np.asarray(image, np.float32) / 255)
