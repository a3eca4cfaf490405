"""What a prepared picture shows: a square crop of a frame, and things of other crops that are blended in."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from ldm.data.fod.blending import blend
from ldm.data.fod.voc import Clip, Frame, Pixels
from ldm.util.images import read_image

SIDE = 128  # of a picture, in pixels
MARGIN = 5  # pixels around a thing's box that are blended in with it

Thing = tuple[str, Pixels]


@dataclass(frozen=True)
class Crop:
    """A square part of a frame, made smaller.

    Args:
        clip: that the frame is of.
        frame: the frame.
        window: x, y and side of the part in the frame's pixels.
    """

    clip: Clip
    frame: Frame
    window: tuple[int, int, int]

    @property
    def things(self) -> list[Thing]:
        """Category and box, in pixels of the picture, of what lies in the window."""
        x, y, side = self.window
        scale = SIDE / side
        boxes = [
            (name, tuple(scale * (edge - low) for edge, low in zip(box, (x, y, x, y))))
            for name, box in self.frame.things
        ]
        return [(name, (a, b, c, d)) for name, (a, b, c, d) in boxes if c > 0 and d > 0 and a < SIDE and b < SIDE]

    def pixels(self) -> np.ndarray:
        """(SIDE,SIDE,3) uint8."""
        x, y, side = self.window
        picture = read_image(self.frame.path).convert("RGB").crop((x, y, x + side, y + side))
        return np.asarray(picture.resize((SIDE, SIDE), Image.Resampling.LANCZOS))


@dataclass(frozen=True)
class Paste:
    """A thing of another crop, blended in.

    Args:
        crop: where it is from.
        thing: its number among the crop's things.
        shift: x, y by which it is moved, in pixels.
    """

    crop: Crop
    thing: int
    shift: tuple[int, int]

    @property
    def as_thing(self) -> Thing:
        """Category and box at the new place."""
        name, box = self.crop.things[self.thing]
        dx, dy = self.shift
        return name, (box[0] + dx, box[1] + dy, box[2] + dx, box[3] + dy)

    def onto(self, target: np.ndarray) -> np.ndarray:
        """The target with the thing in it."""
        x0, y0, x1, y1 = patch_of(self.crop.things[self.thing][1])
        return blend(target, self.crop.pixels()[y0:y1, x0:x1], (x0 + self.shift[0], y0 + self.shift[1]))


@dataclass(frozen=True)
class Picture:
    """A picture of the prepared set.

    Args:
        file: its name.
        kind: real (an unaltered crop), empty (one without things) or mix (things are blended in).
        base: the crop that it shows.
        pastes: what is blended in, in order.
    """

    file: str
    kind: str
    base: Crop
    pastes: tuple[Paste, ...] = ()

    @property
    def things(self) -> list[Thing]:
        """Category and box of everything in it, the base's first."""
        return [*self.base.things, *(paste.as_thing for paste in self.pastes)]

    def draw(self) -> Image.Image:
        """The picture itself."""
        pixels = self.base.pixels()
        for paste in self.pastes:
            pixels = paste.onto(pixels)
        return Image.fromarray(pixels)


def patch_of(box: Pixels) -> tuple[int, int, int, int]:
    """The whole pixels of a box with its margin, which may reach beyond the picture."""
    x0, y0, x1, y1 = box
    return int(x0) - MARGIN, int(y0) - MARGIN, int(np.ceil(x1)) + MARGIN, int(np.ceil(y1)) + MARGIN


def fits(box: Pixels) -> bool:
    """Whether a box with its margin lies within a picture."""
    x0, y0, x1, y1 = patch_of(box)
    return min(x0, y0) >= 0 and max(x1, y1) <= SIDE


def apart(box: Pixels, other: Pixels) -> bool:
    """Whether the margins of two boxes do not touch."""
    a, b = patch_of(box), patch_of(other)
    return a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]
