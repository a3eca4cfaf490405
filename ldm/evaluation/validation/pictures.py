"""The pictures of a model for a share of the lines, in a folder that several processes fill and a restart completes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from ldm.evaluation.validation.lines import ValidationLine
from ldm.evaluation.validation.models import Maker
from ldm.util.errors import UserError
from ldm.util.files import digest, remove_leftovers
from ldm.util.image_folder import is_made, save_image

BATCH = 16  # pictures between two writes to disk


def picture_file(model: str, id: str) -> str:
    """Where the picture of a line is, relative to the folder of results."""
    return f"pictures/{model}/{id}.png"


def make_pictures(
    maker: Maker, model: str, lines: Sequence[ValidationLine], identities: Mapping[str, str], folder: Path
) -> dict[str, str]:
    """Makes the pictures that the folder lacks.

    Args:
        maker: of the model.
        model: its name.
        identities: of each line what its picture depends on.

    Returns:
        What went wrong, for each line whose picture could not be made.

    Raises:
        UserError: the folder has pictures that were made in another way.
    """
    (folder / "pictures" / model).mkdir(parents=True, exist_ok=True)
    remove_leftovers(folder / "pictures" / model)
    failures: dict[str, str] = {}
    identity = json.loads(json.dumps(dict(maker.identity)))  # as it will be read back
    with tqdm(total=len(lines), desc=model, unit="picture", leave=False) as bar:
        for start in range(0, len(lines), BATCH):
            batch = lines[start : start + BATCH]
            records = {
                line.id: {
                    "file": picture_file(model, line.id),
                    "line": identities[line.id],
                    "seed": line.seed,
                    "made_by": identity,
                }
                for line in batch
            }
            missing = [line for line in batch if not is_made(folder, records[line.id])]
            for line, picture in _make(maker, missing, failures):
                save_image(folder / records[line.id]["file"], picture, records[line.id])
            bar.update(len(batch))
    return failures


def pixel_digest(picture: Image.Image) -> str:
    """16 hexadecimal digits that two pictures share if all their pixels are equal."""
    return digest(f"{picture.size}".encode() + picture.convert("RGB").tobytes())[:16]


def _make(
    maker: Maker, lines: Sequence[ValidationLine], failures: dict[str, str]
) -> list[tuple[ValidationLine, Image.Image]]:
    """The pictures of the lines that work: all at once, or one by one where one of them fails."""
    if not lines:
        return []
    try:
        return list(zip(lines, maker.make(lines), strict=True))
    except (UserError, OSError) as error:
        if len(lines) == 1:
            failures[lines[0].id] = str(error)
            return []
    return [pair for line in lines for pair in _make(maker, [line], failures)]
