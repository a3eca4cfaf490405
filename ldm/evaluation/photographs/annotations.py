"""The files of a folder of photographs: COCO's instances and stuff, and pairs of images before and after an edit.

    images/              the pictures
    instances_NAME.json  boxes of things; `kind` of an image is real, empty (nothing in it) or mix (things are pasted in)
    stuff_NAME.json      the ground, over the whole picture; may be left out
    edits_NAME.json      pairs of images: {kind, source, target, ...}

scripts/prepare_photographs.py writes such a folder.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from ldm.graph.validation import Box
from ldm.util.errors import UserError
from ldm.util.files import digest, read_json
from ldm.util.images import read_image

REAL, EMPTY, MIX = "real", "empty", "mix"
REMEDY = "scripts/prepare_photographs.py writes it"


class PhotographError(UserError):
    """A folder of photographs that is incomplete or damaged."""


class Thing(NamedTuple):
    """An object of a photograph: its category and its box x0 y0 x1 y1 in [0,1]."""

    name: str
    box: Box


@dataclass(frozen=True)
class PhotographSplit:
    """One split of a folder of photographs.

    Args:
        folder: the folder.
        name: of the split, such as train or val.
    """

    folder: Path
    name: str

    def path(self, kind: str) -> Path:
        """The file of `kind`: instances, stuff or edits."""
        return self.folder / f"{kind}_{self.name}.json"

    def identity(self) -> str:
        """Checksum of the files of annotations."""
        paths = [self.path(kind) for kind in ("instances", "stuff", "edits")]
        return digest(b"".join(path.read_bytes() for path in paths if path.is_file()))[:16]

    @cached_property
    def images(self) -> dict[int, dict]:
        """The fields of each image by its id."""
        return self._instances[0]

    @cached_property
    def categories(self) -> tuple[str, ...]:
        """The names of all categories, in the order of their ids."""
        return tuple(name for _, name in sorted(self._instances[1].items()))

    @cached_property
    def things(self) -> dict[int, list[Thing]]:
        """The things of each image by its id."""
        return self._instances[2]

    @cached_property
    def grounds(self) -> dict[int, str]:
        """The name of the ground of each image by its id; without a file of stuff, none is known."""
        if not self.path("stuff").is_file():
            return {}
        _, _, things = read_coco(self.path("stuff"))
        return {image: stuff[0].name for image, stuff in things.items() if stuff}

    @cached_property
    def pairs(self) -> list[dict]:
        """The pairs of images before and after an edit."""
        pairs = read_json(self.path("edits"), PhotographError, REMEDY)
        if not isinstance(pairs, list) or not all(
            isinstance(pair, dict) and {"kind", "source", "target"} <= set(pair) for pair in pairs
        ):
            raise PhotographError(f"{self.path('edits')}: not a list of pairs with kind, source and target; {REMEDY}")
        for pair in pairs:
            for key in ("source", "target"):
                if pair[key] not in self.images:
                    raise PhotographError(
                        f"{self.path('edits')}: the {key} {pair[key]} is no image of {self.path('instances').name}; take both "
                        "files from one preparation"
                    )
        return pairs

    def picture(self, image: int) -> Image.Image:
        """The picture of an image."""
        return read_image(self.folder / "images" / self.images[image]["file_name"])

    @cached_property
    def _instances(self) -> tuple[dict[int, dict], dict[int, str], dict[int, list[Thing]]]:
        return read_coco(self.path("instances"))


def read_coco(path: Path) -> tuple[dict[int, dict], dict[int, str], dict[int, list[Thing]]]:
    """Images and categories by id, and the things of each image.

    Raises:
        PhotographError: the file is missing, or not in COCO's form.
    """
    content = read_json(path, PhotographError, REMEDY)
    try:
        images = {image["id"]: image | {"file_name": str(image["file_name"])} for image in content["images"]}
        names = {category["id"]: str(category["name"]) for category in content["categories"]}
        things: dict[int, list[Thing]] = {id: [] for id in images}
        for annotation in content["annotations"]:
            image, (x, y, width, height) = images[annotation["image_id"]], annotation["bbox"]
            across, down = image["width"], image["height"]
            box = (x / across, y / down, min(1.0, (x + width) / across), min(1.0, (y + height) / down))
            things[annotation["image_id"]].append(Thing(names[annotation["category_id"]], box))
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise PhotographError(f"{path}: not in COCO's form ({error!r}); {REMEDY}") from None
    return images, names, things
