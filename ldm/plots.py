"""Visualisations: boxes on an image, a graph as nodes and arrows, regions, heat maps, and labelled sheets of pictures.

torchvision's `draw_bounding_boxes` writes labels over each other and beyond the image; its `make_grid` needs images of
one size. Hence own code for both.
"""

from __future__ import annotations

import cmath
import colorsys
import math
import textwrap
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ldm.graph.scene_graph import SceneGraph
from ldm.util.fonts import font_for

INK, PAPER = (28, 30, 34), (255, 255, 255)
MIN_SIDE = 384  # pixels; smaller images are enlarged, so that labels are readable
GAP = 4  # pixels between the cells of a grid

Colour = tuple[int, int, int]
Font = ImageFont.FreeTypeFont
Rect = tuple[float, float, float, float]  # x0 y0 x1 y1 in pixels; points are complex numbers x + yi
Label = list[tuple[str, Font]]  # lines of text


def draw_boxes(image: Image.Image, graph: SceneGraph) -> Image.Image:
    """Draws a labelled outline for each object whose box is known.

    Returns:
        A copy of the image, enlarged to MIN_SIDE if it is smaller.
    """
    scale = max(1.0, MIN_SIDE / min(image.size))
    width, height = size = round(image.width * scale), round(image.height * scale)
    picture = image.convert("RGB").resize(size, Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(picture)
    font = font_for(max(13, round(max(size) / 40)))
    boxes = {
        index: (box[0] * width, box[1] * height, box[2] * width, box[3] * height)
        for index, box in enumerate(graph.boxes)
        if box is not None
    }
    largest_first = sorted(boxes, key=lambda index: -_area(boxes[index]))
    for index in largest_first:  # so that the outlines of small boxes stay on top
        x0, y0, x1, y1 = boxes[index]
        edges = (x0, y0, max(x0, x1 - 1), max(y0, y1 - 1))  # Pillow includes both ends
        draw.rectangle(edges, outline=_colour(index), width=max(2, max(size) // 240))
    placed: list[Rect] = []
    for index in reversed(largest_first):
        text = " ".join((*graph.known_attributes[index], graph.objects[index]))
        label = [(textwrap.shorten(text, int(width / font.getlength("m")), placeholder="..."), font)]
        candidates = _box_label_candidates(boxes[index], *_size(label), width, height)
        placed.append(_least_overlapping(candidates, placed))
        draw.rectangle(placed[-1], fill=_colour(index))
        _write(draw, placed[-1], label, PAPER)
    return picture


def _box_label_candidates(box: Rect, w: float, h: float, width: int, height: int) -> list[Rect]:
    """Places for a box's label inside the picture, best first: above, below, then within; tall boxes prefer within."""
    x0, y0, x1, y1 = box
    above, below = (x0, y0 - h), (x0, y1)
    within = [(x0, y0 + step * h) for step in range(int((y1 - y0) / h))] + [(x1 - w, y0), (x1 - w, y1 - h)]
    corners = [above, *within, below] if y1 - y0 > height / 2 else [above, below, *within]
    inside = [(max(0, min(x, width - w)), y) for x, y in corners if 0 <= y <= height - h]
    return [(x, y, x + w, y + h) for x, y in inside or [(0, 0)]]


def draw_graph(graph: SceneGraph, size: int = 640) -> Image.Image:
    """Draws objects as nodes on a ring and relations as labelled arrows from subject to object.

    The ring's order is that of the boxes around the image's middle. Each object has the colour of its box in
    `draw_boxes`; an arrow has its subject's colour.

    Args:
        size: side of the picture in pixels.
    """
    side = 2 * size  # reduced at the end, for smooth lines
    picture = Image.new("RGB", (side, side), PAPER)
    draw = ImageDraw.Draw(picture)
    nodes, font = _ring(graph, side)
    arrows: list[tuple[list[complex], Label, Colour]] = []
    lanes: dict[frozenset[int], int] = {}
    for subject, predicate, object in graph.known_triples:
        pair = frozenset((subject, object))
        lanes[pair] = lanes.get(pair, -1) + 1
        path = _path(nodes[subject], nodes[object], lanes[pair], side)
        arrows.append((path, [(predicate, font_for(0.8 * font.size, predicate))], _colour(subject)))
        _draw_arrow(draw, path, _colour(subject), side)
    for index, node in enumerate(nodes):
        draw.rounded_rectangle(node, font.size / 2, _colour(index))
        _write(draw, node, _label(graph, index, font), PAPER)
    placed = list(nodes)
    for path, label, colour in sorted(
        arrows, key=lambda arrow: len(arrow[0])
    ):  # short ones have the least choice of places
        points = [point for other, _, _ in arrows for point in (other[::2] if other is not path else other[-4:])]
        dots = [(point.real - 2, point.imag - 2, point.real + 2, point.imag + 2) for point in points]
        candidates = _arrow_label_candidates(path, *_size(label), side)
        placed.append(_least_overlapping(candidates, placed + dots))
        draw.rounded_rectangle(placed[-1], font.size / 4, PAPER)
        _write(draw, placed[-1], label, colour)
    return picture.reduce(2)


def panel(items: Sequence[tuple[str, Image.Image]], caption: Sequence[str] = (), height: int = MIN_SIDE) -> Image.Image:
    """Pictures side by side at one height.

    Args:
        items: titles and pictures.
        caption: paragraphs below, which are wrapped.
    """
    margin, title_height, line_height = 12, 32, 22
    font, small = font_for(18), font_for(15)
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
        draw.text((margin, bottom + line_height * index), line, INK, font_for(small.size, line))
    return sheet


def film_strip(frames: Sequence[Image.Image], count: int = 8, height: int | None = None) -> Image.Image:
    """Frames of a clip side by side, evenly chosen, the first and the last among them; `height` in pixels, by default their own."""
    chosen = [frames[number] for number in strip_frames(len(frames), count)]
    size = chosen[0].size if height is None else (round(chosen[0].width * height / chosen[0].height), height)
    cells = [frame.convert("RGB").resize(size, Image.Resampling.LANCZOS) for frame in chosen]
    return grid(cells, len(cells))


def strip_frames(total: int, count: int) -> list[int]:
    """The numbers of the frames on a film strip."""
    count = min(count, total)
    return sorted({round(i * (total - 1) / max(1, count - 1)) for i in range(count)})


def film_panel(
    rows: Sequence[tuple[str, Sequence[Image.Image]]], caption: Sequence[str] = (), count: int = 8, height: int = 128
) -> Image.Image:
    """Film strips of clips of equal length below each other, each with a title, above paragraphs of text."""
    texts = [()] * (len(rows) - 1) + [caption]
    strips = [
        panel([(title, film_strip(frames, count, height))], text, height) for (title, frames), text in zip(rows, texts)
    ]
    sheet = Image.new("RGB", (max(strip.width for strip in strips), sum(strip.height for strip in strips)), PAPER)
    for number, strip in enumerate(strips):
        sheet.paste(strip, (0, sum(above.height for above in strips[:number])))
    return sheet


def grid(images: Sequence[Image.Image], columns: int) -> Image.Image:
    """Pictures in rows, each in the middle of a cell as large as the largest picture."""
    width, height = max(image.width for image in images), max(image.height for image in images)
    columns = min(columns, len(images))
    rows = math.ceil(len(images) / columns)
    sheet = Image.new("RGB", (columns * (width + GAP) - GAP, rows * (height + GAP) - GAP), PAPER)
    for index, image in enumerate(images):
        row, column = divmod(index, columns)
        x, y = column * (width + GAP), row * (height + GAP)
        sheet.paste(image.convert("RGB"), (x + (width - image.width) // 2, y + (height - image.height) // 2))
    return sheet


def draw_region(photograph: Image.Image, region: np.ndarray) -> Image.Image:
    """Fades the photograph outside of a region (H,W) in 0..1."""
    pixels, share = np.asarray(photograph.convert("RGB"), np.float32), region[..., None]
    faded = 0.25 * pixels + 0.75 * np.array(PAPER, np.float32)
    return Image.fromarray((share * pixels + (1 - share) * faded).round().astype(np.uint8))


def draw_heatmap(photograph: Image.Image, attention: Tensor | np.ndarray, strength: float = 0.75) -> Image.Image:
    """Overlays the photograph with a map, from blue (lowest) over red to yellow (highest value).

    Args:
        attention: (h,w) of any size and scale.
        strength: opacity of the highest value, 0..1.
    """
    attention = np.asarray(attention, np.float32)
    spread = np.ptp(attention)
    level = (attention - attention.min()) / (spread if spread > 0 else 1)
    level = np.asarray(Image.fromarray(level).resize(photograph.size, Image.Resampling.BICUBIC)).clip(0, 1)
    stops = np.array([(20, 20, 90), (200, 30, 60), (255, 235, 60)], np.float32)
    colour = np.stack([np.interp(level, (0, 0.5, 1), stops[:, channel]) for channel in range(3)], -1)
    share = strength * (0.35 + 0.65 * level)[..., None]
    mixed = (1 - share) * np.asarray(photograph.convert("RGB"), np.float32) + share * colour
    return Image.fromarray(mixed.round().clip(0, 255).astype(np.uint8))


# Placement and text ----------------------------------------------------------------------------------------------------


def _ring(graph: SceneGraph, side: int) -> tuple[list[Rect], Font]:
    """A rectangle for each object, and the largest font with which they do not overlap."""
    count = len(graph.objects)
    places = [cmath.rect(1, 2 * math.pi * index / count - math.pi / 2) for index in range(count)]
    boxes = [box for box in graph.boxes if box is not None]
    if len(boxes) == count:
        centres = [complex(x0 + x1, y0 + y1) / 2 for x0, y0, x1, y1 in boxes]
        offsets = [centre - sum(centres) / count for centre in centres]
        order = sorted(range(count), key=lambda index: cmath.phase(offsets[index]))
        # rotate the ring so that it agrees best with the objects' directions
        turn = sum(offsets[index] * place.conjugate() for index, place in zip(order, places)) or 1
        places = [place * turn / abs(turn) for _, place in sorted(zip(order, places), key=lambda pair: pair[0])]
    nodes, font = [], font_for(side / 24)
    for divisor in range(24, 65, 4):
        font = font_for(side / divisor)
        sizes = [_size(_label(graph, index, font)) for index in range(count)]
        widest, tallest = (max(lengths) for lengths in zip(*sizes))
        nodes = []
        for place, (w, h) in zip(places, sizes):
            x = side / 2 + (0.48 * side - widest / 2) * place.real * (count > 1)
            y = side / 2 + (0.48 * side - tallest / 2) * place.imag * (count > 1)
            nodes.append((x - w / 2, y - h / 2, x + w / 2, y + h / 2))
        gap = font.size  # room for arrows between the nodes
        wide = [(x0 - gap, y0 - gap / 2, x1 + gap, y1 + gap / 2) for x0, y0, x1, y1 in nodes]
        if sum(_overlap(wide, wide)) <= sum(map(_area, wide)) + 1:  # each overlaps itself only
            break
    return nodes, font


def _path(start: Rect, end: Rect, lane: int, side: int) -> list[complex]:
    """Points on a curve between the edges of two nodes, bent towards the picture's middle, further for each lane."""
    a, b = _middle(start), _middle(end)
    sideways = (b - a) * 1j
    if (sideways.conjugate() * (complex(side, side) - a - b)).real < 0:
        sideways = -sideways
    control = (a + b) / 2 + (0.12 + 0.25 * lane) * sideways
    curve = [(1 - t) ** 2 * a + 2 * t * (1 - t) * control + t**2 * b for t in (step / 60 for step in range(61))]
    return [point for point in curve if not _contains(start, point) and not _contains(end, point)] or [curve[30]]


def _draw_arrow(draw: ImageDraw.ImageDraw, path: list[complex], colour: Colour, side: int) -> None:
    draw.line([(point.real, point.imag) for point in path], fill=colour, width=max(2, side // 300), joint="curve")
    back = cmath.rect(side / 60, cmath.phase(path[-min(len(path), 3)] - path[-1]))
    head = path[-1], path[-1] + back * cmath.rect(1, 0.4), path[-1] + back * cmath.rect(1, -0.4)
    draw.polygon([(point.real, point.imag) for point in head], fill=colour)


def _arrow_label_candidates(path: list[complex], width: float, height: float, side: int) -> list[Rect]:
    """Places for an arrow's label, best first: on it, from its middle outwards, if enough of it stays visible; then beside."""
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


def _least_overlapping(candidates: Sequence[Rect], placed: Sequence[Rect]) -> Rect:
    """The first candidate with the least overlap with placed rectangles."""
    return candidates[int(_overlap(candidates, placed).argmin())]


def _overlap(rects: Sequence[Rect], others: Sequence[Rect]) -> np.ndarray:  # (P,4), (Q,4) -> (P,) areas
    first, second = np.reshape(rects, (-1, 1, 4)), np.reshape(others, (1, -1, 4))
    shared = np.minimum(first[..., 2:], second[..., 2:]) - np.maximum(first[..., :2], second[..., :2])
    return shared.clip(0).prod(-1).sum(-1)


def _contains(rect: Rect, point: complex) -> bool:
    return rect[0] <= point.real <= rect[2] and rect[1] <= point.imag <= rect[3]


def _area(rect: Rect) -> float:
    return (rect[2] - rect[0]) * (rect[3] - rect[1])


def _middle(rect: Rect) -> complex:
    return complex(rect[0] + rect[2], rect[1] + rect[3]) / 2


def _label(graph: SceneGraph, index: int, font: Font) -> Label:
    """An object's name and, in a smaller font, its attributes."""
    name, attributes = (
        textwrap.wrap(graph.objects[index], 14),
        textwrap.wrap(", ".join(graph.known_attributes[index]), 18),
    )
    small = 0.8 * font.size
    return [(line, font_for(font.size, line)) for line in name] + [(line, font_for(small, line)) for line in attributes]


def _size(label: Label) -> tuple[float, float]:
    """Width and height with padding."""
    first = label[0][1].size
    return (
        max(font.getlength(line) for line, font in label) + 0.8 * first,
        sum(1.25 * font.size for _, font in label) + 0.15 * first,
    )


def _write(draw: ImageDraw.ImageDraw, rect: Rect, label: Label, colour: Colour) -> None:
    """Writes a label centred in a rectangle of its height."""
    y = rect[1] + 0.075 * label[0][1].size
    for line, font in label:
        draw.text(((rect[0] + rect[2]) / 2, y + 0.625 * font.size), line, colour, font, "mm")
        y += 1.25 * font.size


def _colour(index: int) -> Colour:
    """Hues a golden angle apart, at a lightness that contrasts with white text and white paper."""
    channels = colorsys.hsv_to_rgb((0.58 + index * 0.618034) % 1, 0.75, 1.0)
    light = 0.299 * channels[0] + 0.587 * channels[1] + 0.114 * channels[2]
    red, green, blue = (round(255 * min(1.0, channel * 0.42 / light)) for channel in channels)
    return red, green, blue
