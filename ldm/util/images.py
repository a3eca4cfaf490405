"""Image files of every mode to RGB, and RGB to tensors in [-1,1] and back."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageFile, ImageOps, PngImagePlugin
from torch import Tensor
from tqdm import tqdm

from ldm.util.colour_profiles import to_srgb
from ldm.util.errors import UserError

logger = logging.getLogger(__name__)

Picture = Image.Image | np.ndarray  # an array is (H,W,3) uint8
VALUES = np.arange(256, dtype=np.float32) / np.float32(127.5) - np.float32(1)  # of each level in [-1,1]
CHUNK = 1024  # files that are given to the threads at once
# Pillow reads a PNG with a longer text only when it ignores truncation, so that `find_image_error` would report a file that
# `read_image` reads.
PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY
LONGER_TEXT = "PngImagePlugin.MAX_TEXT_CHUNK"  # in Pillow's message about a PNG whose text is longer still

_truncation_lock = threading.Lock()


class ImageError(UserError):
    """ImageError(path, reason): the file cannot be read as an image."""

    def __init__(self, *parts: str | Path):  # a data loader re-raises a worker's error with a single argument
        super().__init__(": ".join(map(str, parts)))


def read_image(path: str | Path, upright: bool = False, background: str = "white") -> Image.Image:
    """Reads an image file of any mode as sRGB. A truncated file is read as far as possible, the rest is grey.

    An embedded ICC profile is applied. Of several frames or pages, the first one is read, with a warning.

    Args:
        upright: apply the EXIF orientation. Annotations refer to stored pixels, people to upright images.
        background: colour behind transparent pixels.

    Raises:
        ImageError: the file cannot be read at all.
    """
    try:
        return _read(path, upright, background)
    except ImageError:
        with _truncation_allowed():
            return _read(path, upright, background)


def find_image_error(path: str | Path) -> str | None:
    """What is wrong with an image file, truncation included, or None."""
    try:
        _read(path)
    except ImageError as error:
        return None if LONGER_TEXT in str(error) else str(error)  # `read_image` reads such a PNG without that text
    return None


def find_image_errors(paths: Sequence[str | Path]) -> Iterator[str]:
    """The errors of all broken files in their order; several threads read, and a progress bar is shown."""
    with ThreadPoolExecutor() as pool, tqdm(total=len(paths), unit="image") as bar:
        for start in range(0, len(paths), CHUNK):
            for error in pool.map(find_image_error, paths[start : start + CHUNK]):
                bar.update()
                if error:
                    yield error


def to_rgb(image: Image.Image, background: str = "white") -> Image.Image:
    """Converts an image of any mode to RGB: 16 bits are scaled to 8, transparent pixels show the background colour."""
    if image.mode.startswith("I"):  # 16 bits; Pillow's own conversion would clip at 255
        return Image.fromarray((np.asarray(image) / 257).round().clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, background), image).convert("RGB")
    return image.convert("RGB")


def resize_square(image: Image.Image, size: int) -> Image.Image:
    """Resizes to size x size whatever the shape, bilinear with antialiasing, as sg2im's loaders do."""
    return image.resize((size, size), Image.Resampling.BILINEAR)


def to_tensor(image: Image.Image) -> Tensor:  # RGB -> (3,H,W) in [-1,1]
    """Converts with numpy, since torch would start threads in every data loader worker."""
    return torch.from_numpy(np.take(VALUES, np.asarray(image).transpose(2, 0, 1)))


def to_image(tensor: Tensor) -> Image.Image:  # (3,H,W) in [-1,1] -> RGB
    """Values outside of the range are clipped."""
    pixels = (tensor.detach().float().cpu().clamp(-1, 1) + 1) * 127.5
    return Image.fromarray(pixels.round().to(torch.uint8).permute(1, 2, 0).numpy())


def _read(path: str | Path, upright: bool = False, background: str = "white") -> Image.Image:
    try:
        exists = Path(path).is_file()
    except OSError as error:  # such as a name that is too long
        raise ImageError(path, error.strerror or str(error)) from None
    if not exists:
        raise ImageError(path, "there is no such file")
    try:
        with Image.open(path) as image:
            if (frames := getattr(image, "n_frames", 1)) > 1:  # only formats with several frames have the attribute
                logger.warning("%s: has %d frames or pages; only the first one is used", path, frames)
            image.load()
            image = to_srgb(image)
            return to_rgb(ImageOps.exif_transpose(image) if upright else image, background)
    except Exception as error:  # decoders raise OSError, SyntaxError, struct.error, ... for a broken file
        raise ImageError(path, f"broken, or not an image ({error})") from None


@contextmanager
def _truncation_allowed() -> Iterator[None]:
    """Sets Pillow's switch, which is global, hence the lock."""
    with _truncation_lock:
        ImageFile.LOAD_TRUNCATED_IMAGES, before = True, ImageFile.LOAD_TRUNCATED_IMAGES
        try:
            yield
        finally:
            ImageFile.LOAD_TRUNCATED_IMAGES = before
