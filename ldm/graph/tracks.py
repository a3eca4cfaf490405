"""Tracks: where every object of a video is in each frame, and the keyframes of a storyboard that reproduce it.

    tracks = Tracks(names={"0": "dog"}, boxes=[{"0": (0.1, 0.2, 0.4, 0.6)}, ...], relations=[{("0", "chases", "1")}, ...])
    tracks.storyboard()

A video has a box for each frame; a storyboard has boxes at its keyframes and moves them evenly between two. Keyframes are therefore
set where an object enters or leaves, where a relation comes or goes, and where a box would be off by more than a tolerance.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ldm.graph.scene_graph import SceneGraph
from ldm.graph.storyboard import Keyframe, Storyboard, interpolate
from ldm.graph.validation import Box, GraphError

Relation = tuple[str, str, str]  # id of the subject, predicate, id of the object
TOLERANCE = 0.02  # of a box's edges, as a fraction of the image
Edges = Mapping[str, Box]


@dataclass(frozen=True)
class Tracks:
    """A video of N frames.

    Attributes:
        names: of each object, by its id.
        boxes: for each frame the box of each object that is seen in it, x0 y0 x1 y1 as fractions of the image.
        relations: for each frame the relations between objects that hold in it.
        fps: frames per second; None if unknown.
    """

    names: Mapping[str, str]
    boxes: Sequence[Edges]
    relations: Sequence[frozenset[Relation]]
    fps: float | None = None

    def __len__(self) -> int:
        return len(self.boxes)

    def select(self, frames: Sequence[int], fps: float | None = None) -> Tracks:
        """The tracks in some frames, whose relations are those between objects that are seen there."""
        boxes = [self.boxes[frame] for frame in frames]
        relations = [
            frozenset(each for each in self.relations[frame] if each[0] in seen and each[2] in seen)
            for frame, seen in zip(frames, boxes)
        ]
        return Tracks(self.names, boxes, relations, fps)

    def clip_starts(self, frames: int, stride: int = 1, step: int | None = None) -> list[int]:
        """The frames at which a clip may begin, so that something is seen in each of its frames.

        Args:
            frames: T, of the clip.
            stride: frames of the video from one frame of the clip to the next.
            step: frames of the video from one start to the next; by default the length of a clip.
        """
        length = (frames - 1) * stride + 1
        starts = range(0, len(self) - length + 1, step or length)
        return [start for start in starts if all(self.boxes[start + stride * i] for i in range(frames))]

    def storyboard(self, tolerance: float = TOLERANCE) -> Storyboard:
        """The storyboard of the video; of 8 frames per second if the rate is unknown.

        Args:
            tolerance: how far an edge of a box may be off between keyframes, as a fraction of the image.

        Raises:
            GraphError: nothing is seen in some frame.
        """
        for number, seen in enumerate(self.boxes):
            if not seen:
                raise GraphError(f"frame {number}: no object is seen in it; choose a part in which something always is")
        keyframes = tuple(Keyframe(number, self.graph(number)) for number in keyframe_numbers(self, tolerance))
        return Storyboard(len(self), keyframes) if self.fps is None else Storyboard(len(self), keyframes, self.fps)

    def graph(self, number: int) -> SceneGraph:
        """The graph of a frame, whose attributes are unknown. Raises GraphError if nothing is seen in it."""
        seen = list(self.boxes[number])
        related = (each for each in self.relations[number] if each[0] in seen and each[2] in seen)
        return SceneGraph(
            tuple(self.names[id_] for id_ in seen),
            tuple(self.boxes[number].values()),
            triples=tuple(sorted((seen.index(s), predicate, seen.index(o)) for s, predicate, o in related)),
            ids=tuple(seen),
        )


def keyframe_numbers(tracks: Tracks, tolerance: float = TOLERANCE) -> list[int]:
    """The frames that become keyframes, in ascending order; the first and the last are among them.

    Between two frames with the same objects, the frame whose boxes are furthest off becomes one, until none is off by more than
    `tolerance` (Ramer, Douglas and Peucker's simplification of a curve).
    """
    last = len(tracks) - 1
    changes = {0, last}
    for number in range(1, last + 1):
        before, after = number - 1, number
        if set(tracks.boxes[before]) != set(tracks.boxes[after]):
            changes |= {before, after}
        elif tracks.relations[before] != tracks.relations[after]:
            changes.add(after)
    numbers = sorted(changes)
    found = set(numbers)
    parts = list(zip(numbers, numbers[1:]))
    while parts:
        start, end = parts.pop()
        if end - start < 2:
            continue
        errors = {number: _error(tracks, start, number, end) for number in range(start + 1, end)}
        worst = max(errors, key=errors.__getitem__)
        if errors[worst] > tolerance:
            found.add(worst)
            parts += [(start, worst), (worst, end)]
    return sorted(found)


def _error(tracks: Tracks, start: int, number: int, end: int) -> float:
    """How far the boxes of a frame are off if those of `start` move evenly to those of `end`."""
    share = (number - start) / (end - start)
    first, middle, last = (tracks.boxes[i] for i in (start, number, end))
    pairs = ((interpolate(first[id_], last[id_], share), box) for id_, box in middle.items())
    return max(abs(a - b) for guess, box in pairs for a, b in zip(guess, box))
