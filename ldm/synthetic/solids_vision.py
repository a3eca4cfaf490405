"""Reads a picture of shaded solids by analysis through synthesis.

1.  Light and shadow change neither hue nor, on the pale floor, saturation. These two assign each pixel to a colour of
    the palette or to the background.
2.  For each colour, the silhouettes of all shapes and sides are scored by correlation: a pixel of that colour counts
    up to +1, one of the background costs up to 1, and one of another object costs little, since that object may be in
    front. The best silhouette becomes an object, its pixels are removed, and the search goes on.
3.  The bases and overlaps of the objects tell the depth order. Each object is then rendered in every shape and material
    at the places around, and the rendering that is most similar to the picture is kept.
4.  The pixels that no object explains are searched again.
"""

from __future__ import annotations

import colorsys
from functools import cache
from typing import NamedTuple

import numpy as np
import torch

from ldm.graph.scene_graph import SceneGraph
from ldm.graph.validation import Box
from ldm.synthetic import solids
from ldm.synthetic.readings import SceneReading, StyleReading, dilate, erode, remove_thin, resize_to_cells
from ldm.synthetic.shapes.scenes import back_to_front
from ldm.synthetic.solids import CELLS, COLOURS, FINE, GLOW, HAZE, HORIZON, MATERIALS, REACH, SHAPES, SIDES
from ldm.util.images import Picture

WORDS = tuple(COLOURS)
HUES = np.array([colorsys.rgb_to_hsv(*colour)[0] for colour in COLOURS.values()])
HALF = CELLS // 2  # the search runs at half the resolution
LIMITS = range(18, 44, 2)  # sides of the search, in cells; `_climb` tries those between
KINDS = [(shape, length) for shape in SHAPES for length in LIMITS]
PALE, SATURATED = 0.18, 0.34  # saturation of sure background at most, of a sure object at least
COVERED = 0.15  # least gain of a silhouette, as a share of its area
HIDDEN = 0.3  # cost of a pixel of another object, which may be in front
FEWEST = 60  # least number of pixels of a colour that are worth a search
UNLIKE = 60.0  # distance to the rendering, in levels, beyond which a pixel does not belong to the solid
# Changes of side, x and y from a candidate to its neighbours: a shift by a pixel, or growth that keeps a corner.
STEPS = [(0, dx, dy) for dx in (-1, 0, 1) for dy in (-1, 0, 1) if dx or dy]
STEPS += [(more, dx, dy) for more in (-1, 1) for dx in (0, -more) for dy in (0, -more)]
LACKING = 0.25  # share of an object's visible pixels that may differ from its rendering
ROUNDS = 2
LIT = ("from the left", "from above", "from the right")
STRAY = (CELLS / 64) ** 2  # pixels that correspond to one pixel of a picture of 64 x 64


class Found(NamedTuple):
    """A solid at a position, in cells."""

    colour: int  # of WORDS
    shape: str
    side: int
    x: int
    y: int
    material: str = MATERIALS[0]

    @property
    def base(self) -> int:
        return self.y + self.side

    @property
    def box(self) -> Box:
        return self.x / CELLS, self.y / CELLS, (self.x + self.side) / CELLS, self.base / CELLS

    @property
    def window(self) -> tuple[slice, slice]:
        return slice(self.y, self.base), slice(self.x, self.x + self.side)

    @property
    def size(self) -> str:
        return min(SIDES, key=lambda size: abs(solids.side(size, self.base) - self.side))

    def mask(self) -> np.ndarray:  # (128,128) bool
        mask = np.zeros((CELLS, CELLS), bool)
        mask[self.window] = _silhouette(self.shape, self.side) > 0.5
        return mask


def read_scene(picture: Picture) -> SceneReading:
    """Recovers objects, relations and style from the pixels of a picture of any size."""
    pixels = resize_to_cells(picture, CELLS)
    label, weight = _classify(pixels)
    found = _ordered(_search(label, weight, label >= 0), label)
    lamp = _lamp(pixels, _bare(found, label))
    for _ in range(ROUNDS):  # a better fit of one object improves the visibility of others
        found = _ordered(_refined(found, pixels, label, weight, lamp), label)
        more = _search(label, weight, remove_thin(_unexplained(found, label)))
        found = _ordered(found + more, label)
    stray, whole = _account(found, pixels, label, lamp)
    found = sorted((thing for thing, is_whole in zip(found, whole) if is_whole), key=lambda thing: thing.base)
    graph = None
    if found:
        attributes = [(thing.size, WORDS[thing.colour], thing.material) for thing in found]
        graph = solids.graph_from_boxes([thing.shape for thing in found], [thing.box for thing in found], attributes)
    return SceneReading(graph, stray, _read_style(pixels, _bare(found, label)))


def _classify(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:  # (128,128,3) -> (128,128) twice
    """Each pixel's colour as an index into WORDS, -1 for background, and the certainty, 1 to -1, that it is an object's."""
    brightest, spread = pixels.max(-1), np.ptp(pixels, -1)
    saturation = spread / np.maximum(brightest, 24)  # black has no colour
    hue = _hue(pixels, brightest, spread)
    away = np.abs(hue[..., None] - HUES)
    nearest = np.minimum(away, 1 - away).argmin(-1)
    weight = np.clip(2 * (saturation - PALE) / (SATURATED - PALE) - 1, -1, 1)
    return np.where(weight > 0, nearest, -1), weight


def _hue(pixels: np.ndarray, brightest: np.ndarray, spread: np.ndarray) -> np.ndarray:  # -> (128,128) in [0,1)
    red, green, blue = np.moveaxis(pixels, -1, 0)
    spread = np.maximum(spread, 1e-6)
    sectors = (green - blue) / spread % 6, (blue - red) / spread + 2, (red - green) / spread + 4
    return np.select([brightest == red, brightest == green], sectors[:2], sectors[2]) / 6


def _search(label: np.ndarray, weight: np.ndarray, unexplained: np.ndarray) -> list[Found]:
    """New objects that explain pixels of a mask: for each colour, best first."""
    found: list[Found] = []
    for colour in range(len(WORDS)):
        gain = np.where(label == colour, weight * unexplained, np.where(label >= 0, -HIDDEN, weight))
        while (gain > 0).sum() >= FEWEST:
            thing = _best_cover(colour, gain)
            cover = _silhouette(thing.shape, thing.side)
            if (cover * gain[thing.window]).sum() < max(FEWEST, COVERED * cover.sum()):
                break
            found.append(thing)
            mask = thing.mask()
            gain[dilate(mask)] = 0
            gain[mask] = -1
    return found


def _best_cover(colour: int, gain: np.ndarray, near: Found | None = None) -> Found:
    """The silhouette with the highest gain, to two pixels, anywhere or in the neighbourhood of a first guess."""
    transforms, places = _templates()
    spectrum = torch.fft.rfft2(torch.from_numpy(_halved(gain)).float())
    total = 4 * torch.fft.irfft2(spectrum * transforms, (HALF, HALF)) + places
    top = left = 0
    if near is not None:
        top, left = (max(0, at // 2 - 6) for at in (near.y, near.x))
        total = total[:, top : near.y // 2 + 7, left : near.x // 2 + 7]
    kind, y, x = (int(index) for index in np.unravel_index(int(total.argmax()), total.shape))
    return Found(colour, *KINDS[kind], 2 * (left + x), 2 * (top + y))


@cache
def _templates() -> tuple[torch.Tensor, torch.Tensor]:  # (39,64,33) complex, (39,64,64)
    """Each silhouette's conjugate transform, at half the size, and a penalty for each position.

    The penalty grows with the deviation from a possible side, and is infinite outside of the picture.
    """
    images = np.zeros((len(KINDS), HALF, HALF))
    places = np.full((len(KINDS), HALF, HALF), -np.inf)
    for index, (shape, length) in enumerate(KINDS):
        images[index, : length // 2, : length // 2] = _halved(_silhouette(shape, length))
        reach = HALF - length // 2 + 1
        places[index, :reach, :reach] = [[-_unusual(2 * y + length, length)] for y in range(reach)]
    return torch.fft.rfft2(torch.from_numpy(images).float()).conj(), torch.from_numpy(places).float()


def _halved(field: np.ndarray) -> np.ndarray:  # (H,W) -> (H/2,W/2), means
    height, width = field.shape
    return field.reshape(height // 2, 2, width // 2, 2).mean((1, 3))


def _unusual(base: float, length: float) -> float:
    """Penalty in pixels of a side that belongs to neither size at this base."""
    return 3.0 * max(0.0, min(abs(solids.side(size, base) - length) for size in SIDES) - 1.0)


@cache
def _silhouette(shape: str, side: int) -> np.ndarray:  # (side,side) in 0..1
    return solids.sprite(shape, False, 0.0, FINE * side, FINE * side, 0, 0)[0][..., 0]


@cache
def _drawing(colour: int, shape: str, side: int, material: str, lamp: float) -> np.ndarray:  # (side,side,3)
    """Colours of a rendered solid, without the background at its edge."""
    place = (FINE * side, FINE * side, 0, 0)
    cover, shade, gloss = solids.sprite(shape, material == "metal", lamp, *place)
    return (shade * np.array(COLOURS[WORDS[colour]]) + 255 * gloss) / np.maximum(cover, 1e-3)


def _ordered(found: list[Found], label: np.ndarray) -> list[Found]:
    """From back to front: where two overlap, the one whose colour is visible is in front, otherwise the lower base."""
    found = sorted(found, key=lambda thing: thing.base)
    if not found:
        return []
    masks = [thing.mask() for thing in found]
    triples = []
    for a in range(len(found)):
        for b in range(a):
            both = label[masks[a] & masks[b]]
            more = int((both == found[a].colour).sum()) - int((both == found[b].colour).sum())
            if more:
                triples.append((a, "in front of", b) if more > 0 else (b, "in front of", a))
    graph = SceneGraph(tuple(thing.shape for thing in found), triples=tuple(triples))
    return [found[index] for index in back_to_front(graph)]


def _refined(found: list[Found], pixels: np.ndarray, label: np.ndarray, weight: np.ndarray, lamp: float) -> list[Found]:
    """Fits each object again, from front to back, to the pixels that no object in front hides."""
    better: list[Found] = []
    hidden = np.zeros((CELLS, CELLS), bool)
    masks = [thing.mask() for thing in found]
    for index in reversed(range(len(found))):
        thing = found[index]
        own = np.where(label == thing.colour, np.maximum(weight, 0), 0)
        for other, mask in zip(found, masks):
            if other is not thing and other.colour == thing.colour:
                own[dilate(mask, 2)] = 0
        gain = np.where(own > 0, own, np.where(label >= 0, -1, np.minimum(weight, 0)))
        gain[hidden] = 0
        thing = _best_cover(thing.colour, gain, thing)._replace(material=thing.material)
        thing = _climb(thing, pixels, own, ~hidden, lamp)
        better.append(thing)
        hidden |= dilate(thing.mask())
    return better[::-1]


def _climb(thing: Found, pixels: np.ndarray, own: np.ndarray, visible: np.ndarray, lamp: float) -> Found:
    """Hill climbing: moves to the best neighbour until none is better."""
    rows = slice(max(0, thing.y - 8), thing.base + 8)
    columns = slice(max(0, thing.x - 8), thing.x + thing.side + 8)
    own = np.where(visible, own, 0.0)
    within = own[rows, columns].sum()

    @cache
    def badness(candidate: Found) -> float:
        """Covered pixels that differ from the rendering, plus pixels of the colour that stay uncovered."""
        x, y, side = candidate.x, candidate.y, candidate.side
        if min(x, y) < 0 or max(x, y) + side > CELLS or not LIMITS.start <= side < LIMITS.stop:
            return np.inf
        cover = _silhouette(candidate.shape, side) * visible[candidate.window]
        apart = pixels[candidate.window] - _drawing(*candidate[:3], candidate.material, lamp)
        unlike = np.minimum(np.einsum("ijk,ijk->ij", apart, apart) / UNLIKE**2, 1)
        bare = within - (cover * own[candidate.window]).sum()
        return float((cover * unlike).sum() + bare + 0.2 * _unusual(candidate.base, side))

    while True:
        kinds = [thing._replace(shape=shape, material=material) for shape in SHAPES for material in MATERIALS]
        first, second, *_ = sorted(kinds, key=badness)
        around = [
            kind._replace(side=kind.side + more, x=kind.x + dx, y=kind.y + dy)
            for kind in (first, second)
            for more, dx, dy in STEPS
        ]
        best = min(first, *around, key=badness)
        if badness(best) >= badness(thing):
            return thing
        thing = best


def _account(found: list[Found], pixels: np.ndarray, label: np.ndarray, lamp: float) -> tuple[int, list[bool]]:
    """Counts stray pixels, scaled to a picture of 64 x 64, and tells of each object whether it is completely visible.

    Lines as thin as a blurred edge do not count.
    """
    hidden = np.zeros((CELLS, CELLS), bool)
    whole = []
    for thing in reversed(found):
        mask = thing.mask()
        due = erode(mask) & ~hidden
        wrong = np.zeros_like(due)
        apart = pixels[thing.window] - _drawing(*thing[:3], thing.material, lamp)
        wrong[thing.window] = np.linalg.norm(apart, axis=-1) > UNLIKE
        whole.append(bool(remove_thin(due & wrong).sum() <= LACKING * due.sum() and due.any()))
        hidden |= dilate(mask, 2)
    return round(remove_thin(_unexplained(found, label)).sum() / STRAY), whole[::-1]


def _unexplained(found: list[Found], label: np.ndarray) -> np.ndarray:  # (128,128) bool
    """Pixels in an object's colour that lie in or at no object of that colour."""
    left = label >= 0
    for thing in found:
        left &= ~(dilate(thing.mask(), 2) & (label == thing.colour))
    return left


def _bare(found: list[Found], label: np.ndarray) -> np.ndarray:  # (128,128) bool
    """Pixels of the background outside of objects and shadows."""
    bare = ~dilate(label >= 0, 2)
    for thing in found:
        reach = round(REACH * thing.side) + 1
        rows, columns = (slice(max(0, at - reach), at + thing.side + reach) for at in (thing.y, thing.x))
        bare[rows, columns] = False
    return bare


def _lamp(pixels: np.ndarray, bare: np.ndarray) -> float:
    """The lamp of LAMPS that is nearest to the brightness slope."""
    lamp = _slope(pixels, bare) / GLOW
    return min(solids.LAMPS, key=lambda known: abs(known - lamp))


def _slope(pixels: np.ndarray, bare: np.ndarray) -> float:
    """Rise of log brightness from the middle to the right edge, by least squares in each row."""
    x = np.broadcast_to(_across(), bare.shape)
    count = np.maximum(bare.sum(1, keepdims=True), 1)
    brightness = np.log(np.maximum(pixels.sum(-1), 1))
    x, brightness = (np.where(bare, v - np.where(bare, v, 0).sum(1, keepdims=True) / count, 0) for v in (x, brightness))
    return float((x * brightness).sum() / max((x * x).sum(), 1e-6))


def _read_style(pixels: np.ndarray, bare: np.ndarray) -> StyleReading:
    """Fits the background; `texture` is the side that the light comes from, `strength` its brightness slope."""
    slope = _slope(pixels, bare)
    ramp = (np.arange(CELLS) + 0.5) / CELLS
    down = np.clip((ramp - HORIZON) / (1 - HORIZON), 0, 1)
    floor = np.clip((ramp - HORIZON) / HAZE + 0.5, 0, 1)
    shares = np.stack([1 - floor, floor * (1 - down), floor * down], -1)  # of wall, far and near in each row
    light = np.exp(slope * _across())[None, :, None]
    counts = bare.sum(1)[:, None]
    seen = (pixels / light * bare[..., None]).sum(1) / np.sqrt(np.maximum(counts, 1))
    colours = np.linalg.lstsq(shares * np.sqrt(counts), seen, rcond=None)[0]
    ground = (shares @ colours)[:, None] * light
    scale = 2 * _across() / (_across() ** 2).mean()  # of a least-squares slope between the edges
    fields = ground, ground * scale[None, :, None], ground * scale[:, None, None]
    mean, right, below = ((float(r), float(g), float(b)) for r, g, b in (field.mean((0, 1)) for field in fields))
    lamp = slope / GLOW
    side = LIT[0] if lamp < -0.25 else LIT[2] if lamp > 0.25 else LIT[1]
    return StyleReading(mean, (right, below), side, (slope,))


def _across() -> np.ndarray:  # (128,)
    """From -1 at one edge of the picture to 1 at the other."""
    return 2 * (np.arange(CELLS) + 0.5) / CELLS - 1
