"""Reads the pictures of rendered scenes into memory at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ldm.synthetic.rendered.records import Record, RenderedError, complete_shards, look_of, read_records
from ldm.util.images import Picture, read_image


def find_look(root: str | Path) -> str:
    """The look of the scenes in a folder's complete shards, a key of `ldm.synthetic.rendered.vocabulary.LOOKS`.

    Raises:
        RenderedError: there are none, or some are in CLEVR's look and others are not.
    """
    looks = {look_of(shard) for shard in complete_shards(root)}
    if len(looks) > 1:
        raise RenderedError(f"{root}: has shards in CLEVR's look and others; give each look a folder of its own")
    return looks.pop()


def read_scenes(root: str | Path, look: str = "table") -> tuple[list[Record], list[Path]]:
    """What all pictures of a folder's complete shards show, and their paths.

    Args:
        look: that the scenes must have.

    Raises:
        RenderedError: there are none, an index is damaged, or the scenes have another look.
    """
    shards = [(shard, list(read_records(shard, look))) for shard in complete_shards(root)]
    records = [record for _, part in shards for record in part]
    return records, [shard / record.file for shard, part in shards for record in part]


def read_pictures(
    paths: Sequence[Path], side: int, report: Callable[[int], Any] = lambda count: None
) -> np.ndarray:  # (N,side,side,3) uint8
    """Decodes pictures, a third of a millisecond each.

    Args:
        side: pixels; pictures of another size are resized.
        report: called with the number of pictures done since the last call.

    Raises:
        ImageError: a picture is missing or broken.
    """
    pictures = np.empty((len(paths), side, side, 3), np.uint8)

    def decode(index: int) -> None:
        pictures[index] = to_square(read_image(paths[index]), side)

    with ThreadPoolExecutor() as pool:
        for _ in pool.map(decode, range(len(paths))):
            report(1)
    return pictures


def to_square(picture: Picture, side: int) -> np.ndarray:
    """(side,side,3) uint8: by box averages if the picture is larger, by bilinear interpolation if it is smaller."""
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    image = image.convert("RGB")
    if image.size != (side, side):
        method = Image.Resampling.BOX if min(image.size) >= side else Image.Resampling.BILINEAR
        image = image.resize((side, side), method)
    return np.asarray(image)
