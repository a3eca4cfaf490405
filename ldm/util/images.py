"""Photographs as they lie on disk, in every mode, to RGB and to tensors in [-1,1] and back."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageFile, ImageOps
from torch import Tensor
from tqdm import tqdm

from ldm.util.errors import UserError

Picture = Image.Image | np.ndarray  # an array is (H,W,3) uint8
READ_AHEAD = 1024  # images given to the threads at once

_lenient = threading.Lock()


class ImageError(UserError):
    """ImageError(path, why): the file cannot be read as an image."""

    def __init__(self, *parts: str | Path):  # a data loader hands on a worker's error as one part
        super().__init__(": ".join(map(str, parts)))


def read_image(path: str | Path, upright: bool = False, ground: str = "white") -> Image.Image:
    """The pixels in RGB (`to_rgb`).

    EXIF orientation is applied where `upright` is asked for: annotations refer to stored pixels, people to what they
    see. A truncated file is read as far as it goes, its rest grey; one that cannot be read at all raises ImageError.
    """
    try:
        return _read(path, upright, ground)
    except ImageError:
        with _truncation_allowed():
            return _read(path, upright, ground)


def image_trouble(path: str | Path) -> str | None:
    """What is wrong with the file, truncation included, or None."""
    try:
        _read(path)
    except ImageError as error:
        return str(error)
    return None


def trouble_with(paths: Sequence[str | Path]) -> Iterator[str]:
    """image_trouble of every file that has any, read by several threads, with a progress bar."""
    with ThreadPoolExecutor() as pool, tqdm(total=len(paths), unit="image") as bar:
        for start in range(0, len(paths), READ_AHEAD):
            for trouble in pool.map(image_trouble, paths[start : start + READ_AHEAD]):
                bar.update()
                if trouble:
                    yield trouble


def to_rgb(image: Image.Image, ground: str = "white") -> Image.Image:
    """Of any mode: 16 bits scaled to 8, transparency laid on a ground of that colour: white as paper, black of a mask."""
    if image.mode.startswith("I"):  # 16 bits; Pillow's own conversion would clip at 255
        return Image.fromarray((np.asarray(image) / 257).round().clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, ground), image).convert("RGB")
    return image.convert("RGB")


def square(image: Image.Image, size: int) -> Image.Image:
    """Resized to size x size whatever its shape, bilinear with antialiasing, as sg2im's loaders do."""
    return image.resize((size, size), Image.Resampling.BILINEAR)


def to_tensor(image: Image.Image) -> Tensor:  # RGB -> (3,H,W) in [-1,1]
    pixels = np.asarray(image).transpose(2, 0, 1).astype(np.float32, order="C")  # torch would start threads for this
    return torch.from_numpy(pixels / np.float32(127.5) - np.float32(1))


def to_image(tensor: Tensor) -> Image.Image:  # (3,H,W) in [-1,1], clipped to it -> RGB
    pixels = (tensor.detach().float().cpu().clamp(-1, 1) + 1) * 127.5
    return Image.fromarray(pixels.round().to(torch.uint8).permute(1, 2, 0).numpy())


def _read(path: str | Path, upright: bool = False, ground: str = "white") -> Image.Image:
    if not Path(path).is_file():
        raise ImageError(path, "there is no such file")
    try:
        with Image.open(path) as image:
            image.load()
            return to_rgb(ImageOps.exif_transpose(image) if upright else image, ground)
    except Exception as error:  # decoders raise OSError, SyntaxError, struct.error, ... on a broken file
        raise ImageError(path, f"broken, or not an image ({error})") from None


@contextmanager
def _truncation_allowed() -> Iterator[None]:
    """Pillow knows this only as a global switch, so one thread at a time may throw it."""
    with _lenient:
        ImageFile.LOAD_TRUNCATED_IMAGES, before = True, ImageFile.LOAD_TRUNCATED_IMAGES
        try:
            yield
        finally:
            ImageFile.LOAD_TRUNCATED_IMAGES = before
