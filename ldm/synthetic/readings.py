"""What a world reads from a picture, and the image operations that all readers share."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from scipy import ndimage

from ldm.graph.scene_graph import SceneGraph
from ldm.util.images import Picture

Colour = tuple[float, float, float]  # red, green, blue in 0..255

_NEIGHBOURS = np.ones((3, 3), bool)  # 8-connected


class SceneReading(NamedTuple):
    """What a picture shows, as a world's reader recovers it; with an exact graph also a scene before it is drawn."""

    graph: SceneGraph | None  # complete, objects in the world's order; None if no object was found
    stray_pixels: int = 0  # pixels in an object's colour that belong to no object, scaled to a picture of 64 x 64
    style: Any = None  # of the world's own type
    evidence: Any = None  # what else the world measured to decide whether a triple holds, of its own type


def resize_to_cells(picture: Picture, cells: int) -> np.ndarray:
    """The picture as (cells, cells, 3) floats in 0..255: box averages if larger, bilinear interpolation if smaller."""
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    image = image.convert("RGB")
    if image.size != (cells, cells):
        method = Image.Resampling.BOX if min(image.size) >= cells else Image.Resampling.BILINEAR
        image = image.resize((cells, cells), method)
    return np.asarray(image, float)


def dilate(mask: np.ndarray, by: int = 1) -> np.ndarray:
    """The mask (H,W), grown by `by` pixels on each side, corners included."""
    return ndimage.binary_dilation(mask, _NEIGHBOURS, iterations=by)


def erode(mask: np.ndarray, by: int = 1) -> np.ndarray:
    """The mask (H,W), shrunk by `by` pixels on each side, but not at the picture's border."""
    return ndimage.binary_erosion(mask, _NEIGHBOURS, iterations=by, border_value=1)


def remove_thin(mask: np.ndarray, by: int = 1) -> np.ndarray:
    """The mask (H,W) without parts narrower than 2 `by` + 1 pixels (binary opening; the border counts as inside)."""
    return dilate(erode(mask, by), by)
