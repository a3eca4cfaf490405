"""A tiny Visual Genome in the format of the raw files."""

import json
from collections.abc import Callable
from pathlib import Path

from ldm.data.vg_preprocess import Options

FILES = {
    "splits_json": "splits.json",
    "images_json": "image_data.json",
    "objects_json": "objects.json",
    "attributes_json": "attributes.json",
    "relationships_json": "relationships.json",
    "object_aliases": "object_alias.txt",
    "relationship_aliases": "relationship_alias.txt",
}


def inputs(folder: Path, **options) -> Options:
    """Options whose input files are in `folder`."""
    return Options(**{key: str(folder / name) for key, name in FILES.items()} | options)


def write_raw_vg(folder: Path, splits: dict, ids=(1, 2), change: Callable = lambda *files: None) -> None:
    """Writes images with these ids, each of a dog on a mat and a third object without name.

    Args:
        splits: image ids by the name of the split.
        change: gets the lists of image_data, objects, attributes and relationships before they are written.
    """
    files = [list(file) for file in zip(*map(_make_image, ids))]
    change(*files)
    for name, content in zip(("image_data", "objects", "attributes", "relationships"), files):
        (folder / f"{name}.json").write_text(json.dumps(content))
    (folder / "splits.json").write_text(json.dumps(splits))
    (folder / "object_alias.txt").write_text("dog,pup,puppy\n")
    (folder / "relationship_alias.txt").write_text("on,on top of\n")


def _make_image(id_: int) -> tuple[dict, dict, dict, dict]:
    objects = [
        {"object_id": 10 * id_ + i, "names": names, "x": i, "y": 2, "w": 40, "h": 50}
        for i, names in enumerate((["pup"], ["rug", "mat"], []))
    ]
    attributes = [dict(objects[0], attributes=["brown", "wet"]), objects[1]]
    ends = {"subject": {"object_id": 10 * id_}, "object": {"object_id": 10 * id_ + 1}}
    relationships = [{"relationship_id": id_, "predicate": "ON Top of ", **ends}]
    return (
        {"image_id": id_, "width": 300, "height": 200, "url": f"https://host/rak/VG_100K/{id_}.jpg"},
        {"image_id": id_, "objects": objects},
        {"image_id": id_, "attributes": attributes},
        {"image_id": id_, "relationships": relationships},
    )
