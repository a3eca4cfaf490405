"""Clips of real videos as data sets of frames with graphs; `ldm.data.video_sets` has those that can be read.

A data set holds one clip of each video: frames T k to T k + T - 1 are clip k. It begins where something is seen in each of its
frames; a video without such a place gives way to the next one.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from torch import Tensor
from torch.utils.data import Dataset

from ldm.data.values import require_count
from ldm.data.video_files import Frames, choose_frames, stride_for, to_clip
from ldm.graph.scene_graph import SceneGraph
from ldm.graph.storyboard import Storyboard
from ldm.graph.tracks import Tracks
from ldm.graph.vocab import IMAGE, IN_IMAGE, Vocab
from ldm.util.errors import UserError

logger = logging.getLogger(__name__)


class AnnotatedClip(NamedTuple):
    """A clip.

    Attributes:
        frames: (T,3,S,S) in [-1,1].
        graphs: T of them.
        storyboard: whose graphs they are, up to the tolerance of its keyframes.
        fps: frames per second of the clip; None if unknown.
    """

    frames: Tensor
    graphs: list[SceneGraph]
    storyboard: Storyboard
    fps: float | None


class Clips(Dataset):
    """Base of the data sets of clips: ds[i] is (frame (3,S,S) in [-1,1], SceneGraph), T in a row are a clip.

    Args:
        image_size: S, of the frames.
        frames: T, of a clip.
        vocab_json: a vocab.json of the names; by default they are collected from the annotations, all of which are read.
        max_samples: use only the first videos, up to this number.

    Raises:
        ConfigError: a number is out of range.
    """

    _read: tuple[tuple[int, int], AnnotatedClip] | None = None
    _vocab: Vocab | None = None

    def __init__(
        self,
        image_size: int,
        frames: int,
        vocab_json: str | Path | None,
        max_samples: int | None,
    ):
        for name, value in (("image_size", image_size), ("frames", frames), ("max_samples", max_samples)):
            if value is not None:
                require_count(f"{type(self).__name__}: {name}", value, 1)
        self.image_size, self.frames, self.max_samples, self.epoch = image_size, frames, max_samples, 0
        if vocab_json is not None:
            self._vocab = Vocab.read(vocab_json)

    def video_count(self) -> int:
        """The number of videos."""
        raise NotImplementedError

    def clip(self, number: int) -> AnnotatedClip:
        """A whole clip.

        Raises:
            UserError: there is none, or a file cannot be read.
        """
        raise NotImplementedError

    def names(self) -> tuple[set[str], set[str]]:
        """The names of all objects and of all predicates."""
        raise NotImplementedError

    @property
    def clips(self) -> int:
        """The number of clips in an epoch."""
        return min(self.video_count(), self.max_samples or self.video_count())

    @property
    def vocab(self) -> Vocab:
        if self._vocab is None:
            objects, predicates = self.names()
            self._vocab = Vocab((IMAGE, *sorted(objects)), (IN_IMAGE, *sorted(predicates)))
        return self._vocab

    def __len__(self) -> int:
        return self.clips * self.frames

    def __getitem__(self, index: int) -> tuple[Tensor, SceneGraph]:
        """A frame and its graph. Raises as `clip`."""
        if not 0 <= index < len(self):
            raise IndexError(f"there is no frame {index} among {len(self)}")
        number, frame = divmod(index, self.frames)
        if self._read is None or self._read[0] != (self.epoch, number):
            self._read = (self.epoch, number), self.clip(number)
        clip = self._read[1]
        return clip.frames[frame], clip.graphs[frame]


class TrackedVideos(Clips):
    """Base of the sets of videos whose objects have a box in each frame; the arguments are those of VidOR."""

    def __init__(
        self,
        image_size: int,
        frames: int,
        fps: float | None,
        vocab_json: str | Path | None,
        max_samples: int | None,
        random_start: bool,
        tolerance: float,
        seed: int,
    ):
        super().__init__(image_size, frames, vocab_json, max_samples)
        self.fps, self.random_start, self.tolerance, self.seed = fps, random_start, tolerance, seed

    def tracks(self, number: int) -> Tracks:
        """The tracks of a video."""
        raise NotImplementedError

    def video(self, number: int) -> tuple[Tracks, Frames]:
        """The tracks and the frames of a video."""
        raise NotImplementedError

    def name(self, number: int) -> str:
        """The name of a video, for messages."""
        raise NotImplementedError

    def names(self) -> tuple[set[str], set[str]]:
        videos = [self.tracks(number) for number in range(self.clips)]
        objects = {name for video in videos for name in video.names.values()}
        return objects, {predicate for video in videos for frame in video.relations for _, predicate, _ in frame}

    def clip(self, number: int) -> AnnotatedClip:
        for step in range(self.clips):
            video = (number + step) % self.clips
            tracks, frames = self.video(video)
            stride = stride_for(tracks.fps, self.fps)
            starts = tracks.clip_starts(self.frames, stride, step=1 if self.random_start else None)
            starts = [start for start in starts if start + (self.frames - 1) * stride < len(frames)]
            if not starts:
                logger.warning("%s: has no %d frames in which an object is always seen", self.name(video), self.frames)
                continue
            drawn = (
                random.Random(f"{self.seed}/{self.epoch}/{number}").randrange(len(starts)) if self.random_start else 0
            )
            numbers = choose_frames(len(frames), self.frames, stride, starts[drawn])
            part = tracks.select(numbers, None if tracks.fps is None else tracks.fps / stride)
            images = to_clip(frames.read(numbers), self.image_size)
            graphs = [part.graph(frame) for frame in range(self.frames)]
            return AnnotatedClip(images, graphs, part.storyboard(self.tolerance), part.fps)
        raise UserError(f"no video has {self.frames} frames in which an object is always seen; choose fewer frames")

    def check(self) -> Iterator[str]:
        """Reads all annotations and the first frame of each video, and yields each problem."""
        for number in range(self.clips):
            try:
                self.video(number)[1].read([0])
            except UserError as error:
                yield str(error)
