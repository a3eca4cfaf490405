"""Clips as files: mp4 and webm (PyAV; pip install "scene-graph-editing[video]"), animated WebP and GIF, folders of frames.

WebP and folders hold every pixel as it is. GIF has 256 colours for each frame, and mp4 and webm are compressed with losses.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageSequence

from ldm.data.video_files import VIDEOS, import_av, open_frames
from ldm.util.errors import UserError, did_you_mean
from ldm.util.files import atomic_write
from ldm.util.images import ImageError, to_rgb

ANIMATIONS = {".webp", ".gif"}
CODECS = {".mp4": "libx264", ".webm": "libvpx-vp9"}
QUALITY = {"crf": "12"}  # constant rate factor, of which smaller numbers are better
MAX_FRAMES = 10_000
NOTE = "fps={}"  # in the metadata of an animation


class Clip(NamedTuple):
    """Frames of one size.

    Attributes:
        frames: T images, RGB.
        fps: frames per second; None if unknown.
    """

    frames: tuple[Image.Image, ...]
    fps: float | None = None


def read_clip(path: str | Path) -> Clip:
    """Reads a video, an animation, or a folder of frames.

    Raises:
        UserError: it cannot be read, is too long, or its frames differ in size.
    """
    path = Path(path).expanduser()
    clip = _read_animation(path) if path.suffix.lower() in ANIMATIONS and path.is_file() else _read_video(path)
    sizes = {frame.size for frame in clip.frames}
    if len(sizes) > 1:
        (a, b), *_ = zip(sorted(sizes), sorted(sizes)[1:])
        raise UserError(f"{path}: has frames of {a[0]} x {a[1]} and of {b[0]} x {b[1]}; give all of them one size")
    return clip


def is_clip(path: str | Path) -> bool:
    """Whether a path names a clip and not a picture: a folder, a video, or an animation of several frames."""
    path = Path(path).expanduser()
    if path.is_dir() or path.suffix.lower() in VIDEOS:
        return True
    if path.suffix.lower() not in ANIMATIONS or not path.is_file():
        return False
    try:
        with Image.open(path) as image:
            return getattr(image, "n_frames", 1) > 1  # only formats with several frames have the attribute
    except (OSError, SyntaxError):
        return False


def refuse_format(path: str | Path) -> None:
    """Raises UserError if `write_clip` cannot write a clip there, before anything is computed."""
    path = Path(path)
    suffix = path.suffix.lower()
    known = [*CODECS, *sorted(ANIMATIONS)]
    if suffix and suffix not in known:
        raise UserError(
            f"{path}: clips are written as {', '.join(known)}, or into a folder if the name has no suffix"
            f"{did_you_mean(suffix, known)}"
        )
    if suffix in CODECS:
        _av_for_writing(path)
    if suffix and path.is_dir():
        raise UserError(f"{path}: is a folder; name a file")
    if not suffix and path.exists() and not path.is_dir():
        raise UserError(f"{path}: is a file; name a folder, or a file such as clip.webp")


def write_clip(path: str | Path, frames: Sequence[Image.Image], fps: float) -> None:
    """Writes a clip in the format of the path's suffix; without one, as 000000.png, 000001.png, ... in a folder.

    Files are written whole or not at all. In a folder, frames of an earlier clip are removed.

    Raises:
        UserError: the suffix is unknown, or PyAV is missing.
    """
    refuse_format(path)
    path, suffix = Path(path), Path(path).suffix.lower()
    if suffix in CODECS:
        with atomic_write(path) as temporary:
            _encode(temporary, frames, fps, CODECS[suffix])
    elif suffix:
        with atomic_write(path) as temporary:
            _animate(temporary, frames, fps, suffix)
    else:
        _write_folder(path, frames)


def webp_clip(frames: Sequence[Image.Image], fps: float) -> bytes:
    """The content of the WebP file of a clip."""
    file = io.BytesIO()
    _animate(file, frames, fps, ".webp")
    return file.getvalue()


def _animate(file: Path | io.BytesIO, frames: Sequence[Image.Image], fps: float, suffix: str) -> None:
    note = NOTE.format(fps).encode()
    options: dict[str, Any] = {"disposal": 1, "comment": note}
    if suffix == ".webp":
        options = {"lossless": True, "quality": 60, "xmp": note}
    first, *others = frames
    timing = {"duration": 1000 / fps, "loop": 0}
    first.save(file, suffix.lstrip("."), save_all=True, append_images=others, **timing, **options)


def _write_folder(folder: Path, frames: Sequence[Image.Image]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"{number:06}.png" for number in range(len(frames))]
    for file in folder.glob("[0-9]" * 6 + ".png"):
        if file.name not in names:
            file.unlink()
    for name, frame in zip(names, frames):
        with atomic_write(folder / name) as temporary:
            frame.save(temporary, "PNG")


def _encode(path: Path, frames: Sequence[Image.Image], fps: float, codec: str) -> None:
    av = _av_for_writing(path)
    width, height = (side + side % 2 for side in frames[0].size)  # the colours of a video have half the resolution
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=Fraction(fps).limit_denominator(1000), options=dict(QUALITY))
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for image in frames:
            pixels = np.asarray(image.convert("RGB"))
            pixels = np.pad(pixels, ((0, height - image.height), (0, width - image.width), (0, 0)), mode="edge")
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")))
        container.mux(stream.encode())


def _read_animation(path: Path) -> Clip:
    try:
        with Image.open(path) as image:
            _refuse_length(path, getattr(image, "n_frames", 1))
            note = image.info.get("xmp") or image.info.get("comment") or b""
            frames, duration = [], []
            for frame in ImageSequence.Iterator(image):
                frames.append(to_rgb(frame.copy()))
                duration.append(float(frame.info.get("duration", 0)))
    except (OSError, SyntaxError, EOFError, ValueError) as error:
        raise ImageError(path, f"broken, or not an animation ({error})") from None
    step = _frame_duration(str(note), duration)
    if not step:
        return Clip(tuple(frames), None)
    # Encoders write equal frames as one that is shown for longer.
    repeated = [frame for frame, shown in zip(frames, duration) for _ in range(max(1, round(shown / step)))]
    _refuse_length(path, len(repeated))
    return Clip(tuple(repeated), 1000 / step)


def _frame_duration(note: str, durations: Sequence[float]) -> float:
    """Milliseconds of a frame: as a note of `write_clip` says, or else those of the shortest one; 0 if unknown."""
    found = re.search(NOTE.format(r"(\d+(?:\.\d+)?)"), note)
    fps = float(found[1]) if found else 0.0
    return 1000 / fps if fps else min(durations)


def _read_video(path: Path) -> Clip:
    video = open_frames(path)
    _refuse_length(path, len(video))
    return Clip(tuple(video.read(range(len(video)))), video.fps)


def _refuse_length(path: Path, frames: int) -> None:
    if frames > MAX_FRAMES:
        raise UserError(f"{path}: has {frames} frames; cut it into clips of at most {MAX_FRAMES}")


def _av_for_writing(path: Path):
    return import_av(path, "writing a video", "write clip.webp or a folder")
