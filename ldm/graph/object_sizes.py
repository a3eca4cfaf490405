"""Sizes of boxes for objects without one, from similar objects, size words, and what contains what."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ldm.graph.scene_graph import SceneGraph
from ldm.graph.spatial_relations import GAP, GRID, kind_of
from ldm.graph.validation import Box

SIZE_WORDS = {  # attribute -> side of the box as a fraction of the image
    "tiny": 0.15, "small": 0.25, "little": 0.25, "short": 0.25, "large": 0.375, "big": 0.375, "tall": 0.375, "huge": 0.5,
}  # fmt: skip
DEFAULT_SIZE = 0.3
COARSE = 16  # cells per side of the image on the coarse grid of layouts
# A container's side is at least ROOM times that of its largest content, and SHARED_ROOM times that of a square with the
# area of all contents, and at most MAX_CONTAINER.
ROOM, SHARED_ROOM, MAX_CONTAINER = 1.75, 1.3, 0.9
MAX_NESTING = 3


def expected_size(
    index: int, names: Sequence[str], attributes: Sequence[Sequence[str]], boxes: Sequence[Box | None]
) -> np.ndarray | None:
    """Size of an object without a box, from the other objects of its graph.

    This is the mean size of the objects that have a box and the same size word and name, or else the same size word, or
    else the same name; without such objects, the size for which the size word stands.

    Returns:
        (2,), width and height; None if nothing is known.
    """
    size_words = set(attributes[index]) & set(SIZE_WORDS)
    known = {i: box for i, box in enumerate(boxes) if box is not None}
    same_word = [i for i in known if size_words and size_words & set(attributes[i])]
    same_name = [i for i in known if names[i] == names[index] and (not size_words or i in same_word)]
    similar = same_name or same_word
    if not similar:
        return np.full(2, SIZE_WORDS[min(size_words)]) if size_words else None
    found = np.array([known[i] for i in similar])
    return np.maximum(np.round((found[:, 2:] - found[:, :2]).mean(0) * GRID), 1) / GRID


def choose_sizes(
    graph: SceneGraph, cells: int = COARSE, default_scale: float = 1.0, word_scale: float = 1.0
) -> np.ndarray:
    """Sizes of the boxes of a layout, multiples of a grid cell except for known boxes.

    An object has the size of its box if known, or else its expected size, or else a square of DEFAULT_SIZE, which is
    smaller among many objects. Containers grow and contents shrink so that the contents fit.

    Args:
        graph: boxes may be None.
        cells: grid cells per side of the image.
        default_scale: scale of the default size.
        word_scale: scale of expected sizes.

    Returns:
        (O,2), width and height.
    """
    sizes, expected, unknown = _initial_sizes(graph, cells, default_scale, word_scale)
    contents, neighbours = _containment(graph)
    for _ in range(MAX_NESTING):
        for host in unknown:
            least = [ROOM * sizes[i].max() for i in contents[host]]
            if len(neighbours[host]) > 1:
                least.append(SHARED_ROOM * math.sqrt(sum(np.prod(sizes[i] + GAP) for i in neighbours[host])))
            if least:
                sizes[host] = np.maximum(sizes[host], np.minimum(_round_to_cells(max(least), cells), MAX_CONTAINER))
    for host in contents:
        if host in expected and contents[host]:  # a size word may be exceeded by one coarse cell
            room = _round_to_cells(ROOM * max(sizes[i].max() for i in contents[host]), cells)
            sizes[host] = np.maximum(sizes[host], np.minimum(room, np.minimum(sizes[host] + 1 / COARSE, 1)))
        for content in contents[host] & set(unknown):
            sizes[content] = np.minimum(sizes[content], sizes[host].min() / ROOM)
    return sizes


class _InitialSizes(NamedTuple):
    sizes: np.ndarray  # (O,2)
    expected: list[int]  # objects that have their expected size
    unknown: list[int]  # objects that have the default size


def _initial_sizes(graph: SceneGraph, cells: int, default_scale: float, word_scale: float) -> _InitialSizes:
    gap = math.ceil(GAP * cells)
    tile = (cells + gap) // math.ceil(math.sqrt(1.5 * len(graph.objects))) - gap  # leaves a third of the tiles empty
    default = _round_to_cells(default_scale * min(DEFAULT_SIZE, tile / cells), cells)
    sizes, expected, unknown = np.full((len(graph.objects), 2), default), [], []
    for index, box in enumerate(graph.boxes):
        if box is not None:
            sizes[index] = np.subtract(box[2:], box[:2])
        elif (size := expected_size(index, graph.objects, graph.known_attributes, graph.boxes)) is not None:
            by_word = expected_size(index, graph.objects, graph.known_attributes, ())
            size = word_scale * np.minimum(size, 1.0 if by_word is None else by_word)
            sizes[index] = _round_to_cells(size, cells)
            expected.append(index)
        else:
            unknown.append(index)
    return _InitialSizes(sizes, expected, unknown)


def _containment(graph: SceneGraph) -> tuple[dict[int, set[int]], dict[int, set[int]]]:
    """For each object the objects inside it, and the objects inside or on it."""
    inside, inside_or_on = defaultdict(set), defaultdict(set)
    for subject, predicate, object_ in graph.known_triples:
        kind = kind_of(predicate)
        if kind in ("inside", "around", "on"):
            host, content = (subject, object_) if kind == "around" else (object_, subject)
            inside_or_on[host].add(content)
            if kind != "on":
                inside[host].add(content)
    return inside, inside_or_on


def _round_to_cells(size: np.ndarray | float, cells: int) -> np.ndarray:
    return np.maximum(np.round(np.asarray(size) * cells), 1) / cells
