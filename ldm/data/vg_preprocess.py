"""Visual Genome's raw JSON to vocab.json and one h5 per split, array for array what sg2im's preprocessing makes of it.

Every annotation file is read twice, image by image: once to count names for the vocabulary, once to encode with it.
Only the encoded integers stay in memory. The facts come from google/sg2im, scripts/preprocess_vg.py; two of them
surprise, and are kept so that val.h5 and test.h5 stay comparable with published ones: an object takes the first of
its names that is in the vocabulary, and predicates are lower-cased and their aliases resolved in the training split
only. With N images, O objects in all of them, at most n objects and r relations per image and a attributes per
object, an h5 holds, padded with -1:

    image_ids, objects_per_image, relationships_per_image (N,)      image_paths (N,) text, folder/file
    object_ids, object_names, attributes_per_object (N,n)           object_boxes (N,n,4) x y w h in pixels
    relationship_ids, _subjects, _predicates, _objects (N,r)        subjects and objects as index into the n
    object_attributes (O,a)                                         a row per object: the images one after another
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np

from ldm.data.vg_raw import annotations, explained, read_aliases, read_images, read_splits

PUBLISHED_VOCABULARY = (179, 46, 80)  # objects, predicates, attributes of sg2im's and SGDiff's models
FULL = 100_000  # images: a vocabulary made from fewer is not compared with the published one


def _option(default: Any, says: str) -> Any:
    return field(default=default, metadata={"help": says})


@dataclass(frozen=True)
class Options:
    """sg2im's options and defaults; only the place of the splits differs, beside the other files."""

    splits_json: str = _option("datasets/vg/vg_splits.json", "image ids per split: sg2im/data/vg_splits.json")
    images_json: str = _option("datasets/vg/image_data.json", "sizes and urls")
    objects_json: str = _option("datasets/vg/objects.json", "names and boxes")
    attributes_json: str = _option("datasets/vg/attributes.json", "attributes per object")
    object_aliases: str = _option("datasets/vg/object_alias.txt", "a line: the name, and others that mean it")
    relationship_aliases: str = _option("datasets/vg/relationship_alias.txt", "the same for predicates")
    relationships_json: str = _option("datasets/vg/relationships.json", "subject, predicate, object")
    min_image_size: int = _option(200, "pixels of an image's shorter side")
    train_split: str = _option("train", "the split that the vocabulary is made from")
    min_object_instances: int = _option(2000, "of an object name in the training split")
    min_attribute_instances: int = _option(2000, "of an attribute in the training split")
    min_object_size: int = _option(32, "pixels of an object's shorter side")
    min_objects_per_image: int = _option(3, "an image with fewer is left out")
    max_objects_per_image: int = _option(30, "an image with more is left out")
    max_attributes_per_image: int = _option(30, "attributes per object; what is more is cut off")
    min_relationship_instances: int = _option(500, "of a predicate in the training split")
    min_relationships_per_image: int = _option(1, "an image with fewer is left out")
    max_relationships_per_image: int = _option(30, "an image with more is left out")
    output_vocab_json: str = _option("datasets/vg/vocab.json", "written here")
    output_h5_dir: str = _option("datasets/vg", "train.h5, val.h5, test.h5 are written here")


class Encoded(NamedTuple):
    """One image: what of its annotation is in the vocabulary."""

    objects: np.ndarray  # (n,6) id, name, x, y, w, h
    triples: np.ndarray  # (r,4) id, subject, predicate, object
    attributes: np.ndarray  # (m,2) object, attribute


NO_OBJECTS, NO_TRIPLES, NO_ATTRIBUTES = (np.empty((0, width), dtype=np.int32) for width in (6, 4, 2))


def preprocess(options: Options) -> None:
    """Write vocab.json and an h5 per split, all of them or none. Raises DataError."""
    sizes, paths = read_images(options.images_json)
    splits = {
        name: _usable(name, ids, sizes, options.min_image_size)
        for name, ids in read_splits(options.splits_json, options.train_split).items()
    }
    train = set(splits[options.train_split])
    used = {image for ids in splits.values() for image in ids}

    with explained(options.objects_json):
        objects, names = _read_objects(options, train, used)
    with explained(options.attributes_json):
        attributes, attribute_names = _read_attributes(options, train, objects)
    with explained(options.relationships_json):
        triples, predicates = _read_relationships(options, train, objects)
    _report_vocabulary(len(names), len(predicates), len(attribute_names), len(used))

    vocab = {}
    for key, table in (("object", names), ("attribute", attribute_names), ("pred", predicates)):
        vocab |= {f"{key}_name_to_idx": {name: i for i, name in enumerate(table)}, f"{key}_idx_to_name": table}

    folder = Path(options.output_h5_dir)
    with _all_or_none() as beside:
        for split, ids in splits.items():
            kept = _enough(split, {i: Encoded(objects[i], triples[i], attributes[i]) for i in ids}, options)
            with h5py.File(beside(folder / f"{split}.h5"), "w") as file:
                for name, array in _arrays(kept, options).items():
                    file.create_dataset(name, data=array)
                texts = np.array([paths[image] for image in kept], dtype=object)
                file.create_dataset("image_paths", data=texts, dtype=h5py.string_dtype())
        beside(Path(options.output_vocab_json)).write_text(json.dumps(vocab))
    print(f"wrote {options.output_vocab_json} and {', '.join(f'{split}.h5' for split in splits)} in {folder}")


def _usable(split: str, ids: list[int], sizes: dict[int, int], min_size: int) -> list[int]:
    known = [image for image in ids if image in sizes]
    large = [image for image in known if sizes[image] >= min_size]
    print(f"{split}: {len(ids)} images, {len(known) - len(large)} left out as smaller than {min_size} pixels")
    if len(known) < len(ids):
        print(f"{split}: {len(ids) - len(known)} more left out, since the image data does not list their ids")
    return large


def _read_objects(options: Options, train: set[int], used: set[int]) -> tuple[dict[int, np.ndarray], list[str]]:
    """Encoded.objects of every image in `used`, and the names by id."""
    path, aliases = options.objects_json, read_aliases(options.object_aliases)

    def names_of(obj: dict) -> list[str]:
        return [aliases.get(name, name) for name in obj.get("names") or ()]

    counts: Counter[str] = Counter()
    for _, found in annotations(path, "objects", train):
        for obj in found:
            counts.update(dict.fromkeys(names_of(obj), 1))
    names = ["__image__", *_frequent(counts, options.min_object_instances)]
    ids = {name: i for i, name in enumerate(names)}

    objects, small, unnamed = dict.fromkeys(used, NO_OBJECTS), 0, 0
    for image, found in annotations(path, "objects", used):
        rows = {}
        for obj in found:
            known = [ids[name] for name in names_of(obj) if name in ids]
            if min(obj["w"], obj["h"]) < options.min_object_size:
                small += 1
            elif known:
                rows[obj["object_id"]] = (obj["object_id"], known[0], obj["x"], obj["y"], obj["w"], obj["h"])
            unnamed += not obj.get("names")
        objects[image] = _table((rows[obj["object_id"]] for obj in found if obj["object_id"] in rows), NO_OBJECTS)
    print(f"objects: {small} left out as smaller than {options.min_object_size} pixels; {unnamed} have no name")
    return objects, names


def _read_attributes(
    options: Options, train: set[int], objects: dict[int, np.ndarray]
) -> tuple[dict[int, np.ndarray], list[str]]:
    """Encoded.attributes of every image in `objects`, and the names by id."""
    path = options.attributes_json
    counts: Counter[str] = Counter()
    for _, found in annotations(path, "attributes", train):
        for obj in found:
            counts.update(dict.fromkeys(reversed(obj.get("attributes") or ()), 1))
    names = _frequent(counts, options.min_attribute_instances)
    ids = {name: i for i, name in enumerate(names)}

    attributes = dict.fromkeys(objects, NO_ATTRIBUTES)
    for image, found in annotations(path, "attributes", objects):
        by_object = {obj["object_id"]: obj.get("attributes") or () for obj in found}
        pairs = []
        for row, id_ in enumerate(objects[image][:, 0].tolist()):
            known = [ids[name] for name in by_object.get(id_, ()) if name in ids]
            pairs += [(row, attribute) for attribute in known[: options.max_attributes_per_image]]
        attributes[image] = _table(pairs, NO_ATTRIBUTES)
    return attributes, names


def _read_relationships(
    options: Options, train: set[int], objects: dict[int, np.ndarray]
) -> tuple[dict[int, np.ndarray], list[str]]:
    """Encoded.triples of every image in `objects`, and the predicates by id."""
    path, aliases = options.relationships_json, read_aliases(options.relationship_aliases)

    def triples_of(image: int, found: list[dict]) -> Iterator[tuple[int, int, str, int]]:
        index = {id_: row for row, id_ in enumerate(objects[image][:, 0].tolist())}
        for relation in found:
            subject, object_ = (index.get(relation[end]["object_id"]) for end in ("subject", "object"))
            if subject is None or object_ is None:
                continue
            predicate = relation["predicate"]
            if image in train:
                predicate = predicate.lower().strip()
                predicate = aliases.get(predicate, predicate)
            yield relation["relationship_id"], subject, predicate, object_

    counts: Counter[str] = Counter()
    for image, found in annotations(path, "relationships", train):
        counts.update(predicate for _, _, predicate, _ in triples_of(image, found))
    enough = options.min_relationship_instances
    names = ["__in_image__", *(name for name, count in counts.items() if count >= enough)]  # in the order first met
    ids = {name: i for i, name in enumerate(names)}

    triples = dict.fromkeys(objects, NO_TRIPLES)
    for image, found in annotations(path, "relationships", objects):
        rows = ((id_, s, ids[name], o) for id_, s, name, o in triples_of(image, found) if name in ids)
        triples[image] = _table(rows, NO_TRIPLES)
    return triples, names


def _frequent(counts: Counter[str], enough: int) -> list[str]:
    """Most frequent first, then first met first. Among names that one object brings in, sg2im leaves that to the order
    of a Python set, which differs from run to run; ours (objects' names as listed, attributes from the last) is one
    that it can come to, and that of the reference in the tests."""
    return [name for name, count in counts.most_common() if count >= enough]


def _table(rows: Iterable[tuple[int, ...]], like: np.ndarray) -> np.ndarray:
    return np.array(list(rows), dtype=like.dtype).reshape(-1, like.shape[1])


def _report_vocabulary(objects: int, predicates: int, attributes: int, num_images: int) -> None:
    print(f"vocabulary: {objects} objects, {predicates} predicates, {attributes} attributes")
    if num_images >= FULL and (objects, predicates) != PUBLISHED_VOCABULARY[:2]:
        print(
            f"WARNING: the published models have {PUBLISHED_VOCABULARY[0]} objects and {PUBLISHED_VOCABULARY[1]} "
            "predicates, so their weights do not fit this vocabulary; it comes of another version of objects.json and "
            "relationships.json, of other alias files or of other options: see DATA.md"
        )


def _enough(split: str, images: dict[int, Encoded], options: Options) -> dict[int, Encoded]:
    """The images with neither too few nor too many objects and relations."""
    objects = range(options.min_objects_per_image, options.max_objects_per_image + 1)
    triples = range(options.min_relationships_per_image, options.max_relationships_per_image + 1)
    right = {i: image for i, image in images.items() if len(image.objects) in objects}
    kept = {i: image for i, image in right.items() if len(image.triples) in triples}
    print(
        f"{split}: {len(kept) or 'NO'} images kept, left out {len(images) - len(right)} for their number of objects, "
        f"{len(right) - len(kept)} for that of relations"
    )
    return kept


def _arrays(images: dict[int, Encoded], options: Options) -> dict[str, np.ndarray]:
    """The h5's arrays, image_paths apart; the right shapes also where there is no image."""
    num, most_objects, most_triples = len(images), options.max_objects_per_image, options.max_relationships_per_image
    objects = np.full((num, most_objects, 6), -1, dtype=np.int32)
    triples = np.full((num, most_triples, 4), -1, dtype=np.int32)
    counts = np.full((num, most_objects), -1, dtype=np.int32)
    attributes = [np.empty((0, options.max_attributes_per_image), dtype=np.int32)]
    for i, image in enumerate(images.values()):
        there = len(image.objects)
        objects[i, :there] = image.objects
        triples[i, : len(image.triples)] = image.triples
        counts[i, :there] = np.bincount(image.attributes[:, 0], minlength=there)
        attributes.append(np.full((there, options.max_attributes_per_image), -1, dtype=np.int32))
        for row, count in enumerate(counts[i, :there]):
            attributes[-1][row, :count] = image.attributes[image.attributes[:, 0] == row, 1]
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


@contextmanager
def _all_or_none() -> Iterator[Callable[[Path], Path]]:
    """Gives for a path one beside it to write to; all of them get their names in the end, or are deleted."""
    parts: dict[Path, Path] = {}

    def beside(path: Path) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        return parts.setdefault(path, path.with_name(path.name + ".part"))

    try:
        yield beside
        for path, part in parts.items():
            os.replace(part, path)
    finally:
        for part in parts.values():
            part.unlink(missing_ok=True)
