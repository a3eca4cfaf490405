"""Tracks from segmentation masks: the parts of each class become objects, and those that touch are related.

This is how SG2VID (Sivakumar et al. 2506.03082; github.com/MECLabTUDA/SG2VID) makes its graphs: an object is a connected component
of one class, an edge joins components that touch. Its own graphs, which are pickled, are not read. Objects keep their ids from frame
to frame by the overlap of their boxes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, cast

import numpy as np
from scipy import ndimage

from ldm.graph.tracks import Relation, Tracks
from ldm.graph.validation import Box

TOUCHING = "touching"
MIN_AREA = 25 / 128**2  # of an object, as a fraction of the image; SG2VID's
MIN_TOUCH = 3  # pixels that two components share when one grows by a pixel; SG2VID's
MIN_OVERLAP = 0.1  # IoU of an object's boxes in two neighbouring frames
EIGHT = np.ones((3, 3), bool)  # neighbours of a pixel


class Component(NamedTuple):
    """A connected part of one class.

    Attributes:
        label: value of its pixels.
        pixels: (H,W) bool.
        box: x0 y0 x1 y1 as fractions of the image.
    """

    label: int
    pixels: np.ndarray
    box: Box


def find_components(
    mask: np.ndarray, background: Sequence[int] = (0, 255), min_area: float = MIN_AREA
) -> list[Component]:
    """The objects of a mask (H,W) of class numbers, in the order of class, row and column."""
    height, width = mask.shape
    found = []
    for label in np.unique(mask):
        if int(label) in background:
            continue
        numbered, count = cast(tuple[np.ndarray, int], ndimage.label(mask == label, EIGHT))
        places: list[tuple[slice, slice]] = ndimage.find_objects(numbered, count)
        areas = np.bincount(numbered.ravel())
        for number, (rows, columns) in enumerate(places, start=1):
            if areas[number] < min_area * mask.size:
                continue
            pixels = numbered == number
            box = columns.start / width, rows.start / height, columns.stop / width, rows.stop / height
            found.append(Component(int(label), pixels, box))
    return found


def touching(components: Sequence[Component]) -> list[tuple[int, int]]:
    """The pairs of components that touch, the first with the lower index."""
    pairs = []
    for first, one in enumerate(components):
        grown = ndimage.binary_dilation(one.pixels, EIGHT)
        pairs += [
            (first, second)
            for second, other in enumerate(components)
            if first < second and (grown & other.pixels).sum() >= MIN_TOUCH
        ]
    return pairs


def tracks_from_masks(
    masks: Iterable[np.ndarray],
    names: Mapping[int, str] | None = None,
    fps: float | None = None,
    background: Sequence[int] = (0, 255),
) -> Tracks:
    """The tracks of a video.

    Args:
        masks: N masks (H,W) of class numbers.
        names: of the classes; "class 3" for one without a name.
        fps: frames per second.
        background: class numbers that are no object.
    """
    found: dict[str, str] = {}
    boxes: list[dict[str, Box]] = []
    relations: list[frozenset[Relation]] = []
    for mask in masks:
        components = find_components(mask, background)
        ids = match_components(components, boxes[-1] if boxes else {}, found)
        for id_, component in zip(ids, components):
            found.setdefault(id_, (names or {}).get(component.label, f"class {component.label}"))
        boxes.append({id_: component.box for id_, component in sorted(zip(ids, components), key=lambda pair: pair[0])})
        pairs = (sorted((ids[first], ids[second])) for first, second in touching(components))
        relations.append(frozenset((one, TOUCHING, other) for one, other in pairs))
    return Tracks(found, boxes, relations, fps)


def match_components(components: Sequence[Component], before: Mapping[str, Box], known: Mapping[str, str]) -> list[str]:
    """The id of each component: that of the object of its class whose box in the frame before overlaps most, or a new one.

    Args:
        components: of a frame.
        before: boxes of the frame before, by id.
        known: all ids so far; an id is the class number and a number within the class, such as "3.0".
    """
    overlaps = sorted(
        (-iou(component.box, box), index, id_)
        for index, component in enumerate(components)
        for id_, box in before.items()
        if id_.startswith(f"{component.label}.")
    )
    ids: dict[int, str] = {}
    for overlap, index, id_ in overlaps:
        if -overlap >= MIN_OVERLAP and index not in ids and id_ not in ids.values():
            ids[index] = id_
    used = {*known, *ids.values()}
    for index, component in enumerate(components):
        if index not in ids:
            number = sum(id_.startswith(f"{component.label}.") for id_ in used)
            ids[index] = f"{component.label}.{number}"
            used.add(ids[index])
    return [ids[index] for index in range(len(components))]


def iou(one: Box, other: Box) -> float:
    """Intersection over union of two boxes."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    if width <= 0 or height <= 0:
        return 0.0
    shared = width * height
    areas = sum((x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in (one, other))
    return shared / (areas - shared)
