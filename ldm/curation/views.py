"""Derived views of pictures by a user's function, such as line art; each is made once and kept by the file's checksum."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from ldm.curation.errors import CurationError
from ldm.curation.filters import call, load_function
from ldm.curation.pictures import Picture
from ldm.util.files import atomic_write
from ldm.util.images import read_image


def make_views(
    pictures: Sequence[Picture], rows: Sequence[int], checksums: np.ndarray, function: str, folder: Path
) -> dict[int, Path]:
    """Writes the view of each picture, unless it exists, as a PNG file of the same size or another.

    Args:
        rows: the pictures that are kept.
        checksums: (N,32) uint8 of all files.
        function: package.module.function; takes an RGB picture and returns a picture.
        folder: of all views; each version of the function gets a subfolder.

    Returns:
        Row -> path of the view.

    Raises:
        CurationError: the function cannot be imported, fails, or returns no picture.
    """
    apply = load_function(function, "view")
    try:
        source = inspect.getsource(inspect.getmodule(apply) or apply)
    except (OSError, TypeError):  # no source, such as of a compiled module
        source = ""
    folder = folder / f"{function.rpartition('.')[2]}-{hashlib.sha256(f'{function}{source}'.encode()).hexdigest()[:12]}"
    views = {}
    for row in tqdm(rows, desc="views", unit="picture", disable=None):
        path = views[row] = folder / f"{bytes(checksums[row]).hex()[:32]}.png"
        if path.is_file():
            continue
        view = call(apply, read_image(pictures[row].path), function, pictures[row].name)
        if not isinstance(view, Image.Image):
            raise CurationError(
                f"view: {function} returned {type(view).__name__} for {pictures[row].name}, not a picture"
            )
        with atomic_write(path) as temporary:
            view.save(temporary, "PNG")
    return views
