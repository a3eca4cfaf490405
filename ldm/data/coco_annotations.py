"""Reads COCO's annotation files into arrays: which objects each image shows, and where.

The filters are those of google/sg2im, sg2im/data/coco.py.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image as PillowImage

from ldm.data.values import composed, number, whole
from ldm.graph.validation import Box
from ldm.graph.vocab import GAP, IMAGE, IN_IMAGE, Vocab
from ldm.util.errors import UserError
from ldm.util.files import read_json

PREDICATES = (IN_IMAGE, "left of", "right of", "above", "below", "inside", "surrounding")
MAX_CATEGORY_ID = 10_000  # a category's id is its index in the vocabulary, whose size must stay bounded
MAX_NAME = 1024  # characters of a file name, since numpy stores every name with the length of the longest
_ANNOTATION_FIELDS = itemgetter("id", "image_id", "category_id", "bbox")

Id = int | str
Image = tuple[str, int, int]  # file name, width, height
Object = tuple[Id, int, Box, bytes]  # annotation id, category id, box, segmentation

logger = logging.getLogger(__name__)


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
    style_fields: Sequence[str] = ()

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
    ids: np.ndarray  # (A,) annotation ids as text
    categories: np.ndarray  # (A,) indices into vocab.objects
    boxes: np.ndarray  # (A,4) x0 y0 x1 y1 in [0,1]
    start: np.ndarray  # (A+1,)
    segmentations: bytes  # JSON as in the file: polygons, run-length encodings, or null
    dropped: int  # number of annotations whose box is empty or outside of the image
    styles: np.ndarray  # (N,) number of each image's style; images with the same style fields have the same one


class _FileContent(NamedTuple):
    """The annotations of one file."""

    path: Path
    objects: dict[Id, list[Object]]  # those that pass the filter, by image id
    annotated: set[Id]  # ids of images with any annotation
    unlisted: list[Id]  # image ids of annotations whose image is not listed
    dropped: list[Id]  # ids of annotations whose box is empty or outside of the image


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
    images = _read_images(instances_json, data["images"])
    styles = _read_styles(instances_json, data["images"], filters.style_fields)
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
    dropped = sum(len(file.dropped) for file in files)
    selection = ([images[id] for id in selected], [objects[id] for id in selected], [styles[id] for id in selected])
    return _to_arrays(vocab, warnings, *selection, dropped)


def _to_arrays(
    vocab: Vocab,
    warnings: tuple[str, ...],
    images: list[Image],
    objects: list[list[Object]],
    styles: list[int],
    dropped: int,
) -> Annotations:
    ids, categories, boxes, segmentations = zip(*(each for group in objects for each in group))
    return Annotations(
        vocab,
        warnings,
        file_names=np.array([name for name, _, _ in images]),
        sizes=np.array([size for _, *size in images]),
        first=np.cumsum([0] + [len(group) for group in objects]),
        ids=np.array([str(id) for id in ids]),
        categories=np.array(categories),
        boxes=np.array(boxes),
        start=np.cumsum([0] + [len(segmentation) for segmentation in segmentations]),
        segmentations=b"".join(segmentations),
        dropped=dropped,
        styles=np.array(styles),
    )


def _load(path: Path) -> dict[str, list]:
    remedy = "unpack the annotations there, or correct the path"
    data = read_json(path, CocoError, remedy, object_hook=_serialize_segmentation)
    for key in ("images", "annotations", "categories"):
        if not isinstance(data, dict) or not isinstance(data.get(key), list):
            raise CocoError(f"{path} has no list of {key}; name a file of COCO's instances or stuff annotations")
    return data


def _serialize_segmentation(item: dict) -> dict:
    """Turns a parsed segmentation back into JSON, since lists of numbers need ten times as much memory.

    `default` is for one within another, which has been turned already.
    """
    if "segmentation" in item:
        item["segmentation"] = json.dumps(item["segmentation"], default=json.loads).encode()
    return item


def _read_images(path: Path, items: list) -> dict[Id, Image]:
    """The file's images by id, in their order."""
    images: dict[Id, Image] = {}
    for id, *image in _parse_all(path, items, _parse_image):
        if images.setdefault(id, (image[0], image[1], image[2])) != tuple(image):
            raise CocoError(
                f"{path}: the image {id} is listed twice, as {images[id][0]} and {image[0]}; give unique ids"
            )
    return images


def _read_styles(path: Path, items: list, fields: Sequence[str]) -> dict[Id, int]:
    """A number for each image's values of some fields, by the image's id."""
    numbers: dict[str, int] = {}
    styles = {}
    for item in items:
        for field in fields:
            if field not in item:
                raise CocoError(
                    f"{path}: the image {item['id']} has no {field!r}, which style_fields names; correct the name"
                )
        values = json.dumps([item[field] for field in fields], sort_keys=True)
        styles[_parse_id(item["id"])] = numbers.setdefault(values, len(numbers))
    return styles


def _parse_image(item: dict) -> tuple[Id, str, int, int]:
    """Id, file name, width and height of an image."""
    name, width, height = item["file_name"], whole(item["width"]), whole(item["height"])
    if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME or "\0" in name:
        raise ValueError(f"file_name {str(name)[:40]!r}")
    if width < 1 or height < 1 or width * height > 2 * (PillowImage.MAX_IMAGE_PIXELS or width * height):
        raise ValueError(f"{width} x {height} pixels")
    return _parse_id(item["id"]), name, width, height


def _read_file(
    path: Path,
    data: dict[str, list],
    images: dict[Id, Image],
    names: dict[int, str],
    whitelist: Sequence[str] | None,
    filters: AnnotationFilter,
) -> _FileContent:
    """Reads one file's annotations and adds its categories to `names`."""
    categories, first = _read_categories(path, data["categories"], names)
    selected = _select_categories(path, categories, whitelist, filters.include_other)
    content = _FileContent(path, {}, set(), [], [])
    parse = partial(_parse_annotation, images)
    for id, image, category, box, segmentation in _parse_all(path, data["annotations"], parse):
        category += first
        if category not in categories:
            raise CocoError(
                f"{path}: annotation {id} has category {category - first}, which the file does not list; "
                "take annotations and categories from the same release"
            )
        if image not in images:
            content.unlisted.append(image)
            continue
        content.annotated.add(image)
        if box is None:
            content.dropped.append(id)
        elif category in selected and (box[2] - box[0]) * (box[3] - box[1]) > filters.min_object_size:
            content.objects.setdefault(image, []).append((id, category, box, segmentation))
    if content.dropped:
        logger.info(
            "%s: %d annotations, such as %s, have a box that is empty or outside of the image; they are left out",
            path,
            len(content.dropped),
            content.dropped[0],
        )
    return content


def _parse_all(path: Path, items: list, parse: Callable[[dict], tuple]) -> Iterator[tuple]:
    """Yields parse(item) of each item; raises CocoError for one that is not in COCO's format."""
    for item in items:
        try:
            parsed = parse(item)
        except (KeyError, TypeError, ValueError, ArithmeticError) as error:
            what = f"{str(item)[:80]} is not in COCO's format ({type(error).__name__}: {str(error)[:100]})"
            raise CocoError(f"{path}: {what}; download the file again") from None
        yield parsed


def _parse_id(value: Any) -> Id:
    """A number, also from text that is one; other text as it is."""
    try:
        return whole(value)
    except ValueError:
        if isinstance(value, str):
            return value
        raise


def _parse_annotation(images: dict[Id, Image], item: dict) -> tuple[Id, Id, int, Box | None, bytes]:
    """Id, image id, category id, box clipped to [0,1] (None if nothing of it is in the image), and segmentation."""
    id, image, category, bbox = _ANNOTATION_FIELDS(item)
    id, image, category = _parse_id(id), _parse_id(image), whole(category)
    segmentation = item.get("segmentation", b"null")
    if image not in images:
        return id, image, category, None, segmentation
    _, width, height = images[image]
    return id, image, category, _parse_box(bbox, width, height), segmentation


def _parse_box(bbox: Sequence, width: int, height: int) -> Box | None:
    """x0 y0 x1 y1 of x, y, width and height in pixels, clipped to [0,1]; None if nothing of the box is in the image."""
    x, y, w, h = map(number, bbox)
    x0, x1 = (min(max(edge / width, 0.0), 1.0) for edge in (x, x + w))
    y0, y1 = (min(max(edge / height, 0.0), 1.0) for edge in (y, y + h))
    is_finite = all(map(math.isfinite, (x, y, w, h)))
    return (x0, y0, x1, y1) if is_finite and x0 < x1 and y0 < y1 else None


def _read_categories(path: Path, items: list[Any], names: dict[int, str]) -> tuple[dict[int, str], int]:
    """Adds the file's categories to the `names` of all files.

    Returns:
        The file's names by id, and what was added to its ids: 1 if they begin with 0, which is `__image__`, else 0.
    """
    parsed = list(_parse_all(path, items, lambda item: (whole(item["id"]), item["name"])))
    first = int(any(id == 0 for id, _ in parsed))
    if first:
        logger.info(
            "%s: its categories are numbered from 0, which stands for %s here; all ids are raised by 1", path, IMAGE
        )
    categories: dict[int, str] = {}
    for id, name in parsed:
        if not 0 < id + first <= MAX_CATEGORY_ID or not _is_usable(name):
            raise CocoError(
                f"{path}: category {id} is {str(name)[:80]!r}; give it an id from 0 to {MAX_CATEGORY_ID - 1} and a name"
            )
        id, name = id + first, composed(name)
        if names.setdefault(id, name) != name or list(names.values()).count(name) > 1:
            raise CocoError(
                f"{path}: category {id - first} is {name!r}, and another category has its id or name; "
                "take the files of instances and stuff from the same release"
            )
        categories[id] = name
    return categories, first


def _is_usable(name: Any) -> bool:
    """Whether an object of a graph can have this name."""
    return isinstance(name, str) and name.isprintable() and bool(name.strip()) and name not in (IMAGE, GAP)


def _select_categories(
    path: Path, categories: dict[int, str], whitelist: Sequence[str] | None, include_other: bool
) -> set[int]:
    allowed = set(categories.values())
    if whitelist is not None:
        allowed = {composed(str(name)) for name in whitelist}
    for name in sorted(allowed - set(categories.values())):
        raise CocoError(f"{path}: whitelisted category {name!r} is not in the file; correct the name")
    return {id for id, name in categories.items() if name in allowed and (include_other or name != "other")}
