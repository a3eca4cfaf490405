"""Coloured shapes on a background, drawn from a seed: every word of the graph has a visible, exact meaning.

A scene graph here lists objects from back to front. Coordinates are cells, 64 to the picture's side, and the rules are:

    inside                  the subject's box lies in the object's, and the subject is drawn in front
    in front of, behind     otherwise, where the two boxes overlap
    left of, right of,      otherwise, by the axis on which the boxes' centres lie further apart; no word is said
    above, below            of a pair near the diagonal, where the two axes differ by less than MARGIN cells

The background is in no graph: its colours, their direction and its texture are the style that a reference image carries.
"""

from __future__ import annotations

import colorsys
import math
import random
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from ldm.graph.scene_graph import SceneGraph, Vocab
from ldm.graph.validation import Box, GraphError

COLOURS = {
    "red": (206, 34, 43),
    "green": (26, 138, 58),
    "blue": (30, 74, 200),
    "yellow": (247, 205, 24),
    "purple": (122, 40, 150),
    "orange": (240, 122, 20),
}
SHAPES = ("circle", "square", "triangle")
SIDES = {"small": (16, 16), "large": (24, 28)}  # shortest and longest side of a box, in cells
FILLS = ("plain", "striped")
TEXTURES = ("smooth", "checks", "dots", "lines")

CELLS = 64  # cells are pixels at 64 pixels
GRID = 4  # cells: boxes have their edges at multiples of so many, as far as `random_graph` places them
STRIPE_HEIGHT, STRIPE_BRIGHTNESS = 4, 0.45  # a striped shape's bands: cells in height, and how dark every second one is
TEXTURE_PERIOD, TEXTURE_CONTRAST = 8, 0.2  # of a texture: cells after which it repeats, and how much darker its dark places are
GAP = 2  # cells between two boxes that do not overlap
OVERLAP = 32  # cells that two overlapping shapes share at least, so that one is seen to be in front
MIN_VISIBLE = 0.6  # share of each shape that nothing covers, at least
DIAGONAL_MARGIN = 6
FINE = 4  # shapes are drawn so many times larger and averaged down
TRIES = 30  # places tried for an object before its scene is begun again

VOCAB = Vocab(
    objects=("__image__", *SHAPES),
    predicates=("__in_image__", "left of", "right of", "above", "below", "inside", "in front of", "behind"),
    attributes=(*SIDES, *COLOURS, *FILLS),
)
IMAGE_SIZE = 64
CONVERSE = {"left of": "right of", "above": "below", "in front of": "behind"}
CONVERSE |= {converse: predicate for predicate, converse in CONVERSE.items()}


class Background(NamedTuple):
    """A linear ramp from one colour (red, green, blue in 0..255) to another along an angle in radians, and a texture."""

    start: tuple[float, float, float]
    end: tuple[float, float, float]
    angle: float
    texture: str = "smooth"


def random_background(rng: random.Random) -> Background:
    """Any hue, at both ends paler than every shape, and any texture."""
    hue, shift = rng.random(), rng.uniform(-0.12, 0.12)
    ends = [
        colorsys.hsv_to_rgb((hue + s) % 1, rng.uniform(0.10, 0.34), rng.uniform(0.78, 0.98)) for s in (shift, -shift)
    ]
    start, end = (tuple(255 * channel for channel in colour) for colour in ends)
    return Background(start, end, rng.uniform(0, 2 * math.pi), rng.choice(TEXTURES))


def random_graph(rng: random.Random, apart: float = 0.74) -> SceneGraph:
    """Two to five shapes from back to front, no two alike in shape and colour, with every triple that holds.

    Of the shapes after the first, a share of `apart` is placed apart from the others, the rest over or inside one.
    """
    count = rng.randint(2, 5)
    while True:
        kinds = rng.sample([(shape, colour) for shape in SHAPES for colour in COLOURS], count)
        placed = _place(count, rng, apart)
        if placed is None:
            continue
        sizes, boxes = placed
        graph = graph_from_boxes(
            [shape for shape, _ in kinds],
            boxes,
            [(size, colour, rng.choice(FILLS)) for size, (_, colour) in zip(sizes, kinds)],
        )
        if find_ambiguity(graph) is None:
            return graph


def _place(count: int, rng: random.Random, apart: float) -> tuple[list[str], list[Box]] | None:
    """Sizes and boxes in drawing order: each box apart from the earlier ones, over one of them, or inside one."""
    placed: list[tuple[str, tuple[int, int, int, int]]] = []
    for _ in range(count):
        way = rng.choices(("apart", "over", "inside"), (apart, (1 - apart) / 2, (1 - apart) / 2))[0] if placed else "apart"
        hosts = [box for size, box in placed if size == "large" or way == "over"]
        for _ in range(TRIES):
            size = "small" if way == "inside" else rng.choice(tuple(SIDES))
            side = _on_grid(rng, *SIDES[size])
            low, high = (0, 0), (CELLS - side,) * 2
            if hosts and way != "apart":
                x0, y0, x1, y1 = host = rng.choice(hosts)
                reach = 0 if way == "inside" else side - 6
                low = max(0, x0 - reach), max(0, y0 - reach)
                high = min(high[0], x1 - side + reach), min(high[1], y1 - side + reach)
            if low[0] > high[0] or low[1] > high[1]:
                continue
            x, y = _on_grid(rng, low[0], high[0]), _on_grid(rng, low[1], high[1])
            box = (x, y, x + side, y + side)
            others = [other for _, other in placed if way == "apart" or not hosts or other != host]
            if not any(_overlap(box, other, GAP) for other in others):
                placed.insert(rng.choice((0, len(placed))) if way == "over" else len(placed), (size, box))
                break
        else:
            return None
    return [size for size, _ in placed], [tuple(edge / CELLS for edge in box) for _, box in placed]


def _on_grid(rng: random.Random, low: int, high: int) -> int:
    return GRID * rng.randint(-(-low // GRID), high // GRID)


def graph_from_boxes(
    objects: Sequence[str], boxes: Sequence[Box], attributes: Sequence[tuple[str, ...]], ids: Sequence[str | None] = ()
) -> SceneGraph:
    """The graph of these objects, from back to front, with the one triple that holds between each two, if any."""
    triples = []
    for back in range(len(objects)):
        for front in range(back + 1, len(objects)):
            predicate = main_relation(boxes[front], boxes[back])
            if predicate:
                triples.append((front, predicate, back))
    return SceneGraph(tuple(objects), tuple(boxes), tuple(attributes), tuple(triples), tuple(ids))


def main_relation(front: Box, back: Box) -> str | None:
    """What holds of `front` towards `back`, which is drawn before it; None where nothing is clear."""
    front, back = _cells(front), _cells(back)
    if back[0] <= front[0] and back[1] <= front[1] and front[2] <= back[2] and front[3] <= back[3]:
        return "inside"
    if _overlap(front, back):
        return "in front of"
    dx = (front[0] + front[2] - back[0] - back[2]) / 2
    dy = (front[1] + front[3] - back[1] - back[3]) / 2
    if abs(abs(dx) - abs(dy)) < DIAGONAL_MARGIN:
        return None
    if abs(dx) > abs(dy):
        return "left of" if dx < 0 else "right of"
    return "above" if dy < 0 else "below"


def relation_holds(subject: Box, predicate: str, object: Box, in_front: bool, slack: float = 2) -> bool:
    """Whether a triple is true of two boxes, the subject drawn `in_front` of the object or behind it.

    Unlike `main_relation`, which picks one word, this lets every true one pass: of two overlapping shapes one may also be left
    of the other. `slack` is in cells, for boxes that were measured.
    """
    (x0, y0, x1, y1), (u0, v0, u1, v1) = ([CELLS * edge for edge in box] for box in (subject, object))
    dx, dy = (x0 + x1 - u0 - u1) / 2, (y0 + y1 - v0 - v1) / 2
    touching = x0 < u1 and u0 < x1 and y0 < v1 and v0 < y1
    return {
        "inside": in_front and min(x0 - u0, y0 - v0, u1 - x1, v1 - y1) >= -slack,
        "in front of": touching and in_front,
        "behind": touching and not in_front,
        "left of": dx < 0 and abs(dx) > abs(dy) - slack,
        "right of": dx > 0 and abs(dx) > abs(dy) - slack,
        "above": dy < 0 and abs(dy) > abs(dx) - slack,
        "below": dy > 0 and abs(dy) > abs(dx) - slack,
    }[predicate]


def subsample_graph(graph: SceneGraph, rng: random.Random, boxes: str = "mixed", share: float = 0.6) -> SceneGraph:
    """As much of a complete graph as data sets tell, in another order.

    boxes   'all', 'none', 'part' of the objects have theirs, or 'mixed': one of these, every second time 'all'
    share   of the triples that is kept, either object as the subject; which one covers the other is always kept
    """
    count = len(graph.objects)
    if boxes == "mixed":
        boxes = rng.choice(("all", "all", "none", "part"))
    boxed = {"all": count, "none": 0, "part": rng.randint(1, count - 1) if count > 1 else 1}[boxes]
    keep = set(rng.sample(range(count), boxed))
    order = rng.sample(range(count), count)
    place = {old: new for new, old in enumerate(order)}
    triples = []
    for subject, predicate, object in graph.triples:
        if predicate in ("inside", "in front of", "behind") or rng.random() < share:
            if predicate in CONVERSE and rng.random() < 0.5:
                subject, predicate, object = object, CONVERSE[predicate], subject
            triples.append((place[subject], predicate, place[object]))
    return SceneGraph(
        tuple(graph.objects[i] for i in order),
        tuple(graph.boxes[i] if i in keep else None for i in order),
        tuple(tuple(rng.sample(graph.attributes[i], len(graph.attributes[i]))) for i in order),
        tuple(rng.sample(triples, len(triples))),
        tuple(graph.ids[i] for i in order) if any(graph.ids) else (),
    )


def find_ambiguity(graph: SceneGraph) -> str | None:
    """Why the picture of this graph, listed from back to front with every box, would not show exactly what it says."""
    shown = np.full((CELLS, CELLS), -1)
    areas, boxes = [], [_cells(box) for box in graph.boxes]
    for index, (shape, box) in enumerate(zip(graph.objects, boxes)):
        side = box[2] - box[0]
        size = next(word for word in graph.attributes[index] if word in SIDES)
        if not SIDES[size][0] <= side <= SIDES[size][1] or box[3] - box[1] != side:
            return f"object {index} is not of a {size} size"
        if min(box) < 0 or max(box) > CELLS:
            return f"object {index} leaves the picture"
        inside = shape_mask(shape, side)
        areas.append(inside.sum())
        for other in range(index):
            if not _overlap(box, boxes[other], GAP):
                continue
            colour, another = (next(w for w in graph.attributes[i] if w in COLOURS) for i in (index, other))
            if colour == another:
                return f"objects {other} and {index} are of one colour and touch"
            window = shown[box[1] : box[3], box[0] : box[2]]
            if (inside & (window == other)).sum() < OVERLAP:
                return f"objects {other} and {index} touch, but neither is clearly in front"
        window = shown[box[1] : box[3], box[0] : box[2]]
        window[inside] = index
    for index, area in enumerate(areas):
        if (shown == index).sum() < MIN_VISIBLE * area:
            return f"object {index} is hidden"
    return None


@lru_cache(maxsize=None)
def shape_mask(shape: str, side: int) -> np.ndarray:  # (side,side) bool
    """The cells of its box whose middles a shape covers."""
    y, x = (np.mgrid[:side, :side] + 0.5) / side
    return {
        "square": np.ones((side, side), bool),
        "circle": (x - 0.5) ** 2 + (y - 0.5) ** 2 <= 0.25,
        "triangle": np.abs(x - 0.5) <= y / 2,
    }[shape]


def _cells(box: Box) -> tuple[int, int, int, int]:
    return tuple(round(CELLS * edge) for edge in box)


def _overlap(a: Sequence[int], b: Sequence[int], gap: int = 0) -> bool:
    return a[0] < b[2] + gap and b[0] < a[2] + gap and a[1] < b[3] + gap and b[1] < a[3] + gap


def render(graph: SceneGraph, background: Background, image_size: int = IMAGE_SIZE) -> Image.Image:
    """The picture of a graph, drawn or edited: each shape fills its box.

    What is inside or in front of another is drawn after it; otherwise objects are drawn in the graph's order. The box alone
    says how large a shape is; its size word is not read. Raises GraphError for an object that is no known shape or
    lacks a box or a colour.
    """
    canvas = _ground(background, image_size)
    for index in back_to_front(graph):
        shape, box, words = graph.objects[index], graph.boxes[index], graph.attributes[index]
        colour = next((COLOURS[word] for word in words if word in COLOURS), None)
        if shape not in SHAPES or box is None or colour is None:
            raise GraphError(
                f"object {index} ({shape!r}) cannot be drawn; give it a box, one of the shapes "
                f"{', '.join(SHAPES)} and one of the colours {', '.join(COLOURS)}"
            )
        mask = Image.new("L", (FINE * image_size,) * 2)
        draw = ImageDraw.Draw(mask)
        x0, y0, x1, y1 = (round(FINE * image_size * edge) for edge in box)
        x1, y1 = max(x0, x1 - 1), max(y0, y1 - 1)  # PIL paints both ends
        if shape == "circle":
            draw.ellipse((x0, y0, x1, y1), fill=255)
        elif shape == "square":
            draw.rectangle((x0, y0, x1, y1), fill=255)
        else:
            draw.polygon([((x0 + x1) / 2, y0), (x1, y1), (x0, y1)], fill=255)
        paint = colour
        if "striped" in words:
            rows = (np.arange(FINE * image_size) + 0.5) / (FINE * image_size) * CELLS - CELLS * box[1]
            dark = (rows // STRIPE_HEIGHT % 2).reshape(image_size, FINE).mean(1)  # share of each pixel row
            bands = np.array(colour) * (1 - (1 - STRIPE_BRIGHTNESS) * dark[:, None])
            paint = Image.fromarray(np.repeat(bands[:, None], image_size, 1).round().astype(np.uint8))
        canvas.paste(paint, (0, 0, image_size, image_size), mask.reduce(FINE))
    return canvas


def back_to_front(graph: SceneGraph) -> list[int]:
    """Indices in drawing order: the triples say who is in front, and otherwise the graph's order stands."""
    behind = {index: set() for index in range(len(graph.objects))}
    for subject, predicate, object in graph.triples:
        if predicate in ("inside", "in front of"):
            behind[subject].add(object)
        elif predicate == "behind":
            behind[object].add(subject)
    order: list[int] = []
    while len(order) < len(behind):
        left = [index for index in behind if index not in order]
        order.append(next((index for index in left if behind[index] <= set(order)), left[0]))  # the first, in a circle
    return order


def _ground(background: Background, image_size: int) -> Image.Image:
    ramp = (np.arange(image_size) + 0.5) / image_size
    x, y = ramp[None, :], ramp[:, None]
    along = np.cos(background.angle) * (x - 0.5) + np.sin(background.angle) * (y - 0.5)
    along = (along / np.ptp(along) + 0.5)[..., None]
    start, end = np.array(background.start), np.array(background.end)
    shade = 1 - TEXTURE_CONTRAST * texture_pattern(background.texture, x * CELLS / TEXTURE_PERIOD, y * CELLS / TEXTURE_PERIOD)
    return Image.fromarray(((start + (end - start) * along) * shade[..., None]).round().astype(np.uint8))


def texture_pattern(texture: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:  # (1,W), (H,1) in periods -> (H,W) in [0,1]
    """Where a texture is dark, 1, and where it is not, 0."""
    if texture == "checks":
        return ((np.floor(2 * x) + np.floor(2 * y)) % 2) * 1.0
    if texture == "dots":
        return np.clip(3.2 - 8 * np.hypot(x % 1 - 0.5, y % 1 - 0.5), 0, 1)  # a third of the ground: less is lost on f8
    if texture == "lines":
        return 0.5 + 0.5 * np.sin(2 * np.pi * (x + y))
    return 0 * x + 0 * y
