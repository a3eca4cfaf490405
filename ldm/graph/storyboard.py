"""Scene graphs that change in time: keyframes, between which boxes move and relations hold.

A storyboard's JSON:

    {"frames": 16, "fps": 8,
     "easing": "linear",                           or "ease" (slow at both ends), or "through" (a curve through the keyframes)
     "keyframes": [{"at": 0, "objects": ["circle"], "boxes": [[0, 0.4, 0.3, 0.7]], "ids": ["ball"]},
                   {"at": 15, "objects": ["circle"], "boxes": [[0.7, 0.4, 1, 0.7]], "ids": ["ball"]}]}

Beside `at`, a keyframe has the keys of a graph file (`ldm.graph.graph_files`); a graph may also stand under the key `graph`. Objects
with equal ids are the same one; objects without ids are matched by name, box and relations, as in an edit. From one keyframe
to the next, names, attributes and relations are those of the earlier one, and boxes move to those of the later one. An object
that a keyframe lacks is gone from there on; one that it adds appears there.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from scipy.interpolate import PchipInterpolator

from ldm.graph.diff import diff
from ldm.graph.json_files import read_json, write_text
from ldm.graph.matching import match_objects
from ldm.graph.scene_graph import SceneGraph
from ldm.graph.validation import Box, GraphError, shorten, suggest
from ldm.graph.vocab import Vocab

EASINGS = ("linear", "ease", "through")
KEYS = ("frames", "fps", "easing", "keyframes")
MAX_FRAMES = 10_000


@dataclass(frozen=True)
class Keyframe:
    """The scene graph of one frame.

    Attributes:
        at: number of the frame, from 0 on.
        graph: what is in it, and where.
    """

    at: int
    graph: SceneGraph


@dataclass(frozen=True)
class Storyboard:
    """A scene graph that changes in time.

    Attributes:
        frames: T, number of frames.
        keyframes: in the order of their frames; the first is at frame 0. After the last one, nothing changes.
        fps: frames per second.
        easing: how boxes move between keyframes: 'linear', 'ease' (cubic, slow at both ends) or 'through' (a monotone cubic
            curve through the boxes of all keyframes, Fritsch & Carlson 1980).

    Raises:
        GraphError: a field is invalid.
    """

    frames: int
    keyframes: tuple[Keyframe, ...]
    fps: float = 8
    easing: str = "linear"

    def __post_init__(self):
        if isinstance(self.frames, bool) or not isinstance(self.frames, int) or not 1 <= self.frames <= MAX_FRAMES:
            raise GraphError(f"frames: {shorten(self.frames)} is no number of frames; give 1 to {MAX_FRAMES}")
        if isinstance(self.fps, bool) or not isinstance(self.fps, (int, float)) or not 0 < self.fps <= 1000:
            raise GraphError(f"fps: {shorten(self.fps)} is no rate; give frames per second, more than 0 and up to 1000")
        if self.easing not in EASINGS:
            raise GraphError(f"easing: {shorten(self.easing)} is not one of {', '.join(EASINGS)}")
        object.__setattr__(self, "keyframes", tuple(self.keyframes))
        if not self.keyframes:
            raise GraphError("keyframes: there is none; give at least one, at frame 0")
        for number, keyframe in enumerate(self.keyframes):
            at = keyframe.at
            earliest = self.keyframes[number - 1].at + 1 if number else 0
            if (
                isinstance(at, bool)
                or not isinstance(at, int)
                or not earliest <= at < self.frames
                or (at and not number)
            ):
                wanted = "0" if not number else f"a frame from {earliest} to {self.frames - 1}"
                raise GraphError(f"keyframes[{number}].at: {shorten(at)}; give {wanted}")

    @classmethod
    def still(cls, graph: SceneGraph, frames: int = 16, fps: float = 8) -> Storyboard:
        """A graph that does not change."""
        return cls(frames, (Keyframe(0, graph),), fps)

    @classmethod
    def from_json(cls, data: Any, where: str = "storyboard") -> Storyboard:
        """Builds a storyboard from parsed JSON.

        Args:
            data: parsed JSON of any type.
            where: source of the data, such as a path, for errors and warnings.

        Raises:
            GraphError: the data is no valid storyboard.
        """
        if not is_storyboard(data):
            raise GraphError(
                f'{where}: a storyboard is an object {{"frames": 16, "keyframes": [...]}}, not {shorten(data)}'
            )
        for key in data:
            if key not in KEYS:
                raise GraphError(f"{where}: unknown key {shorten(key)}{suggest(str(key), KEYS)}")
        for key in ("frames", "keyframes"):
            if key not in data:
                raise GraphError(f"{where}: the key {key!r} is missing")
        if not isinstance(data["keyframes"], list):
            raise GraphError(f"{where}, keyframes: {shorten(data['keyframes'])} is no list")
        keyframes = [_keyframe(entry, f"{where}, keyframes[{i}]") for i, entry in enumerate(data["keyframes"])]
        options = {key: data[key] for key in ("fps", "easing") if key in data}
        try:
            return cls(data["frames"], tuple(keyframes), **options)
        except GraphError as error:
            raise GraphError(f"{where}, {error}") from None

    def to_json(self) -> dict:
        """The storyboard as JSON data."""
        keyframes = [{"at": keyframe.at, **keyframe.graph.to_json()} for keyframe in self.keyframes]
        return {"frames": self.frames, "fps": self.fps, "easing": self.easing, "keyframes": keyframes}

    def validate(self, vocab: Vocab, where: str = "storyboard", max_objects: int | None = None) -> None:
        """Raises GraphError for names that the vocabulary lacks, and for more objects than a model encodes."""
        for number, keyframe in enumerate(self.keyframes):
            keyframe.graph.validate(vocab, f"{where}, keyframes[{number}]", max_objects)

    def graphs(self) -> list[SceneGraph]:
        """The graph of each frame."""
        return [self.graph_at(frame) for frame in range(self.frames)]

    def graph_at(self, frame: int) -> SceneGraph:
        """The graph of a frame: that of the keyframe at or before it, with boxes on their way to the next one."""
        if not 0 <= frame < self.frames:
            raise IndexError(f"there is no frame {frame} among {self.frames}")
        number = max(i for i, keyframe in enumerate(self.keyframes) if keyframe.at <= frame)
        start = self.keyframes[number]
        if start.at == frame or number == len(self.keyframes) - 1:
            return start.graph
        boxes = [self._box_at(track, frame) for track in self._tracks[number]]
        return replace(start.graph, boxes=tuple(boxes))

    def changes(self) -> list[list[str]]:
        """What changes from each keyframe to the next, in sentences."""
        pairs = zip(self.keyframes, self.keyframes[1:])
        return [[str(operation) for operation in diff(a.graph, b.graph)] for a, b in pairs]

    def windows(self, length: int, overlap: int) -> list[range]:
        """The frames of a clip as overlapping windows of `length` frames, of which the last may overlap more.

        Raises:
            ValueError: `overlap` is not smaller than `length`.
        """
        if not 0 <= overlap < length:
            raise ValueError(f"windows of {length} frames cannot overlap by {overlap}")
        if self.frames <= length:
            return [range(self.frames)]
        starts = [*range(0, self.frames - length, length - overlap), self.frames - length]
        return [range(start, start + length) for start in starts]

    @cached_property
    def _tracks(self) -> list[list[list[tuple[int, Box | None]]]]:
        """For each keyframe and each of its objects the (frame, box) of all keyframes that the object is in, in a row."""
        graphs = [keyframe.graph for keyframe in self.keyframes]
        links = [match_objects(a, b) for a, b in zip(graphs, graphs[1:])]
        tracks: list[list[list[tuple[int, Box | None]]]] = []
        for number, keyframe in enumerate(self.keyframes):
            before = {new: tracks[-1][old] for old, new in links[number - 1].items()} if number else {}
            own = [before.get(i, []) for i in range(len(keyframe.graph.objects))]
            for track, box in zip(own, keyframe.graph.boxes):
                track.append((keyframe.at, box))  # the same list in every keyframe, so that each knows the whole track
            tracks.append(own)
        return tracks

    def _box_at(self, track: Sequence[tuple[int, Box | None]], frame: int) -> Box | None:
        last = max(i for i, (at, _) in enumerate(track) if at <= frame)
        (start, box), ahead = track[last], track[last + 1 : last + 2]
        if box is None or not ahead or ahead[0][1] is None:
            return box
        end, target = ahead[0]
        if self.easing == "through":
            known = [(at, each) for at, each in track if each is not None]
            curve = PchipInterpolator([at for at, _ in known], np.array([each for _, each in known]), axis=0)
            x0, y0, x1, y1 = (float(edge) for edge in np.clip(curve(frame), 0, 1))
            return x0, y0, x1, y1
        share = (frame - start) / (end - start)
        if self.easing == "ease":
            share = share * share * (3 - 2 * share)
        return interpolate(box, target, share)


def interpolate(before: Box, after: Box, share: float) -> Box:
    """The box at `share` (0 to 1) of the way from one to another."""
    x0, y0, x1, y1 = (a + share * (b - a) for a, b in zip(before, after))
    return x0, y0, x1, y1


def moves(storyboard: Storyboard) -> list[float]:
    """The largest distance of each object of the first keyframe from its first place, in shares of the picture's sides."""
    first, *rest = storyboard.graphs()
    distances = [0.0] * len(first.objects)
    for graph in rest:
        place = dict(zip(graph.ids, graph.boxes))
        for index, (name, box) in enumerate(zip(first.ids, first.boxes)):
            if box is not None and (now := place.get(name)) is not None:
                way = box[0] + box[2] - now[0] - now[2], box[1] + box[3] - now[1] - now[3]
                distances[index] = max(distances[index], math.hypot(*way) / 2)
    return distances


def is_storyboard(data: Any) -> bool:
    """Whether parsed JSON is meant as a storyboard, and not as a graph."""
    return isinstance(data, dict) and "keyframes" in data


def read_storyboard(path: str | os.PathLike) -> Storyboard:
    """Reads a file with one storyboard.

    Raises:
        GraphError: the file cannot be read, is not JSON, or holds no valid storyboard.
    """
    return Storyboard.from_json(read_json(path), f"{path}")


def find_storyboard(path: str | os.PathLike) -> Storyboard | None:
    """The storyboard in a file, or None if it holds something else, such as graphs.

    Raises:
        GraphError: the file cannot be read, is not JSON, or holds a storyboard that is not valid.
    """
    data = read_json(path)
    return Storyboard.from_json(data, f"{path}") if is_storyboard(data) else None


def write_storyboard(path: str | os.PathLike, storyboard: Storyboard) -> None:
    """Writes a storyboard atomically, a keyframe per line. Raises GraphError if the file cannot be written."""
    data = storyboard.to_json()
    keyframes = ",\n".join(f"  {json.dumps(keyframe, ensure_ascii=False)}" for keyframe in data.pop("keyframes"))
    head = "".join(f' "{key}": {json.dumps(value)},\n' for key, value in data.items())
    write_text(path, f'{{\n{head} "keyframes": [\n{keyframes}\n ]\n}}\n')


def _keyframe(entry: Any, where: str) -> Keyframe:
    if not isinstance(entry, dict):
        raise GraphError(f'{where}: a keyframe is an object {{"at": 0, "objects": [...], ...}}, not {shorten(entry)}')
    if "at" not in entry:
        raise GraphError(f"{where}: the key 'at' is missing; give the number of its frame")
    graph = {key: value for key, value in entry.items() if key != "at"}
    if "graph" in graph:
        if len(graph) > 1:
            other = next(key for key in graph if key != "graph")
            raise GraphError(f"{where}: has both 'graph' and {shorten(other)}; move it into the graph")
        graph = graph["graph"]
    return Keyframe(entry["at"], SceneGraph.from_json(graph, where))
