"""What a clip of a synthetic world shows, frame by frame, read from its pixels: places, looks, and flicker of what stands still."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from ldm.graph.scene_graph import SceneGraph
from ldm.graph.storyboard import Storyboard
from ldm.graph.validation import Box
from ldm.synthetic import checker
from ldm.synthetic.annotation import box_of
from ldm.synthetic.worlds import WorldReader, find_reader

MARGIN = 0.5  # latent cells around the boxes of what moves that count as moving, since the autoencoder blurs edges
MIN_CHANGE = 1e-6  # of a box, as a fraction of the image


class FrameReading(NamedTuple):
    """A frame against its graph.

    Attributes:
        found: for each object whether the picture shows it.
        placed: for each object whether its middle is within half a latent cell of its box's.
        kept: for each object that is found, whether shape, colour and size are the graph's; None for the others.
        extra: number of objects that the graph lacks.
        complaints: the checker's, a sentence each.
    """

    found: tuple[bool, ...]
    placed: tuple[bool, ...]
    kept: tuple[bool | None, ...]
    extra: int
    complaints: tuple[str, ...]


def read_frame(graph: SceneGraph, frame: Image.Image, world: str, cell: float) -> FrameReading:
    """Compares a frame with its graph, whose objects all have boxes.

    Args:
        world: name of the synthetic world.
        cell: side of a latent cell as a fraction of the image.
    """
    reader = find_reader(world)
    reading = reader.read_scene(frame)
    partners = checker.find_partners(graph, reading, world)
    placed, kept = [], []
    for index, partner in enumerate(partners):
        if partner is None or reading.graph is None:
            placed.append(False)
            kept.append(None)
            continue
        offset = _offset(box_of(graph, index), box_of(reading.graph, partner))
        placed.append(max(map(abs, offset)) <= cell / 2)
        kept.append(_look(reader, reading.graph, partner) == _look(reader, graph, index))
    extra = len(reading.graph.objects) - sum(p is not None for p in partners) if reading.graph else 0
    found = tuple(partner is not None for partner in partners)
    return FrameReading(found, tuple(placed), tuple(kept), extra, checker.check(graph, reading, world).complaints)


def measure_clip(storyboard: Storyboard, frames: Sequence[Image.Image], world: str, cell: float) -> dict:
    """The measures of a clip against its storyboard, whose objects have ids.

    Returns:
        in_place: share of frames in which every object is found and in place; nothing_else: of frames without other objects;
        objects, kept_objects: the number of objects, and of those with the graph's shape, colour and size wherever they are found,
        which is in at least half of their frames; per_frame: whether each frame has all in place; complaints.
    """
    graphs = storyboard.graphs()
    readings = [read_frame(graph, frame, world, cell) for graph, frame in zip(graphs, frames)]
    looks: dict[str | None, list[bool | None]] = {}
    for graph, reading in zip(graphs, readings):
        for name, kept in zip(graph.ids, reading.kept):
            looks.setdefault(name, []).append(kept)
    known = [[kept for kept in each if kept is not None] for each in looks.values()]
    kept_objects = sum(2 * len(seen) >= len(each) and all(seen) for seen, each in zip(known, looks.values()))
    per_frame = [all(reading.placed) for reading in readings]
    numbered = enumerate(reading.complaints for reading in readings)
    return {
        "in_place": float(np.mean(per_frame)),
        "nothing_else": float(np.mean([reading.extra == 0 for reading in readings])),
        "objects": len(looks),
        "kept_objects": kept_objects,
        "per_frame": per_frame,
        "complaints": [f"frame {number}: {text}" for number, texts in numbered for text in texts],
    }


def flicker(storyboard: Storyboard, frames: Sequence[Image.Image], cell: float) -> float | None:
    """Mean absolute difference of neighbouring frames, in levels of 0..255, where neither frame has anything that moves.

    Args:
        cell: side of a latent cell as a fraction of the image; boxes of what moves are larger by MARGIN cells.

    Returns:
        None if something moves everywhere, or there is one frame.
    """
    graphs = storyboard.graphs()
    pixels = [np.asarray(frame.convert("RGB"), float) for frame in frames]
    values = []
    for number in range(len(frames) - 1):
        resting = ~moving_area(graphs[number], graphs[number + 1], pixels[0].shape[:2], MARGIN * cell)
        if resting.any():
            values.append(np.abs(pixels[number + 1] - pixels[number])[resting].mean())
    return float(np.mean(values)) if values else None


def moving_area(
    before: SceneGraph, after: SceneGraph, size: tuple[int, int], margin: float
) -> np.ndarray:  # (H,W) bool
    """The pixels in boxes, in either graph, of objects that come, go, or have another box in the second graph."""
    places = [dict(zip(graph.ids, graph.boxes)) for graph in (before, after)]
    area = np.zeros(size, bool)
    for name in places[0] | places[1]:
        boxes = [place.get(name) for place in places]
        if None in boxes or max(abs(a - b) for a, b in zip(*boxes)) > MIN_CHANGE:
            for x0, y0, x1, y1 in (box for box in boxes if box is not None):
                rows = slice(max(0, int(np.floor((y0 - margin) * size[0]))), int(np.ceil((y1 + margin) * size[0])))
                columns = slice(max(0, int(np.floor((x0 - margin) * size[1]))), int(np.ceil((x1 + margin) * size[1])))
                area[rows, columns] = True
    return area


def _look(reader: WorldReader, graph: SceneGraph, index: int) -> tuple:
    """An object's name, and its words of size and colour."""
    words = {*reader.sizes, *reader.colours}
    return graph.objects[index], frozenset(word for word in graph.known_attributes[index] if word in words)


def _offset(a: Box, b: Box) -> tuple[float, float]:
    return (a[0] + a[2] - b[0] - b[2]) / 2, (a[1] + a[3] - b[1] - b[3]) / 2
