"""Graphs of coloured shapes: their vocabulary, random scenes, and the exact meaning of every predicate.

Coordinates are cells, 64 to the picture's side; in graphs they are shares of it. Objects are listed from back to front.
The predicates mean:

    inside                  the subject's box lies in the object's, and the subject is drawn later
    in front of, behind     otherwise, if the two boxes overlap
    left of, right of,      otherwise, along the axis on which the boxes' centres are further apart; none holds if the
    above, below            two distances differ by less than DIAGONAL_MARGIN cells
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import cache

import numpy as np

from ldm.graph.scene_graph import SceneGraph
from ldm.graph.validation import Box
from ldm.graph.vocab import Vocab
from ldm.synthetic.annotation import box_of
from ldm.synthetic.shapes.outlines import inside

COLOURS = {
    "red": (206, 34, 43),
    "green": (26, 138, 58),
    "blue": (30, 74, 200),
    "yellow": (247, 205, 24),
    "purple": (122, 40, 150),
    "orange": (240, 122, 20),
}
SHAPES = ("circle", "square", "triangle")
MORE_SHAPES = (*SHAPES, "star", "heart")  # of the world 'more_shapes', which no weights that ship have seen
SIDES = {"small": (16, 16), "large": (24, 28)}  # shortest and longest side of a box, in cells
FILLS = ("plain", "striped")
VOCAB = Vocab(
    objects=("__image__", *SHAPES),
    predicates=("__in_image__", "left of", "right of", "above", "below", "inside", "in front of", "behind"),
    attributes=(*SIDES, *COLOURS, *FILLS),
)

IMAGE_SIZE = 64
CELLS = 64
GRID = 4  # random boxes have their edges at multiples of this many cells
GAP = 2  # least distance in cells between two boxes that do not overlap
MIN_OVERLAP = 32  # least area in cells that two overlapping shapes share, so that the one in front can be told
MIN_VISIBLE = 0.6  # least visible share of each shape
DIAGONAL_MARGIN = 6
MIN_OBJECTS, MAX_OBJECTS = 2, 5
MAX_TRIES = 30  # random boxes for one object before the scene starts anew
APART = 0.74  # default share of objects that overlap no other

CellBox = tuple[int, int, int, int]  # x0 y0 x1 y1 in cells


# Random scenes -------------------------------------------------------------------------------------------------------


def random_graph(rng: random.Random, apart: float = APART, shapes: Sequence[str] = SHAPES) -> SceneGraph:
    """A complete graph of two to five shapes, of which no two have the same shape and colour.

    Args:
        apart: share of the shapes after the first that overlap no other; the rest lie over or inside another one.
        shapes: some of MORE_SHAPES.
    """
    count = rng.randint(MIN_OBJECTS, MAX_OBJECTS)
    while True:
        kinds = rng.sample([(shape, colour) for shape in shapes for colour in COLOURS], count)
        placed = _random_layout(count, rng, apart)
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


def _random_layout(count: int, rng: random.Random, apart: float) -> tuple[list[str], list[Box]] | None:
    """Sizes and boxes in drawing order: each box is apart from the earlier ones, over one of them, or inside one."""
    placed: list[tuple[str, CellBox]] = []
    for _ in range(count):
        mode = "apart"
        if placed:
            mode = rng.choices(("apart", "over", "inside"), (apart, (1 - apart) / 2, (1 - apart) / 2))[0]
        added = _place_object(placed, mode, rng)
        if added is None:
            return None
        placed.insert(rng.choice((0, len(placed))) if mode == "over" else len(placed), added)
    return [size for size, _ in placed], [_to_shares(box) for _, box in placed]


def _place_object(placed: list[tuple[str, CellBox]], mode: str, rng: random.Random) -> tuple[str, CellBox] | None:
    hosts = [box for size, box in placed if size == "large" or mode == "over"] if mode != "apart" else []
    for _ in range(MAX_TRIES):
        size = "small" if mode == "inside" else rng.choice(tuple(SIDES))
        side = _random_multiple(rng, *SIDES[size])
        low, high, host = (0, 0), (CELLS - side,) * 2, None
        if hosts:
            x0, y0, x1, y1 = host = rng.choice(hosts)
            reach = 0 if mode == "inside" else side - 6
            low = max(0, x0 - reach), max(0, y0 - reach)
            high = min(high[0], x1 - side + reach), min(high[1], y1 - side + reach)
        if low[0] > high[0] or low[1] > high[1]:
            continue
        x, y = _random_multiple(rng, low[0], high[0]), _random_multiple(rng, low[1], high[1])
        box = (x, y, x + side, y + side)
        if not any(_overlap(box, other, GAP) for _, other in placed if other != host):
            return size, box
    return None


def _random_multiple(rng: random.Random, low: int, high: int) -> int:
    return GRID * rng.randint(-(-low // GRID), high // GRID)


def random_box(size: str, rng: random.Random, like: Box | None = None) -> Box:
    """A box on the grid anywhere in the picture, with the side of `like`, or else a random side of this size."""
    side = rng.choice(_sides(size)) if like is None else round(CELLS * (like[2] - like[0]))
    return _square_box(rng.uniform(0, CELLS), rng.uniform(0, CELLS), side)


def resized_boxes(size: str, box: Box, rng: random.Random) -> list[Box]:
    """Boxes of every side of this size around the middle of `box`, in random order."""
    x, y = (CELLS * (box[axis] + box[axis + 2]) / 2 for axis in (0, 1))
    sides = _sides(size)
    return [_square_box(x, y, side) for side in rng.sample(sides, len(sides))]


def _sides(size: str) -> range:
    shortest, longest = SIDES[size]
    return range(shortest, longest + 1, GRID)


def _square_box(x: float, y: float, side: int) -> Box:
    """On the grid and inside the picture, with its middle as near to (x, y) as possible."""
    x0, y0 = (min(max(0, GRID * round((middle - side / 2) / GRID)), CELLS - side) for middle in (x, y))
    return _to_shares((x0, y0, x0 + side, y0 + side))


# Relations -----------------------------------------------------------------------------------------------------------


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
    """The one predicate from `front` to `back`, which is drawn before it; None if none is clear."""
    front, back = _to_cells(front), _to_cells(back)
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
    """Whether a triple is true of two boxes.

    Unlike `main_relation`, which picks one predicate, this accepts every true one: of two overlapping shapes one may
    also be left of the other.

    Args:
        in_front: the subject is drawn after the object.
        slack: measurement error to allow, in cells.
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


def back_to_front(graph: SceneGraph) -> list[int]:
    """Indices of the objects in drawing order: triples decide who is in front, otherwise the graph's order stands."""
    behind: dict[int, set[int]] = {index: set() for index in range(len(graph.objects))}
    for subject, predicate, object in graph.known_triples:
        if predicate in ("inside", "in front of"):
            behind[subject].add(object)
        elif predicate == "behind":
            behind[object].add(subject)
    order: list[int] = []
    while len(order) < len(behind):
        left = [index for index in behind if index not in order]
        order.append(next((index for index in left if behind[index] <= set(order)), left[0]))  # left[0] breaks cycles
    return order


# Ambiguity -----------------------------------------------------------------------------------------------------------


def find_ambiguity(graph: SceneGraph) -> str | None:
    """Why a picture of this complete graph would not determine the graph, or None."""
    visible = np.full((CELLS, CELLS), -1)
    areas, boxes = [], [_to_cells(box_of(graph, index)) for index in range(len(graph.objects))]
    for index, (shape, box) in enumerate(zip(graph.objects, boxes)):
        side = box[2] - box[0]
        size = _attribute(graph, index, SIDES)
        if not SIDES[size][0] <= side <= SIDES[size][1] or box[3] - box[1] != side:
            return f"object {index} is not of a {size} size"
        if min(box) < 0 or max(box) > CELLS:
            return f"object {index} leaves the picture"
        mask = shape_mask(shape, side)
        areas.append(mask.sum())
        window = visible[box[1] : box[3], box[0] : box[2]]
        for other in range(index):
            if not _overlap(box, boxes[other], GAP):
                continue
            if _attribute(graph, index, COLOURS) == _attribute(graph, other, COLOURS):
                return f"objects {other} and {index} are of one colour and touch"
            if (mask & (window == other)).sum() < MIN_OVERLAP:
                return f"objects {other} and {index} touch, but neither is clearly in front"
        window[mask] = index
    for index, area in enumerate(areas):
        if (visible == index).sum() < MIN_VISIBLE * area:
            return f"object {index} is hidden"
    return None


@cache
def shape_mask(shape: str, side: int) -> np.ndarray:
    """The cells of its box whose middles a shape covers, (side, side) bool."""
    y, x = (np.mgrid[:side, :side] + 0.5) / side
    if shape not in SHAPES:
        return inside(shape, x, y)
    return {
        "square": np.ones((side, side), bool),
        "circle": (x - 0.5) ** 2 + (y - 0.5) ** 2 <= 0.25,
        "triangle": np.abs(x - 0.5) <= y / 2,
    }[shape]


def _attribute(graph: SceneGraph, index: int, words: dict) -> str:
    return next(word for word in graph.known_attributes[index] if word in words)


def _to_cells(box: Box) -> CellBox:
    x0, y0, x1, y1 = (round(CELLS * edge) for edge in box)
    return x0, y0, x1, y1


def _to_shares(box: CellBox) -> Box:
    x0, y0, x1, y1 = (edge / CELLS for edge in box)
    return x0, y0, x1, y1


def _overlap(a: CellBox, b: CellBox, gap: int = 0) -> bool:
    return a[0] < b[2] + gap and b[0] < a[2] + gap and a[1] < b[3] + gap and b[1] < a[3] + gap
