"""A folder of pictures that several processes fill and any of them can go on with.

    images/000003_01.png    the second picture of the fourth graph; its record lies in the file itself (a PNG text)
    graphs/000003.png       that graph, drawn
    index.jsonl             every picture's record, a line each, once all are there
    sheet.png               the first graphs and pictures, once all are there

A picture is written beside its place and then renamed, and its record with it, so whatever is there is whole and says
how it was made. The index is only a list of that: whoever writes it, it comes out the same.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ldm.util.errors import UserError


def image_path(graph: int, repeat: int) -> str:
    return f"images/{graph:06}_{repeat:02}.png"


def graph_path(graph: int) -> str:
    return f"graphs/{graph:06}.png"


def save(path: Path, image: Image.Image, record: dict) -> None:
    """As a PNG with its record."""
    text = PngInfo()
    text.add_text("record", json.dumps(record))
    _put(path, lambda beside: image.save(beside, "PNG", pnginfo=text))


def record_of(path: Path, whole: bool = True) -> dict | None:
    """The record of a picture; None where there is no picture, or, on a look at the `whole`, a broken one."""
    try:
        with Image.open(path) as image:
            if whole:
                image.load()
            return json.loads(image.info["record"])
    except (OSError, SyntaxError, KeyError, ValueError):  # Pillow raises either of the first two on a broken file
        return None


def has(folder: Path, record: dict) -> bool:
    """Whether the picture that this record describes is there. Raises UserError where another is in its place."""
    found = record_of(folder / record["file"])
    if found is None:
        return False
    for key in record:
        if key != "checkpoint" and found.get(key) != record[key]:  # the same weights may lie elsewhere by now
            was, now = (str(value)[:60] for value in (found.get(key), record[key]))
            raise UserError(f"{folder / record['file']} was made with {key} {was}, not {now}: choose another --outdir")
    return True


def finish(folder: Path, names: Sequence[str], sheet: Callable[[], Image.Image]) -> bool:
    """Write the index of these pictures, and the sheet, if all of them are there. To be called by each process when its
    own are done: the last one to ask finds all, and if two do, they write the same."""
    records = [record_of(folder / name, whole=False) for name in names]
    if None in records:
        return False
    lines = "".join(json.dumps(record) + "\n" for record in records)
    _put(folder / "index.jsonl", lambda beside: beside.write_text(lines))
    _put(folder / "sheet.png", lambda beside: sheet().save(beside, "PNG"))
    return True


def _put(path: Path, write: Callable[[Path], object]) -> None:
    """Each process has a name of its own for what is not yet whole, so two may put the same file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        write(beside)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
