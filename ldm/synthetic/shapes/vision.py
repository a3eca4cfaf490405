"""Reads a picture of coloured shapes: template matching for each colour, then a check of every pixel.

1.  Each pixel is assigned to the background, a plane fitted to the pale pixels, or to a colour of the palette, whose
    shades lie on a line through black.
2.  For each colour, every template (shape, side, position) is scored by correlation with a map of weights: a pixel of
    that colour counts up to +1, one of the background costs up to 2, and one of another object costs little, since that
    object may be in front. The best template becomes an object, its pixels are removed, and the search goes on.
3.  The pixels where objects overlap tell the depth order. With it each object is fitted again: pixels that an object in
    front covers are free, all other pixels of another colour cost 1.
"""

from __future__ import annotations

import math
from functools import cache
from typing import NamedTuple

import numpy as np
import torch

from ldm.graph.scene_graph import SceneGraph
from ldm.graph.validation import Box
from ldm.synthetic.annotation import box_of
from ldm.synthetic.readings import SceneReading, dilate, erode, remove_thin, resize_to_cells
from ldm.synthetic.shapes.rendering import (
    STRIPE_BRIGHTNESS,
    STRIPE_HEIGHT,
    TEXTURE_CONTRAST,
    TEXTURE_PERIOD,
    TEXTURES,
    texture_pattern,
)
from ldm.synthetic.shapes.scenes import (
    CELLS,
    COLOURS,
    SHAPES,
    SIDES,
    back_to_front,
    graph_from_boxes,
    relation_holds,
    shape_mask,
)
from ldm.synthetic.shapes.style import StyleReading
from ldm.util.images import Picture

COLOUR_NAMES = tuple(COLOURS)
PALETTE = np.array([COLOURS[word] for word in COLOUR_NAMES], float)
BACKGROUND = len(PALETTE)  # index after the palette's, used inside `_classify_pixels`; outside it background is -1
TEMPLATE_SIDES = range(SIDES["small"][0] - 2, SIDES["large"][1] + 3)  # cells
LARGE_FROM = (SIDES["small"][1] + SIDES["large"][0]) / 2  # cells; a longer side is 'large'

# Step 1: classification of pixels
MAX_SATURATION, MIN_BRIGHTNESS = 0.43, 0.5  # of the background
MAX_BLEND_ERROR = 16.0  # levels by which a pixel may deviate from the blend of two others
MIN_EDGE_CONTRAST = 60.0  # levels between the two sides of an edge at which colours blend
# Step 2: weights and search
BACKGROUND_COST = 2.0  # high, so that one template over two objects and the gap between them does not pay
OCCLUDER_COST = 0.3  # of a pixel of another object, which may be in front
MIN_SCORE = 0.2  # of a template, as a share of its area
MIN_PIXELS = 30  # of a colour that are worth a search
MAX_ROUNDS = 3  # of search and fit: a fit may free pixels, in which the next search finds another object
# Step 3: acceptance
MAX_MISSING = 0.25  # share of an object's visible area that may have another colour
MAX_STRIPE_ERROR = 0.25  # RMS deviation from a fill's brightness beyond which no fill is reported


class Match(NamedTuple):
    """A template at a position, in cells."""

    colour: int  # index into COLOUR_NAMES
    shape: str
    side: int
    x: int
    y: int

    @property
    def box(self) -> Box:
        return self.x / CELLS, self.y / CELLS, (self.x + self.side) / CELLS, (self.y + self.side) / CELLS

    @property
    def window(self) -> tuple[slice, slice]:
        return slice(self.y, self.y + self.side), slice(self.x, self.x + self.side)

    def mask(self) -> np.ndarray:  # (64,64) bool
        mask = np.zeros((CELLS, CELLS), bool)
        mask[self.window] = _coverage(self.shape, self.side) > 0.5
        return mask


def read_scene(picture: Picture, shapes: tuple[str, ...] = SHAPES) -> SceneReading:
    """Recovers objects, relations and style from the pixels of a picture of any size.

    Args:
        shapes: that there may be, some of MORE_SHAPES.
    """
    pixels = resize_to_cells(picture, CELLS)
    label, weights = _classify_pixels(pixels)
    matches: list[Match] = []
    for _ in range(MAX_ROUNDS):
        new = [match for colour in range(len(PALETTE)) for match in _search(colour, label, weights, matches, shapes)]
        if not new:
            break
        matches = _sort_by_depth(_refit(_sort_by_depth(matches + new, label), label, weights, shapes), label)
    stray_pixels, complete = _verify(matches, label)
    matches = [match for match, is_complete in zip(matches, complete) if is_complete]
    covered = np.zeros((CELLS, CELLS), bool)
    for match in matches:
        covered |= match.mask()
    style = _read_style(pixels, ~dilate(covered, 2) & (label < 0))
    return SceneReading(_to_graph(matches, label, pixels), stray_pixels, style)


def triple_holds(reading: SceneReading, subject: int, predicate: str, object: int) -> bool:
    """Whether a triple is true of two objects of a reading, from their boxes and their depth order."""
    assert reading.graph is not None
    boxes = box_of(reading.graph, subject), box_of(reading.graph, object)
    return relation_holds(boxes[0], predicate, boxes[1], in_front=subject > object)


def _to_graph(matches: list[Match], label: np.ndarray, pixels: np.ndarray) -> SceneGraph | None:
    if not matches:
        return None
    attributes = []
    for match in matches:
        size = "large" if match.side > LARGE_FROM else "small"
        attributes.append((size, COLOUR_NAMES[match.colour], *_read_fill(match, matches, label, pixels)))
    return graph_from_boxes([match.shape for match in matches], [match.box for match in matches], attributes)


# Pixels --------------------------------------------------------------------------------------------------------------


def _classify_pixels(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:  # (64,64,3) -> (64,64), (6,64,64)
    """Each pixel's colour as an index into COLOUR_NAMES, -1 for background, and the weights of step 2."""
    brightest, darkest = pixels.max(-1), pixels.min(-1)
    pale = (brightest - darkest <= MAX_SATURATION * brightest) & (brightest >= 255 * MIN_BRIGHTNESS)
    inner = erode(pale)
    pale = inner if inner.sum() > CELLS else pale
    background = _distance_to_shades(pixels, _fit_plane(pixels, pale), 1 - 1.2 * TEXTURE_CONTRAST, 1.05)
    colours = np.stack([_distance_to_shades(pixels, colour, STRIPE_BRIGHTNESS, 1.1) for colour in PALETTE])
    label = _relabel_blends(pixels, np.concatenate([colours, background[None]]).argmin(0))
    weights = np.clip(1.3 * (background - colours) / (background + colours + 1e-6), -1, 1)
    weights[weights < 0] *= BACKGROUND_COST
    own = label == np.arange(len(PALETTE))[:, None, None]
    weights[own] = np.maximum(weights[own], 0.5)
    weights[~own & (label != BACKGROUND)] = -OCCLUDER_COST
    return np.where(label != BACKGROUND, label, -1), weights


def _relabel_blends(pixels: np.ndarray, label: np.ndarray) -> np.ndarray:  # (64,64)
    """At an edge two colours may blend to a third one; there the nearer of the two becomes the label."""
    reach = 3
    padded = np.pad(pixels, ((reach, reach), (reach, reach), (0, 0)), mode="edge")
    padded_label = np.pad(label, reach, mode="edge")
    relabelled, least = label.copy(), np.full(label.shape, MAX_BLEND_ERROR)
    for distance in (2, 3):
        for down, right in ((0, distance), (distance, 0), (distance, distance), (distance, -distance)):
            back = slice(reach - down, reach - down + CELLS), slice(reach - right, reach - right + CELLS)
            ahead = slice(reach + down, reach + down + CELLS), slice(reach + right, reach + right + CELLS)
            start, difference = padded[back], padded[ahead] - padded[back]
            length = (difference * difference).sum(-1) + 1e-6
            share = ((pixels - start) * difference).sum(-1) / length
            error = np.sqrt(np.square(pixels - start - share[..., None] * difference).sum(-1))
            blend = (length > MIN_EDGE_CONTRAST**2) & (abs(share - 0.5) < 0.4) & (error < least)
            relabelled = np.where(blend, np.where(share < 0.5, padded_label[back], padded_label[ahead]), relabelled)
            least = np.where(blend, error, least)
    return relabelled


def _distance_to_shades(pixels: np.ndarray, colour: np.ndarray, dark: float, light: float) -> np.ndarray:  # (64,64)
    """Distance of each pixel to the nearest shade of a colour between `dark` and `light` times its brightness."""
    shade = (pixels * colour).sum(-1) / (colour * colour).sum(-1)
    return np.linalg.norm(pixels - np.clip(shade, dark, light)[..., None] * colour, axis=-1)


def _fit_plane(pixels: np.ndarray, where: np.ndarray) -> np.ndarray:  # (64,64,3)
    """A linear gradient, fitted by least squares to the pixels of a mask."""
    if not where.any():
        return np.full_like(pixels, 225)
    x, y, _ = _design_fields()
    design = np.stack([np.ones_like(x), x, y], -1)
    return design @ np.linalg.lstsq(design[where], pixels[where], rcond=None)[0]


# Objects -------------------------------------------------------------------------------------------------------------


def _search(
    colour: int, label: np.ndarray, weights: np.ndarray, known: list[Match], shapes: tuple[str, ...]
) -> list[Match]:
    """The objects of one colour that are not known yet, best first."""
    found, weight = [], weights[colour].copy()
    for match in known:
        if match.colour == colour:
            _remove_from(weight, match)
    while ((label == colour) & (weight > 0)).sum() >= MIN_PIXELS:
        match = _best_match(colour, weight, shapes)
        coverage = _coverage(match.shape, match.side)
        if (coverage * weight[match.window]).sum() < MIN_SCORE * coverage.sum():
            break
        found.append(match)
        _remove_from(weight, match)
    return found


def _remove_from(weight: np.ndarray, match: Match) -> None:
    mask = match.mask()
    weight[dilate(mask)] = -OCCLUDER_COST
    weight[mask] = -1


def _refit(matches: list[Match], label: np.ndarray, weights: np.ndarray, shapes: tuple[str, ...]) -> list[Match]:
    """Fits the objects, given from back to front, again: pixels that an object in front covers are nearly free."""
    refitted, front = [], np.zeros((CELLS, CELLS), bool)
    for match in reversed(matches):
        weight = weights[match.colour].copy()
        weight[(label >= 0) & (label != match.colour)] = -1
        weight[front] = np.maximum(weight[front], -OCCLUDER_COST / 10)
        for other in matches:
            if other.colour == match.colour and other != match:
                weight[other.mask()] = -1
        match = _best_match(match.colour, weight, shapes)
        refitted.append(match)
        front |= dilate(match.mask())
    return refitted[::-1]


def _best_match(colour: int, weight: np.ndarray, shapes: tuple[str, ...]) -> Match:
    """The template and position with the highest score, by correlation in the Fourier domain."""
    transforms, penalties = _templates(shapes)
    spectrum = torch.fft.rfft2(torch.from_numpy(weight).float())
    score = torch.fft.irfft2(spectrum * transforms, weight.shape) + penalties  # wrapped positions are penalised
    kind, y, x = np.unravel_index(int(score.argmax()), score.shape)
    return Match(colour, *_shapes_and_sides(shapes)[int(kind)], int(x), int(y))


def _shapes_and_sides(shapes: tuple[str, ...]) -> list[tuple[str, int]]:
    return [(shape, side) for shape in shapes for side in TEMPLATE_SIDES]


@cache
def _templates(shapes: tuple[str, ...]) -> tuple[torch.Tensor, torch.Tensor]:  # (K,64,33) complex, (K,64,64)
    """Each template's conjugate transform, and a penalty for each position.

    The penalty is small for sides between the sizes, which no object has, and infinite outside of the picture.
    """
    templates = _shapes_and_sides(shapes)
    images = np.zeros((len(templates), CELLS, CELLS))
    penalties = np.full((len(templates), CELLS, CELLS), -np.inf)
    for index, (shape, side) in enumerate(templates):
        images[index, :side, :side] = _coverage(shape, side)
        positions = CELLS - side + 1
        beyond = min(max(shortest - side, side - longest, 0) for shortest, longest in SIDES.values())
        penalties[index, :positions, :positions] = -2.0 * beyond
    transforms = torch.fft.rfft2(torch.from_numpy(images).float()).conj()
    return transforms, torch.from_numpy(penalties).float()


@cache
def _coverage(shape: str, side: int) -> np.ndarray:  # (side,side) in 0..1
    fine = 4
    return shape_mask(shape, fine * side).reshape(side, fine, side, fine).mean((1, 3))


def _sort_by_depth(matches: list[Match], label: np.ndarray) -> list[Match]:
    """From back to front: where two objects overlap, the one whose colour is visible is in front."""
    if not matches:
        return []
    masks = [match.mask() for match in matches]
    triples = []
    for a in range(len(matches)):
        for b in range(a):
            both = label[masks[a] & masks[b]]
            difference = (both == matches[a].colour).sum() - (both == matches[b].colour).sum()
            if difference:
                triples.append((a, "in front of", b) if difference > 0 else (b, "in front of", a))
    graph = SceneGraph(tuple(match.shape for match in matches), triples=tuple(triples))
    return [matches[index] for index in back_to_front(graph)]


def _verify(matches: list[Match], label: np.ndarray) -> tuple[int, list[bool]]:
    """Counts the pixels that no object explains, and tells of each object whether it is completely visible.

    Strips as thin as a blurred edge do not count.
    """
    explained, hidden = label < 0, np.zeros((CELLS, CELLS), bool)
    complete = []
    for match in reversed(matches):
        mask = match.mask()
        near = dilate(mask)
        explained |= near & (label == match.colour)
        expected = erode(mask) & ~hidden
        missing = remove_thin(expected & (label != match.colour)).sum()
        complete.append(expected.any() and missing <= MAX_MISSING * expected.sum())
        hidden |= near
    return int(remove_thin(~explained, 2).sum()), complete[::-1]


def _read_fill(match: Match, matches: list[Match], label: np.ndarray, pixels: np.ndarray) -> tuple[str, ...]:
    """('plain',) or ('striped',), or () if the brightness fits neither."""
    visible = match.mask() & (label == match.colour)
    inner = visible & erode(match.mask())
    for other in matches[matches.index(match) + 1 :]:
        inner &= ~dilate(other.mask())
    visible = inner if inner.any() else visible
    rows, columns = np.nonzero(visible)
    colour = PALETTE[match.colour]
    brightness = pixels[rows, columns] @ colour / (colour @ colour)
    errors = {"plain": np.square(brightness - 1).mean()}
    offsets = [rows - match.y - start for start in (-1, 0, 1)]
    errors["striped"] = min(np.square(brightness - _stripe_profile(offset)).mean() for offset in offsets)
    fill = min(errors, key=lambda word: errors[word])
    return (fill,) if errors[fill] < MAX_STRIPE_ERROR**2 else ()


def _stripe_profile(rows: np.ndarray) -> np.ndarray:
    """Brightness of a striped shape at rows below its box's top, with edges as soft as an autoencoder's."""
    wave = np.clip(0.5 - 0.9 * np.sin(math.pi * (rows + 0.5) / STRIPE_HEIGHT), 0, 1)
    return 1 - (1 - STRIPE_BRIGHTNESS) * wave


# Style ---------------------------------------------------------------------------------------------------------------


def _read_style(pixels: np.ndarray, where: np.ndarray) -> StyleReading:
    """Fits gradient and textures together, by least squares over the pixels of a mask."""
    x, y, patterns = _design_fields()
    design = np.stack([np.ones_like(x), x, y, *patterns], -1)
    fit = np.linalg.lstsq(design[where], pixels[where], rcond=None)[0] if where.any() else np.zeros((6, 3))
    strength = -fit[3:].mean(1) / max(fit[0].mean(), 1)
    strongest = int(strength.argmax())
    texture = TEXTURES[1 + strongest] if strength[strongest] > TEXTURE_CONTRAST / 4 else TEXTURES[0]
    mean, right, down = ((float(red), float(green), float(blue)) for red, green, blue in fit[:3])
    return StyleReading(mean, (right, down), texture, tuple(map(float, strength)))


@cache
def _design_fields() -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """x and y from -0.5 to 0.5, and each texture but 'smooth' minus its mean; all (64,64)."""
    middle = (np.arange(CELLS) + 0.5) / CELLS
    periods = middle * CELLS / TEXTURE_PERIOD
    patterns = [texture_pattern(texture, periods[None, :], periods[:, None]) for texture in TEXTURES[1:]]
    y, x = np.meshgrid(middle - 0.5, middle - 0.5, indexing="ij")
    return x, y, [pattern - pattern.mean() for pattern in patterns]
