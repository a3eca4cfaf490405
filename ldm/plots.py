"""Pictures for people: boxes on an image, a graph as nodes and arrows, labelled sheets of both."""

from __future__ import annotations

import colorsys
import math
import textwrap
from collections.abc import Sequence
from functools import lru_cache

from PIL import Image, ImageDraw, ImageFont

from ldm.graph import SceneGraph

INK, PAPER = (28, 30, 34), (255, 255, 255)
MIN_SIDE = 384  # a smaller image is enlarged before anything is written on it

Colour = tuple[int, int, int]
Point = tuple[float, float]
Rect = tuple[float, float, float, float]  # x0 y0 x1 y1 in pixels


def draw_boxes(image: Image.Image, graph: SceneGraph) -> Image.Image:
    """The image, enlarged if small, with a labelled outline for each object whose box is known."""
    scale = max(1.0, MIN_SIDE / min(image.size))
    width, height = size = round(image.width * scale), round(image.height * scale)
    picture = image.convert("RGB").resize(size, Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(picture)
    font = _font(max(13, round(max(size) / 40)))
    boxes = {index: _scaled(box, size) for index, box in enumerate(graph.boxes) if box is not None}
    largest_first = sorted(boxes, key=lambda index: -_area(boxes[index]))
    for index in largest_first:  # so that the outline of a small box inside is not painted over
        draw.rectangle(boxes[index], outline=_colour(index), width=max(2, round(max(size) / 240)))
    placed: list[Rect] = []
    for index in reversed(largest_first):
        x0, y0, x1, y1 = boxes[index]
        words = " ".join((*graph.attributes[index], graph.objects[index]))
        words = textwrap.shorten(words, int(width / font.getlength("m")), placeholder="...")
        w, h = _text_size(words, font)
        above, below = (x0, y0 - h), (x0, y1)
        places = [(x0, y0 + step * h) for step in range(int((y1 - y0) / h))] + [(x1 - w, y0), (x1 - w, y1 - h)]
        places = [above, *places, below] if y1 - y0 > height / 2 else [above, below, *places]
        inside = [(max(0, min(x, width - w)), y) for x, y in places if 0 <= y <= height - h]
        placed.append(_freest([(x, y, x + w, y + h) for x, y in inside or [(0, 0)]], placed))
        draw.rectangle(placed[-1], fill=_colour(index))
        draw.text(_middle(placed[-1]), words, PAPER, font, "mm")
    return picture


def draw_graph(graph: SceneGraph, size: int = 640) -> Image.Image:
    """Objects on a ring, in the order in which their boxes stand around the image's middle, and relations as
    arrows from subject to object in the subject's colour, which is also that of its box in `draw_boxes`."""
    side = 2 * size  # reduced at the end, for smooth lines
    picture = Image.new("RGB", (side, side), PAPER)
    draw = ImageDraw.Draw(picture)
    nodes, font = _ring(graph, side)
    lanes: dict[frozenset[int], int] = {}
    arrows: list[tuple[list[Point], str, Colour]] = []
    for subject, predicate, object in graph.triples:
        pair = frozenset((subject, object))
        lane = lanes[pair] = lanes.get(pair, -1) + 1
        path = _path(nodes[subject], nodes[object], lane, side)
        arrows.append((path, predicate, _colour(subject)))
        _draw_arrow(draw, path, _colour(subject), side)
    for index, rect in enumerate(nodes):
        name, attributes = _node_text(graph, index)
        draw.rounded_rectangle(rect, font.size / 2, _colour(index))
        x, y = _middle(rect)
        w, h = _text_size(name, font)
        draw.multiline_text((x, rect[1] + h / 2 if attributes else y), name, PAPER, font, "mm", align="center")
        if attributes:
            small = _font(0.8 * font.size)
            rest = rect[3] - (_text_size(attributes, small)[1]) / 2
            draw.multiline_text((x, rest), attributes, PAPER, small, "mm", align="center")
    placed, small = list(nodes), _font(0.8 * font.size)
    for path, predicate, colour in sorted(arrows, key=lambda arrow: len(arrow[0])):  # the short have the least choice
        w, h = _text_size(predicate, small)
        placed.append(_freest(_label_places(path, w, h, side), placed))
        draw.rounded_rectangle(placed[-1], h / 4, PAPER)
        draw.text(_middle(placed[-1]), predicate, colour, small, "mm")
    return picture.reduce(2)


def panel(
    items: Sequence[tuple[str, Image.Image]], caption: Sequence[str] = (), height: int = MIN_SIDE
) -> Image.Image:
    """Pictures side by side at one height, a title above each, lines of text below."""
    margin, font = 12, _font(18)
    pictures = [image.convert("RGB").resize((max(1, round(image.width * height / image.height)), height),
                                            Image.Resampling.LANCZOS) for _, image in items]
    columns = [max(picture.width, round(font.getlength(title))) for picture, (title, _) in zip(pictures, items)]
    width = sum(columns) + margin * (len(columns) + 1)
    small = _font(15)
    per_line = max(20, int((width - 2 * margin) / small.getlength("n")))
    lines = [line for text in caption for line in textwrap.wrap(text, per_line) or [""]]
    title_height, line_height = 32, 22
    sheet = Image.new("RGB", (width, title_height + height + margin + line_height * len(lines) + margin * bool(lines)), PAPER)
    draw = ImageDraw.Draw(sheet)
    x = margin
    for column, picture, (title, _) in zip(columns, pictures, items):
        draw.text((x + column / 2, title_height / 2), title, INK, font, "mm")
        sheet.paste(picture, (round(x + (column - picture.width) / 2), title_height))
        x += column + margin
    for index, line in enumerate(lines):
        draw.text((margin, title_height + height + margin + line_height * index), line, INK, small)
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


def _ring(graph: SceneGraph, side: int) -> tuple[list[Rect], ImageFont.FreeTypeFont]:
    """A rectangle per object, and the largest of the fitting fonts."""
    count = len(graph.objects)
    even = [2 * math.pi * index / count - math.pi / 2 for index in range(count)]
    angles = even
    if all(graph.boxes) and count > 1:
        centres = [_middle(box) for box in graph.boxes]
        middle = [sum(axis) / count for axis in zip(*centres)]
        seen = [math.atan2(y - middle[1], x - middle[0]) for x, y in centres]
        order = sorted(range(count), key=lambda index: seen[index])
        # turn the even ring to where the objects are, on average
        turns = [seen[index] - angle for index, angle in zip(order, even)]
        turn = math.atan2(sum(map(math.sin, turns)), sum(map(math.cos, turns)))
        angles = [angle + turn for _, angle in sorted(zip(order, even))]
    for divisor in range(24, 65, 4):
        font = _font(side / divisor)
        rects = []
        sizes = [_node_size(graph, index, font) for index in range(count)]
        widest, tallest = (max(axis) for axis in zip(*sizes))
        for angle, (w, h) in zip(angles, sizes):
            x = side / 2 + (0.48 * side - widest / 2) * math.cos(angle) * (count > 1)
            y = side / 2 + (0.48 * side - tallest / 2) * math.sin(angle) * (count > 1)
            rects.append((x - w / 2, y - h / 2, x + w / 2, y + h / 2))
        gap = font.size  # room for arrows between nodes
        wide = [(x0 - gap, y0 - gap / 2, x1 + gap, y1 + gap / 2) for x0, y0, x1, y1 in rects]
        if not any(_overlap(rect, wide[:index]) for index, rect in enumerate(wide)):
            break
    return rects, font


def _node_text(graph: SceneGraph, index: int) -> tuple[str, str]:
    return textwrap.fill(graph.objects[index], 14), textwrap.fill(", ".join(graph.attributes[index]), 18)


def _node_size(graph: SceneGraph, index: int, font: ImageFont.FreeTypeFont) -> Point:
    name, attributes = _node_text(graph, index)
    w, h = _text_size(name, font)
    if attributes:
        more = _text_size(attributes, _font(0.8 * font.size))
        w, h = max(w, more[0]), h + more[1]
    return w, h


def _path(start: Rect, end: Rect, lane: int, side: int) -> list[Point]:
    """Points along a curve from edge to edge of two nodes, bent towards the picture's middle, more in each lane."""
    (x0, y0), (x1, y1) = _middle(start), _middle(end)
    x, y = (x0 + x1) / 2, (y0 + y1) / 2
    normal = (y1 - y0, x0 - x1)
    if normal[0] * (side / 2 - x) + normal[1] * (side / 2 - y) < 0:
        normal = (-normal[0], -normal[1])
    bend = 0.12 + 0.25 * lane
    x, y = x + bend * normal[0], y + bend * normal[1]
    steps = [step / 100 for step in range(101)]
    curve = [
        ((1 - t) ** 2 * x0 + 2 * t * (1 - t) * x + t**2 * x1, (1 - t) ** 2 * y0 + 2 * t * (1 - t) * y + t**2 * y1)
        for t in steps
    ]
    outside = [point for point in curve if not _holds(start, point) and not _holds(end, point)]
    return outside or [curve[50]]


def _label_places(path: list[Point], width: float, height: float, side: int) -> list[Rect]:
    """On the path, from its middle outwards, where the label leaves enough of it to see; then beside it."""
    middle = path[len(path) // 2]
    outwards = sorted(path, key=lambda point: math.dist(point, middle))
    dx, dy = path[-1][0] - path[0][0], path[-1][1] - path[0][1]
    length = math.hypot(dx, dy) or 1.0
    covered = min(width * length / max(abs(dx), 1e-9), height * length / max(abs(dy), 1e-9))
    away = (width * abs(dy) + height * abs(dx)) / (2 * length) + side / 200  # from the path to a centre beside it
    shifts = [(0.0, 0.0)] if covered < 0.7 * length else []
    shifts += [(times * away * dy / length, -times * away * dx / length) for times in (1, -1, 1.5, -1.5, 2, -2)]
    centres = [(x + right, y + down) for right, down in shifts for x, y in outwards]
    inside = [(min(max(x, width / 2), side - width / 2), min(max(y, height / 2), side - height / 2)) for x, y in centres]
    return [(x - width / 2, y - height / 2, x + width / 2, y + height / 2) for x, y in inside]


def _draw_arrow(draw: ImageDraw.ImageDraw, path: list[Point], colour: Colour, side: int) -> None:
    draw.line(path, fill=colour, width=max(2, side // 300), joint="curve")
    (x0, y0), (x1, y1) = path[-min(len(path), 4)], path[-1]
    length, angle = side / 60, math.atan2(y1 - y0, x1 - x0)
    wings = [(x1 - length * math.cos(angle + turn), y1 - length * math.sin(angle + turn)) for turn in (-0.4, 0.4)]
    draw.polygon([(x1, y1), *wings], fill=colour)


def _freest(places: Sequence[Rect], taken: Sequence[Rect]) -> Rect:
    """The first place that covers nothing taken, else the one that covers least."""
    return min(places, key=lambda place: _overlap(place, taken))


def _overlap(rect: Rect, others: Sequence[Rect]) -> float:
    return sum(
        max(0, min(rect[2], other[2]) - max(rect[0], other[0])) * max(0, min(rect[3], other[3]) - max(rect[1], other[1]))
        for other in others
    )


def _holds(rect: Rect, point: Point) -> bool:
    return rect[0] <= point[0] <= rect[2] and rect[1] <= point[1] <= rect[3]


def _scaled(box: Rect, size: tuple[int, int]) -> Rect:
    x0, y0, x1, y1 = (edge * length for edge, length in zip(box, size * 2))
    return x0, y0, max(x0, x1 - 1), max(y0, y1 - 1)


def _area(rect: Rect) -> float:
    return (rect[2] - rect[0]) * (rect[3] - rect[1])


def _middle(rect: Rect) -> Point:
    return (rect[0] + rect[2]) / 2, (rect[1] + rect[3]) / 2


def _text_size(text: str, font: ImageFont.FreeTypeFont) -> Point:
    """Width and height of the text with its padding."""
    lines = text.split("\n")
    return max(map(font.getlength, lines)) + 0.8 * font.size, (1.25 * len(lines) + 0.15) * font.size


def _colour(index: int) -> Colour:
    """Hues a golden angle apart, at a lightness that white text and white paper both set off."""
    channels = colorsys.hsv_to_rgb((0.58 + index * 0.618034) % 1, 0.75, 1.0)
    light = 0.299 * channels[0] + 0.587 * channels[1] + 0.114 * channels[2]
    red, green, blue = (round(255 * min(1.0, channel * 0.42 / light)) for channel in channels)
    return red, green, blue


@lru_cache
def _font(size: float) -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)
