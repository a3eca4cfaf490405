"""Pictures for people: boxes on an image, a graph as nodes and arrows, labelled sheets of both."""

from __future__ import annotations

import cmath
import colorsys
import math
import textwrap
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ldm.graph.scene_graph import SceneGraph

INK, PAPER = (28, 30, 34), (255, 255, 255)
MIN_SIDE = 384  # a smaller image is enlarged before anything is written on it

Colour = tuple[int, int, int]
Font = ImageFont.FreeTypeFont
Rect = tuple[float, float, float, float]  # x0 y0 x1 y1 in pixels; a point is a complex number, x + y i


def draw_boxes(image: Image.Image, graph: SceneGraph) -> Image.Image:
    """The image, enlarged if small, with a labelled outline for each object whose box is known."""
    scale = max(1.0, MIN_SIDE / min(image.size))
    width, height = size = round(image.width * scale), round(image.height * scale)
    picture = image.convert("RGB").resize(size, Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(picture)
    font = _font(max(13, round(max(size) / 40)))
    boxes = {
        index: (box[0] * width, box[1] * height, box[2] * width, box[3] * height)
        for index, box in enumerate(graph.boxes)
        if box is not None
    }
    largest_first = sorted(boxes, key=lambda index: -_area(boxes[index]))
    for index in largest_first:  # so that the outline of a small box inside is not painted over
        x0, y0, x1, y1 = boxes[index]
        edges = (x0, y0, max(x0, x1 - 1), max(y0, y1 - 1))  # PIL paints both ends
        draw.rectangle(edges, outline=_colour(index), width=max(2, max(size) // 240))
    placed: list[Rect] = []
    for index in reversed(largest_first):
        x0, y0, x1, y1 = boxes[index]
        words = " ".join((*graph.attributes[index], graph.objects[index]))
        label = [(textwrap.shorten(words, int(width / font.getlength("m")), placeholder="..."), font)]
        w, h = _size(label)
        above, below = (x0, y0 - h), (x0, y1)
        places = [(x0, y0 + step * h) for step in range(int((y1 - y0) / h))] + [(x1 - w, y0), (x1 - w, y1 - h)]
        places = [above, *places, below] if y1 - y0 > height / 2 else [above, below, *places]
        inside = [(max(0, min(x, width - w)), y) for x, y in places if 0 <= y <= height - h]
        placed.append(_freest([(x, y, x + w, y + h) for x, y in inside or [(0, 0)]], placed))
        draw.rectangle(placed[-1], fill=_colour(index))
        _write(draw, placed[-1], label, PAPER)
    return picture


def draw_graph(graph: SceneGraph, size: int = 640) -> Image.Image:
    """Objects on a ring, in the order in which their boxes stand around the image's middle, and relations as
    arrows from subject to object in the subject's colour, which is also that of its box in `draw_boxes`."""
    side = 2 * size  # reduced at the end, for smooth lines
    picture = Image.new("RGB", (side, side), PAPER)
    draw = ImageDraw.Draw(picture)
    nodes, font = _ring(graph, side)
    arrows, lanes = [], {}
    for subject, predicate, object in graph.triples:
        pair = frozenset((subject, object))
        lanes[pair] = lanes.get(pair, -1) + 1
        path = _path(nodes[subject], nodes[object], lanes[pair], side)
        arrows.append((path, [(predicate, _font(0.8 * font.size))], _colour(subject)))
        _draw_arrow(draw, path, _colour(subject), side)
    for index, node in enumerate(nodes):
        draw.rounded_rectangle(node, font.size / 2, _colour(index))
        _write(draw, node, _label(graph, index, font), PAPER)
    placed = list(nodes)
    for path, label, colour in sorted(arrows, key=lambda arrow: len(arrow[0])):  # the short have the least choice
        others = [point for other, _, _ in arrows for point in (other[::2] if other is not path else other[-4:])]
        dots = [(point.real - 2, point.imag - 2, point.real + 2, point.imag + 2) for point in others]
        placed.append(_freest(_label_places(path, *_size(label), side), placed + dots))
        draw.rounded_rectangle(placed[-1], font.size / 4, PAPER)
        _write(draw, placed[-1], label, colour)
    return picture.reduce(2)


def panel(items: Sequence[tuple[str, Image.Image]], caption: Sequence[str] = (), height: int = MIN_SIDE) -> Image.Image:
    """Pictures side by side at one height, a title above each, lines of text below."""
    margin, title_height, line_height = 12, 32, 22
    font, small = _font(18), _font(15)
    widths = [max(1, round(image.width * height / image.height)) for _, image in items]
    columns = [max(width, round(font.getlength(title))) for width, (title, _) in zip(widths, items)]
    width = sum(columns) + margin * (len(columns) + 1)
    per_line = max(20, int((width - 2 * margin) / small.getlength("n")))
    lines = [line for text in caption for line in textwrap.wrap(text, per_line) or [""]]
    bottom = title_height + height + margin
    sheet = Image.new("RGB", (width, bottom + (line_height * len(lines) + margin if lines else 0)), PAPER)
    draw = ImageDraw.Draw(sheet)
    x = margin
    for column, width, (title, image) in zip(columns, widths, items):
        draw.text((x + column / 2, title_height / 2), title, INK, font, "mm")
        picture = image.convert("RGB").resize((width, height), Image.Resampling.LANCZOS)
        sheet.paste(picture, (x + (column - width) // 2, title_height))
        x += column + margin
    for index, line in enumerate(lines):
        draw.text((margin, bottom + line_height * index), line, INK, small)
    return sheet


def grid(images: Sequence[Image.Image], columns: int) -> Image.Image:
    """Pictures in rows, each in the middle of a cell as large as the largest."""
    gap = 4
    width, height = max(image.width for image in images), max(image.height for image in images)
    columns = min(columns, len(images))
    rows = math.ceil(len(images) / columns)
    sheet = Image.new("RGB", (columns * (width + gap) - gap, rows * (height + gap) - gap), PAPER)
    for index, image in enumerate(images):
        row, column = divmod(index, columns)
        x, y = column * (width + gap), row * (height + gap)
        sheet.paste(image.convert("RGB"), (x + (width - image.width) // 2, y + (height - image.height) // 2))
    return sheet


def _ring(graph: SceneGraph, side: int) -> tuple[list[Rect], Font]:
    """A rectangle per object, and the largest font with which they stay apart."""
    count = len(graph.objects)
    places = [cmath.rect(1, 2 * math.pi * index / count - math.pi / 2) for index in range(count)]
    if all(graph.boxes):
        centres = [complex(x0 + x1, y0 + y1) / 2 for x0, y0, x1, y1 in graph.boxes]
        seen = [centre - sum(centres) / count for centre in centres]
        order = sorted(range(count), key=lambda index: cmath.phase(seen[index]))
        # turn the ring to where the objects are, on average
        turn = sum(seen[index] * place.conjugate() for index, place in zip(order, places)) or 1
        places = [place * turn / abs(turn) for _, place in sorted(zip(order, places), key=lambda pair: pair[0])]
    for divisor in range(24, 65, 4):
        font = _font(side / divisor)
        sizes = [_size(_label(graph, index, font)) for index in range(count)]
        widest, tallest = (max(lengths) for lengths in zip(*sizes))
        nodes = []
        for place, (w, h) in zip(places, sizes):
            x = side / 2 + (0.48 * side - widest / 2) * place.real * (count > 1)
            y = side / 2 + (0.48 * side - tallest / 2) * place.imag * (count > 1)
            nodes.append((x - w / 2, y - h / 2, x + w / 2, y + h / 2))
        gap = font.size  # room for arrows between nodes
        wide = [(x0 - gap, y0 - gap / 2, x1 + gap, y1 + gap / 2) for x0, y0, x1, y1 in nodes]
        if sum(_overlap(wide, wide)) <= sum(map(_area, wide)) + 1:  # each with itself alone
            break
    return nodes, font


def _path(start: Rect, end: Rect, lane: int, side: int) -> list[complex]:
    """Points along a curve from edge to edge of two nodes, bent towards the picture's middle, more in each lane."""
    a, b = _middle(start), _middle(end)
    sideways = (b - a) * 1j
    if (sideways.conjugate() * (complex(side, side) - a - b)).real < 0:
        sideways = -sideways
    control = (a + b) / 2 + (0.12 + 0.25 * lane) * sideways
    curve = [(1 - t) ** 2 * a + 2 * t * (1 - t) * control + t**2 * b for t in (step / 60 for step in range(61))]
    return [point for point in curve if not _holds(start, point) and not _holds(end, point)] or [curve[30]]


def _draw_arrow(draw: ImageDraw.ImageDraw, path: list[complex], colour: Colour, side: int) -> None:
    draw.line([(point.real, point.imag) for point in path], fill=colour, width=max(2, side // 300), joint="curve")
    back = cmath.rect(side / 60, cmath.phase(path[-min(len(path), 3)] - path[-1]))
    head = path[-1], path[-1] + back * cmath.rect(1, 0.4), path[-1] + back * cmath.rect(1, -0.4)
    draw.polygon([(point.real, point.imag) for point in head], fill=colour)


def _label_places(path: list[complex], width: float, height: float, side: int) -> list[Rect]:
    """On the path, from its middle outwards, where the label leaves enough of it to see; then beside it."""
    middle, along = path[len(path) // 2], path[-1] - path[0]
    outwards = sorted(path, key=lambda point: abs(point - middle))
    along = along / abs(along) if along else 1 + 0j
    covered = min(width / max(abs(along.real), 1e-9), height / max(abs(along.imag), 1e-9))
    beside = 1j * along * ((width * abs(along.imag) + height * abs(along.real)) / 2 + side / 200)
    shifts = [times * beside for times in (0, 1, -1, 1.5, -1.5, 2, -2)]
    if covered > 0.7 * abs(path[-1] - path[0]):
        shifts = shifts[1:]
    centres = [point + shift for shift in shifts for point in outwards]
    corners = [
        (min(max(centre.real - width / 2, 0), side - width), min(max(centre.imag - height / 2, 0), side - height))
        for centre in centres
    ]
    return [(x, y, x + width, y + height) for x, y in corners]


def _freest(places: Sequence[Rect], taken: Sequence[Rect]) -> Rect:
    """The first place that covers nothing taken, else the one that covers least."""
    return places[int(_overlap(np.array(places), taken).argmin())]


def _overlap(rects: np.ndarray, others: Sequence[Rect]) -> np.ndarray:  # (P,4) -> (P,), the area shared with others
    first, second = np.reshape(rects, (-1, 1, 4)), np.reshape(others, (1, -1, 4))
    shared = np.minimum(first[..., 2:], second[..., 2:]) - np.maximum(first[..., :2], second[..., :2])
    return shared.clip(0).prod(-1).sum(-1)


def _holds(rect: Rect, point: complex) -> bool:
    return rect[0] <= point.real <= rect[2] and rect[1] <= point.imag <= rect[3]


def _area(rect: Rect) -> float:
    return (rect[2] - rect[0]) * (rect[3] - rect[1])


def _middle(rect: Rect) -> complex:
    return complex(rect[0] + rect[2], rect[1] + rect[3]) / 2


def _label(graph: SceneGraph, index: int, font: Font) -> list[tuple[str, Font]]:
    """An object's name and, smaller, its attributes: lines of text with their fonts."""
    small = _font(0.8 * font.size)
    name, attributes = textwrap.wrap(graph.objects[index], 14), textwrap.wrap(", ".join(graph.attributes[index]), 18)
    return [(line, font) for line in name] + [(line, small) for line in attributes]


def _size(label: Sequence[tuple[str, Font]]) -> tuple[float, float]:
    """Width and height of the lines with their padding."""
    first = label[0][1].size
    return (
        max(font.getlength(line) for line, font in label) + 0.8 * first,
        sum(1.25 * font.size for _, font in label) + 0.15 * first,
    )


def _write(draw: ImageDraw.ImageDraw, rect: Rect, label: Sequence[tuple[str, Font]], colour: Colour) -> None:
    """The lines of a label in the middle of a rectangle that is as high as they need."""
    y = rect[1] + 0.075 * label[0][1].size
    for line, font in label:
        draw.text(((rect[0] + rect[2]) / 2, y + 0.625 * font.size), line, colour, font, "mm")
        y += 1.25 * font.size


def _colour(index: int) -> Colour:
    """Hues a golden angle apart, at a lightness that white text and white paper both set off."""
    channels = colorsys.hsv_to_rgb((0.58 + index * 0.618034) % 1, 0.75, 1.0)
    light = 0.299 * channels[0] + 0.587 * channels[1] + 0.114 * channels[2]
    red, green, blue = (round(255 * min(1.0, channel * 0.42 / light)) for channel in channels)
    return red, green, blue


@lru_cache
def _font(size: float) -> Font:
    return ImageFont.load_default(size)


def shown_region(photograph: Image.Image, region: np.ndarray) -> Image.Image:
    """The photograph, faded where nothing changes."""
    pixels, share = np.asarray(photograph.convert("RGB"), np.float32), region[..., None]
    faded = 0.25 * pixels + 0.75 * np.array(PAPER, np.float32)
    return Image.fromarray((share * pixels + (1 - share) * faded).round().astype(np.uint8))


def heat(photograph: Image.Image, attention: Tensor | np.ndarray, strength: float = 0.75) -> Image.Image:
    """The photograph, faded, under a map (h,w) of any size and scale: from blue through red to yellow, the highest."""
    attention = np.asarray(attention, np.float32)
    spread = np.ptp(attention)
    level = (attention - attention.min()) / (spread if spread > 0 else 1)
    level = np.asarray(Image.fromarray(level).resize(photograph.size, Image.Resampling.BICUBIC)).clip(0, 1)
    stops = np.array([(20, 20, 90), (200, 30, 60), (255, 235, 60)], np.float32)
    colour = np.stack([np.interp(level, (0, 0.5, 1), stops[:, channel]) for channel in range(3)], -1)
    share = strength * (0.35 + 0.65 * level)[..., None]
    mixed = (1 - share) * np.asarray(photograph.convert("RGB"), np.float32) + share * colour
    return Image.fromarray(mixed.round().clip(0, 255).astype(np.uint8))
