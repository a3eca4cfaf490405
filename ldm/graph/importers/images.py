"""Sizes of images, and boxes in pixels to boxes in fractions of the upright image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from ldm.graph.importers.entries import Corners, Entry, Size, Source
from ldm.graph.validation import Box, GraphError

SUFFIXES = ("", ".jpg", ".png")
ORIENTATION = 0x0112  # the EXIF tag
# EXIF orientations whose upright image has columns for rows, and thereafter left and right, or top and bottom, exchanged.
TRANSPOSED, MIRRORED, UPSIDE_DOWN = (5, 6, 7, 8), (2, 3, 6, 7), (3, 4, 7, 8)
ROUNDING = 1e-3  # fractions may exceed 1 by this much


class ImageFile(NamedTuple):
    """An image file: its path, the size of its stored pixels, and its EXIF orientation (1: they are upright)."""

    path: Path
    size: Size
    orientation: int


def find_image(entry: Entry, source: Source) -> ImageFile | None:
    """The image of an entry: the photograph that is edited, else the file of that name in the folder; None without one."""
    if source.photograph is not None:
        return read_image_file(source.photograph)
    if not entry.image or source.folder is None:
        return None
    for name in dict.fromkeys((entry.image, Path(entry.image).name)):
        for suffix in SUFFIXES:
            if found := read_image_file(source.folder / f"{name}{suffix}"):
                return found
    return None


def read_image_file(path: Path) -> ImageFile | None:
    """Size and orientation of an image; None if it is missing or broken."""
    try:
        with Image.open(path) as image:
            return ImageFile(path, image.size, image.getexif().get(ORIENTATION, 1))
    except Exception:  # decoders raise OSError, SyntaxError, struct.error, ... for a broken file
        return None


def to_fractions(
    boxes: Sequence[Corners | None], entry: Entry, image: ImageFile | None, where: str
) -> list[Box | None]:
    """Boxes as fractions of the upright image; None for a box without area in the image.

    Boxes that are all within 0 to 1 are fractions already, others are in pixels. Other programs' boxes refer to stored
    pixels, unless the size that their file says is that of the upright image.

    Raises:
        GraphError: the boxes are in pixels, and the size of the image is unknown.
    """
    known = [box for box in boxes if box is not None]
    size = entry.size or (image and image.size)
    if all(-ROUNDING <= edge <= 1 + ROUNDING for box in known for edge in box):
        width, height = 1.0, 1.0
    elif size is None:
        raise GraphError(
            f"{where}: boxes are in pixels, but the size of the image is unknown; put the image beside the file, name it "
            'with --ref, or add "width" and "height"'
        )
    else:
        width, height = entry.resized(size)
    turn = 1 if image is None or (entry.size and entry.size != image.size) else image.orientation
    return [box and _fraction(box, width, height, turn) for box in boxes]


def _fraction(box: Corners, width: float, height: float, orientation: int) -> Box | None:
    """A box of stored pixels as fractions of the upright image."""
    if box[0] >= box[2] or box[1] >= box[3]:
        return None
    xs = [min(max(edge / width, 0.0), 1.0) for edge in box[::2]]
    ys = [min(max(edge / height, 0.0), 1.0) for edge in box[1::2]]
    if orientation in TRANSPOSED:
        xs, ys = ys, xs
    x0, x1 = (1 - xs[1], 1 - xs[0]) if orientation in MIRRORED else xs
    y0, y1 = (1 - ys[1], 1 - ys[0]) if orientation in UPSIDE_DOWN else ys
    return (x0, y0, x1, y1) if x0 < x1 and y0 < y1 else None
