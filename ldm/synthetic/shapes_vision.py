"""What a picture of coloured shapes shows, from its pixels alone: each object is the template that explains them best.

A pixel is told apart by colour: nearest to the background, a plane fitted to what is pale, or to one of the palette's
colours, whose shades lie on a line. For each colour, every (shape, side, place) is then scored as a cover of its pixels:
a pixel of that colour gains 1, one of the background costs 2, and one of another object costs little, since that may
lie in front. The best cover is an object; its pixels are taken away and the search goes on with the rest. Once it is
known who is in front, each object is fitted again: what covers it is free now, and all that is of another colour costs.
"""

from __future__ import annotations

import math
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from ldm.graph.scene_graph import SceneGraph
from ldm.synthetic import shapes
from ldm.synthetic.shapes import STRIPE_HEIGHT, CELLS, COLOURS, TEXTURE_PERIOD, TEXTURE_CONTRAST, STRIPE_BRIGHTNESS, SHAPES, SIDES, TEXTURES

WORDS = tuple(COLOURS)
PALETTE = np.array([COLOURS[word] for word in WORDS], float)
LIMITS = range(SIDES["small"][0] - 2, SIDES["large"][1] + 3)  # sides that are looked for, in cells
LARGE = (SIDES["small"][1] + SIDES["large"][0]) / 2  # a side beyond this is large
PALE, BRIGHT = 0.43, 0.5  # of the background: saturation at most, brightness at least
BARE = 2.0  # what a pixel of the background costs: a cover of two objects and the gap between them must not pay
HIDDEN = 0.3  # what a pixel costs that is of another object and may hide this one
COVERED = 0.2  # share of its template that an object shows at least, less what it costs
ROUNDS = 3  # of search and fit; a fit may leave pixels to another object, which the next search finds
FEWEST = 30  # pixels of a colour that may be an object
UNCLEAR = 0.25  # mean departure of the shade, in shares of brightness, from which on neither fill is seen
LACKING = 0.25  # share of what should be seen of an object that may be something else
BLEND = 16.0  # levels by which a pixel may depart from the blend of two others


class StyleReading(NamedTuple):
    """A background's style, measured where no object covers it."""

    mean: tuple[float, float, float]  # of the whole background, as a plane fitted to what is seen of it; 0..255
    ramp: tuple[tuple[float, float, float], tuple[float, float, float]]  # change from left to right, from top to bottom
    texture: str  # one of shapes.TEXTURES
    relief: tuple[float, ...] = ()  # how much darker the dark places of each texture but the first, 'smooth', are


class SceneReading(NamedTuple):
    graph: SceneGraph | None  # from back to front, complete; None where nothing is seen
    stray: int  # pixels of objects' colours that belong to no object of the graph, in a picture of 64 pixels
    look: StyleReading


class Found(NamedTuple):
    """A template in its place, in cells."""

    colour: int  # of WORDS
    shape: str
    side: int
    x: int
    y: int

    @property
    def box(self) -> tuple[float, float, float, float]:
        return tuple(edge / CELLS for edge in (self.x, self.y, self.x + self.side, self.y + self.side))

    @property
    def window(self) -> tuple[slice, slice]:
        return slice(self.y, self.y + self.side), slice(self.x, self.x + self.side)

    def mask(self) -> np.ndarray:  # (64,64) bool
        mask = np.zeros((CELLS, CELLS), bool)
        mask[self.window] = _coverage(self.shape, self.side) > 0.5
        return mask


def read_scene(image: Image.Image | np.ndarray) -> SceneReading:
    """What a picture of any size shows; an array is (H,W,3) uint8."""
    pixels = to_cells(image, CELLS)
    label, weights = _classify(pixels)
    found: list[Found] = []
    for _ in range(ROUNDS):
        more = [thing for colour in range(len(WORDS)) for thing in _search(colour, label, weights, found)]
        if not more:
            break
        found = _back_to_front(_fit_again(_back_to_front(found + more, label), label, weights), label)
    stray, whole = _account(found, label)
    found = [thing for thing, is_whole in zip(found, whole) if is_whole]
    graph = None
    if found:
        attributes = [
            ("large" if thing.side > LARGE else "small", WORDS[thing.colour], *_fill(thing, found, label, pixels))
            for thing in found
        ]
        graph = shapes.graph_from_boxes([thing.shape for thing in found], [thing.box for thing in found], attributes)
    covered = np.zeros((CELLS, CELLS), bool)
    for thing in found:
        covered |= thing.mask()
    return SceneReading(graph, stray, _look(pixels, ~_grow(_grow(covered)) & (label < 0)))


def to_cells(image: Image.Image | np.ndarray, cells: int) -> np.ndarray:  # -> (cells,cells,3) float, 0..255
    """The picture at a fixed size: each pixel the mean of what it stands for."""
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    image = image.convert("RGB")
    if image.size != (cells, cells):
        way = Image.Resampling.BOX if min(image.size) >= cells else Image.Resampling.BILINEAR
        image = image.resize((cells, cells), way)
    return np.asarray(image, float)


def _classify(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:  # (64,64,3) -> (64,64), (6,64,64)
    """The colour of each pixel as an index into WORDS, -1 for background; and for each colour how much a cover of that
    pixel gains, at most 1, in proportion where an edge runs through it."""
    brightest, faintest = pixels.max(-1), pixels.min(-1)
    pale = (brightest - faintest <= PALE * brightest) & (brightest >= 255 * BRIGHT)
    inner = ~_grow(~pale)
    pale = inner if inner.sum() > CELLS else pale
    ground = _from_line(pixels, _plane(pixels, pale), 1 - 1.2 * TEXTURE_CONTRAST, 1.05)
    colours = np.stack([_from_line(pixels, colour, STRIPE_BRIGHTNESS, 1.1) for colour in PALETTE])
    distances = np.concatenate([colours, ground[None]])
    label = distances.argmin(0)
    label = _without_blends(pixels, label)
    weights = np.clip(1.3 * (ground - colours) / (ground + colours + 1e-6), -1, 1)
    weights[weights < 0] *= BARE
    own = label == np.arange(len(WORDS))[:, None, None]
    weights[own] = np.maximum(weights[own], 0.5)
    weights[~own & (label < len(WORDS))] = -HIDDEN
    return np.where(label < len(WORDS), label, -1), weights


def _without_blends(pixels: np.ndarray, label: np.ndarray) -> np.ndarray:  # (64,64)
    """Where two colours blend at an edge, a third may lie between them: there the nearer of the two is the label."""
    reach = 3
    wide = np.pad(pixels, ((reach, reach), (reach, reach), (0, 0)), mode="edge")
    labels = np.pad(label, reach, mode="edge")
    better, least = label.copy(), np.full(label.shape, BLEND)
    for far in (2, 3):
        for down, right in ((0, far), (far, 0), (far, far), (far, -far)):
            back = slice(reach - down, reach - down + CELLS), slice(reach - right, reach - right + CELLS)
            ahead = slice(reach + down, reach + down + CELLS), slice(reach + right, reach + right + CELLS)
            start, way = wide[back], wide[ahead] - wide[back]
            length = (way * way).sum(-1) + 1e-6
            share = ((pixels - start) * way).sum(-1) / length
            off = np.sqrt(np.square(pixels - start - share[..., None] * way).sum(-1))
            blend = (length > 60**2) & (abs(share - 0.5) < 0.4) & (off < least)
            better = np.where(blend, np.where(share < 0.5, labels[back], labels[ahead]), better)
            least = np.where(blend, off, least)
    return better


def _from_line(pixels: np.ndarray, colour: np.ndarray, dark: float, light: float) -> np.ndarray:  # (64,64)
    """How far pixels are from the nearest shade of a colour."""
    shade = (pixels * colour).sum(-1) / (colour * colour).sum(-1)
    return np.linalg.norm(pixels - np.clip(shade, dark, light)[..., None] * colour, axis=-1)


def _plane(pixels: np.ndarray, where: np.ndarray) -> np.ndarray:  # (64,64,3)
    """A linear ramp fitted to what is seen."""
    if not where.any():
        return np.full_like(pixels, 225)
    x, y, _ = _grid()
    design = np.stack([np.ones_like(x), x, y], -1)
    return design @ np.linalg.lstsq(design[where], pixels[where], rcond=None)[0]


def _search(colour: int, label: np.ndarray, weights: np.ndarray, known: list[Found]) -> list[Found]:
    """The objects of one colour that are not known yet, in the order in which they are found."""
    found, weight = [], weights[colour].copy()
    for thing in known:
        if thing.colour == colour:
            weight[_grow(thing.mask())] = -HIDDEN
            weight[thing.mask()] = -1
    while ((label == colour) & (weight > 0)).sum() >= FEWEST:
        thing = _best(colour, weight)
        cover = _coverage(thing.shape, thing.side)
        if (cover * weight[thing.window]).sum() < COVERED * cover.sum():
            break
        found.append(thing)
        weight[_grow(thing.mask())] = -HIDDEN
        weight[thing.mask()] = -1
    return found


def _fit_again(found: list[Found], label: np.ndarray, weights: np.ndarray) -> list[Found]:
    """The same objects from back to front, now that what is in front of each is known."""
    better, front = [], np.zeros((CELLS, CELLS), bool)
    for thing in reversed(found):
        weight = weights[thing.colour].copy()
        weight[(label >= 0) & (label != thing.colour)] = -1
        weight[front] = np.maximum(weight[front], -HIDDEN / 10)
        for other in found:
            if other.colour == thing.colour and other != thing:
                weight[other.mask()] = -1
        thing = _best(thing.colour, weight)
        better.append(thing)
        front |= _grow(thing.mask())
    return better[::-1]


def _best(colour: int, weight: np.ndarray) -> Found:
    """The template, in its place, that gains most."""
    transforms, places = _templates()
    spectrum = torch.fft.rfft2(torch.from_numpy(weight).float())
    gain = torch.fft.irfft2(spectrum * transforms, weight.shape) + places  # what wraps round is out of place
    kind, y, x = np.unravel_index(int(gain.argmax()), gain.shape)
    return Found(colour, *KINDS[int(kind)], int(x), int(y))


KINDS = [(shape, side) for shape in SHAPES for side in LIMITS]


@cache
def _templates() -> tuple[torch.Tensor, torch.Tensor]:  # (K,64,33) complex, (K,64,64)
    """Each kind's transform; and what each place costs: a little where the side is between the sizes, as no object's
    is, and everything where the template would leave the picture."""
    images = np.zeros((len(KINDS), CELLS, CELLS))
    places = np.full((len(KINDS), CELLS, CELLS), -np.inf)
    for index, (shape, side) in enumerate(KINDS):
        images[index, :side, :side] = _coverage(shape, side)
        reach = CELLS - side + 1
        beyond = min(max(shortest - side, side - longest, 0) for shortest, longest in SIDES.values())
        places[index, :reach, :reach] = -2.0 * beyond
    transforms = torch.fft.rfft2(torch.from_numpy(images).float()).conj()
    return transforms, torch.from_numpy(places).float()


@cache
def _coverage(shape: str, side: int) -> np.ndarray:  # (side,side) in 0..1
    fine = 4
    return shapes.shape_mask(shape, fine * side).reshape(side, fine, side, fine).mean((1, 3))


def _back_to_front(found: list[Found], label: np.ndarray) -> list[Found]:
    """Where two templates overlap, the one in front is that whose colour is seen."""
    if not found:
        return []
    masks = [thing.mask() for thing in found]
    triples = []
    for a in range(len(found)):
        for b in range(a):
            both = label[masks[a] & masks[b]]
            more = (both == found[a].colour).sum() - (both == found[b].colour).sum()
            if more:
                triples.append((a, "in front of", b) if more > 0 else (b, "in front of", a))
    graph = SceneGraph(tuple(thing.shape for thing in found), triples=tuple(triples))
    return [found[index] for index in shapes.back_to_front(graph)]


def _account(found: list[Found], label: np.ndarray) -> tuple[int, list[bool]]:
    """How many pixels of objects' colours no object accounts for; and of each object whether it is all there. What is
    as thin as a blurred edge, or a blurred strip between two others, does not count."""
    explained, hidden = label < 0, np.zeros((CELLS, CELLS), bool)
    whole = []
    for thing in reversed(found):
        mask = thing.mask()
        near = _grow(mask)
        explained |= near & (label == thing.colour)
        due = ~_grow(~mask) & ~hidden
        lacking = _open(due & (label != thing.colour)).sum()
        whole.append(due.any() and lacking <= LACKING * due.sum())
        hidden |= near
    return int(_open(~explained, 2).sum()), whole[::-1]


def _fill(thing: Found, found: list[Found], label: np.ndarray, pixels: np.ndarray) -> tuple[str, ...]:
    """The word for its bands, or none where they are neither clearly there nor clearly absent."""
    seen = thing.mask() & (label == thing.colour)
    inner = seen & ~_grow(~thing.mask())
    for other in found[found.index(thing) + 1 :]:
        inner &= ~_grow(other.mask())
    seen = inner if inner.any() else seen
    rows, columns = np.nonzero(seen)
    colour = PALETTE[thing.colour]
    shade = pixels[rows, columns] @ colour / (colour @ colour)
    off = {"plain": np.square(shade - 1).mean()}
    off["striped"] = min(np.square(shade - _bands(rows - thing.y - start)).mean() for start in (-1, 0, 1))
    word = min(off, key=off.get)
    return (word,) if off[word] < UNCLEAR**2 else ()


def _bands(rows: np.ndarray) -> np.ndarray:
    """How bright rows of cells below a box's top are in a striped shape, with edges as soft as an autoencoder's."""
    return 1 - (1 - STRIPE_BRIGHTNESS) * np.clip(0.5 - 0.9 * np.sin(math.pi * (rows + 0.5) / STRIPE_HEIGHT), 0, 1)


def _look(pixels: np.ndarray, where: np.ndarray) -> StyleReading:
    """Ramp and textures together, by least squares."""
    x, y, patterns = _grid()
    design = np.stack([np.ones_like(x), x, y, *patterns], -1)
    fit = np.linalg.lstsq(design[where], pixels[where], rcond=None)[0] if where.any() else np.zeros((6, 3))
    relief = -fit[3:].mean(1) / max(fit[0].mean(), 1)
    strongest = int(relief.argmax())
    texture = TEXTURES[1 + strongest] if relief[strongest] > TEXTURE_CONTRAST / 4 else TEXTURES[0]
    mean, *ramp = (tuple(map(float, row)) for row in fit[:3])
    return StyleReading(mean, tuple(ramp), texture, tuple(map(float, relief)))


@cache
def _grid() -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """x and y from -0.5 to 0.5, and each texture less its mean; all (64,64)."""
    middle = (np.arange(CELLS) + 0.5) / CELLS
    cells = middle * CELLS / TEXTURE_PERIOD
    patterns = [shapes.texture_pattern(texture, cells[None, :], cells[:, None]) for texture in TEXTURES[1:]]
    y, x = np.meshgrid(middle - 0.5, middle - 0.5, indexing="ij")
    return x, y, [pattern - pattern.mean() for pattern in patterns]


def _grow(mask: np.ndarray) -> np.ndarray:
    """By one pixel on each side, corners included."""
    wide = np.pad(mask, 1)
    rows = wide[:-2] | wide[1:-1] | wide[2:]
    return rows[:, :-2] | rows[:, 1:-1] | rows[:, 2:]


def _open(mask: np.ndarray, by: int = 1) -> np.ndarray:
    """Without what is nowhere 2 by + 1 pixels wide."""
    mask = ~mask
    for _ in range(by):
        mask = _grow(mask)
    mask = ~mask
    for _ in range(by):
        mask = _grow(mask)
    return mask
