"""A pile of made-up pictures that are all different, and the faults that are planted in it."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw


def picture(seed: int, size: tuple[int, int] = (96, 96)) -> Image.Image:
    """Patches of colour behind a few shapes; no two seeds look alike."""
    rng = np.random.default_rng(seed)
    ground = Image.fromarray(rng.integers(0, 256, (5, 5, 3), np.uint8)).resize(size, Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(ground)
    for _ in range(9):
        x, y = rng.uniform(0, 0.85, 2) * size
        w, h = rng.uniform(0.08, 0.3, 2) * size
        colour = tuple(rng.integers(0, 256, 3).tolist())
        (draw.rectangle if rng.random() < 0.5 else draw.ellipse)((x, y, x + w, y + h), fill=colour)
    return ground


def save(image: Image.Image, path: Path, **options) -> Path:
    """Writes a picture and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)
    return path


def write_pile(folder: Path, count: int = 12, first_seed: int = 0) -> list[Path]:
    """Different pictures a00.png, a01.png, ..."""
    return [save(picture(first_seed + i), folder / f"a{i:02}.png") for i in range(count)]


def central_crop(image: Image.Image, share: float = 0.6, at: tuple[float, float] = (0.2, 0.25)) -> Image.Image:
    """A part of a picture, enlarged to its size."""
    width, height = image.size
    x, y = round(at[0] * width), round(at[1] * height)
    return image.crop((x, y, x + round(share * width), y + round(share * height))).resize(image.size)


def mirrored(image: Image.Image) -> Image.Image:
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
