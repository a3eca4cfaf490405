"""Edits of clips with a known answer: in a true clip, one object gets another colour or another shape in all frames."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from PIL import Image

from ldm.editing.clips import ClipEdit, ClipEditRequest
from ldm.evaluation.clip_measures import read_frame
from ldm.graph.scene_graph import SceneGraph
from ldm.graph.storyboard import Storyboard
from ldm.synthetic.worlds import World


class ClipEditTask(NamedTuple):
    """An edit.

    Attributes:
        request: clip and storyboards.
        target: id of the object that changes.
    """

    request: ClipEditRequest
    target: str


def make_clip_task(storyboard: Storyboard, frames: Sequence[Image.Image], world: World, number: int) -> ClipEditTask:
    """The edit of this number, of a clip with complete graphs whose objects have ids."""
    rng = random.Random(f"clip edit/{number}")
    graphs = [keyframe.graph for keyframe in storyboard.keyframes]
    target = rng.choice(sorted(set.intersection(*({*graph.ids} for graph in graphs))))
    used = {word for graph in graphs for words in graph.known_attributes for word in words}
    shape = graphs[0].objects[graphs[0].ids.index(target)]
    colours = [colour for colour in world.colours if colour not in used]
    if colours and rng.random() < 0.5:
        change = _recolour(world, rng.choice(colours))
    else:
        change = _replace(rng.choice([name for name in world.object_names if name != shape]))
    keyframes = tuple(replace(keyframe, graph=change(keyframe.graph, target)) for keyframe in storyboard.keyframes)
    return ClipEditTask(ClipEditRequest(frames, replace(storyboard, keyframes=keyframes), storyboard), target)


def measure_clip_edit(task: ClipEditTask, edit: ClipEdit, world: str, cell: float) -> dict:
    """edited_right: share of the frames with the edited object in which it is in place with the look that it should have;
    outside_equal: whether all pixels outside the regions are the source's."""
    right = []
    for graph, frame in zip(task.request.storyboard.graphs(), edit.frames):
        if task.target in graph.ids:
            reading = read_frame(graph, frame, world, cell)
            index = graph.ids.index(task.target)
            right.append(reading.placed[index] and reading.kept[index] is True)
    pairs = zip(task.request.frames, edit.frames, edit.regions)
    equal = all((np.asarray(a) == np.asarray(b))[region == 0].all() for a, b, region in pairs)
    return {"edited_right": float(np.mean(right)), "outside_equal": bool(equal)}


def _recolour(world: World, colour: str):
    def change(graph: SceneGraph, target: str) -> SceneGraph:
        index = graph.ids.index(target)
        words = tuple(colour if word in world.colours else word for word in graph.known_attributes[index])
        return replace(graph, attributes=(*graph.attributes[:index], words, *graph.attributes[index + 1 :]))

    return change


def _replace(shape: str):
    def change(graph: SceneGraph, target: str) -> SceneGraph:
        index = graph.ids.index(target)
        return replace(graph, objects=(*graph.objects[:index], shape, *graph.objects[index + 1 :]))

    return change
