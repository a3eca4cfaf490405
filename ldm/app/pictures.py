"""Pictures by the checksum of their pixels, as PNG files in a folder of their own.

The name of a file is made here from the pixels, and what a browser asks for must look like such a name: no path that came
from outside is ever opened.
"""

from __future__ import annotations

import io
import re
import threading
from collections import OrderedDict
from pathlib import Path

import numpy as np
from PIL import Image

from ldm.app.errors import NotFound
from ldm.util.colour_profiles import srgb_chunk
from ldm.util.files import atomic_write, digest, remove_leftovers

ID = re.compile(r"[0-9a-f]{32}")
FAST_FROM = 1_000_000  # pixels from which a file may be larger, so that writing it takes no seconds
VISIBLE = 16  # of 255 levels, in any channel
SMALL_COPIES = 256  # that are kept in memory


class Pictures:
    """The folder of pictures.

    Args:
        folder: where they are; made if it does not exist.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        remove_leftovers(folder)
        self._lock = threading.Lock()  # atomic_write names its temporary file by the process
        self._small: OrderedDict[tuple[str, int], bytes] = OrderedDict()

    def add(self, image: Image.Image) -> str:
        """Writes an RGB or L image, unless it is there, and returns its id."""
        header = f"{image.mode} {image.width} {image.height} ".encode()
        id = digest(header + image.tobytes())[:32]
        path = self._path(id)
        with self._lock:
            if not path.is_file():
                level = 1 if image.width * image.height > FAST_FROM else 6
                with atomic_write(path) as temporary:
                    image.save(temporary, "PNG", pnginfo=srgb_chunk(), compress_level=level)
        return id

    def path(self, id: str) -> Path:
        """The file of a picture. Raises NotFound."""
        if not ID.fullmatch(id) or not (path := self._path(id)).is_file():
            raise NotFound("there is no such picture; it may have been deleted with its session").coded("no_picture")
        return path

    def read(self, id: str) -> Image.Image:
        """The picture, in memory. Raises NotFound."""
        with Image.open(self.path(id)) as image:
            image.load()
            return image

    def small_copy(self, id: str, height: int) -> bytes:
        """A WebP file of at most this height. Raises NotFound."""
        key = id, height
        path = self.path(id)
        with self._lock:
            if key in self._small:
                self._small.move_to_end(key)
                return self._small[key]
        with Image.open(path) as image:
            image.thumbnail((8 * height, height), Image.Resampling.LANCZOS)
            content = encode_webp(image)
        with self._lock:
            self._small[key] = content
            while len(self._small) > SMALL_COPIES:
                self._small.popitem(last=False)
        return content

    def delete(self, id: str) -> None:
        """Deletes a picture, if it is there."""
        self._path(id).unlink(missing_ok=True)
        with self._lock:
            for key in [key for key in self._small if key[0] == id]:
                del self._small[key]

    def _path(self, id: str) -> Path:
        return self.folder / id[:2] / f"{id}.png"


def encode_webp(image: Image.Image) -> bytes:
    """A lossy WebP file."""
    file = io.BytesIO()
    image.convert("RGB").save(file, "WEBP", quality=85, method=2)
    return file.getvalue()


def encode_png(image: Image.Image) -> bytes:
    """A PNG file that is marked as sRGB."""
    file = io.BytesIO()
    image.save(file, "PNG", pnginfo=srgb_chunk())
    return file.getvalue()


def changed_share(first: Image.Image, second: Image.Image) -> float:
    """The share of pixels in which two pictures of one size differ visibly."""
    a, b = (np.asarray(image.convert("RGB"), np.int16) for image in (first, second))
    return float((np.abs(a - b).max(-1) > VISIBLE).mean())


def describe(id: str | None, size: tuple[int, int] | None) -> dict | None:
    """A picture as the interface tells it; None for none."""
    if id is None or size is None:
        return None
    return {"id": id, "url": f"api/images/{id}.png", "width": size[0], "height": size[1]}
