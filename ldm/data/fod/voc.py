"""Reads FOD-A's copy in the form of Pascal VOC: frames of films with boxes, light and weather, joined to clips.

JPEGImages/000694.jpg   frames, numbered in the order of the films
Annotations/000694.xml  objects with name and bndbox; light and weather, unless a table says them
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from ldm.util.errors import UserError
from ldm.util.images import read_image

LIGHTS, WEATHERS = ("bright", "dim", "dark"), ("dry", "wet")  # FOD-A's tables have their numbers
TAGS = {"light": ("light", "lightlevel", "light_level", "lighting"), "weather": ("weather",)}
COLOUR_SAMPLES = 3  # frames of a clip whose colour decides the ground
SAND, PLASTER = 30, 200  # least red minus blue of sand, and least green of plaster, of 255

Pixels = tuple[float, float, float, float]  # x0 y0 x1 y1


class FODError(UserError):
    """Files of FOD-A that are missing, damaged or incomplete."""


@dataclass(frozen=True)
class Frame:
    """A frame of a film.

    Args:
        path: its picture.
        size: width and height in pixels.
        things: category and box in pixels of each thing.
        light, weather: one of `LIGHTS` and of `WEATHERS`.
    """

    path: Path
    size: tuple[int, int]
    things: tuple[tuple[str, Pixels], ...]
    light: str
    weather: str

    @property
    def names(self) -> frozenset[str]:
        """The categories that occur."""
        return frozenset(name for name, _ in self.things)


@dataclass(frozen=True)
class Clip:
    """Frames in a row that show the same things in the same light and weather."""

    number: int
    frames: tuple[Frame, ...]
    ground: str

    @property
    def look(self) -> tuple[str, str, str]:
        """Ground, light and weather."""
        return self.ground, self.frames[0].light, self.frames[0].weather


def read_frames(folder: Path, conditions: Path | None = None) -> list[Frame]:
    """All frames of a folder in the form of Pascal VOC, in their order.

    Args:
        conditions: FOD-A's table of light and weather (columns File, Weather and Light), for annotations without them.

    Raises:
        FODError: the folder has no annotations, or one of them is damaged, lacks its picture, its light or its weather.
    """
    annotations = sorted((folder / "Annotations").glob("*.xml"))
    if not annotations:
        raise FODError(
            f"{folder}: has no Annotations/*.xml; name the folder of FOD-A's VOC copy that holds JPEGImages, too"
        )
    table = _read_conditions(conditions) if conditions else {}
    return [_read_frame(path, folder / "JPEGImages", table) for path in annotations]


def join_clips(frames: Sequence[Frame]) -> list[Clip]:
    """Joins frames in a row that have a thing's category in common, and light and weather, to clips.

    Two films of one thing in a row, in the same conditions, make one clip, so that a split by clips never parts them.
    """
    groups: list[list[Frame]] = []
    for frame in frames:
        last = groups[-1][-1] if groups else None
        joins = (
            last is not None and (last.light, last.weather) == (frame.light, frame.weather) and last.names & frame.names
        )
        if joins:
            groups[-1].append(frame)
        else:
            groups.append([frame])
    return [Clip(number, tuple(group), find_ground(group)) for number, group in enumerate(groups)]


def find_ground(frames: Sequence[Frame]) -> str:
    """The ground by a rule: concrete unless the light is bright; then sand, plaster or floor by the colour of most pixels."""
    if frames[0].light != "bright":
        return "concrete"
    step = max(1, len(frames) // COLOUR_SAMPLES)
    pictures = [np.asarray(read_image(frame.path).resize((64, 64))) for frame in frames[::step][:COLOUR_SAMPLES]]
    red, green, blue = np.median(np.concatenate([picture.reshape(-1, 3) for picture in pictures]).astype(float), 0)
    if red - blue >= SAND:
        return "sand"
    return "plaster" if green >= PLASTER else "floor"


def _read_frame(path: Path, pictures: Path, table: Mapping[str, tuple[str, str]]) -> Frame:
    try:
        root = ElementTree.parse(path).getroot()
        size = int(root.findtext("size/width", "")), int(root.findtext("size/height", ""))
        things = tuple((_text(thing, "name"), _box(thing)) for thing in root.iter("object"))
    except (ElementTree.ParseError, ValueError, OSError) as error:
        raise FODError(f"{path}: not an annotation of Pascal VOC ({error}); take it from the data set again") from None
    picture = next(
        (file for file in pictures.glob(f"{path.stem}.*") if file.suffix.lower() in (".jpg", ".jpeg", ".png")), None
    )
    if picture is None:
        raise FODError(f"{pictures}/{path.stem}.jpg: this frame's picture is missing; unpack the pictures there")
    stated = {kind: next(_stated(root, tags), "") for kind, tags in TAGS.items()}
    weather, light = table.get(path.stem, (stated["weather"], stated["light"]))
    for kind, value, known in (("light", light, LIGHTS), ("weather", weather, WEATHERS)):
        if value not in known:
            raise FODError(
                f"{path}: its {kind} is {value or 'not given'}, none of {', '.join(known)}; name FOD-A's table of light and "
                "weather with --conditions"
            )
    return Frame(picture, size, things, light, weather)


def _text(element: ElementTree.Element, tag: str) -> str:
    text = (element.findtext(tag) or "").strip()
    if not text:
        raise ValueError(f"an object without {tag}")
    return text


def _box(thing: ElementTree.Element) -> Pixels:
    x0, y0, x1, y1 = (float(_text(thing, f"bndbox/{edge}")) for edge in ("xmin", "ymin", "xmax", "ymax"))
    if not (x0 < x1 and y0 < y1):
        raise ValueError(f"the box {x0:g} {y0:g} {x1:g} {y1:g} is empty")
    return x0, y0, x1, y1


def _stated(root: ElementTree.Element, tags: Sequence[str]) -> Iterator[str]:
    """Values of elements of some name, or of CVAT's attributes of that name, in lower case."""
    for element in root.iter():
        if element.tag.lower() in tags and element.text and element.text.strip():
            yield element.text.strip().lower()
        if element.tag.lower() == "attribute" and (element.findtext("name") or "").strip().lower() in tags:
            yield (element.findtext("value") or "").strip().lower()


def _read_conditions(path: Path) -> dict[str, tuple[str, str]]:
    """Weather and light by the names of frames without suffix."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
        return {
            Path(row["File"].replace("\\", "/")).stem: (_named(row["Weather"], WEATHERS), _named(row["Light"], LIGHTS))
            for row in rows
        }
    except (OSError, UnicodeDecodeError, csv.Error, KeyError, AttributeError, IndexError) as error:
        raise FODError(f"{path}: not a table with the columns File, Weather and Light ({error})") from None


def _named(value: str, names: Sequence[str]) -> str:
    value = value.strip().lower()
    return names[int(value)] if value.isdigit() else value
