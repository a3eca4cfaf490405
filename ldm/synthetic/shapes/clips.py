"""Random storyboards of coloured shapes that move: straight on, off the border, over each other, into the scene and out of it.

Between two keyframes every box moves along a straight line, so `Storyboard.graphs` are exactly the frames that are drawn.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ldm.graph.scene_graph import SceneGraph
from ldm.graph.storyboard import Keyframe, Storyboard
from ldm.synthetic.annotation import DEPTH_PREDICATES, box_of
from ldm.synthetic.shapes.scenes import (
    CELLS,
    COLOURS,
    GAP,
    GRID,
    MIN_VISIBLE,
    graph_from_boxes,
    random_graph,
    relation_holds,
)

FRAMES, FPS = 16, 8
MOTIONS = {"still": 0.25, "straight": 0.55, "bounce": 0.2}  # probability of each, per object
MIN_DISTANCE = 16  # cells between first and last place of an object that moves: two cells of the latents
VISITING = 0.2  # share of the clips in which one object comes in or leaves
MAX_TRIES = 40  # of motions for one scene, before another scene is drawn

Boxes = np.ndarray  # (T,O,4) x0 y0 x1 y1, in cells


def random_storyboard(rng: random.Random, frames: int = FRAMES, fps: float = FPS, still: bool = False) -> Storyboard:
    """A storyboard of two to five shapes with complete graphs, all boxes known; ids tell the objects apart.

    At least one object moves by MIN_DISTANCE cells. In every frame, objects of one colour are apart, and MIN_VISIBLE of each
    object's box is not covered. A keyframe's relations hold until the next one.

    Args:
        still: nothing moves.
    """
    while True:
        graph = random_graph(rng)
        for _ in range(1 if still else MAX_TRIES):
            turns, boxes = _still(graph, frames) if still else _random_motion(graph, frames, rng)
            if _is_readable(graph, boxes):
                return _storyboard(graph, boxes, turns | _visit(graph, frames, rng, still), fps)


def drawn(graph: SceneGraph) -> SceneGraph:
    """A frame's graph with its boxes moved to the nearest edges at multiples of GRID cells, where all scenes of this world have them.

    The frames of a clip are drawn so: the autoencoder of this world was trained on such pictures and blurs small shapes in between.
    An edge moves by 2 cells at most, a quarter of a cell of the latents.
    """
    boxes = []
    for box in graph.boxes:
        assert box is not None
        x0, y0, x1, y1 = box
        left, top = (GRID * round(CELLS * edge / GRID) / CELLS for edge in (x0, y0))
        boxes.append((left, top, left + x1 - x0, top + y1 - y0))
    return replace(graph, boxes=tuple(boxes))


def _still(graph: SceneGraph, frames: int) -> tuple[set[int], Boxes]:
    return set(), np.repeat(_cells(graph)[None], frames, 0)


def _random_motion(graph: SceneGraph, frames: int, rng: random.Random) -> tuple[set[int], Boxes]:
    """The frames at which an object changes its direction, and where all objects are in each frame."""
    first = _cells(graph)
    kinds = rng.choices(tuple(MOTIONS), tuple(MOTIONS.values()), k=len(first))
    if set(kinds) == {"still"}:
        kinds[rng.randrange(len(kinds))] = "straight"
    turns: set[int] = set()
    tracks = []
    for start, kind in zip(first, kinds):
        side = start[2] - start[0]
        places, times = [start[:2]], [0]
        if kind == "bounce":
            turn = rng.randint(frames // 4, frames - 1 - frames // 4)
            places.append(_on_border(start, side, rng))
            times.append(turn)
            turns.add(turn)
        if kind != "still":
            places.append(_far_place(places[-1], side, rng))
            times.append(frames - 1)
        path = np.stack([np.interp(np.arange(frames), times, [place[axis] for place in places]) for axis in (0, 1)], -1)
        tracks.append(np.concatenate([path, path + side], -1))
    return turns, np.stack(tracks, 1)


def _far_place(start: Sequence[float], side: float, rng: random.Random) -> np.ndarray:
    """A corner within the picture at a distance of MIN_DISTANCE or more, which every side that shapes have leaves room for."""
    while True:
        place = np.array([rng.uniform(0, CELLS - side), rng.uniform(0, CELLS - side)])
        if np.hypot(*(place - start)) >= MIN_DISTANCE:
            return place


def _on_border(start: Sequence[float], side: float, rng: random.Random) -> np.ndarray:
    """A corner of a box that touches the picture's border, on one of its four sides."""
    place = _far_place(start[:2], side, rng)
    place[rng.randrange(2)] = rng.choice((0, CELLS - side))
    return place


def _is_readable(graph: SceneGraph, boxes: Boxes) -> bool:
    """Whether objects of one colour are apart, and enough of each is visible, in every frame; objects are listed back to front."""
    colours = [next(word for word in words if word in COLOURS) for words in graph.known_attributes]
    covered = np.zeros(boxes.shape[:2])
    for back in range(len(colours)):
        for front in range(back + 1, len(colours)):
            a, b = boxes[:, back], boxes[:, front]
            shared = np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2])  # (T,2), negative for a gap
            if colours[back] == colours[front] and (shared.min(1) > -GAP).any():
                return False
            covered[:, back] += shared.clip(min=0).prod(1)
    area = (boxes[..., 2] - boxes[..., 0]) ** 2
    return bool((covered <= (1 - MIN_VISIBLE) * area).all())


def _visit(graph: SceneGraph, frames: int, rng: random.Random, still: bool) -> set[tuple[int, range]]:
    """With a probability of VISITING, an object and the frames in which it is there."""
    if still or rng.random() >= VISITING:
        return set()
    turn = rng.randint(frames // 4, frames - 1 - frames // 4)
    return {(rng.randrange(len(graph.objects)), rng.choice((range(turn, frames), range(turn))))}


def _storyboard(graph: SceneGraph, boxes: Boxes, events: set, fps: float) -> Storyboard:
    """Keyframes at the events, where the objects that cover others change, and at the end."""
    frames = len(boxes)
    visits = dict(event for event in events if isinstance(event, tuple))
    turns = {event for event in events if isinstance(event, int)}
    turns |= {edge for there in visits.values() for edge in (there.start, there.stop) if 0 < edge < frames}
    graphs = [_frame_graph(graph, boxes[frame], [i for i in range(boxes.shape[1]) if frame in visits.get(i, range(frames))])
              for frame in range(frames)]  # fmt: skip
    turns |= {frame for frame in range(1, frames) if _depths(graphs[frame]) != _depths(graphs[frame - 1])}
    starts = sorted({0, frames - 1} | turns)
    segments = zip(starts, [*starts[1:], frames])
    return Storyboard(frames, tuple(Keyframe(a, _lasting(graphs[a:b])) for a, b in segments), fps)


def _frame_graph(graph: SceneGraph, boxes: np.ndarray, there: Sequence[int]) -> SceneGraph:
    """The complete graph of one frame."""
    shares = [tuple(float(edge) for edge in boxes[i] / CELLS) for i in there]
    words = [graph.known_attributes[i] for i in there]
    return graph_from_boxes([graph.objects[i] for i in there], shares, words, [f"{i}" for i in there])


def _depths(graph: SceneGraph) -> set:
    return {
        (graph.ids[s], predicate, graph.ids[o])
        for s, predicate, o in graph.known_triples
        if predicate in DEPTH_PREDICATES
    }


def _lasting(graphs: Sequence[SceneGraph]) -> SceneGraph:
    """The first of the graphs with those of its relations that hold in all of them, which have the same objects."""
    first = graphs[0]
    triples = [
        (s, predicate, o)
        for s, predicate, o in first.known_triples
        if all(relation_holds(box_of(g, s), predicate, box_of(g, o), in_front=s > o, slack=0.5) for g in graphs)
    ]
    return replace(first, triples=tuple(triples))


def _cells(graph: SceneGraph) -> np.ndarray:  # (O,4)
    return CELLS * np.array([box_of(graph, index) for index in range(len(graph.objects))])
