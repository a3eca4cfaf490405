"""What a picture of shaded solids shows, from its pixels alone: each object is the solid that, drawn there, explains them.

Light and shadow change neither hue nor, on the pale floor, saturation, so these two say of each pixel which colour it is
of, or that it is background. For each colour the silhouettes of all shapes and sides are scored as covers of its
pixels: a pixel of that colour gains 1, one of the background costs 1, and one of another object costs little, since that
may stand in front. The best cover is an object; its pixels are taken away and the search goes on with the rest. Once
all are known it is known too who hides whom; then each is drawn in every shape and material at the places around, and
what is most like the picture stays. What is left over is searched again.
"""

from __future__ import annotations

import colorsys
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from ldm.graph.scene_graph import SceneGraph
from ldm.graph.validation import Box
from ldm.synthetic import shapes, solids
from ldm.synthetic.shapes_vision import SceneReading, StyleReading, to_cells
from ldm.synthetic.solids import CELLS, COLOURS, FINE, GLOW, HAZE, HORIZON, MATERIALS, REACH, SHAPES, SIDES

WORDS = tuple(COLOURS)
HUES = np.array([colorsys.rgb_to_hsv(*colour)[0] for colour in COLOURS.values()])
HALF = CELLS // 2  # the search's picture
LIMITS = range(18, 44, 2)  # sides that are searched for, in cells; what lies between is tried afterwards
KINDS = [(shape, length) for shape in SHAPES for length in LIMITS]
PALE, SATURATED = 0.18, 0.34  # saturations up to which a pixel is surely background, and from which on surely not
COVERED = 0.15  # gain that an object's silhouette is worth at least, as a share of its area
HIDDEN = 0.3  # what a silhouette's pixel costs that another object covers
FEWEST = 60  # pixels of a colour that are worth a search
UNLIKE = 60.0  # difference to a drawing, in 0..255, from which on a pixel is not of that solid
# From one candidate to the next, changes of side, x and y: a pixel in a direction, or growth that keeps a corner.
STEPS = [(0, dx, dy) for dx in (-1, 0, 1) for dy in (-1, 0, 1) if dx or dy]
STEPS += [(more, dx, dy) for more in (-1, 1) for dx in (0, -more) for dy in (0, -more)]
LACKING = 0.25  # share of an object's visible pixels that may be unlike it
ROUNDS = 2
LIT = ("from the left", "from above", "from the right")
STRAY = (CELLS / 64) ** 2  # pixels here for one of a picture of 64


class Found(NamedTuple):
    """A solid in its place, in cells."""

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
        return tuple(edge / CELLS for edge in (self.x, self.y, self.x + self.side, self.base))

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


def read_scene(image: Image.Image | np.ndarray) -> SceneReading:
    """What a picture of any size shows; an array is (H,W,3) uint8."""
    pixels = to_cells(image, CELLS)
    label, weight = _classify(pixels)
    found = _ordered(_search(label, weight, label >= 0), label)
    lamp = _lamp(pixels, _bare(found, label))
    for _ in range(ROUNDS):  # a better place of one says more of what is hidden of another
        found = _ordered(_refined(found, pixels, label, weight, lamp), label)
        more = _search(label, weight, _open(_unexplained(found, label)))
        found = _ordered(found + more, label)
    stray, whole = _account(found, pixels, label, lamp)
    found = sorted((thing for thing, is_whole in zip(found, whole) if is_whole), key=lambda thing: thing.base)
    graph = None
    if found:
        attributes = [(thing.size, WORDS[thing.colour], thing.material) for thing in found]
        graph = solids.graph_from_boxes([thing.shape for thing in found], [thing.box for thing in found], attributes)
    return SceneReading(graph, stray, _look(pixels, _bare(found, label)))


def _classify(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:  # (128,128,3) -> (128,128) twice
    """The colour of each pixel as an index into WORDS, -1 for background; and how surely, 1 to -1, it is no background."""
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
    """Objects that cover what is unexplained, of each colour in the order in which they are found."""
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
            gain[_grow(mask)] = 0
            gain[mask] = -1
    return found


def _best_cover(colour: int, gain: np.ndarray, near: Found | None = None) -> Found:
    """The silhouette that gains most, to two pixels, anywhere or about as far from a first guess as that may be off."""
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
    """Each kind's transform, at half the size; and what each place costs: more and more where no solid is of that side,
    and everything where the silhouette would leave the picture."""
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
    """What a side costs that is not the one that either size asks for at this base, in pixels."""
    return 3.0 * max(0.0, min(abs(solids.side(size, base) - length) for size in SIDES) - 1.0)


@cache
def _silhouette(shape: str, side: int) -> np.ndarray:  # (side,side) in 0..1
    return solids.sprite(shape, False, 0.0, FINE * side, FINE * side, 0, 0)[0][..., 0]


@cache
def _drawing(colour: int, shape: str, side: int, material: str, lamp: float) -> np.ndarray:  # (side,side,3)
    """A solid's own colours, without what shines through at its edge."""
    place = (FINE * side, FINE * side, 0, 0)
    cover, shade, gloss = solids.sprite(shape, material == "metal", lamp, *place)
    return (shade * np.array(COLOURS[WORDS[colour]]) + 255 * gloss) / np.maximum(cover, 1e-3)


def _ordered(found: list[Found], label: np.ndarray) -> list[Found]:
    """From back to front: where two overlap, the one whose colour is seen is in front; otherwise that with the lower
    base."""
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
    return [found[index] for index in shapes.back_to_front(graph)]


def _refined(found: list[Found], pixels: np.ndarray, label: np.ndarray, weight: np.ndarray, lamp: float) -> list[Found]:
    """The same objects, from front to back, each as it is most like the picture where none before it hides it."""
    better: list[Found] = []
    hidden = np.zeros((CELLS, CELLS), bool)
    masks = [thing.mask() for thing in found]
    for index in reversed(range(len(found))):
        thing = found[index]
        own = np.where(label == thing.colour, np.maximum(weight, 0), 0)
        for other, mask in zip(found, masks):
            if other is not thing and other.colour == thing.colour:
                own[_grow(_grow(mask))] = 0
        gain = np.where(own > 0, own, np.where(label >= 0, -1, np.minimum(weight, 0)))
        gain[hidden] = 0
        thing = _best_cover(thing.colour, gain, thing)._replace(material=thing.material)
        thing = _climb(thing, pixels, own, ~hidden, lamp)
        better.append(thing)
        hidden |= _grow(thing.mask())
    return better[::-1]


def _climb(thing: Found, pixels: np.ndarray, own: np.ndarray, visible: np.ndarray, lamp: float) -> Found:
    """From one candidate to the best of those around it until none is better."""
    rows = slice(max(0, thing.y - 8), thing.base + 8)
    columns = slice(max(0, thing.x - 8), thing.x + thing.side + 8)
    own = np.where(visible, own, 0.0)
    within = own[rows, columns].sum()

    @cache
    def badness(candidate: Found) -> float:
        """Pixels that it would cover and is unlike, and pixels of its colour that it would leave bare."""
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
    """How many pixels of objects' colours no object accounts for, in a picture of 64 pixels; and of each object whether
    it is all there. Lines as thin as a blurred edge do not count."""
    hidden = np.zeros((CELLS, CELLS), bool)
    whole = []
    for thing in reversed(found):
        mask = thing.mask()
        due = ~_grow(~mask) & ~hidden
        wrong = np.zeros_like(due)
        apart = pixels[thing.window] - _drawing(*thing[:3], thing.material, lamp)
        wrong[thing.window] = np.linalg.norm(apart, axis=-1) > UNLIKE
        whole.append(bool(_open(due & wrong).sum() <= LACKING * due.sum() and due.any()))
        hidden |= _grow(_grow(mask))
    return round(_open(_unexplained(found, label)).sum() / STRAY), whole[::-1]


def _unexplained(found: list[Found], label: np.ndarray) -> np.ndarray:  # (128,128) bool
    """Pixels of objects' colours that lie in or at no object of that colour."""
    left = label >= 0
    for thing in found:
        left &= ~(_grow(_grow(thing.mask())) & (label == thing.colour))
    return left


def _bare(found: list[Found], label: np.ndarray) -> np.ndarray:  # (128,128) bool
    """Where the background is neither covered nor shaded."""
    bare = ~_grow(_grow(label >= 0))
    for thing in found:
        reach = round(REACH * thing.side) + 1
        rows, columns = (slice(max(0, at - reach), at + thing.side + reach) for at in (thing.y, thing.x))
        bare[rows, columns] = False
    return bare


def _lamp(pixels: np.ndarray, bare: np.ndarray) -> float:
    """Which of the known lamps makes rows as much brighter to one side as they are."""
    lamp = _slope(pixels, bare) / GLOW
    return min(solids.LAMPS, key=lambda known: abs(known - lamp))


def _slope(pixels: np.ndarray, bare: np.ndarray) -> float:
    """By how much the logarithm of brightness rises from the middle to the right edge, by least squares in each row."""
    x = np.broadcast_to(_across(), bare.shape)
    count = np.maximum(bare.sum(1, keepdims=True), 1)
    brightness = np.log(np.maximum(pixels.sum(-1), 1))
    x, brightness = (np.where(bare, v - np.where(bare, v, 0).sum(1, keepdims=True) / count, 0) for v in (x, brightness))
    return float((x * brightness).sum() / max((x * x).sum(), 1e-6))


def _look(pixels: np.ndarray, bare: np.ndarray) -> StyleReading:
    """The background that is most like what is seen of it; its `texture` is the side that it is lit from, and its
    `relief` how strongly."""
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
    scale = 2 * _across() / (_across() ** 2).mean()  # of a least-squares slope, from edge to edge
    fields = ground, ground * scale[None, :, None], ground * scale[:, None, None]
    mean, right, below = (tuple(map(float, field.mean((0, 1)))) for field in fields)
    lamp = slope / GLOW
    side = LIT[0] if lamp < -0.25 else LIT[2] if lamp > 0.25 else LIT[1]
    return StyleReading(mean, (right, below), side, (slope,))


def _across() -> np.ndarray:  # (128,)
    """From -1 at one edge of the picture to 1 at the other."""
    return 2 * (np.arange(CELLS) + 0.5) / CELLS - 1


def _grow(mask: np.ndarray) -> np.ndarray:
    """By one pixel on each side, corners included."""
    wide = np.pad(mask, 1)
    rows = wide[:-2] | wide[1:-1] | wide[2:]
    return rows[:, :-2] | rows[:, 1:-1] | rows[:, 2:]


def _open(mask: np.ndarray) -> np.ndarray:
    """Without what is nowhere three pixels wide."""
    return _grow(~_grow(~mask))
