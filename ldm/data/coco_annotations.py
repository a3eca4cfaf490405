"""Reads COCO's annotation files into arrays: which objects each image shows, and where.

The filters are those of google/sg2im, sg2im/data/coco.py.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ldm.graph.validation import Box
from ldm.graph.vocab import GAP, IMAGE, IN_IMAGE, Vocab
from ldm.util.errors import UserError

PREDICATES = (IN_IMAGE, "left of", "right of", "above", "below", "inside", "surrounding")
MAX_CATEGORY_ID = 10_000  # a category's id is its index in the vocabulary, whose size must stay bounded
_IMAGE_FIELDS = itemgetter("id", "file_name", "width", "height")
_ANNOTATION_FIELDS = itemgetter("id", "image_id", "category_id", "bbox", "segmentation")

Image = tuple[str, int, int]  # file name, width, height
Object = tuple[int, int, Box, bytes]  # annotation id, category id, box, segmentation


class CocoError(UserError):
    """COCO files that are missing, broken or inconsistent."""


@dataclass(frozen=True)
class AnnotationFilter:
    """Selects images and objects; the fields are parameters of COCOTrain, which documents them."""

    stuff_only: bool = True
    min_object_size: float = 0.02
    min_objects_per_image: int = 3
    max_objects_per_image: int = 8
    include_other: bool = False
    instance_whitelist: Sequence[str] | None = None
    stuff_whitelist: Sequence[str] | None = None
    max_samples: int | None = None

    @property
    def object_counts(self) -> range:
        """The allowed numbers of objects per image; a graph needs at least one."""
        return range(max(1, self.min_objects_per_image), self.max_objects_per_image + 1)


class Annotations(NamedTuple):
    """N images with A objects as arrays; worker processes would copy Python objects when reference counts change.

    The objects of image i are first[i] to first[i + 1] - 1; object k's mask is segmentations[start[k] : start[k + 1]].
    """

    vocab: Vocab
    warnings: tuple[str, ...]  # about annotations that were left out
    file_names: np.ndarray  # (N,) text
    sizes: np.ndarray  # (N,2) width, height
    first: np.ndarray  # (N+1,)
    ids: np.ndarray  # (A,) annotation ids
    categories: np.ndarray  # (A,) indices into vocab.objects
    boxes: np.ndarray  # (A,4) x0 y0 x1 y1 in [0,1]
    start: np.ndarray  # (A+1,)
    segmentations: bytes  # JSON as in the file: polygons or run-length encodings


class _FileContent(NamedTuple):
    """The annotations of one file."""

    path: Path
    objects: dict[int, list[Object]]  # those that pass the filter, by image id
    annotated: set[int]  # ids of images with any annotation
    unlisted: list[int]  # image ids of annotations whose image is not listed


def read_annotations(instances_json: Path, stuff_json: Path | None, filters: AnnotationFilter) -> Annotations:
    """Reads the objects of all images that pass the filter; the instances of an image come before its stuff.

    Args:
        instances_json: annotations of things, whose list of images is used.
        stuff_json: annotations of stuff on the same images.
        filters: which images and objects to keep.

    Raises:
        CocoError: a file is missing, broken or not in COCO's format, an annotation's category or a whitelisted name is
            unknown, or no image passes the filters.
    """
    names = {0: IMAGE}
    data = _load(instances_json)
    images: dict[int, Image] = {
        id: (name, width, height)
        for id, name, width, height in _parse_all(instances_json, data["images"], _IMAGE_FIELDS)
    }
    files = [_read_file(instances_json, data, images, names, filters.instance_whitelist, filters)]
    del data  # needs far more memory than the result; free it before the next file is loaded
    if stuff_json is not None:
        data = _load(stuff_json)
        files.append(_read_file(stuff_json, data, images, names, filters.stuff_whitelist, filters))
    objects = {
        id: [each for file in files for each in file.objects.get(id, ())]
        for id in images
        if id in files[-1].annotated or not filters.stuff_only
    }
    selected = [id for id, each in objects.items() if len(each) in filters.object_counts][: filters.max_samples]
    if not selected:
        limits = filters.object_counts
        raise CocoError(
            f"{instances_json}: none of its {len(images)} images has {limits.start} to {limits.stop - 1} objects; "
            "check that the files belong together, or widen the limits"
        )
    warnings = tuple(
        f"{file.path}: {len(file.unlisted)} annotations belong to images that {instances_json} does not list, such as image "
        f"{file.unlisted[0]}; they are left out"
        for file in files
        if file.unlisted
    )
    vocab = Vocab(tuple(names.get(id, GAP) for id in range(max(names) + 1)), PREDICATES)
    return _to_arrays(vocab, warnings, [images[id] for id in selected], [objects[id] for id in selected])


def _to_arrays(
    vocab: Vocab, warnings: tuple[str, ...], images: list[Image], objects: list[list[Object]]
) -> Annotations:
    ids, categories, boxes, segmentations = zip(*(each for group in objects for each in group))
    return Annotations(
        vocab,
        warnings,
        file_names=np.array([name for name, _, _ in images]),
        sizes=np.array([size for _, *size in images]),
        first=np.cumsum([0] + [len(group) for group in objects]),
        ids=np.array(ids),
        categories=np.array(categories),
        boxes=np.array(boxes),
        start=np.cumsum([0] + [len(segmentation) for segmentation in segmentations]),
        segmentations=b"".join(segmentations),
    )


def _load(path: Path) -> dict[str, list]:
    try:
        with open(path, encoding="utf-8") as file:
            data = json.load(file, object_hook=_serialize_segmentation)
    except OSError as error:
        remedy = "unpack the annotations there, or correct the path"
        raise CocoError(f"{path} cannot be read ({error.strerror}); {remedy}") from None
    except (ValueError, RecursionError) as error:  # not JSON, not UTF-8
        raise CocoError(f"{path} is broken ({error}); download it again") from None
    for key in ("images", "annotations", "categories"):
        if not isinstance(data, dict) or not isinstance(data.get(key), list):
            raise CocoError(f"{path} has no list of {key}; name a file of COCO's instances or stuff annotations")
    return data


def _serialize_segmentation(item: dict) -> dict:
    """Turns a parsed segmentation back into JSON, since lists of numbers need ten times as much memory."""
    if "segmentation" in item:
        item["segmentation"] = json.dumps(item["segmentation"]).encode()
    return item


def _read_file(
    path: Path,
    data: dict[str, list],
    images: dict[int, Image],
    names: dict[int, str],
    whitelist: Sequence[str] | None,
    filters: AnnotationFilter,
) -> _FileContent:
    """Reads one file's annotations and adds its categories to `names`."""
    categories = _read_categories(path, data["categories"], names)
    selected = _select_categories(path, categories, whitelist, filters.include_other)
    content = _FileContent(path, {}, set(), [])
    parse = partial(_parse_annotation, images)
    for id, image, category, box, segmentation in _parse_all(path, data["annotations"], parse):
        if category not in categories:
            raise CocoError(
                f"{path}: annotation {id} has category {category}, which the file does not list; "
                "take annotations and categories from the same release"
            )
        if box is None:
            content.unlisted.append(image)
            continue
        content.annotated.add(image)
        x0, y0, x1, y1 = box
        if category in selected and x0 < x1 and y0 < y1 and (x1 - x0) * (y1 - y0) > filters.min_object_size:
            content.objects.setdefault(image, []).append((id, category, box, segmentation))
    return content


def _parse_all(path: Path, items: list, parse: Callable[[dict], tuple]) -> Iterator[tuple]:
    """Yields parse(item) of each item; raises CocoError for one that is not in COCO's format."""
    for item in items:
        try:
            parsed = parse(item)
            hash(parsed[:3])  # ids serve as keys
        except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
            what = f"{str(item)[:80]} is not in COCO's format ({error!r})"
            raise CocoError(f"{path}: {what}; download the file again") from None
        yield parsed


def _parse_annotation(images: dict[int, Image], item: dict) -> tuple[int, int, int, Box | None, bytes]:
    """Id, image id, category id, box clipped to [0,1] (None if the image is not listed), and segmentation."""
    id, image, category, bbox, segmentation = _ANNOTATION_FIELDS(item)
    if image not in images:
        return id, image, category, None, segmentation
    _, width, height = images[image]
    x, y, w, h = bbox
    x0, x1 = (min(max(edge / width, 0.0), 1.0) for edge in (x, x + w))
    y0, y1 = (min(max(edge / height, 0.0), 1.0) for edge in (y, y + h))
    return id, image, category, (x0, y0, x1, y1), segmentation


def _read_categories(path: Path, items: list[Any], names: dict[int, str]) -> dict[int, str]:
    """Returns the file's category names by id, and adds them to the `names` of all files."""
    categories = {}
    for id, name in _parse_all(path, items, itemgetter("id", "name")):
        if not isinstance(id, int) or not 0 < id <= MAX_CATEGORY_ID or not isinstance(name, str):
            raise CocoError(
                f"{path}: category {id!r} is {name!r}; give it an id from 1 to {MAX_CATEGORY_ID} and a name"
            )
        if names.setdefault(id, name) != name or list(names.values()).count(name) > 1:
            raise CocoError(
                f"{path}: category {id} is {name!r}, and another category has its id or name; "
                "take the files of instances and stuff from the same release"
            )
        categories[id] = name
    return categories


def _select_categories(
    path: Path, categories: dict[int, str], whitelist: Sequence[str] | None, include_other: bool
) -> set[int]:
    for name in whitelist or ():
        if name not in categories.values():
            raise CocoError(f"{path}: whitelisted category {name!r} is not in the file; correct the name")
    allowed = set(categories.values()) if whitelist is None else set(whitelist)
    return {id for id, name in categories.items() if name in allowed and (include_other or name != "other")}
