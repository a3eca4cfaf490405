"""The world 'hard': shaded solids on a floor, in the manner of CLEVR, 128 x 128 pixels.

Coordinates are cells, 128 to the picture's side; in graphs they are shares of it. Objects are listed from back to front.
The bottom edge of a box, the solid's base, determines how near the solid is. A box is a square whose side follows from
the size attribute and the base (`box_at`), since distant solids look smaller. Solids are drawn in the order of their
bases. The predicates mean:

    in front of, behind     the bases differ by at least NEARER cells; the lower one is in front
    left of, right of       the middles of the boxes differ by at least APART cells

Both may hold of a pair. A graph names the more evident one: in front of or behind if the boxes overlap; otherwise the
larger of the two differences, where a row of the slanting floor counts as DEPTH columns, and none if these two differ
by less than MARGIN.
"""

from __future__ import annotations

import colorsys
import random
from collections.abc import Mapping, Sequence
from functools import cache, lru_cache
from typing import NamedTuple

import numpy as np
from PIL import Image

from ldm.graph.scene_graph import SceneGraph
from ldm.graph.validation import Box, GraphError
from ldm.graph.vocab import Vocab
from ldm.synthetic.annotation import CONVERSE, box_of
from ldm.synthetic.readings import Colour, SceneReading
from ldm.util.images import Picture

COLOURS = {
    "red": (222, 38, 32),
    "yellow": (248, 198, 20),
    "green": (32, 158, 54),
    "cyan": (22, 186, 198),
    "blue": (34, 72, 216),
    "purple": (150, 40, 186),
}
SHAPES = ("sphere", "cube", "cylinder")
SIDES = {"small": 26, "large": 40}  # side of a box at the lowest row, in cells
MATERIALS = ("rubber", "metal")
LAMPS = (-1.0, -0.5, 0.0, 0.5, 1.0)  # from the left, ..., from above, ..., from the right

CELLS = 128
GRID = 2  # boxes of `box_at` have their edges at multiples of this many cells
FLOOR = (58, 124)  # first and last row at which a solid may stand
FAR = 0.78  # scale of a solid at the farthest row, relative to the nearest
SLACK = 2  # tolerance of a box's side in cells
NEARER, APART = 5, 8
DEPTH, MARGIN = 2, 8
GAP = 3  # least distance in cells between the boxes of two solids of one colour
VISIBLE = 0.6  # least visible share of each solid
TRIES = 40  # random boxes for one solid before the scene starts anew
MIN_OBJECTS, MAX_OBJECTS = 3, 8

HORIZON, HAZE = 0.3, 0.1  # row where the wall meets the floor, and width of the transition, as shares of the side
SLANT = 0.36  # height to width of a horizontal circle in the picture
GLOW = 0.08  # relative brightness of the picture's edge on the lamp's side, above the middle's
SHADOW, REACH = 0.5, 0.18  # darkness of a shadow, and how far it extends beyond the box, as a share of the box's side
FINE = 3  # solids are drawn this many times larger and averaged down

VOCAB = Vocab(
    objects=("__image__", *SHAPES),
    predicates=("__in_image__", "left of", "right of", "in front of", "behind"),
    attributes=(*SIDES, *COLOURS, *MATERIALS),
)
IMAGE_SIZE = 128


class Background(NamedTuple):
    """Colours of wall and floor, and the position of the lamp."""

    wall: Colour
    far: Colour  # floor at the horizon
    near: Colour  # floor in front
    lamp: float = 0.0  # one of LAMPS


def random_background(rng: random.Random) -> Background:
    """A background of any hue and lamp that is paler everywhere than every solid."""
    hue, other = rng.random(), rng.uniform(-0.3, 0.3)
    wall = (hue + other, rng.uniform(0.05, 0.17), rng.uniform(0.62, 0.9))
    far = (hue, rng.uniform(0.03, 0.13), rng.uniform(0.78, 0.92))
    near = (hue + other / 3, rng.uniform(0.05, 0.17), rng.uniform(0.66, 0.92))
    colours = [colorsys.hsv_to_rgb(h % 1, saturation, value) for h, saturation, value in (wall, far, near)]
    wall, far, near = ((255 * red, 255 * green, 255 * blue) for red, green, blue in colours)
    return Background(wall, far, near, rng.choice(LAMPS))


def random_graph(rng: random.Random) -> SceneGraph:
    """A complete graph of three to eight solids, of which no two have the same shape and colour."""
    count = rng.randint(MIN_OBJECTS, MAX_OBJECTS)
    while True:
        kinds = rng.sample([(shape, colour) for shape in SHAPES for colour in COLOURS], count)
        placed = _place([colour for _, colour in kinds], rng)
        if placed is None:
            continue
        sizes, boxes = placed
        order = sorted(range(count), key=lambda index: boxes[index][3])
        graph = graph_from_boxes(
            [kinds[index][0] for index in order],
            [boxes[index] for index in order],
            [(sizes[index], kinds[index][1], rng.choice(MATERIALS)) for index in order],
        )
        if find_ambiguity(graph) is None:
            return graph


def _place(colours: Sequence[str], rng: random.Random) -> tuple[list[str], list[Box]] | None:
    """Sizes and boxes; every second one is close to an earlier one, so that solids overlap in small scenes too."""
    sizes: list[str] = []
    boxes: list[Box] = []
    for colour in colours:
        for _ in range(TRIES):
            size, base = rng.choice(tuple(SIDES)), rng.randint(*FLOOR)
            column = rng.uniform(0, CELLS)
            if boxes and rng.random() < 0.5:
                x0, _, x1, y1 = _cells(rng.choice(boxes))
                column, base = rng.uniform(x0 - 10, x1 + 10), y1 + rng.randint(-24, 24)
            box = box_at(size, column, base)
            if not (_on_floor(_cells(box)) and 0 <= box[0] and box[2] <= 1):
                continue
            if not any(_unclear(box, other, colour == another) for other, another in zip(boxes, colours)):
                sizes.append(size)
                boxes.append(box)
                break
        else:
            return None
    return sizes, boxes


def side(size: str, base: float) -> float:
    """Side in cells of the box of a solid of this size that stands at row `base`."""
    nearness = (base - FLOOR[0]) / (FLOOR[1] - FLOOR[0])
    return SIDES[size] * (FAR + (1 - FAR) * nearness)


def box_at(size: str, column: float, base: float) -> Box:
    """The box on the grid of a solid of this size; `column` of its middle and row of its base are in cells."""
    bottom = GRID * round(base / GRID)
    length = GRID * round(side(size, bottom) / GRID)
    left = GRID * round((column - length / 2) / GRID)
    return left / CELLS, (bottom - length) / CELLS, (left + length) / CELLS, bottom / CELLS


def graph_from_boxes(
    objects: Sequence[str], boxes: Sequence[Box], attributes: Sequence[tuple[str, ...]], ids: Sequence[str | None] = ()
) -> SceneGraph:
    """The complete graph of objects that are listed from back to front, with at most one triple for each pair."""
    triples = []
    for back in range(len(objects)):
        for front in range(back + 1, len(objects)):
            predicate = main_relation(boxes[front], boxes[back])
            if predicate:
                triples.append((front, predicate, back))
    return SceneGraph(tuple(objects), tuple(boxes), tuple(attributes), tuple(triples), tuple(ids))


def main_relation(front: Box, back: Box) -> str | None:
    """The most evident predicate from `front` to `back`, in whichever order they stand; None if none is clear."""
    right, nearer = _apart(front, back)
    if not _overlap(front, back) or abs(nearer) < NEARER:
        if abs(abs(right) - DEPTH * abs(nearer)) < MARGIN:
            return None
        if abs(right) > DEPTH * abs(nearer):
            return None if abs(right) < APART else "left of" if right < 0 else "right of"
    return None if abs(nearer) < NEARER else "in front of" if nearer > 0 else "behind"


def relation_holds(subject: Box, predicate: str, object: Box, in_front: bool, slack: float = 2) -> bool:
    """Whether a triple is true of two boxes; unlike `main_relation`, accepts every true predicate.

    Args:
        in_front: the subject is drawn after the object.
        slack: measurement error to allow, in cells.
    """
    right, nearer = _apart(subject, object)
    return {
        "left of": -right >= APART - slack,
        "right of": right >= APART - slack,
        "in front of": nearer >= NEARER - slack and in_front,
        "behind": -nearer >= NEARER - slack and not in_front,
    }[predicate]


def _apart(subject: Box, object: Box) -> tuple[float, float]:
    """Distances in cells: of the subject's middle to the right of the object's, and of its base below the object's."""
    (x0, _, x1, base), (u0, _, u1, other) = subject, object
    return round(CELLS * (x0 + x1 - u0 - u1) / 2, 6), round(CELLS * (base - other), 6)


def find_ambiguity(graph: SceneGraph) -> str | None:
    """Why a picture of this complete graph would not determine the graph, or None."""
    shown = np.full((CELLS, CELLS), -1)
    areas = {}
    for index in back_to_front(graph):
        x0, y0, x1, y1 = box = _cells(box_of(graph, index))
        size, colour = _word(graph, index, SIDES), _word(graph, index, COLOURS)
        if abs(x1 - x0 - side(size, y1)) > SLACK or x1 - x0 != y1 - y0:
            return f"object {index} is not of a {size} size at its place"
        if not _on_floor(box):
            return f"object {index} does not stand on the floor"
        for other in areas:
            alike = colour == _word(graph, other, COLOURS)
            if _unclear(box_of(graph, index), box_of(graph, other), alike):
                what = "are of one colour and touch" if alike else "cover each other, but neither is clearly nearer"
                return f"objects {other} and {index} {what}"
        inside = _covered(graph.objects[index], x1 - x0)
        areas[index] = inside.sum()
        shown[y0:y1, x0:x1][inside] = index
    for index, area in areas.items():
        if (shown == index).sum() < VISIBLE * area:
            return f"object {index} is hidden"
    return None


def _unclear(box: Box, other: Box, alike: bool) -> bool:
    """Whether two boxes are so close that their objects cannot be told apart; `alike`: they have one colour."""
    return _overlap(box, other, GAP) and (alike or abs(_apart(box, other)[1]) < NEARER)


def _overlap(a: Box, b: Box, gap: float = 0) -> bool:
    gap /= CELLS
    return a[0] < b[2] + gap and b[0] < a[2] + gap and a[1] < b[3] + gap and b[1] < a[3] + gap


def _on_floor(box: Sequence[int]) -> bool:
    return FLOOR[0] <= box[3] <= FLOOR[1]


def _cells(box: Box) -> tuple[int, int, int, int]:
    x0, y0, x1, y1 = (round(CELLS * edge) for edge in box)
    return x0, y0, x1, y1


def _word(graph: SceneGraph, index: int, known: Mapping[str, object]) -> str:
    """The attribute of one kind; empty if the object has none."""
    return next((word for word in graph.known_attributes[index] if word in known), "")


def back_to_front(graph: SceneGraph) -> list[int]:
    """Indices of the objects in drawing order, by their bases; objects without a box come first."""
    bases = [box[3] if box else 0.0 for box in graph.boxes]
    return sorted(range(len(bases)), key=lambda index: bases[index])


def render(graph: SceneGraph, background: Background, image_size: int = IMAGE_SIZE) -> Image.Image:
    """Draws a graph: shadows on the floor, then each solid in its box.

    Boxes, shapes, colours and materials determine the picture (without a material: rubber); size attributes and triples
    are not read.

    Raises:
        GraphError: an object is no known shape, or lacks a box or a colour.
    """
    canvas = _ground(background, image_size)
    order = back_to_front(graph)
    for index in order:
        if graph.objects[index] not in SHAPES or graph.boxes[index] is None or not _word(graph, index, COLOURS):
            raise GraphError(
                f"object {index} ({graph.objects[index]!r}) cannot be drawn; give it a box, one of the shapes "
                f"{', '.join(SHAPES)} and one of the colours {', '.join(COLOURS)}"
            )
        _cast_shadow(canvas, box_of(graph, index), background.lamp)
    for index in order:
        x0, y0, x1, y1 = (round(FINE * image_size * edge) for edge in box_of(graph, index))
        left, top = x0 // FINE, y0 // FINE
        place = (max(1, x1 - x0), max(1, y1 - y0), x0 - FINE * left, y0 - FINE * top)
        metal = "metal" in graph.known_attributes[index]
        cover, shade, gloss = sprite(graph.objects[index], metal, background.lamp, *place)
        window = canvas[top : top + cover.shape[0], left : left + cover.shape[1]]
        window *= 1 - cover
        window += shade * np.array(COLOURS[_word(graph, index, COLOURS)], np.float32) + 255 * gloss
    return Image.fromarray(canvas.round().clip(0, 255).astype(np.uint8))


@lru_cache(maxsize=4096)
def sprite(
    shape: str, metal: bool, lamp: float, width: int, height: int, left: int, top: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # each (h,w,1)
    """Renders one solid.

    Args:
        width, height: size of the solid in fine pixels (FINE to a pixel).
        left, top: its offset in fine pixels from the first pixel that it touches.

    Returns:
        For each pixel: the covered share, the brightness of the solid's colour, and the white of highlights.
    """
    rows, columns = (-(-(start + length) // FINE) for start, length in ((top, height), (left, width)))
    u = ((np.arange(FINE * columns) + 0.5 - left) / width)[None, :]
    v = ((np.arange(FINE * rows) + 0.5 - top) / height)[:, None]
    inside = silhouette(shape, u, v)
    brightness, white = _light(shape, metal, lamp, u, v)
    layers = inside, inside * brightness * (1 - white), inside * white
    means = (layer.astype(np.float32).reshape(rows, FINE, columns, FINE).mean((1, 3)) for layer in layers)
    return tuple(mean[..., None] for mean in means)


@cache
def _covered(shape: str, side: int) -> np.ndarray:  # (side,side) bool
    """The cells of its box whose middles a solid covers."""
    middles = (np.arange(side) + 0.5) / side
    return silhouette(shape, middles[None, :], middles[:, None])


# Corners of a cube, turned by 30 degrees, in its box: u to the right, v down.
_FRONT, _BACK = 0.634, 0.366  # columns of the nearest and of the farthest corner
_LEFT_DROP, _RIGHT_DROP = SLANT * _FRONT, SLANT * _BACK  # rows of the left and right corners below the farthest one


def silhouette(shape: str, u: np.ndarray, v: np.ndarray) -> np.ndarray:  # (1,W), (H,1) -> (H,W) bool
    """Whether a solid covers a point of its box: u to the right, v down, both in 0..1."""
    if shape == "sphere":
        return (u - 0.5) ** 2 + (v - 0.5) ** 2 <= 0.25
    if shape == "cylinder":
        rim = SLANT / 2 * (1 - np.sqrt(np.clip(1 - (2 * u - 1) ** 2, 0, 1)))
    else:
        rim = np.interp(u, (0, _BACK, 1), (_LEFT_DROP, 0, _RIGHT_DROP))
    floor = 1 - (rim if shape == "cylinder" else np.interp(u, (0, _FRONT, 1), (_RIGHT_DROP, 0, _LEFT_DROP)))
    return (0 <= u) & (u <= 1) & (rim <= v) & (v <= floor)


def _light(shape: str, metal: bool, lamp: float, u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Brightness of a solid's colour, and white of its highlights, at each point of its box."""
    a, b = 2 * u - 1, 2 * v - 1
    top = np.array((0.0, -np.sqrt(1 - SLANT**2), SLANT))
    if shape == "sphere":
        normal = a + 0 * b, b + 0 * a, np.sqrt(np.clip(1 - a**2 - b**2, 0, 1))
    elif shape == "cylinder":
        lid = a**2 + ((v - SLANT / 2) / (SLANT / 2)) ** 2 <= 1
        wall = a + 0 * b, 0 * a * b, np.sqrt(np.clip(1 - a**2, 0, 1)) + 0 * b
        normal = tuple(np.where(lid, level, around) for level, around in zip(top, wall))
    else:
        edge = np.interp(u, (0, _FRONT, 1), (_LEFT_DROP, SLANT, _RIGHT_DROP))
        faces = np.where(u < _FRONT, -0.5, 0.866), np.zeros_like(u), np.where(u < _FRONT, 0.866, 0.5)
        normal = tuple(np.where(v < edge, level, upright) for level, upright in zip(top, faces))
    lit = np.clip(sum(n * light for n, light in zip(normal, _towards(0.6 * lamp, -0.75, 0.65))), 0, 1)
    if not metal:
        return 0.52 + 0.54 * lit, np.zeros_like(lit)
    brightness = 0.29 + 0.32 * lit**2 + 0.16 * np.clip(b, 0, 1) ** 2
    if shape == "sphere":
        half = _towards(0.6 * lamp, -0.75, 1.65)
        gleam = np.exp(-sum((n - h) ** 2 for n, h in zip(normal, half)) / 0.05)
        return brightness + 0.5 * gleam, 0.52 * gleam  # a highlight has the solid's own hue, so that it is not pale
    streak = 0.32 * lamp if shape == "cylinder" else np.where(u < _FRONT, -0.4, 0.68) - 0.16 * b
    gleam = np.exp(-(((a - streak) / 0.15) ** 2)) + 0 * b
    level = normal[1] < 0  # horizontal faces reflect the sky evenly
    return brightness + np.where(level, 0, 0.45 * gleam), np.where(level, 0.32, 0.36 * gleam)


def _towards(*direction: float) -> np.ndarray:
    return np.array(direction) / np.linalg.norm(direction)


def _cast_shadow(canvas: np.ndarray, box: Box, lamp: float) -> None:
    """Darkens the floor around the base, away from the lamp, within REACH of the box."""
    size = len(canvas)
    x0, y0, x1, y1 = (size * edge for edge in box)
    width, height = x1 - x0, y1 - y0
    across, along = (0.5 + 0.75 * REACH) * width, 0.8 * SLANT * height
    x, y = (x0 + x1) / 2 - 0.25 * REACH * lamp * width, y1 - along + 0.4 * REACH * height
    left, right = max(0, int(x - across)), min(size, int(x + across) + 2)
    top, bottom = max(0, int(y - along)), min(size, int(y + along) + 2)
    u = (np.arange(left, right) + 0.5 - x) / across
    v = (np.arange(top, bottom) + 0.5 - y) / along
    depth = np.clip((1 - np.hypot(u[None, :], v[:, None])) / 0.6, 0, 1)
    canvas[top:bottom, left:right] *= (1 - SHADOW * depth * depth * (3 - 2 * depth))[..., None]


def _ground(background: Background, image_size: int) -> np.ndarray:  # (H,W,3) in 0..255
    ramp = (np.arange(image_size, dtype=np.float32) + 0.5) / image_size
    wall, far, near = (np.array(colour, np.float32) for colour in background[:3])
    down = np.clip((ramp - HORIZON) / (1 - HORIZON), 0, 1)[:, None]
    floor = np.clip((ramp - HORIZON) / HAZE + 0.5, 0, 1)[:, None]
    column = wall * (1 - floor) + (far + (near - far) * down) * floor
    light = 1 + GLOW * background.lamp * (2 * ramp - 1)
    return column[:, None] * light[None, :, None]


# The world -----------------------------------------------------------------------------------------------------------


def random_box(size: str, rng: random.Random, like: Box | None = None) -> Box:
    """A box on the grid anywhere on the floor; its side follows from size and position, whatever `like`."""
    base = rng.randint(*FLOOR)
    margin = side(size, base) / 2 + 1
    return box_at(size, rng.uniform(margin, CELLS - margin), base)


def resized_boxes(size: str, box: Box, rng: random.Random) -> list[Box]:
    """The one box of another size with the same base, and inside the picture the same middle."""
    middle, base = CELLS * (box[0] + box[2]) / 2, CELLS * box[3]
    margin = side(size, base) / 2 + 1
    return [box_at(size, min(max(margin, middle), CELLS - margin), base)]


class SolidsWorld:
    """Shaded solids as a `ldm.synthetic.worlds.World`."""

    vocab = VOCAB
    image_size = IMAGE_SIZE
    max_objects = MAX_OBJECTS
    object_names = SHAPES
    sizes = tuple(SIDES)
    colours = tuple(COLOURS)
    finishes = MATERIALS
    directions = ("left of", "right of", "in front of", "behind")
    converse = CONVERSE
    flat = False
    shadow_reach = REACH

    render = staticmethod(render)
    random_graph = staticmethod(random_graph)
    random_background = staticmethod(random_background)
    graph_from_boxes = staticmethod(graph_from_boxes)
    back_to_front = staticmethod(back_to_front)
    relation_holds = staticmethod(relation_holds)
    find_ambiguity = staticmethod(find_ambiguity)
    random_box = staticmethod(random_box)
    resized_boxes = staticmethod(resized_boxes)

    @staticmethod
    def read_scene(picture: Picture) -> SceneReading:
        from ldm.synthetic.solids_vision import read_scene  # which imports this module

        return read_scene(picture)
