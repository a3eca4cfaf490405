"""Sets of videos that people have annotated: VidVRD and VidOR, SG2VID's layout, and a folder of clips with storyboards."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ldm.data.annotated_videos import AnnotatedClip, Clips, TrackedVideos
from ldm.data.mask_tracks import tracks_from_masks
from ldm.data.video_files import VIDEOS, Frames, choose_frames, natural_order, open_frames, to_clip
from ldm.graph.importers.video_relations import parse_tracks
from ldm.graph.json_files import read_json
from ldm.graph.storyboard import Storyboard
from ldm.graph.tracks import TOLERANCE, Tracks
from ldm.graph.validation import GraphError, shorten
from ldm.util.errors import UserError
from ldm.util.images import ImageError

STORYBOARD = "storyboard.json"  # in a folder of frames


class VidOR(TrackedVideos):
    """VidVRD or VidOR: a JSON file for each video (`ldm.graph.importers.video_relations`), and the videos.

    Args:
        annotations: folder of the JSON files, with subfolders or without (VidVRD: train; VidOR: annotation/training).
        videos: folder of the videos (videos; video), as files named after them or as folders of frames.
        image_size: S, side of the frames in pixels; they are resized to a square.
        frames: T, frames of a clip.
        fps: wanted frames per second; frames of the video are left out to come close to it. null for all frames.
        vocab_json: a vocab.json of the names; by default they are collected from the annotations, all of which are read.
        max_samples: use only the first videos, up to this number.
        random_start: whether a clip begins at another place in each epoch, drawn by (seed, epoch, clip), and not at the first.
        tolerance: how far a box of a clip's storyboard may be off between keyframes, as a fraction of the image.
        seed: of the places.

    Raises:
        ConfigError: a number is out of range.
        UserError: there is no annotation.
    """

    def __init__(
        self,
        annotations: str | Path,
        videos: str | Path,
        image_size: int = 256,
        frames: int = 16,
        fps: float | None = 8,
        vocab_json: str | Path | None = None,
        max_samples: int | None = None,
        random_start: bool = False,
        tolerance: float = TOLERANCE,
        seed: int = 0,
    ):
        super().__init__(image_size, frames, fps, vocab_json, max_samples, random_start, tolerance, seed)
        self.videos = Path(videos)
        self.files = sorted(Path(annotations).rglob("*.json"))
        if not self.files:
            raise UserError(f"{annotations}: holds no annotation (.json); name the folder of VidVRD's or VidOR's")

    def video_count(self) -> int:
        return len(self.files)

    def tracks(self, number: int) -> Tracks:
        return parse_tracks(read_json(self.files[number]), self.name(number))

    def video(self, number: int) -> tuple[Tracks, Frames]:
        data = read_json(self.files[number])
        return parse_tracks(data, self.name(number)), open_frames(self._find(data, self.files[number]))

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
        image_size, frames, fps, vocab_json, max_samples, random_start, tolerance, seed: as of VidOR.

    Raises:
        ConfigError: a number is out of range.
        UserError: the list of videos is missing.
    """

    def __init__(
        self,
        root: str | Path,
        split: str,
        names: Mapping[int, str] | None = None,
        video_fps: float | None = None,
        background: Sequence[int] = (0, 255),
        image_size: int = 256,
        frames: int = 16,
        fps: float | None = 8,
        vocab_json: str | Path | None = None,
        max_samples: int | None = None,
        random_start: bool = False,
        tolerance: float = TOLERANCE,
        seed: int = 0,
    ):
        super().__init__(image_size, frames, fps, vocab_json, max_samples, random_start, tolerance, seed)
        self.root, self.class_names = Path(root), dict(names or {})
        self.video_fps, self.background = video_fps, background
        file = self.root / "split" / f"{split}.txt"
        if not file.is_file():
            raise UserError(f"{file}: this list of videos is missing; name a split that is there")
        self.list = [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
        if not self.list:
            raise UserError(f"{file}: lists no video; give the name of one in each line")

    def video_count(self) -> int:
        return len(self.list)

    def tracks(self, number: int) -> Tracks:
        return self.video(number)[0]

    def video(self, number: int) -> tuple[Tracks, Frames]:
        name = self.list[number]
        frames = open_frames(self.root / "video_frames" / name)
        files = sorted((self.root / "segm_ann" / name).glob("*.png"), key=natural_order)
        if len(frames) != len(files):
            raise UserError(
                f"{self.root}: video {name!r} has {len(frames)} frames but {len(files)} masks; give one mask for each frame"
            )
        return tracks_from_masks(map(read_mask, files), self.class_names, self.video_fps, self.background), frames

    def name(self, number: int) -> str:
        return f"{self.root}: {self.list[number]}"


class StoryboardFolder(Clips):
    """A folder of one's own clips, each with a storyboard: clip.mp4 with clip.json, or a folder of frames with storyboard.json.

    Args:
        root: the folder.
        image_size: S, side of the frames in pixels; they are resized to a square.
        frames: T, frames of a clip; a storyboard of another number is an error.
        vocab_json: a vocab.json of the names; by default they are collected from the storyboards.
        max_samples: use only the first clips, up to this number.

    Raises:
        ConfigError: a number is out of range.
        UserError: the folder holds no clip with a storyboard.
    """

    def __init__(
        self,
        root: str | Path,
        image_size: int = 256,
        frames: int = 16,
        vocab_json: str | Path | None = None,
        max_samples: int | None = None,
    ):
        super().__init__(image_size, frames, vocab_json, max_samples)
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
        for number in range(self.clips):
            try:
                self.storyboard(number)
                open_frames(self.files[number][0]).read([0])
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
