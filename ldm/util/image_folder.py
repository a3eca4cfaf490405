"""A folder of images that several processes fill, and that a restarted command completes.

Each image is a PNG file with its record (how it was made) as a text inside of the file, so that an image without its
record cannot exist. Once all images are there:

    index.jsonl   the record of each image, one per line
    sheet.png     a contact sheet of the first ones
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from PIL import Image

from ldm.util.colour_profiles import srgb_chunk
from ldm.util.errors import UserError
from ldm.util.files import atomic_write

INDEX, SHEET = "index.jsonl", "sheet.png"


def save_image(path: Path, image: Image.Image, record: dict) -> None:
    """Writes a PNG file with its record, whole or not at all."""
    text = srgb_chunk()
    text.add_text("record", json.dumps(record))
    with atomic_write(path) as temporary:
        image.save(temporary, "PNG", pnginfo=text)


def read_record(path: Path, check_pixels: bool = True) -> dict | None:
    """The record of an image; None if there is no such image, or it is damaged.

    Args:
        check_pixels: decode the whole image; otherwise damage to its pixels is not noticed.
    """
    try:
        with Image.open(path) as image:
            if check_pixels:
                image.load()
            record = json.loads(image.info["record"])
    except (
        OSError,
        SyntaxError,
        KeyError,
        ValueError,
        RecursionError,
    ):  # Pillow raises the first two for damaged files
        return None
    return record if isinstance(record, dict) else None


def is_made(folder: Path, record: dict) -> bool:
    """Whether the image of this record exists. Raises UserError if an image of another record is in its place."""
    path = folder / record["file"]
    found = read_record(path)
    if found is None:
        return False
    for key in record:
        if key != "checkpoint" and found.get(key) != record[key]:  # the same weights may have moved
            before, now = (str(value)[:60] for value in (found.get(key), record[key]))
            raise UserError(f"{path} was made with {key} {before}, not {now}: choose another --outdir")
    return True


def write_index(folder: Path, names: Sequence[str], make_sheet: Callable[[], Image.Image]) -> bool:
    """Writes the index and the contact sheet, if all images exist.

    Each process calls it when its own images are done: the last one finds all of them, and if two do, they write the same.

    Returns:
        Whether all images exist.
    """
    records = [read_record(folder / name, check_pixels=False) for name in names]
    if None in records:
        return False
    with atomic_write(folder / INDEX) as temporary:
        temporary.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    with atomic_write(folder / SHEET) as temporary:
        make_sheet().save(temporary, "PNG")
    return True
