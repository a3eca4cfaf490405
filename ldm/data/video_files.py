"""Frames of videos: a folder of images, or a video file (PyAV; pip install "scene-graph-editing[video]")."""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol

import torch
from PIL import Image
from torch import Tensor

from ldm.util.errors import UserError
from ldm.util.images import read_image, resize_square, to_tensor

IMAGES = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}
VIDEOS = {".mp4", ".avi", ".mov", ".mkv", ".webm"}


class Frames(Protocol):
    """The frames of a video, read on demand.

    Attributes:
        fps: frames per second; None if unknown.
    """

    fps: float | None

    def __len__(self) -> int: ...

    def read(self, numbers: Sequence[int]) -> list[Image.Image]:
        """The frames of these numbers, in ascending order, as RGB images. Raises UserError if one cannot be read."""
        ...


class FrameFolder:
    """A folder of images, one for each frame, in the order of the numbers in their names."""

    def __init__(self, path: str | Path, fps: float | None = None):
        self.path, self.fps = Path(path), fps
        self.files = sorted((file for file in self.path.iterdir() if file.suffix.lower() in IMAGES), key=natural_order)
        if not self.files:
            raise UserError(f"{path}: holds no image; name a folder with one image for each frame")

    def __len__(self) -> int:
        return len(self.files)

    def read(self, numbers: Sequence[int]) -> list[Image.Image]:
        return [read_image(self.files[number]) for number in numbers]


class VideoFile:
    """A video file; a read decodes from the key frame before the first number on."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.av = import_av(self.path, "reading a video", "name a folder of frames")
        with self._open() as container:
            stream = container.streams.video[0]
            rate: Fraction | None = stream.average_rate
            if not rate:
                raise UserError(f"{path}: states no frame rate; convert it to an mp4 with a constant frame rate")
            self.fps: float | None = float(rate)
            self.count = stream.frames or sum(1 for _ in container.decode(stream))

    def __len__(self) -> int:
        return self.count

    def read(self, numbers: Sequence[int]) -> list[Image.Image]:
        wanted, found = set(numbers), {}
        assert self.fps is not None
        with self._open() as container:
            stream: Any = container.streams.video[0]
            begin = stream.start_time or 0
            if numbers[0] > 0:
                container.seek(begin + int(numbers[0] / self.fps / stream.time_base), stream=stream)
            for frame in container.decode(stream):
                number = round(float((frame.pts - begin) * stream.time_base) * self.fps)
                if number in wanted:
                    found[number] = frame.to_image()
                if number >= numbers[-1]:
                    break
        if missing := sorted(wanted - found.keys()):
            raise UserError(
                f"{self.path}: frame {missing[0]} cannot be read; convert the video to a constant frame rate"
            )
        return [found[number] for number in numbers]

    def _open(self):
        try:
            container = self.av.open(str(self.path))
        except (self.av.FFmpegError, OSError) as error:  # pyright: ignore[reportPrivateImportUsage]
            raise UserError(f"{self.path}: cannot be read as a video ({error}); convert it to mp4") from None
        if not container.streams.video:
            container.close()
            raise UserError(f"{self.path}: holds no video; name an mp4 with pictures")
        return container


def open_frames(path: str | Path) -> Frames:
    """The frames of a folder of images or of a video file.

    Raises:
        UserError: there is no such folder or file, or it holds no frames.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        return FrameFolder(path)
    if not path.is_file():
        raise UserError(f"{path}: there is no such video; name a folder of frames, or a file such as clip.mp4")
    return VideoFile(path)


def choose_frames(total: int, frames: int, stride: int = 1, start: int = 0) -> list[int]:
    """The numbers of a clip's frames in a video.

    Args:
        total: frames of the video.
        frames: T, of the clip.
        stride: frames of the video from one frame of the clip to the next.
        start: the first one.

    Raises:
        UserError: the video is too short.
    """
    last = start + (frames - 1) * stride
    if frames < 1 or stride < 1 or start < 0 or last >= total:
        raise UserError(
            f"{frames} frames, every {stride} from frame {start} on, of a video of {total}: choose fewer frames, or a smaller "
            "stride of 1 or more"
        )
    return list(range(start, last + 1, stride))


def stride_for(video_fps: float | None, fps: float | None) -> int:
    """The stride that comes closest to a frame rate; 1 if a rate is unknown. The clip's own rate is then video_fps / stride."""
    return max(1, round(video_fps / fps)) if video_fps and fps else 1


def to_clip(images: Sequence[Image.Image], size: int) -> Tensor:  # -> (T,3,size,size) in [-1,1]
    """Frames as a tensor, resized to a square as images are (`resize_square`)."""
    return torch.stack([to_tensor(resize_square(image, size)) for image in images])


def natural_order(path: Path) -> list:
    """A key that sorts names by the numbers in them: frame2 before frame10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", path.stem)]


def import_av(path: Path, purpose: str, instead: str):
    """PyAV. Raises UserError where it is not installed: what needs it, and what to do instead."""
    try:
        import av
    except ImportError:
        raise UserError(
            f'{path}: {purpose} needs PyAV; run pip install "scene-graph-editing[video]", or {instead}'
        ) from None
    return av
