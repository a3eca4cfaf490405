"""What a format gives for each image of a file, and checks of values of any JSON type."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ldm.graph.json_files import read_json
from ldm.graph.validation import GraphError, shorten
from ldm.util.score_option import MIN_SCORE

Corners = tuple[float, float, float, float]  # x0 y0 x1 y1, in pixels or fractions
Size = tuple[float, float]  # width, height


class RawGraph(NamedTuple):
    """A graph as a file has it.

    Args:
        objects: names.
        boxes: per object, in pixels or in fractions of the image's size; None if unknown.
        attributes: per object a list of names, or None; None for a format without attributes.
        triples: (subject index, predicate, object index); None for a format without relations.
        ids: per object a text or None.
        note: what was left out, for the user; empty if nothing.
    """

    objects: list[str]
    boxes: list[Corners | None]
    attributes: list[list[str] | None] | None = None
    triples: list[tuple[int, str, int]] | None = None
    ids: list[str | None] | None = None
    note: str = ""


def same_size(size: Size) -> Size:
    """The size of the image that boxes refer to, if that is the image itself."""
    return size


class Entry(NamedTuple):
    """One image of a file.

    Args:
        image: the image's file name, or its number where files are named by it; empty if unknown.
        size: the image's size as the file says, or None.
        read: converts the graph.
        resized: size of the image -> size of the image that boxes in pixels refer to.
    """

    image: str
    size: Size | None
    read: Callable[[], RawGraph]
    resized: Callable[[Size], Size] = same_size


@dataclass(frozen=True)
class Source:
    """Where a graph comes from.

    Args:
        where: name of the file, or of the place within one, for messages.
        folder: that other files of the format are looked up in; None for none.
        photograph: the photograph that is edited, if known. It selects one image of a file of many, and tells its size.
        min_score: predictions with a lower score are left out.
    """

    where: str
    folder: Path | None = None
    photograph: Path | None = None
    min_score: float = MIN_SCORE

    def read_beside(self, name: str) -> Any:
        """The parsed content of a JSON file in the folder, or None if there is no such file."""
        path = self.folder and self.folder / name
        return read_json(path) if path and path.is_file() else None


# Checks --------------------------------------------------------------------------------------------------------------


def mapping(value: Any, place: str) -> dict:
    """Returns a JSON object; raises GraphError for anything else."""
    if not isinstance(value, dict):
        raise GraphError(f"{place}: give an object with keys, not {shorten(value)}")
    return value


def sequence(value: Any, place: str, length: int | None = None) -> list:
    """Returns a list, of `length` entries if that is given; raises GraphError for anything else."""
    if not isinstance(value, list) or length not in (None, len(value)):
        raise GraphError(f"{place}: give a list{'' if length is None else f' of {length}'}, not {shorten(value)}")
    return value


def text(value: Any, place: str) -> str:
    """Returns a text; raises GraphError for anything else."""
    if not isinstance(value, str):
        raise GraphError(f"{place}: give text, not {shorten(value)}")
    return value


def number(value: Any, place: str) -> float:
    """Returns a finite number; raises GraphError for anything else."""
    if isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e9:
        return float(value)
    raise GraphError(f"{place}: give a number, not {shorten(value)}")


def index(value: Any, count: int, place: str) -> int:
    """Returns an index below `count`; raises GraphError for anything else."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < count:
        return value
    raise GraphError(f"{place}: give an index from 0 to {count - 1}, not {shorten(value)}")


def id_text(value: Any, place: str) -> str:
    """Returns an id that is given as 7, 7.0 or "7", as the text "7"; raises GraphError for what is neither text nor number."""
    if isinstance(value, str):
        return value.partition(".")[0] if re.fullmatch(r"\d{1,18}\.0+", value) else value
    if isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e18 and value == int(value):
        return str(int(value))
    raise GraphError(f"{place}: give an id, a whole number or a text, not {shorten(value)}")


def corners(box: Any, place: str) -> Corners | None:
    """Returns x0 y0 x1 y1 as floats, or None for null and []; raises GraphError for anything else."""
    if box is None or box == []:
        return None
    x0, y0, x1, y1 = (number(edge, place) for edge in sequence(box, place, 4))
    return x0, y0, x1, y1


def corners_of(x: Any, y: Any, width: Any, height: Any, place: str) -> Corners:
    """x0 y0 x1 y1 of a box that is given by its upper left corner and its size."""
    x0, y0 = number(x, place), number(y, place)
    return x0, y0, x0 + number(width, place), y0 + number(height, place)


def box_of(record: dict, place: str) -> Corners | None:
    """The box of an object that may have x, y and its size as w and h, or as width and height."""
    if "x" not in record:
        return None
    width, height = record.get("w", record.get("width")), record.get("h", record.get("height"))
    return corners_of(record["x"], record.get("y"), width, height, place)


def declared_size(record: dict, place: str) -> Size | None:
    """Width and height that a JSON object says, or None if it says nothing; raises GraphError if they are impossible."""
    if record.get("width") is None or record.get("height") is None:
        return None
    width, height = number(record["width"], f"{place}, width"), number(record["height"], f"{place}, height")
    if not (width >= 1 and height >= 1 and math.isfinite(width * height)):
        raise GraphError(
            f"{place}: an image is not {shorten(record['width'])} x {shorten(record['height'])}; correct it"
        )
    return width, height


def without_repetition(ids: Iterable[str | None]) -> list[str | None]:
    """The ids, None in place of each that occurred before."""
    seen: set[str | None] = set()
    return [None if id_ in seen or seen.add(id_) else id_ for id_ in ids]


def one_line(name: str) -> str:
    """The end of a name, for messages."""
    return " ".join(name.split())[-40:]


def counted(count: int, thing: str) -> str:
    """Such as '1 box' or '3 boxes'."""
    return f"{count} {thing}" if count == 1 else f"{count} {thing}{'es' if thing.endswith('x') else 's'}"


def describe_left_out(parts: Sequence[tuple[int, str, str]]) -> str:
    """Such as '2 relations with unknown objects left out', of (count, thing, further words); empty if all counts are 0."""
    told = [f"{counted(count, thing)} {words}" for count, thing, words in parts if count]
    return f"{', '.join(told)} left out" if told else ""
