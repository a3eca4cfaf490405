"""PIE-Bench's mapping_file.json (Ju et al. 2310.01506): 700 photographs with prompts, edit types and run-length masks.

    {"000000000000": {"image_path": "0_random_140/000000000000.jpg", "original_prompt": "a [round] cake",
                      "editing_prompt": "a [square] cake", "editing_type_id": "0", "mask": [start, length, ...]}}

The photographs lie in the folder annotation_images beside the file. Of its ten edit types, averages are given apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ldm.evaluation.validation.lines import ValidationLine, default_seed
from ldm.util.errors import UserError

SIZE = 512  # pixels of a photograph's side, and of the masks
PHOTOGRAPHS = "annotation_images"  # folder beside the mapping file
NEEDED = ("image_path", "original_prompt", "editing_prompt", "editing_type_id", "mask")
TYPES = {  # the paper's table 7
    "0": "0 random",
    "1": "1 change object",
    "2": "2 add object",
    "3": "3 delete object",
    "4": "4 change attribute content",
    "5": "5 change attribute pose",
    "6": "6 change attribute colour",
    "7": "7 change attribute material",
    "8": "8 change background",
    "9": "9 change style",
}


def recognises(content: Any) -> bool:
    """Whether parsed JSON is a mapping file."""
    first = next(iter(content.values()), None) if isinstance(content, dict) else None
    return isinstance(first, dict) and {"image_path", "editing_prompt"} <= set(first)


def lines_of(content: dict, path: Path) -> list[ValidationLine]:
    """The lines of a mapping file.

    Raises:
        UserError: an entry lacks a key, has an unknown edit type or a broken mask, or its photograph is missing.
    """
    lines = []
    for key, entry in content.items():
        place = f"{path}, {key}"
        missing = [name for name in NEEDED if not isinstance(entry, dict) or entry.get(name) is None]
        if missing:
            raise UserError(f"{place}: has no {', '.join(missing)}; download PIE-Bench's file again")
        kind = TYPES.get(str(entry["editing_type_id"]))
        if kind is None:
            raise UserError(f"{place}: editing_type_id {entry['editing_type_id']!r} is none of 0 to 9")
        photograph = path.parent / PHOTOGRAPHS / str(entry["image_path"])
        if not photograph.is_file():
            raise UserError(
                f"{place}: there is no photograph {photograph}; unpack {PHOTOGRAPHS} beside the mapping file"
            )
        lines.append(
            ValidationLine(
                id=str(key),
                place=place,
                seed=default_seed(str(key)),
                prompt=_without_brackets(entry["editing_prompt"]),
                source_prompt=_without_brackets(entry["original_prompt"]),
                photograph=photograph,
                region=decode_mask(entry["mask"], place),
                type=kind,
                picture_path=str(entry["image_path"]),
            )
        )
    return lines


def decode_mask(runs: Sequence[int], place: str = "mask", size: int = SIZE) -> np.ndarray:  # (size,size) bool
    """The region that an edit may change, with the picture's outermost pixels, as the published program reads it.

    Args:
        runs: start and length of each run of pixels, row by row.
        place: where the mask stands, for messages.

    Raises:
        UserError: this is no list of runs within the picture.
    """
    values = np.asarray(runs if isinstance(runs, list | tuple) else [], dtype=object)
    if not isinstance(runs, list | tuple) or len(runs) % 2 or not all(type(value) is int for value in values):
        raise UserError(f"{place}: mask is no list of pairs of whole numbers (start, length)")
    mask = np.zeros(size * size, bool)
    for start, length in zip(runs[::2], runs[1::2]):
        if not 0 <= start < size * size or length < 0:
            raise UserError(f"{place}: a run of the mask begins at {start}, outside of {size} x {size} pixels")
        mask[start : start + length] = True
    mask = mask.reshape(size, size)
    mask[[0, -1], :] = mask[:, [0, -1]] = True
    return mask


def _without_brackets(prompt: str) -> str:
    """Brackets mark the words that the edit changes."""
    return str(prompt).replace("[", "").replace("]", "")
