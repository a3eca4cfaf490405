"""Clips of real videos with their graphs: VidVRD and VidOR, SG2VID's folders, and folders of one's own.

A data set holds one clip of each video, or more of them in later epochs: frames T k to T k + T - 1 are clip k. It begins where
something is seen in each of its frames; a video without such a place gives way to the next one.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from ldm.data.mask_tracks import tracks_from_masks
from ldm.data.values import require_count
from ldm.data.video_files import VIDEOS, Frames, choose_frames, natural_order, open_frames, stride_for, to_clip
from ldm.graph.importers.video_relations import parse_tracks
from ldm.graph.json_files import read_json
from ldm.graph.scene_graph import SceneGraph
from ldm.graph.storyboard import Storyboard
from ldm.graph.tracks import TOLERANCE, Tracks
from ldm.graph.validation import GraphError, shorten
from ldm.graph.vocab import IMAGE, IN_IMAGE, Vocab
from ldm.util.errors import UserError
from ldm.util.images import ImageError

logger = logging.getLogger(__name__)

STORYBOARD = "storyboard.json"  # in a folder of frames


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
        image_size: int = 256,
        frames: int = 16,
        vocab_json: str | Path | None = None,
        max_samples: int | None = None,
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
    """Base of the sets of videos whose objects have a box in each frame.

    Args:
        fps: wanted frames per second; frames of the video are left out to come close to it. None for all frames.
        random_start: whether a clip begins at another place in each epoch, drawn by (seed, epoch, clip), and not at the first.
        tolerance: of the storyboard of a clip, see `Tracks.storyboard`.
        seed: of the places.
        kwargs: those of Clips.
    """

    def __init__(
        self,
        fps: float | None = 8,
        random_start: bool = False,
        tolerance: float = TOLERANCE,
        seed: int = 0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.fps, self.random_start, self.tolerance, self.seed = fps, random_start, tolerance, seed

    def tracks(self, number: int) -> Tracks:
        """The tracks of a video."""
        raise NotImplementedError

    def open(self, number: int) -> Frames:
        """The frames of a video."""
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
            tracks, frames = self.tracks(video), self.open(video)
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
                self.tracks(number)
                self.open(number).read([0])
            except UserError as error:
                yield str(error)


class VidOR(TrackedVideos):
    """VidVRD or VidOR: a JSON file for each video (`ldm.graph.importers.video_relations`), and the videos.

    Args:
        annotations: folder of the JSON files, with subfolders or without (VidVRD: train; VidOR: annotation/training).
        videos: folder of the videos (videos; video), as files named after them or as folders of frames.
        kwargs: those of TrackedVideos.
    """

    def __init__(self, annotations: str | Path, videos: str | Path, **kwargs):
        super().__init__(**kwargs)
        self.videos = Path(videos)
        self.files = sorted(Path(annotations).rglob("*.json"))
        if not self.files:
            raise UserError(f"{annotations}: holds no annotation (.json); name the folder of VidVRD's or VidOR's")

    def video_count(self) -> int:
        return len(self.files)

    def tracks(self, number: int) -> Tracks:
        return parse_tracks(read_json(self.files[number]), self.name(number))

    def open(self, number: int) -> Frames:
        return open_frames(self._find(read_json(self.files[number]), self.files[number]))

    def name(self, number: int) -> str:
        return f"{self.files[number]}"

    def _find(self, data: Mapping[str, Any], file: Path) -> Path:
        id_, stated = data.get("video_id", file.stem), data.get("video_path")
        names = [f"{stated}"] if isinstance(stated, str) else []
        names += [f"{id_}", *(f"{id_}{suffix}" for suffix in sorted(VIDEOS))]
        inside = [name for name in names if not Path(name).is_absolute() and ".." not in Path(name).parts]
        found = next((path for name in inside if (path := self.videos / name).exists()), None)
        if found is None:
            raise UserError(f"{file}: its video {shorten(id_)} is not in {self.videos}; put {id_}.mp4 there")
        return found


class SG2VID(TrackedVideos):
    """The layout of SG2VID's sets: frames and segmentation masks of each video, and lists of the videos of each split.

        video_frames/video01/0001.jpg   segm_ann/video01/0001.png   split/cholec80_train.txt

    The pixels of a mask are class numbers. Graphs are made from the masks (`ldm.data.mask_tracks`).

    Args:
        root: the folder.
        split: name of the list without .txt, such as "cholec80_train".
        names: of the classes, by their numbers.
        video_fps: frames per second of the stored frames, which the layout does not state.
        background: class numbers that are no object.
        kwargs: those of TrackedVideos.
    """

    def __init__(
        self,
        root: str | Path,
        split: str,
        names: Mapping[int, str] | None = None,
        video_fps: float | None = None,
        background: Sequence[int] = (0, 255),
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.root, self.names, self.video_fps, self.background = Path(root), dict(names or {}), video_fps, background
        file = self.root / "split" / f"{split}.txt"
        if not file.is_file():
            raise UserError(f"{file}: this list of videos is missing; name a split that is there")
        self.list = [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
        if not self.list:
            raise UserError(f"{file}: lists no video; give the name of one in each line")

    def video_count(self) -> int:
        return len(self.list)

    def tracks(self, number: int) -> Tracks:
        name, frames = self.list[number], self.open(number)
        files = sorted((self.root / "segm_ann" / name).glob("*.png"), key=natural_order)
        if len(frames) != len(files):
            raise UserError(
                f"{self.root}: video {name!r} has {len(frames)} frames but {len(files)} masks; give one mask for each frame"
            )
        return tracks_from_masks(map(read_mask, files), self.names, self.video_fps, self.background)

    def open(self, number: int) -> Frames:
        return open_frames(self.root / "video_frames" / self.list[number])

    def name(self, number: int) -> str:
        return f"{self.root}: {self.list[number]}"


class StoryboardFolder(Clips):
    """A folder of one's own clips, each with a storyboard: clip.mp4 with clip.json, or a folder of frames with storyboard.json.

    Args:
        root: the folder.
        kwargs: those of Clips; a storyboard of another number of frames is an error.
    """

    def __init__(self, root: str | Path, **kwargs):
        super().__init__(**kwargs)
        self.root = Path(root)
        if not self.root.is_dir():
            raise UserError(f"{root}: there is no such folder; name one with clips and their storyboards")
        found = [(path, storyboard_of(path)) for path in sorted(self.root.iterdir(), key=natural_order)]
        self.files = [(path, file) for path, file in found if file and file.is_file()]
        if not self.files:
            raise UserError(
                f"{root}: holds no clip with a storyboard; put clip.json beside clip.mp4, or {STORYBOARD} beside frames"
            )

    def video_count(self) -> int:
        return len(self.files)

    def clip(self, number: int) -> AnnotatedClip:
        path, _ = self.files[number]
        storyboard, frames = self.storyboard(number), open_frames(path)
        numbers = choose_frames(len(frames), self.frames)
        images = to_clip(frames.read(numbers), self.image_size)
        return AnnotatedClip(images, storyboard.graphs(), storyboard, storyboard.fps)

    def storyboard(self, number: int) -> Storyboard:
        """The storyboard of a clip."""
        _, file = self.files[number]
        storyboard = Storyboard.from_json(read_json(file), f"{file}")
        if storyboard.frames != self.frames:
            raise GraphError(
                f"{file}: a storyboard of {storyboard.frames} frames, where clips of {self.frames} are read"
            )
        return storyboard

    def names(self) -> tuple[set[str], set[str]]:
        boards = [self.storyboard(number) for number in range(self.clips)]
        graphs = [keyframe.graph for board in boards for keyframe in board.keyframes]
        predicates = {predicate for graph in graphs for _, predicate, _ in graph.known_triples}
        return {name for graph in graphs for name in graph.objects}, predicates

    def check(self) -> Iterator[str]:
        """Reads all storyboards and the first frame of each clip, and yields each problem."""
        for number, (path, _) in enumerate(self.files):
            try:
                self.storyboard(number)
                open_frames(path).read([0])
            except UserError as error:
                yield str(error)


def storyboard_of(path: Path) -> Path | None:
    """Where the storyboard of a clip would be; None for what is no clip."""
    if path.is_dir():
        return path / STORYBOARD
    return path.with_suffix(".json") if path.suffix.lower() in VIDEOS else None


def read_mask(path: Path) -> np.ndarray:  # -> (H,W) uint8
    """The class numbers in a mask of one channel, with a palette or without. Raises ImageError."""
    try:
        with Image.open(path) as image:
            if image.mode not in ("L", "P", "1", "I", "I;16"):
                raise ImageError(path, f"a mask of class numbers has one channel, not the mode {image.mode}")
            return np.array(image).astype(np.uint8)
    except (OSError, SyntaxError) as error:
        raise ImageError(path, f"broken, or not an image ({error})") from None
