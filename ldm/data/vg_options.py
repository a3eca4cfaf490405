"""Options of scripts/preprocess_vg.py, in a file that imports nothing large, so that --help answers at once."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


def _option(default: Any, help: str) -> Any:
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True)
class Options:
    """Options of scripts/preprocess_vg.py: those of sg2im's script with the same defaults, except for splits_json."""

    splits_json: str = _option("datasets/vg/vg_splits.json", "image ids of each split: sg2im/data/vg_splits.json")
    images_json: str = _option("datasets/vg/image_data.json", "sizes and URLs of the images")
    objects_json: str = _option("datasets/vg/objects.json", "names and boxes of objects")
    attributes_json: str = _option("datasets/vg/attributes.json", "attributes of objects")
    object_aliases: str = _option("datasets/vg/object_alias.txt", "per line: a name and its aliases")
    relationship_aliases: str = _option("datasets/vg/relationship_alias.txt", "per line: a predicate and its aliases")
    relationships_json: str = _option("datasets/vg/relationships.json", "subjects, predicates and objects")
    min_image_size: int = _option(200, "leave out images whose shorter side has fewer pixels")
    train_split: str = _option("train", "split that determines the vocabulary")
    min_object_instances: int = _option(2000, "leave out object names that are rarer in the training split")
    min_attribute_instances: int = _option(2000, "leave out attributes that are rarer in the training split")
    min_object_size: int = _option(32, "leave out objects whose shorter side has fewer pixels")
    min_objects_per_image: int = _option(3, "leave out images with fewer objects")
    max_objects_per_image: int = _option(30, "leave out images with more objects")
    max_attributes_per_image: int = _option(30, "maximum number of attributes per object; the rest is dropped")
    min_relationship_instances: int = _option(500, "leave out predicates that are rarer in the training split")
    min_relationships_per_image: int = _option(1, "leave out images with fewer relations")
    max_relationships_per_image: int = _option(30, "leave out images with more relations")
    output_vocab_json: str = _option("datasets/vg/vocab.json", "vocabulary file to write")
    output_h5_dir: str = _option("datasets/vg", "folder to write train.h5, val.h5 and test.h5 to")
