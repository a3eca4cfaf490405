"""Aligned photographs before and after an edit: a list of pairs, and COCO's JSON of what each picture shows.

edits_NAME.json is a list; source and target are ids of images in instances_NAME.json beside it, whose files are in images/:

    [{"kind": "remove", "source": 16698, "target": 16697, "stays": "Rock", "thing": "MetalPart"}]

The target is the true result, so a mask need not be given: what may change is where the two graphs differ. Images of one clip
are not independent of each other and form a unit.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ldm.evaluation.photographs.annotations import Thing, read_coco
from ldm.evaluation.validation.lines import ValidationLine, default_seed
from ldm.graph.scene_graph import SceneGraph
from ldm.util.errors import UserError

KINDS = ("add", "remove", "replace", "move")


def recognises(content: Any) -> bool:
    """Whether parsed JSON is a list of aligned pairs."""
    first = content[0] if isinstance(content, list) and content else None
    return isinstance(first, dict) and {"kind", "source", "target"} <= set(first)


def lines_of(content: list, path: Path) -> list[ValidationLine]:
    """The lines of a list of pairs.

    Raises:
        UserError: a pair is incomplete, names an image that the instances lack, or a file is missing.
    """
    instances = path.with_name(path.name.replace("edits", "instances", 1))
    if instances == path:
        raise UserError(f"{path}: call it edits_NAME.json, and the objects of its images instances_NAME.json")
    images, _, things = read_coco(instances)
    lines = []
    for number, pair in enumerate(content):
        place = f"{path}, pair {number}"
        if not isinstance(pair, dict) or pair.get("kind") not in KINDS:
            raise UserError(f"{place}: kind is none of {', '.join(KINDS)}")
        before, after = pair.get("source"), pair.get("target")
        for key, image in (("source", before), ("target", after)):
            if not things.get(image):
                raise UserError(f"{place}: {key} {image} is no image with objects in {instances}")
        files = [path.parent / "images" / str(images[image]["file_name"]) for image in (before, after)]
        for file in files:
            if not file.is_file():
                raise UserError(f"{place}: there is no file {file}")
        id = f"{pair['kind']}-{before}-{after}"
        source, target = paired_graphs(things[before], things[after])
        clip = images[before].get("clip")
        lines.append(
            ValidationLine(
                id=id,
                place=place,
                seed=default_seed(id),
                graph=target,
                source_graph=source,
                photograph=files[0],
                truth=files[1],
                label=pair.get("by") or (pair.get("thing") if pair["kind"] == "add" else None),
                type=pair["kind"],
                unit=f"clip {clip}" if clip is not None else "",
            )
        )
    return lines


def paired_graphs(before: list[Thing], after: list[Thing]) -> tuple[SceneGraph, SceneGraph]:
    """The two graphs, with equal ids for what is the same object: equal name and box, then equal name, then any two left."""
    ids_before: dict[int, str] = {index: f"{index}" for index in range(len(before))}
    ids_after: dict[int, str] = {}
    left = list(ids_before)
    for same in (lambda a, b: a == b, lambda a, b: a[0] == b[0], lambda a, b: True):
        for index in [index for index in range(len(after)) if index not in ids_after]:
            partner = next((other for other in left if same(before[other], after[index])), None)
            if partner is not None:
                left.remove(partner)
                ids_after[index] = ids_before[partner]
    for index in range(len(after)):
        ids_after.setdefault(index, f"new {index}")
    return _graph(before, ids_before), _graph(after, ids_after)


def _graph(things: list[Thing], ids: dict[int, str]) -> SceneGraph:
    names, boxes = zip(*things)
    return SceneGraph(names, boxes, ids=tuple(ids[index] for index in range(len(things))))
