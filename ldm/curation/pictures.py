"""The pictures that a set is made from, whatever they come as: folders, metadata.jsonl, COCO's JSON, a config's data sets."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ldm.curation.errors import CurationError
from ldm.data.files import find_file
from ldm.data.protocols import ImageFileDataset
from ldm.graph.scene_graph import SceneGraph
from ldm.util.files import read_json, read_text

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"}
METADATA = "metadata.jsonl"
SPLITS = ("train", "validation", "test")
LARGEST_SIDE = 10**9  # pixels
TEXT_KEYS = ("text", "caption")  # of metadata.jsonl, as Hugging Face's imagefolder and its trainers have them
OWN_KEYS = {"file_name", "split", "kept", "reason", "keeper", "cluster", "scores", "view"}  # written by a curation


@dataclass(frozen=True)
class Picture:
    """One picture of the pool.

    Attributes:
        path: the file.
        name: its name in lists and messages, unique within its split.
        split: "train", "validation" or "test".
        labels: classes of the whole picture, such as the folder's name.
        objects: names of the annotated objects, with repetitions.
        caption: text, or None.
        properties: everything else that is known, such as clip or source.
        graph: scene graph as JSON, or None.
    """

    path: Path
    name: str
    split: str = "train"
    labels: tuple[str, ...] = ()
    objects: tuple[str, ...] = ()
    caption: str | None = None
    properties: Mapping[str, Any] = field(default_factory=dict)
    graph: Mapping | None = None

    def group(self, key: str | None) -> str | None:
        """What the picture has in common with others of its group; None if it is known to belong to no group."""
        if key is None:
            return None
        value = str(self.path.parent) if key == "folder" else self.properties.get(key)
        return None if value is None else str(value)


def read_pictures(sources: Sequence[str]) -> list[Picture]:
    """The pictures of several sources, each PATH or SPLIT=PATH.

    A path is a folder (of which a metadata.jsonl is read), a metadata.jsonl, or annotations in COCO's form whose images lie
    beside them or in `images/`.

    Raises:
        CurationError: a source is missing, broken or empty, or a split has a name twice.
    """
    pictures: list[Picture] = []
    for source in sources:
        split, equals, path = source.partition("=")
        if not equals or split not in SPLITS:
            split, path = "train", source
        found = list(_read(Path(path), split))
        if not found:
            raise CurationError(f"{path}: holds no picture; name a folder with pictures, {METADATA} or COCO's JSON")
        pictures += found
    return _unique(pictures)


def pictures_of_dataset(dataset: ImageFileDataset, split: str) -> Iterator[Picture]:
    """The pictures of a data set of a config (Visual Genome, COCO, CLEVR, ...), with their objects."""
    for index, name in enumerate(dataset.image_names()):
        graph = dataset.graph(index, (1, 1))
        yield Picture(dataset.image_path(index), name, split, objects=graph.objects)


def select(pictures: Sequence[Picture], conditions: Mapping[str, str]) -> list[Picture]:
    """The pictures whose properties have these values. Raises CurationError if there are none."""
    chosen = [p for p in pictures if all(str(p.properties.get(key)) == value for key, value in conditions.items())]
    if not chosen:
        known = sorted({key for picture in pictures for key in picture.properties})
        raise CurationError(f"only {dict(conditions)}: no picture is like that; properties are {', '.join(known)}")
    return chosen


def read_declared_pairs(path: str | Path, pictures: Sequence[Picture]) -> set[tuple[int, int]]:
    """Pairs of pictures that are alike on purpose, such as before and after an edit.

    Args:
        path: a JSON list of [a, b] or {"source": a, "target": b}, by name or by the property `id`.

    Returns:
        Pairs of indices (i, j) with i < j; pairs with a picture that is not in the pool are left out.
    """
    rows = {str(picture.properties.get("id", picture.name)): index for index, picture in enumerate(pictures)}
    rows |= {picture.name: index for index, picture in enumerate(pictures)}
    pairs = set()
    data = read_json(path, CurationError)
    for entry in data if isinstance(data, list) else [None]:
        ends = (entry.get("source"), entry.get("target")) if isinstance(entry, dict) else entry
        if not isinstance(ends, list | tuple) or len(ends) != 2 or None in ends:
            raise CurationError(
                f'{path}: declare pairs as a list of ["a.png", "b.png"] or {{"source": .., "target": ..}}'
            )
        found = [rows[str(end)] for end in ends if str(end) in rows]
        if len(found) == 2:
            pairs.add((min(found), max(found)))
    return pairs


# Forms ---------------------------------------------------------------------------------------------------------------


def _read(path: Path, split: str) -> Iterator[Picture]:
    if path.is_dir():
        if (path / METADATA).is_file():
            return _read_metadata(path / METADATA, split)
        return _read_folder(path, split)
    if not path.is_file():
        raise CurationError(f"{path}: there is no such file or folder; correct --images")
    if path.suffix == ".jsonl":
        return _read_metadata(path, split)
    if path.suffix == ".json":
        return _read_coco(path, split)
    raise CurationError(f"{path}: is neither a folder, nor {METADATA}, nor COCO's .json; name one of these")


def _read_folder(folder: Path, split: str) -> Iterator[Picture]:
    """Files below a folder; a subfolder is the label of what lies in it, a .txt file beside a picture its caption."""
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if path.suffix.lower() not in SUFFIXES or any(part.startswith(".") for part in name.parts):
            continue
        note = path.with_suffix(".txt")
        caption = read_text(note).strip() if note.is_file() else None
        yield Picture(
            path, name.as_posix(), split, labels=name.parts[:1] if len(name.parts) > 1 else (), caption=caption
        )


def _read_metadata(path: Path, split: str) -> Iterator[Picture]:
    """Lines of Hugging Face's imagefolder: file_name, and any of text, label(s), objects, graph; others are properties."""
    for number, line in enumerate(read_text(path).splitlines(), 1):
        if not line.strip():
            continue
        place = f"{path}, line {number}"
        try:
            entry = json.loads(line)
            name = entry["file_name"]
            if not isinstance(name, str):
                raise TypeError
            json.dumps(entry, ensure_ascii=False, allow_nan=False).encode(
                errors="surrogateescape"
            )  # what a file can hold
        except (ValueError, TypeError, KeyError, RecursionError):
            raise CurationError(f'{place}: is no JSON object with "file_name"; correct the line') from None
        if entry.get("kept") is False:
            continue
        yield _picture_of(entry, find_file(path.parent, name), split, place)


def _picture_of(entry: Mapping[str, Any], file: Path, split: str, place: str) -> Picture:
    """The picture of a line of metadata.jsonl. Raises CurationError, or GraphError, for a value of a wrong type."""
    graph = entry.get("graph")
    graph = None if graph is None else SceneGraph.from_json(graph, f"{place}, graph").to_json()
    objects = graph["objects"] if graph else entry.get("objects") or ()
    if isinstance(objects, Mapping):  # boxes and numbers of classes, as data sets of detectors have them
        objects = ()
    labels = entry.get("labels", entry.get("label"))
    labels = () if labels is None else labels if isinstance(labels, list | tuple) else [labels]
    text = next((entry[key] for key in TEXT_KEYS if entry.get(key) is not None), None)
    for key, value, kind in (("objects", objects, str), ("labels", labels, str | int)):
        if not isinstance(value, list | tuple) or not all(isinstance(each, kind) for each in value):
            raise CurationError(f'{place}: {key} are not texts; write a list such as ["cup"]')
    if not isinstance(text, str | None):
        raise CurationError(f"{place}: the caption is not a text; write it in quotes")
    if entry.get("split", split) not in SPLITS:
        raise CurationError(f"{place}: split is not one of {', '.join(SPLITS)}; correct it")
    known = {*OWN_KEYS, *TEXT_KEYS, "labels", "label", "objects", "graph"}
    return Picture(
        file,
        entry["file_name"],
        entry.get("split", split),
        tuple(map(str, labels)),
        tuple(objects),
        text,
        {key: value for key, value in entry.items() if key not in known},
        graph,
    )


def _read_coco(path: Path, split: str) -> Iterator[Picture]:
    """Images of annotations in COCO's form; scalar keys of an image, such as `clip`, are properties."""
    data = read_json(path, CurationError)
    try:
        names = {category["id"]: category["name"] for category in data["categories"]}
        if not all(isinstance(name, str) for name in names.values()):
            raise TypeError("a category's name is no text")
        objects: dict[Any, list[dict]] = {}
        for annotation in data.get("annotations", ()):
            objects.setdefault(annotation["image_id"], []).append(annotation)
        folder = path.parent / "images" if (path.parent / "images").is_dir() else path.parent
        for image in data["images"]:
            mine = [(names[each["category_id"]], each["bbox"]) for each in objects.get(image["id"], ())]
            image["file_name"].encode(errors="surrogateescape")  # what a file can hold
            yield Picture(
                find_file(folder, image["file_name"]),
                image["file_name"],
                split,
                objects=tuple(name for name, _ in mine),
                properties={key: value for key, value in image.items() if isinstance(value, str | int | float)},
                graph=_graph(mine, image),
            )
    except (KeyError, TypeError, AttributeError, ArithmeticError, ValueError, UnicodeError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise CurationError(f"{path}: is not in COCO's form ({reason[:120]}); name another file") from None


def _graph(objects: Sequence[tuple[str, Sequence[float]]], image: Mapping) -> dict | None:
    """Objects and boxes x0 y0 x1 y1 in [0,1]; boxes that leave the image are clipped, empty ones unknown."""
    if not objects:
        return None
    boxes = []
    if not all(0 < image[side] < LARGEST_SIDE for side in ("width", "height")):
        raise ValueError(f"image {image['file_name']} has no size")
    if not all(math.isfinite(number) for _, box in objects for number in box):
        raise ValueError(f"a box of image {image['file_name']} is not finite")
    for _, (x, y, w, h) in objects:
        corners = x / image["width"], y / image["height"], (x + w) / image["width"], (y + h) / image["height"]
        box = [min(1.0, max(0.0, round(edge, 6))) for edge in corners]
        boxes.append(box if box[0] < box[2] and box[1] < box[3] else None)
    return {"objects": [name for name, _ in objects], "boxes": boxes}


def _unique(pictures: list[Picture]) -> list[Picture]:
    seen: set[tuple[str, str]] = set()
    for picture in pictures:
        key = picture.split, picture.name
        if re.search(r"[\0\n\r]", picture.name):
            raise CurationError(f"{picture.name!r}: a name has a line break or a null character; rename the file")
        if key in seen:
            raise CurationError(f"{picture.name}: is in {picture.split} twice; name each picture once")
        seen.add(key)
    return pictures
