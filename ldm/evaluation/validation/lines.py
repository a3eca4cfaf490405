"""A line of a validation set: what a picture should show, and what it is made and judged from."""

from __future__ import annotations

import dataclasses
import json
import random
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ldm.graph.scene_graph import SceneGraph
from ldm.util.errors import UserError
from ldm.util.files import digest
from ldm.util.images import read_image

ID = re.compile(r"[\w-][\w.-]{0,99}")


@dataclass(frozen=True)
class ValidationLine:
    """What a picture should show, and how it is made.

    Args:
        id: names the picture; unique.
        place: where the line stands, for messages.
        seed: of the noise.
        graph: of what the picture should show.
        source_graph: of the photograph.
        prompt, source_prompt: what the picture should show, and what the photograph shows, in words.
        photograph: the image to edit; None for a picture that is sampled from noise.
        truth: the picture that should result.
        mask: white where the edit may change.
        style: the image to take the look from.
        region: (H,W) bool, where the edit may change, of forms that hold no mask file.
        label: class that the picture should show.
        type: kind of the line; averages are also given for each.
        unit: lines of one unit are not independent of each other.
        options: of sampling or editing, for this line alone.
        picture_path: where sets of published results keep the picture of this line, relative to their folder.
    """

    id: str
    place: str = ""
    seed: int = 0
    graph: SceneGraph | None = None
    source_graph: SceneGraph | None = None
    prompt: str | None = None
    source_prompt: str | None = None
    photograph: Path | None = None
    truth: Path | None = None
    mask: Path | None = None
    style: Path | None = None
    region: np.ndarray | None = field(default=None, repr=False, compare=False)
    label: str | None = None
    type: str = "all"
    unit: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    picture_path: str | None = None

    def __post_init__(self):
        if not ID.fullmatch(self.id):
            raise UserError(f"{self.place}: id {self.id!r} is not made of letters, digits, '.', '_' and '-', up to 100")
        object.__setattr__(self, "unit", self.unit or self.id)

    @property
    def is_edit(self) -> bool:
        """Whether a photograph is edited; otherwise a picture is sampled from noise."""
        return self.photograph is not None

    def identity(self) -> str:
        """16 hexadecimal digits of everything that the picture and its scores depend on, contents of files included.

        Raises:
            UserError: a file cannot be read.
        """
        values: dict[str, Any] = {}
        for item in dataclasses.fields(self):
            value = getattr(self, item.name)
            if isinstance(value, SceneGraph):
                value = value.to_json()
            elif isinstance(value, Path):
                value = _digest_of(value, self.place)
            elif isinstance(value, np.ndarray):
                value = digest(np.packbits(value).tobytes() + str(value.shape).encode())
            if item.name not in ("place", "type", "unit", "picture_path"):
                values[item.name] = value
        return digest(json.dumps(values, sort_keys=True, default=list).encode())[:16]

    def change_mask(self, size: tuple[int, int]) -> np.ndarray | None:  # (H,W) bool
        """Where the picture may change; None if neither a mask nor a region tells.

        Args:
            size: width and height of the picture.

        Raises:
            UserError: the mask's size is another one.
        """
        if self.region is not None:
            region = self.region
        elif self.mask is not None:
            region = np.asarray(read_image(self.mask, True, "black").convert("L")) > 127
        else:
            return None
        if region.shape != size[::-1]:
            there, here = "x".join(map(str, region.shape[::-1])), "x".join(map(str, size))
            raise UserError(f"{self.place}: its mask is {there}, its picture {here}; give both the same size")
        return region


def default_seed(id: str) -> int:
    """A seed that follows from the id alone, so that a line's picture does not depend on the other lines."""
    return random.Random(f"validation/{id}").getrandbits(48)


def _digest_of(file: Path, place: str) -> str:
    try:
        return digest(file)[:16]
    except OSError as error:
        raise UserError(f"{place}: {file}: {error.strerror}; check the path") from None
