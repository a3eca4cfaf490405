"""Converts Visual Genome's raw JSON files to vocab.json and an h5 file per split, with the same arrays as sg2im's script.

Each annotation file is read twice, image by image: once to count names for the vocabulary, once to encode with it. Only the
encoded integers stay in memory. Two rules of google/sg2im, scripts/preprocess_vg.py, are kept so that val.h5 and test.h5
remain comparable with published ones: an object takes the first of its names that is in the vocabulary, and predicates are
lower-cased and their aliases resolved in the training split only.

An h5 file of N images with O objects in total holds these arrays, padded with -1; n, r and a are the maximum numbers of
objects per image, relations per image and attributes per object:

    image_ids, objects_per_image, relationships_per_image (N,)      image_paths (N,) text, folder/file
    object_ids, object_names, attributes_per_object (N,n)           object_boxes (N,n,4) x y w h in pixels
    relationship_ids, _subjects, _predicates, _objects (N,r)        subjects and objects are indices into the n objects
    object_attributes (O,a)                                         a row per object, image after image
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import fields
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np

from ldm.data.values import composed, require_count
from ldm.data.vg_options import Options
from ldm.data.vg_raw import (
    DataError,
    explain_errors,
    integer,
    is_usable,
    pixels,
    read_aliases,
    read_annotations,
    read_images,
    read_names,
    read_splits,
)
from ldm.util.errors import ConfigError
from ldm.util.files import atomic_write, remove_leftovers, writable_folder

PUBLISHED_VOCABULARY = (179, 46, 80)  # objects, predicates, attributes of sg2im's and SGDiff's models
MAX_COLUMNS = 10_000  # of an array, which has as many as the options' maximum
FULL_SIZE = 100_000  # images; the vocabulary of fewer is not compared with the published one


class EncodedImage(NamedTuple):
    """The annotations of one image that are in the vocabulary, as integers."""

    objects: np.ndarray  # (n,6) id, name, x, y, w, h
    triples: np.ndarray  # (r,4) id, subject, predicate, object
    attributes: np.ndarray  # (m,2) object, attribute


NO_OBJECTS, NO_TRIPLES, NO_ATTRIBUTES = (np.empty((0, width), dtype=np.int32) for width in (6, 4, 2))


def preprocess(options: Options) -> None:
    """Writes vocab.json and an h5 file per split; after an error, existing files are unchanged.

    Raises:
        DataError: a raw file is missing or broken, no training image is left, or the output cannot be written.
        UserError: an option has an impossible value, or a folder cannot be written to.
    """
    _check_options(options)
    sizes, paths = read_images(options.images_json)
    splits = {
        name: _select_large(name, ids, sizes, options.min_image_size)
        for name, ids in read_splits(options.splits_json, options.train_split).items()
    }
    train = set(splits[options.train_split])
    used = {image for ids in splits.values() for image in ids}

    with explain_errors(options.objects_json):
        objects, names = _read_objects(options, train, used)
    with explain_errors(options.attributes_json):
        attributes, attribute_names = _read_attributes(options, train, objects)
    with explain_errors(options.relationships_json):
        triples, predicates = _read_relationships(options, train, objects)
    _report_vocabulary(len(names), len(predicates), len(attribute_names), len(used))

    vocab = {}
    for key, table in (("object", names), ("attribute", attribute_names), ("pred", predicates)):
        vocab |= {f"{key}_name_to_idx": {name: i for i, name in enumerate(table)}, f"{key}_idx_to_name": table}
    encoded = {
        split: _filter_by_counts(split, {i: EncodedImage(objects[i], triples[i], attributes[i]) for i in ids}, options)
        for split, ids in splits.items()
    }
    if not encoded[options.train_split]:
        raise DataError(_explain_emptiness(options, len(train), len(names), len(predicates)))
    _write(options, vocab, encoded, paths)


def _check_options(options: Options) -> None:
    """Raises UserError for a number that cannot be, or a folder that cannot be written to."""
    for option in fields(options):
        value = getattr(options, option.name)
        if isinstance(option.default, int):
            require_count(f"--{option.name}", value, 0)
            if option.name.startswith("max_") and value > MAX_COLUMNS:
                raise ConfigError(f"--{option.name} is {value}; give a number up to {MAX_COLUMNS}")
    writable_folder(options.output_h5_dir, "--output_h5_dir")
    writable_folder(Path(options.output_vocab_json).parent, "--output_vocab_json: the folder")


def _explain_emptiness(options: Options, images: int, names: int, predicates: int) -> str:
    """Why no training image is left, as an error message."""
    if not images:
        reason = f"{options.images_json} lists none of its images of at least {options.min_image_size} pixels"
    elif names == 1:
        reason = f"no object name occurs {options.min_object_instances} times; lower --min_object_instances"
    elif predicates == 1 and options.min_relationships_per_image:
        reason = f"no predicate occurs {options.min_relationship_instances} times; lower --min_relationship_instances"
    else:
        reason = "none has the required numbers of objects and relations; change the limits"
    return (
        f"{options.splits_json}: nothing of the split {options.train_split!r} ({images} images) is left, since {reason}, "
        "or complete the raw files (see DATA.md)"
    )


def _write(options: Options, vocab: dict, splits: dict[str, dict[int, EncodedImage]], paths: dict[int, str]) -> None:
    """Writes all files under temporary names and renames them when the last one is complete."""
    folder, vocab_path = Path(options.output_h5_dir), Path(options.output_vocab_json)
    try:
        for place in {folder, vocab_path.parent}:
            remove_leftovers(place)
        with ExitStack() as files:
            for split, images in splits.items():
                files.enter_context(atomic_write(folder / f"{split}.h5")).write_bytes(_to_h5(images, paths, options))
            files.enter_context(atomic_write(vocab_path)).write_text(json.dumps(vocab), encoding="utf-8")
    except (OSError, ValueError) as error:  # ValueError: a path that no file can have
        reason = getattr(error, "strerror", None) or error
        raise DataError(
            f"{folder} or {vocab_path}: cannot be written ({reason}); make room or name another folder"
        ) from error
    print(f"wrote {options.output_vocab_json} and {', '.join(f'{split}.h5' for split in splits)} in {folder}")


def _to_h5(images: dict[int, EncodedImage], paths: dict[int, str], options: Options) -> memoryview:
    """The content of an h5 file, made in memory since libhdf5 cannot be relied on to report a full disk."""
    buffer = BytesIO()
    with h5py.File(buffer, "w") as file:
        for name, array in _to_arrays(images, options).items():
            file.create_dataset(name, data=array)
        texts = np.array([os.fsencode(paths[image]) for image in images], dtype=object)
        file.create_dataset("image_paths", data=texts, dtype=h5py.string_dtype())
    return buffer.getbuffer()


def _select_large(split: str, ids: list[int], sizes: dict[int, int], min_size: int) -> list[int]:
    listed = [image for image in ids if image in sizes]
    large = [image for image in listed if sizes[image] >= min_size]
    print(
        f"{split}: {len(ids)} images, {len(listed) - len(large)} left out because they are smaller than {min_size} pixels"
    )
    if len(listed) < len(ids):
        print(f"{split}: {len(ids) - len(listed)} more left out because the image data does not list them")
    return large


def _read_objects(options: Options, train: set[int], used: set[int]) -> tuple[dict[int, np.ndarray], list[str]]:
    """EncodedImage.objects of each image in `used`, and the object names in the order of their indices."""
    path, aliases = options.objects_json, read_aliases(options.object_aliases)

    def canonical_names(obj: dict[str, Any]) -> list[str]:
        return [aliases.get(name, name) for name in read_names(obj.get("names"))]

    counts: Counter[str] = Counter()
    for _, items in read_annotations(path, "objects", train):
        for obj in items:
            counts.update(dict.fromkeys(canonical_names(obj), 1))
    names = ["__image__", *_frequent_names(counts, options.min_object_instances)]
    ids = {name: i for i, name in enumerate(names)}

    objects, small, unnamed = dict.fromkeys(used, NO_OBJECTS), 0, 0
    for image, items in read_annotations(path, "objects", used):
        rows = {}
        for obj in items:
            known = [ids[name] for name in canonical_names(obj) if name in ids]
            id_, box = integer(obj["object_id"]), [pixels(obj[key]) for key in ("x", "y", "w", "h")]
            if min(box[2:]) < options.min_object_size:
                small += 1
            elif known:
                rows[id_] = (id_, known[0], *box)
            unnamed += not obj.get("names")
        listed = (integer(obj["object_id"]) for obj in items)
        objects[image] = _to_table((rows[id_] for id_ in listed if id_ in rows), NO_OBJECTS)
    print(
        f"objects: {small} left out because they are smaller than {options.min_object_size} pixels; {unnamed} have no name"
    )
    return objects, names


def _read_attributes(
    options: Options, train: set[int], objects: dict[int, np.ndarray]
) -> tuple[dict[int, np.ndarray], list[str]]:
    """EncodedImage.attributes of each image in `objects`, and the attributes in the order of their indices."""
    path = options.attributes_json
    counts: Counter[str] = Counter()
    for _, items in read_annotations(path, "attributes", train):
        for obj in items:
            counts.update(dict.fromkeys(reversed(read_names(obj.get("attributes"))), 1))
    names = _frequent_names(counts, options.min_attribute_instances)
    ids = {name: i for i, name in enumerate(names)}

    attributes = dict.fromkeys(objects, NO_ATTRIBUTES)
    for image, items in read_annotations(path, "attributes", objects):
        by_object = {integer(obj["object_id"]): read_names(obj.get("attributes")) for obj in items}
        pairs = []
        for row, object_id in enumerate(objects[image][:, 0].tolist()):
            known = [ids[name] for name in by_object.get(object_id, ()) if name in ids]
            pairs += [(row, attribute) for attribute in known[: options.max_attributes_per_image]]
        attributes[image] = _to_table(pairs, NO_ATTRIBUTES)
    return attributes, names


def _read_relationships(
    options: Options, train: set[int], objects: dict[int, np.ndarray]
) -> tuple[dict[int, np.ndarray], list[str]]:
    """EncodedImage.triples of each image in `objects`, and the predicates in the order of their indices."""
    path, aliases = options.relationships_json, read_aliases(options.relationship_aliases)

    def find_triples(image: int, items: list[dict[str, Any]]) -> Iterator[tuple[int, int, str, int]]:
        row_of = {object_id: row for row, object_id in enumerate(objects[image][:, 0].tolist())}
        for relation in items:
            subject, object_ = (row_of.get(integer(relation[end]["object_id"])) for end in ("subject", "object"))
            if subject is None or object_ is None:
                continue
            predicate = composed(relation["predicate"])
            if image in train:
                predicate = predicate.lower().strip()
                predicate = aliases.get(predicate, predicate)
            if is_usable(predicate):
                yield integer(relation["relationship_id"]), subject, predicate, object_

    counts: Counter[str] = Counter()
    for image, items in read_annotations(path, "relationships", train):
        counts.update(predicate for _, _, predicate, _ in find_triples(image, items))
    frequent = [name for name, count in counts.items() if count >= options.min_relationship_instances]
    names = ["__in_image__", *frequent]  # in the order of their first occurrence, as in sg2im
    ids = {name: i for i, name in enumerate(names)}

    triples = dict.fromkeys(objects, NO_TRIPLES)
    for image, items in read_annotations(path, "relationships", objects):
        rows = ((id_, s, ids[name], o) for id_, s, name, o in find_triples(image, items) if name in ids)
        triples[image] = _to_table(rows, NO_TRIPLES)
    return triples, names


def _frequent_names(counts: Counter[str], minimum: int) -> list[str]:
    """Names with at least `minimum` occurrences, most frequent first, ties in the order of their first occurrence.

    In sg2im, the order of names that first occur in the same object depends on a Python set, which differs between runs.
    The order here (names of an object as listed, attributes in reverse) is a possible outcome of that, and the one of the
    tests' reference file.
    """
    return [name for name, count in counts.most_common() if count >= minimum]


def _to_table(rows: Iterable[tuple[int, ...]], empty: np.ndarray) -> np.ndarray:
    """The rows as an array with the columns and type of `empty`."""
    return np.array(list(rows), dtype=empty.dtype).reshape(-1, empty.shape[1])


def _report_vocabulary(objects: int, predicates: int, attributes: int, num_images: int) -> None:
    print(f"vocabulary: {objects} objects, {predicates} predicates, {attributes} attributes")
    if num_images >= FULL_SIZE and (objects, predicates) != PUBLISHED_VOCABULARY[:2]:
        print(
            f"WARNING: published models have {PUBLISHED_VOCABULARY[0]} objects and {PUBLISHED_VOCABULARY[1]} predicates, so "
            "their graph encoders do not fit this vocabulary; check the versions of objects.json, relationships.json and "
            "the alias files (see DATA.md) and the options"
        )


def _filter_by_counts(split: str, images: dict[int, EncodedImage], options: Options) -> dict[int, EncodedImage]:
    """The images whose numbers of objects and relations are within the limits."""
    objects = range(options.min_objects_per_image, options.max_objects_per_image + 1)
    triples = range(options.min_relationships_per_image, options.max_relationships_per_image + 1)
    enough_objects = {i: image for i, image in images.items() if len(image.objects) in objects}
    selected = {i: image for i, image in enough_objects.items() if len(image.triples) in triples}
    print(
        f"{split}: {len(selected) or 'NO'} images kept; left out {len(images) - len(enough_objects)} for their number of "
        f"objects, {len(enough_objects) - len(selected)} for their number of relations"
    )
    return selected


def _to_arrays(images: dict[int, EncodedImage], options: Options) -> dict[str, np.ndarray]:
    """The arrays of an h5 file except image_paths, with the same number of columns even if there are no images."""
    num, most_objects, most_triples = len(images), options.max_objects_per_image, options.max_relationships_per_image
    objects = np.full((num, most_objects, 6), -1, dtype=np.int32)
    triples = np.full((num, most_triples, 4), -1, dtype=np.int32)
    counts = np.full((num, most_objects), -1, dtype=np.int32)
    attributes = [np.empty((0, options.max_attributes_per_image), dtype=np.int32)]
    for i, image in enumerate(images.values()):
        count = len(image.objects)
        objects[i, :count] = image.objects
        triples[i, : len(image.triples)] = image.triples
        counts[i, :count] = np.bincount(image.attributes[:, 0], minlength=count)
        attributes.append(np.full((count, options.max_attributes_per_image), -1, dtype=np.int32))
        for row, filled in enumerate(counts[i, :count]):
            attributes[-1][row, :filled] = image.attributes[image.attributes[:, 0] == row, 1]
    return {
        "image_ids": np.array(list(images), dtype=np.int32),
        "objects_per_image": np.array([len(image.objects) for image in images.values()], dtype=np.int32),
        "relationships_per_image": np.array([len(image.triples) for image in images.values()], dtype=np.int32),
        "object_ids": objects[..., 0],
        "object_names": objects[..., 1],
        "object_boxes": objects[..., 2:],
        "relationship_ids": triples[..., 0],
        "relationship_subjects": triples[..., 1],
        "relationship_predicates": triples[..., 2],
        "relationship_objects": triples[..., 3],
        "attributes_per_object": counts,
        "object_attributes": np.concatenate(attributes),
    }
