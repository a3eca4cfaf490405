"""Pictures of graphs of coloured shapes, and their random backgrounds."""

from __future__ import annotations

import colorsys
import math
import random
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from ldm.graph.scene_graph import SceneGraph
from ldm.graph.validation import Box, GraphError
from ldm.synthetic.readings import Colour
from ldm.synthetic.shapes.outlines import outline
from ldm.synthetic.shapes.scenes import CELLS, COLOURS, IMAGE_SIZE, MORE_SHAPES, back_to_front

TEXTURES = ("smooth", "checks", "dots", "lines")
TEXTURE_PERIOD = 8  # cells
TEXTURE_CONTRAST = 0.2  # how much darker a texture's dark parts are, as a share of brightness
STRIPE_HEIGHT = 4  # cells
STRIPE_BRIGHTNESS = 0.45  # of every second stripe, as a share of the shape's colour
SUPERSAMPLING = 4  # shapes are drawn this many times larger and averaged down


class Background(NamedTuple):
    """A linear gradient with a texture."""

    start: Colour
    end: Colour
    angle: float  # direction from start to end in radians, 0 is from left to right
    texture: str = "smooth"


def random_background(rng: random.Random) -> Background:
    """A background of any hue and texture that is paler everywhere than every shape."""
    hue, shift = rng.random(), rng.uniform(-0.12, 0.12)
    ends = [
        colorsys.hsv_to_rgb((hue + s) % 1, rng.uniform(0.10, 0.34), rng.uniform(0.78, 0.98)) for s in (shift, -shift)
    ]
    start, end = ((255 * red, 255 * green, 255 * blue) for red, green, blue in ends)
    return Background(start, end, rng.uniform(0, 2 * math.pi), rng.choice(TEXTURES))


def render(graph: SceneGraph, background: Background, image_size: int = IMAGE_SIZE) -> Image.Image:
    """Draws a graph: each shape fills its box, in the order of `back_to_front`.

    The box alone determines the size; size attributes are not read.

    Raises:
        GraphError: an object is no known shape, or lacks a box or a colour.
    """
    canvas = _draw_background(background, image_size)
    for index in back_to_front(graph):
        shape, box, attributes = graph.objects[index], graph.boxes[index], graph.known_attributes[index]
        colour = next((COLOURS[word] for word in attributes if word in COLOURS), None)
        if shape not in MORE_SHAPES or box is None or colour is None:
            raise GraphError(
                f"object {index} ({shape!r}) cannot be drawn; give it a box, one of the shapes "
                f"{', '.join(MORE_SHAPES)} and one of the colours {', '.join(COLOURS)}"
            )
        paint = _stripes(colour, box[1], image_size) if "striped" in attributes else colour
        canvas.paste(paint, (0, 0, image_size, image_size), _draw_mask(shape, box, image_size))
    return canvas


def _draw_mask(shape: str, box: Box, image_size: int) -> Image.Image:
    """An anti-aliased mask."""
    side = SUPERSAMPLING * image_size
    mask = Image.new("L", (side, side))
    draw = ImageDraw.Draw(mask)
    x0, y0, x1, y1 = (round(side * edge) for edge in box)
    x1, y1 = max(x0, x1 - 1), max(y0, y1 - 1)  # Pillow includes both ends
    if shape == "circle":
        draw.ellipse((x0, y0, x1, y1), fill=255)
    elif shape == "square":
        draw.rectangle((x0, y0, x1, y1), fill=255)
    elif shape == "triangle":
        draw.polygon([((x0 + x1) / 2, y0), (x1, y1), (x0, y1)], fill=255)
    else:
        draw.polygon([(x0 + (x1 - x0) * x, y0 + (y1 - y0) * y) for x, y in outline(shape)], fill=255)
    return mask.reduce(SUPERSAMPLING)


def _stripes(colour: Colour, top: float, image_size: int) -> Image.Image:
    """A picture full of stripes, of which the first begins at a box's top."""
    rows = (np.arange(SUPERSAMPLING * image_size) + 0.5) / (SUPERSAMPLING * image_size) * CELLS - CELLS * top
    dark_share = (rows // STRIPE_HEIGHT % 2).reshape(image_size, SUPERSAMPLING).mean(1)  # of each pixel row
    stripes = np.array(colour) * (1 - (1 - STRIPE_BRIGHTNESS) * dark_share[:, None])
    return Image.fromarray(np.repeat(stripes[:, None], image_size, 1).round().astype(np.uint8))


def _draw_background(background: Background, image_size: int) -> Image.Image:
    ramp = (np.arange(image_size) + 0.5) / image_size
    x, y = ramp[None, :], ramp[:, None]
    along = np.cos(background.angle) * (x - 0.5) + np.sin(background.angle) * (y - 0.5)
    along = (along / np.ptp(along) + 0.5)[..., None]
    start, end = np.array(background.start), np.array(background.end)
    pattern = texture_pattern(background.texture, x * CELLS / TEXTURE_PERIOD, y * CELLS / TEXTURE_PERIOD)
    shade = 1 - TEXTURE_CONTRAST * pattern
    return Image.fromarray(((start + (end - start) * along) * shade[..., None]).round().astype(np.uint8))


def texture_pattern(texture: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """How dark a texture is at each place, 0 to 1.

    Args:
        x, y: columns (1,W) and rows (H,1), in periods of the texture.

    Returns:
        (H,W)
    """
    if texture == "checks":
        return ((np.floor(2 * x) + np.floor(2 * y)) % 2) * 1.0
    if texture == "dots":  # they cover a third of the ground, since an f8 autoencoder loses smaller ones
        return np.clip(3.2 - 8 * np.hypot(x % 1 - 0.5, y % 1 - 0.5), 0, 1)
    if texture == "lines":
        return 0.5 + 0.5 * np.sin(2 * np.pi * (x + y))
    return 0 * x + 0 * y
