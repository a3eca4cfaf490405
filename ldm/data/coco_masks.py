"""COCO's masks: polygons and run-length encodings of untrusted files, decoded, and the centres of the objects in them."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from pycocotools import mask as coding
from scipy import ndimage

from ldm.data.values import number, whole
from ldm.graph.validation import Box

Point = tuple[float, float]

RUN_LENGTHS = re.compile(r"[0-o]*[0-O]")  # characters carry 5 bits, and the last one of a number lacks the sixth
MAX_PIXELS = 1 << 28  # of a mask; Pillow refuses images of this size
# A polygon's cost is its length, so its points are moved to at most so many image sides outside of the image.
MARGIN = 10


def has_mask(segmentation: Any) -> bool:
    """Whether an annotation has a mask; detection files have none, an empty list or null."""
    return bool(segmentation) and any(segmentation)


def decode_mask(segmentation: Any, width: int, height: int) -> np.ndarray:
    """Returns a mask (H,W) of 0 and 1.

    Args:
        segmentation: polygons [[x, y, x, y, ...], ...], or a run-length encoding whose counts are numbers or text.
        width: of the image in pixels; `height` likewise.

    Raises:
        Exception: of many classes; the segmentation is neither.
    """
    if isinstance(segmentation, list):
        limit = MARGIN * max(width, height)
        # pycocotools takes 4 numbers for a box
        polygons = [_parse_polygon(polygon, limit) for polygon in segmentation if len(polygon) >= 6]
        if not polygons:
            return np.zeros((height, width), np.uint8)
        return coding.decode(coding.merge(coding.frPyObjects(polygons, height, width)))
    size, counts = [whole(side) for side in segmentation["size"]], segmentation["counts"]
    if min(size) < 1 or size[0] * size[1] > MAX_PIXELS:
        raise ValueError(f"its size is {size}")
    if isinstance(counts, list):
        counts = [whole(count) for count in counts]
        if min(counts, default=0) < 0 or sum(counts) > size[0] * size[1]:
            raise ValueError(f"its run lengths exceed its size {size}")
        return coding.decode(coding.frPyObjects({"size": size, "counts": counts}, *size))
    if not RUN_LENGTHS.fullmatch(counts):
        raise ValueError("its run lengths are cut short")  # pycocotools would read beyond their end
    return coding.decode({"size": size, "counts": counts})


def mask_centre(mask: np.ndarray) -> Point | None:
    """Returns the mean position x, y in [0,1] of the pixels of a mask (H,W), or None if it is empty."""
    if not mask.any():
        return None
    columns, rows = mask.sum(0, dtype=np.int64), mask.sum(1, dtype=np.int64)
    x, y = (counts @ (np.arange(len(counts)) + 0.5) / counts.sum() / len(counts) for counts in (columns, rows))
    return float(x), float(y)


def small_mask_centre(mask: np.ndarray, box: Box, size: int) -> Point | None:
    """The centre by the published rule (sg2im, SGDiff): of the mask within its box, resized to `size` x `size`.

    The resized mask is that of scikit-image 0.19, which SGDiff names: a Gaussian filter, then linear interpolation, with zeros
    around the box. Its pixels stand for points from one edge of the box to the other.

    Args:
        mask: (H,W).
        box: x0 y0 x1 y1 in [0,1].
        size: sg2im's mask_size, 16.
    """
    height, width = mask.shape
    x0, y0, x1, y1 = box
    # rounded twice, since a fraction of the width times the width need not be the file's number
    (left, right), (top, bottom) = (
        [round(round(edge * side, 6)) for edge in edges] for edges, side in (((x0, x1), width), ((y0, y1), height))
    )
    cut = mask[top : max(bottom, top + 1), left : max(right, left + 1)].astype(np.float64)
    if not cut.any():  # or the box is thinner than a pixel, at the image's edge
        return None
    small = np.ones((size, size), bool)
    if not cut.all():  # scikit-image clips the result to the range of the mask
        if max(cut.shape) > size:
            cut = ndimage.gaussian_filter(cut, [max(0, side / size - 1) / 2 for side in cut.shape], mode="constant")
        zoom = [size / side for side in cut.shape]
        small = np.asarray(ndimage.zoom(cut, zoom, order=1, mode="grid-constant", grid_mode=True)) > 128 / 255
    if not small.any():
        return None
    xs, ys = np.linspace(x0, x1, size), np.linspace(y0, y1, size)
    return float(small.sum(0) @ xs / small.sum()), float(small.sum(1) @ ys / small.sum())


def _parse_polygon(polygon: list, limit: float) -> list[float]:
    """Raises ValueError for coordinates that are no numbers."""
    numbers = [number(coordinate) for coordinate in polygon]
    if any(coordinate != coordinate for coordinate in numbers):
        raise ValueError("a coordinate is not a number")
    return [min(max(coordinate, -limit), limit) for coordinate in numbers]
