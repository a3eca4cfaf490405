"""Coloured shapes, drawn from a seed: a scene graph's every word and box has a visible, exact meaning.

The graph says what is where. The background's colours and direction are in no graph: they are the
style that a reference image carries.
"""

from __future__ import annotations

import colorsys
import random
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw
from torch import Tensor
from torch.utils.data import Dataset

from ldm.data.images import to_tensor
from ldm.graph import Box, GraphError, SceneGraph, Vocab

COLOURS = {
    "red": (206, 34, 43),
    "green": (26, 138, 58),
    "blue": (30, 74, 200),
    "yellow": (247, 205, 24),
    "purple": (122, 40, 150),
    "orange": (240, 122, 20),
}
SHAPES = ("circle", "square", "triangle")
SIDES = {"small": (13, 17), "large": (22, 28)}  # shortest and longest side, in cells
CELLS = 64  # boxes lie on a grid of so many cells, so that their edges are pixel edges at 64, 128, ... pixels
TRIES = 10  # places tried for a shape before its scene is begun again
FINE = 4  # shapes are drawn so many times larger and averaged down

VOCAB = Vocab(
    objects=("__image__", *SHAPES),
    predicates=("__in_image__", "left of", "right of", "above", "below"),
    attributes=(*SIDES, *COLOURS),
)


class Background(NamedTuple):
    """A linear ramp from one colour (red, green, blue in 0..255) to another, along an angle in radians."""

    start: tuple[float, float, float]
    end: tuple[float, float, float]
    angle: float


def relation(subject: Box, object: Box) -> str:
    """The predicate that holds between two boxes: the axis on which their centres differ more decides."""
    dx = (subject[0] + subject[2]) - (object[0] + object[2])
    dy = (subject[1] + subject[3]) - (object[1] + object[3])
    if abs(dx) >= abs(dy):
        return "left of" if dx < 0 else "right of"
    return "above" if dy < 0 else "below"


def random_background(rng: random.Random) -> Background:
    """Any hue at both ends, less saturated than the shapes, light enough to tell every shape from it."""
    hue = rng.random()
    ends = [
        colorsys.hsv_to_rgb((hue + shift) % 1, rng.uniform(0.1, 0.5), rng.uniform(0.6, 1.0))
        for shift in (0.0, rng.uniform(-0.2, 0.2))
    ]
    start, end = (tuple(255 * channel for channel in colour) for colour in ends)
    return Background(start, end, rng.uniform(0, 2 * np.pi))


def random_graph(rng: random.Random) -> SceneGraph:
    """Two to four shapes apart from each other, no two alike in shape and colour; each pair of them
    has one triple, either of the two being its subject."""
    kinds = rng.sample([(shape, colour) for shape in SHAPES for colour in COLOURS], rng.randint(2, 4))
    sizes = [rng.choice(tuple(SIDES)) for _ in kinds]
    boxes = _place([rng.randint(*SIDES[size]) for size in sizes], rng)
    triples = []
    for first in range(len(kinds)):
        for second in range(first + 1, len(kinds)):
            subject, object = rng.sample((first, second), 2)
            triples.append((subject, relation(boxes[subject], boxes[object]), object))
    return SceneGraph(
        objects=tuple(shape for shape, _ in kinds),
        boxes=tuple(boxes),
        attributes=tuple((size, colour) for (_, colour), size in zip(kinds, sizes)),
        triples=tuple(triples),
    )


def _place(sides: list[int], rng: random.Random) -> list[Box]:
    """Squares with these sides in cells, at least one cell apart; begun again until all of them fit."""
    largest_first = sorted(range(len(sides)), key=lambda index: -sides[index])
    placed: dict[int, tuple[int, int, int, int]] = {}
    while len(placed) < len(sides):
        placed.clear()
        for index in largest_first:
            for _ in range(TRIES):
                x, y = (rng.randint(1, CELLS - 1 - sides[index]) for _ in "xy")
                box = (x, y, x + sides[index], y + sides[index])
                if all(
                    box[2] < other[0] or other[2] < box[0] or box[3] < other[1] or other[3] < box[1]
                    for other in placed.values()
                ):
                    placed[index] = box
                    break
            else:
                break
    return [tuple(edge / CELLS for edge in placed[index]) for index in range(len(sides))]


def render(graph: SceneGraph, background: Background, image_size: int = 64) -> Image.Image:
    """The picture of a graph, drawn or edited: each shape fills its box, later ones over earlier ones.

    The box alone says how large a shape is; its size attribute is not read, nor are the triples.
    Raises GraphError for an object that is no known shape or lacks a box or a colour.
    """
    ramp = np.linspace(-0.5, 0.5, image_size)
    along = np.cos(background.angle) * ramp[None, :] + np.sin(background.angle) * ramp[:, None]
    along = (along / np.ptp(along) + 0.5)[..., None]
    start, end = np.array(background.start), np.array(background.end)
    pixels = (start + (end - start) * along).round().astype(np.uint8)
    canvas = Image.fromarray(pixels).resize((FINE * image_size,) * 2, Image.Resampling.NEAREST)
    draw = ImageDraw.Draw(canvas)
    for index, (shape, box, words) in enumerate(zip(graph.objects, graph.boxes, graph.attributes)):
        colour = next((COLOURS[word] for word in words if word in COLOURS), None)
        if shape not in SHAPES or box is None or colour is None:
            raise GraphError(
                f"object {index} ({shape!r}) cannot be drawn; give it a box, one of the shapes "
                f"{', '.join(SHAPES)} and one of the colours {', '.join(COLOURS)}"
            )
        x0, y0, x1, y1 = (round(FINE * image_size * edge) for edge in box)
        x1, y1 = max(x0, x1 - 1), max(y0, y1 - 1)  # PIL paints both ends
        if shape == "circle":
            draw.ellipse((x0, y0, x1, y1), fill=colour)
        elif shape == "square":
            draw.rectangle((x0, y0, x1, y1), fill=colour)
        else:
            draw.polygon([((x0 + x1) / 2, y0), (x1, y1), (x0, y1)], fill=colour)
    return canvas.reduce(FINE)


class _Demo(Dataset):
    vocab = VOCAB

    def __init__(self, size: int, image_size: int = 64, seed: int = 0, max_samples: int | None = None):
        self.size = size if max_samples is None else min(size, max_samples)
        self.image_size = image_size
        self.seed = seed
        self.epoch = 0

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> tuple[Tensor, SceneGraph]:  # (3,H,W) in [-1,1]
        graph, background = self.scene(index)
        return to_tensor(render(graph, background, self.image_size)), graph

    def scene(self, index: int) -> tuple[SceneGraph, Background]:
        """What `render` needs to draw picture `index`, as it is or with its graph edited."""
        if not 0 <= index < len(self):
            raise IndexError(f"there is no picture {index} among {len(self)}")
        rng = self._rng(index)
        return random_graph(rng), random_background(rng)

    def check(self) -> Iterator[str]:
        """Nothing to find: there are no files."""
        return iter(())


class DemoTrain(_Demo):
    """New scenes in every epoch: a scene depends on (seed, epoch, index)."""

    def _rng(self, index: int) -> random.Random:
        return random.Random(f"{self.seed}/{self.epoch}/{index}")


class DemoValidation(_Demo):
    """The same scenes always: a scene depends on the index alone, whatever the seed."""

    def _rng(self, index: int) -> random.Random:
        return random.Random(f"{index}")
