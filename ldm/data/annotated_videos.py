"""Clips of real videos with their storyboards: VidVRD and VidOR, SG2VID's folders, and folders of one's own.

An item is an `AnnotatedClip`. A clip begins where something is seen in each of its frames: at the first such place, or in training
(`random_start`) at any.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from ldm.data.mask_tracks import tracks_from_masks
from ldm.data.video_files import VIDEOS, Frames, choose_frames, natural_order, open_frames, stride_for, to_clip
from ldm.graph.importers.video_relations import parse_tracks
from ldm.graph.json_files import read_json
from ldm.graph.tracks import TOLERANCE, Tracks
from ldm.graph.validation import GraphError, shorten
from ldm.util.errors import UserError
from ldm.util.images import ImageError

logger = logging.getLogger(__name__)

STORYBOARD = "storyboard.json"  # in a folder of frames


class AnnotatedClip(NamedTuple):
    """A clip.

    Attributes:
        frames: (T,3,S,S) in [-1,1].
        storyboard: as JSON data, {"frames": T, "fps": ..., "keyframes": [...]}.
        fps: frames per second of the clip; None if unknown.
    """

    frames: Tensor
    storyboard: dict[str, Any]
    fps: float | None


class TrackedVideos(Dataset):
    """Base of the sets of videos whose objects have a box in each frame.

    Args:
        size: S, of the frames.
        frames: T, of a clip.
        fps: wanted frames per second; frames of the video are left out to come close to it. None for all frames.
        tolerance: see `Tracks.storyboard`.
        random_start: whether a clip begins anywhere, drawn anew each time, and not at the first place.
    """

    def __init__(
        self, size: int, frames: int, fps: float | None = 8, tolerance: float = TOLERANCE, random_start: bool = False
    ):
        self.size, self.frames, self.fps = size, frames, fps
        self.tolerance, self.random_start = tolerance, random_start

    def __len__(self) -> int:
        raise NotImplementedError

    def video(self, index: int) -> tuple[Frames, Tracks, str]:
        """The frames of a video, its tracks, and its name for messages."""
        raise NotImplementedError

    def __getitem__(self, index: int) -> AnnotatedClip:
        """A clip of a video; of the next one if it has none, since something must be seen in each frame.

        Raises:
            UserError: no video has one, or a file cannot be read.
        """
        for step in range(len(self)):
            frames, tracks, name = self.video((index + step) % len(self))
            stride = stride_for(tracks.fps, self.fps)
            starts = tracks.clip_starts(self.frames, stride, step=1 if self.random_start else None)
            starts = [start for start in starts if start + (self.frames - 1) * stride < len(frames)]
            if starts:
                start = random.choice(starts) if self.random_start else starts[0]
                return self._clip(frames, tracks, choose_frames(len(frames), self.frames, stride, start), stride)
            logger.warning("%s: has no clip of %d frames in which an object is always seen", name, self.frames)
        raise UserError(f"no video has {self.frames} frames in which an object is always seen; choose fewer frames")

    def _clip(self, frames: Frames, tracks: Tracks, numbers: list[int], stride: int) -> AnnotatedClip:
        fps = None if tracks.fps is None else tracks.fps / stride
        storyboard = tracks.select(numbers, fps).storyboard(self.tolerance)
        return AnnotatedClip(to_clip(frames.read(numbers), self.size), storyboard, fps)


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

    def __len__(self) -> int:
        return len(self.files)

    def video(self, index: int) -> tuple[Frames, Tracks, str]:
        file = self.files[index]
        data = read_json(file)
        tracks = parse_tracks(data, f"{file}")
        return open_frames(self._find(data, file)), tracks, f"{file}"

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

    def __len__(self) -> int:
        return len(self.list)

    def video(self, index: int) -> tuple[Frames, Tracks, str]:
        name = self.list[index]
        frames, masks = (open_frames(self.root / folder / name) for folder in ("video_frames", "segm_ann"))
        if len(frames) != len(masks):
            raise UserError(
                f"{self.root}: video {name!r} has {len(frames)} frames but {len(masks)} masks; give one mask for each frame"
            )
        files = sorted((self.root / "segm_ann" / name).glob("*.png"), key=natural_order)
        classes = [read_mask(file) for file in files]
        return frames, tracks_from_masks(classes, self.names, self.video_fps, self.background), name


class StoryboardFolder(Dataset):
    """A folder of one's own clips, each with a storyboard: clip.mp4 with clip.json, or a folder of frames with storyboard.json.

    Args:
        root: the folder.
        size: S, of the frames.
        frames: T; clips of another length are refused, since their storyboards are of that length.
    """

    def __init__(self, root: str | Path, size: int, frames: int):
        self.root, self.size, self.frames = Path(root), size, frames
        if not self.root.is_dir():
            raise UserError(f"{root}: there is no such folder; name one with clips and their storyboards")
        clips = [(path, storyboard_of(path)) for path in sorted(self.root.iterdir(), key=natural_order)]
        self.clips = [(path, file) for path, file in clips if file and file.is_file()]
        if not self.clips:
            raise UserError(
                f"{root}: holds no clip with a storyboard; put clip.json beside clip.mp4, or {STORYBOARD} beside frames"
            )

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> AnnotatedClip:
        """A clip. Raises UserError if its file or its storyboard cannot be read, or they have another length."""
        path, file = self.clips[index]
        storyboard, frames = read_json(file), open_frames(path)
        stated = storyboard.get("frames") if isinstance(storyboard, dict) else None
        if stated != self.frames:
            raise GraphError(f"{file}: a storyboard of {shorten(stated)} frames, where clips of {self.frames} are read")
        numbers = choose_frames(len(frames), self.frames)
        fps = storyboard.get("fps", frames.fps)
        return AnnotatedClip(to_clip(frames.read(numbers), self.size), storyboard, fps)


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
