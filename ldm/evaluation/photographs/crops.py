"""Crops of photographs around boxes, with the category of what is in them, or "nothing" for the bare ground."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ldm.evaluation.photographs.annotations import EMPTY, REAL, PhotographError, PhotographSplit
from ldm.graph.validation import Box

NOTHING = "nothing"
CROP = 64  # side of a crop in pixels
CONTEXT = 1.6  # side of a crop as a multiple of the box's longer side; a classifier sees a part of it
LEAST = 0.15  # least side of a crop, as a share of the picture's
EMPTY_PLACES = 3  # crops of each photograph without things
BARE_SHARE = 0.2  # of photographs with things from which a crop of bare ground is taken
TRIES = 20  # of finding a place without things


class Crops(NamedTuple):
    """N crops.

    Args:
        pixels: (N,3,CROP,CROP) uint8.
        labels: (N,) indices into `classes`.
        classes: categories in alphabetical order, then `NOTHING`.
    """

    pixels: Tensor
    labels: Tensor
    classes: tuple[str, ...]


def crop_around(picture: Image.Image, box: Box) -> Tensor:  # -> (3,CROP,CROP) uint8
    """The square around a box's middle, mirrored at the picture's edges."""
    pixels = np.asarray(picture.convert("RGB"))
    height, width = pixels.shape[:2]
    x0, y0, x1, y1 = box[0] * width, box[1] * height, box[2] * width, box[3] * height
    side = max(CONTEXT * max(x1 - x0, y1 - y0), LEAST * min(width, height))
    pad = min(int(side) + 1, min(width, height) - 1)
    padded = Image.fromarray(np.pad(pixels, ((pad, pad), (pad, pad), (0, 0)), "reflect"))
    x, y = (x0 + x1) / 2 + pad, (y0 + y1) / 2 + pad
    window = (x - side / 2, y - side / 2, x + side / 2, y + side / 2)
    crop = padded.resize((CROP, CROP), Image.Resampling.BICUBIC, window)
    return torch.from_numpy(np.asarray(crop).copy()).permute(2, 0, 1)


def read_crops(split: PhotographSplit, seed: int = 0, classes: Sequence[str] | None = None) -> Crops:
    """Crops of everything in the unaltered photographs of a split, and of bare ground. Composed pictures are left out.

    Args:
        seed: of the places of bare ground.
        classes: of the result; by default all categories of the file that occur, and `NOTHING`.

    Raises:
        PhotographError: the split has no unaltered photographs, or things of other classes.
    """
    pixels, labels = [], []
    for label, crop in _cut(split, random.Random(f"crops/{seed}")):
        labels.append(label)
        pixels.append(crop)
    if not set(labels) - {NOTHING}:
        raise PhotographError(
            f"{split.path('instances')}: no image of the kind {REAL!r} has a thing; prepare the folder again"
        )
    found = (*sorted(set(labels) - {NOTHING}), NOTHING)
    classes = tuple(classes or found)
    for name in found:
        if name not in classes:
            raise PhotographError(
                f"{split.path('instances')}: the category {name!r} is unknown to the classifier; train it again"
            )
    return Crops(torch.stack(pixels), torch.tensor([classes.index(label) for label in labels]), classes)


def _cut(split: PhotographSplit, rng: random.Random) -> Iterator[tuple[str, Tensor]]:
    """Labels and crops of a split, photograph by photograph."""
    sizes = [thing.box for things in split.things.values() for thing in things]
    for image, fields in split.images.items():
        if fields.get("kind") not in (REAL, EMPTY):
            continue
        things = split.things[image]
        bare = EMPTY_PLACES if fields["kind"] == EMPTY else int(rng.random() < BARE_SHARE)
        if not (things or bare):
            continue
        picture = split.picture(image)
        for thing in things:
            yield thing.name, crop_around(picture, thing.box)
        for _ in range(bare if sizes else 0):
            place = _bare_place([thing.box for thing in things], rng.choice(sizes), rng)
            if place is not None:
                yield NOTHING, crop_around(picture, place)


def _bare_place(taken: Sequence[Box], size: Box, rng: random.Random) -> Box | None:
    """A box of some size that overlaps none of others, somewhere in the picture; None if none was found."""
    width, height = size[2] - size[0], size[3] - size[1]
    for _ in range(TRIES):
        x, y = rng.uniform(0, 1 - width), rng.uniform(0, 1 - height)
        box = x, y, x + width, y + height
        if not any(overlap(box, other) for other in taken):
            return box
    return None


def overlap(box: Box, other: Box) -> float:
    """Area of the intersection of two boxes, as a share of the first."""
    width = min(box[2], other[2]) - max(box[0], other[0])
    height = min(box[3], other[3]) - max(box[1], other[1])
    return max(0.0, width) * max(0.0, height) / ((box[2] - box[0]) * (box[3] - box[1]))
