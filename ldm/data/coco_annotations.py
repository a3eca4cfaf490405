"""COCO's annotation files, read one after the other and kept as columns: what each image shows, and where.

The filters are sg2im's (google/sg2im, sg2im/data/coco.py).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ldm.graph.scene_graph import GAP, IMAGE, IN_IMAGE, Vocab
from ldm.util.errors import UserError

PREDICATES = (IN_IMAGE, "left of", "right of", "above", "below", "inside", "surrounding")
_FIELDS = itemgetter("id", "image_id", "category_id", "bbox", "segmentation")
LARGEST_ID = 10_000  # of a category; ids are places in the vocabulary, so that it must not grow without bound


class CocoError(UserError):
    """What is wrong with the annotations, where, and what to do about it, in one sentence."""


class Annotations(NamedTuple):
    """Columns rather than objects, which worker processes would copy by merely counting references to them.

    Image i has the annotations first[i] to first[i + 1]; annotation k is segmentations[start[k] : start[k + 1]].
    """

    vocab: Vocab
    left_out: tuple[str, ...]  # sentences about annotations of images that no file lists
    file_names: np.ndarray  # (N,) text
    sizes: np.ndarray  # (N,2) width, height
    first: np.ndarray  # (N+1,)
    ids: np.ndarray  # (A,)
    categories: np.ndarray  # (A,) places in vocab.objects
    boxes: np.ndarray  # (A,4) x0 y0 x1 y1 in [0,1]
    start: np.ndarray  # (A+1,)
    segmentations: bytes  # JSON, as in the file: polygons or a run-length code


def read_annotations(
    instances_json: Path,
    stuff_json: Path | None,
    stuff_only: bool,
    min_object_size: float,
    min_objects_per_image: int,
    max_objects_per_image: int,
    include_other: bool,
    instance_whitelist: Sequence[str] | None,
    stuff_whitelist: Sequence[str] | None,
    max_samples: int | None,
) -> Annotations:
    """The arguments are those of COCOTrain. Raises CocoError for a file that is missing, broken or not in COCO's form,
    for an annotation of an unknown category, for a whitelisted name that is no category, and when nothing is left."""
    images, names, objects, left_out = {}, {0: IMAGE}, {}, []
    for path, whitelist in [(instances_json, instance_whitelist), (stuff_json, stuff_whitelist)]:
        if path is None:
            continue
        data = _read(path)
        if path is instances_json:
            for id, *image in _each(path, data["images"], itemgetter("id", "file_name", "width", "height")):
                images[id], objects[id] = image, []
        own = _categories(path, data["categories"], names)
        wanted = _wanted(path, own, whitelist, include_other)
        annotated, strays = set(), []
        for id, image, category, box, segmentation in _each(path, data["annotations"], partial(_annotation, images)):
            if category not in own:
                raise CocoError(
                    f"{path}: annotation {id} is of category {category}, which the file does not name; "
                    "take annotations and categories from the same release"
                )
            if box is None:
                strays.append(image)
                continue
            annotated.add(image)
            x0, y0, x1, y1 = box
            if category in wanted and x0 < x1 and y0 < y1 and (x1 - x0) * (y1 - y0) > min_object_size:
                objects[image].append((id, category, box, segmentation))
        if strays:
            left_out.append(
                f"{path}: {len(strays)} annotations are of images that {instances_json} does not list, "
                f"such as image {strays[0]}; they are left out"
            )
        del data  # before the next file is read: parsed, it is larger than all that is kept of it

    least = max(1, min_objects_per_image)  # a graph needs an object
    kept = [  # `annotated` is by the last file, that of stuff
        image
        for image in images
        if least <= len(objects[image]) <= max_objects_per_image and (not stuff_only or image in annotated)
    ][:max_samples]
    if not kept:
        raise CocoError(
            f"{instances_json}: none of its {len(images)} images has {least} to {max_objects_per_image} objects; "
            "check that the files belong together, or widen the limits"
        )
    rows = [row for image in kept for row in objects[image]]
    ids, categories, boxes, segmentations = zip(*rows)
    return Annotations(
        Vocab([names.get(id, GAP) for id in range(max(names) + 1)], PREDICATES),
        tuple(left_out),
        np.array([images[image][0] for image in kept]),
        np.array([images[image][1:] for image in kept]),
        np.cumsum([0] + [len(objects[image]) for image in kept]),
        np.array(ids),
        np.array(categories),
        np.array(boxes),
        np.cumsum([0] + [len(segmentation) for segmentation in segmentations]),
        b"".join(segmentations),
    )


def _each(path: Path, items: list, parse: Callable[[dict], tuple]) -> Iterator[tuple]:
    """parse(item) of each; one that is not in COCO's form is a CocoError that shows it."""
    for item in items:
        try:
            parsed = parse(item)
            hash(parsed[:3])  # ids are looked up
        except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
            what = f"{str(item)[:80]} is not in COCO's form ({error!r})"
            raise CocoError(f"{path}: {what}; download the file again") from None
        yield parsed


def _annotation(images: dict[int, list], item: dict) -> tuple:
    """id, image, category, box in [0,1] clipped to the image, segmentation; no box where the image is unknown."""
    id, image, category, bbox, segmentation = _FIELDS(item)
    if image not in images:
        return id, image, category, None, segmentation
    _, width, height = images[image]
    x, y, w, h = bbox
    x0, x1 = (min(max(edge / width, 0.0), 1.0) for edge in (x, x + w))
    y0, y1 = (min(max(edge / height, 0.0), 1.0) for edge in (y, y + h))
    return id, image, category, (x0, y0, x1, y1), segmentation


def _read(path: Path) -> dict:
    try:
        with open(path, encoding="utf-8") as file:
            data = json.load(file, object_hook=_pack)
    except OSError as error:
        remedy = "unpack the annotations there, or correct the path"
        raise CocoError(f"{path} cannot be read ({error.strerror}); {remedy}") from None
    except (ValueError, RecursionError) as error:  # no JSON, no UTF-8
        raise CocoError(f"{path} is broken ({error}); download it again") from None
    for key in ("images", "annotations", "categories"):
        if not isinstance(data, dict) or not isinstance(data.get(key), list):
            raise CocoError(f"{path} has no list of {key}; name a file of COCO's instances or stuff")
    return data


def _pack(item: dict) -> dict:
    """Segmentations back to text as soon as they are parsed, since polygons take ten times the memory as lists."""
    if "segmentation" in item:
        item["segmentation"] = json.dumps(item["segmentation"]).encode()
    return item


def _categories(path: Path, items: list, names: dict[int, str]) -> dict[int, str]:
    """The file's own names by id, which are added to the `names` of all files."""
    own = {}
    for id, name in _each(path, items, itemgetter("id", "name")):
        if not isinstance(id, int) or not 0 < id <= LARGEST_ID or not isinstance(name, str):
            raise CocoError(f"{path}: category {id!r} is {name!r}; give it a number from 1 to {LARGEST_ID} and a name")
        if names.setdefault(id, name) != name or list(names.values()).count(name) > 1:
            raise CocoError(
                f"{path}: category {id} is {name!r}, and another category has its id or name; "
                "take the files of instances and stuff from the same release"
            )
        own[id] = name
    return own


def _wanted(path: Path, own: dict[int, str], whitelist: Sequence[str] | None, include_other: bool) -> set[int]:
    for name in whitelist or ():
        if name not in own.values():
            raise CocoError(f"{path}: the whitelist names {name!r}, which is no category of the file; correct the name")
    allowed = set(own.values()) if whitelist is None else set(whitelist)
    return {id for id, name in own.items() if name in allowed and (include_other or name != "other")}
