"""Folders of rendered scenes: pictures, what they show, and edits with their true results. Needs Blender to write.

    shard-00000/
        000000.webp            picture of the scene with seed 0
        000000_replace.webp    the picture after an edit
        000000_restyle_style.webp  another scene in the style that the edit asks for
        000000_ids.png         which thing each pixel shows, plus one (on request)
        000000_depth.png       distance in thousandths of a scene unit, 0 for the background (on request)
        000000_00.webp         a frame of the clip with seed 0, where scenes are rendered as clips
        000000_style.webp      another scene in the style of that clip
        scenes.jsonl           a line for each picture: scene, boxes, visibility, edit
        graphs.json            scene graphs in sg2im's form, with boxes and attributes
        instances.json         boxes in COCO's form, in pixels
        CLEVR_scenes.json      CLEVR's own form, for scenes of its look

A shard is complete when scenes.jsonl stands; pictures that an interrupted run left are kept.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ldm.graph.graph_files import write_graphs
from ldm.synthetic.rendered.clips import random_clip
from ldm.synthetic.rendered.edits import Edit, edit_scene
from ldm.synthetic.rendered.geometry import Truth
from ldm.synthetic.rendered.relations import complete_graph
from ldm.synthetic.rendered.scenes import Scene
from ldm.synthetic.rendered.stage import Stage
from ldm.synthetic.rendered.things import KINDS
from ldm.util.files import atomic_write

QUALITY = 92  # of WebP
STYLE_OFFSET = 10**9  # from a scene's seed to that of the scene that shows the style of its restyling
DEPTH_UNIT = 1000


@dataclass(frozen=True)
class Extras:
    """What to write beside pictures, or instead of them: clips of so many frames, if there are any."""

    operations: tuple[str, ...] = ()
    masks: bool = False
    depth: bool = False
    frames: int = 0


def write_shard(
    stage: Stage, seeds: Sequence[int], folder: Path, extras: Extras, report: Callable[[int], Any] = lambda count: None
) -> None:
    """Renders the scenes of some seeds, unless the shard is complete.

    Args:
        report: called with the number of scenes done since the last call.
    """
    index = folder / "scenes.jsonl"
    if index.exists():
        report(len(seeds))
        return
    folder.mkdir(parents=True, exist_ok=True)
    records: list[dict[str, Any]] = []
    for seed in seeds:
        records += (_write_clip if extras.frames else _write_scene)(stage, seed, folder, extras)
        report(1)
    graphs = [_graph_of(record) for record in records]
    write_graphs(folder / "graphs.json", graphs)
    _write(folder / "instances.json", json.dumps(_coco(records, stage.side)))
    for name, content in stage.more_files(records).items():
        _write(folder / name, json.dumps(content))
    _write(index, "".join(json.dumps(record) + "\n" for record in records))


def _write_scene(stage: Stage, seed: int, folder: Path, extras: Extras) -> Iterator[dict[str, Any]]:
    """Renders a scene and its edits; gives a record for each picture."""
    scene = stage.random_scene(seed)
    name = f"{seed:06d}"
    yield _write_picture(stage, scene, folder, name, extras)
    for operation in extras.operations:
        edit = edit_scene(scene, operation, stage.geometry)
        if edit is None:
            continue
        record = _write_picture(stage, edit.scene, folder, f"{name}_{operation}", extras)
        record["edit"] = _edit_fields(edit, operation, f"{name}.webp")
        if operation == "restyle":
            style = _write_style(stage, edit.scene, folder, f"{name}_restyle_style", extras)
            record["edit"]["reference"] = style["file"]
            yield style
        yield record


def _write_clip(stage: Stage, seed: int, folder: Path, extras: Extras) -> Iterator[dict[str, Any]]:
    """Renders the frames of a clip and a scene in its style; gives a record for each picture."""
    clip = random_clip(seed, stage.geometry, extras.frames)
    name = f"{seed:06d}"
    style = _write_style(stage, clip[0].scene, folder, f"{name}_style", extras)
    yield style
    for number, frame in enumerate(clip):
        record = _write_picture(stage, frame.scene, folder, f"{name}_{number:02d}", extras)
        record["clip"] = {"frame": number, "things": frame.things, "reference": style["file"]}
        yield record


def _write_style(stage: Stage, scene: Scene, folder: Path, name: str, extras: Extras) -> dict[str, Any]:
    """Renders another scene in the style of this one."""
    other = stage.random_scene(scene.seed + STYLE_OFFSET)
    return _write_picture(stage, replace(other, style=scene.style), folder, name, extras)


def _write_picture(stage: Stage, scene: Scene, folder: Path, name: str, extras: Extras) -> dict[str, Any]:
    path = folder / f"{name}.webp"
    if not path.exists():
        picture = stage.render(scene)
        with atomic_write(path) as part:
            picture.save(part, "WEBP", quality=QUALITY, method=4)
    truth = stage.geometry.truth(scene, stage.side)
    if extras.masks:
        _save_png(Image.fromarray(truth.ids), folder / f"{name}_ids.png")
    if extras.depth:
        depth = np.where(np.isfinite(truth.depth), DEPTH_UNIT * truth.depth, 0).round().astype(np.uint16)
        _save_png(Image.fromarray(depth), folder / f"{name}_depth.png")
    return {"file": path.name, "scene": scene.to_json(), **_truth_fields(truth)}


def _truth_fields(truth: Truth) -> dict[str, Any]:
    return {
        "boxes": truth.boxes.round(5).tolist(),
        "visible_boxes": truth.visible_boxes.round(5).tolist(),
        "visible": truth.visible.round(4).tolist(),
    }


def _edit_fields(edit: Edit, operation: str, source: str) -> dict[str, Any]:
    return {
        "operation": operation,
        "source": source,
        "origin": edit.origin,
        "changed": edit.changed,
        "removed": edit.removed,
        "relation": edit.relation,
    }


def _graph_of(record: dict[str, Any]) -> Any:
    boxes = np.clip(record["boxes"], 0, 1).tolist()
    graph = complete_graph(Scene.from_json(record["scene"]), boxes)
    return replace(graph, image=record["file"])


def _coco(records: Sequence[dict[str, Any]], side: int) -> dict[str, Any]:
    """COCO's instances: boxes of the visible parts in pixels (x, y, width, height)."""
    categories = {kind: number for number, kind in enumerate(KINDS, 1)}
    images, annotations = [], []
    for number, record in enumerate(records, 1):
        images.append({"id": number, "file_name": record["file"], "width": side, "height": side})
        for thing, (x0, y0, x1, y1) in zip(record["scene"]["things"], side * np.array(record["visible_boxes"])):
            box = [round(value, 2) for value in (x0, y0, x1 - x0, y1 - y0)]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": categories[thing["kind"]],
                    "bbox": box,
                    "area": round(box[2] * box[3], 2),
                    "iscrowd": 0,
                }
            )
    names = [{"id": number, "name": kind} for kind, number in categories.items()]
    return {"images": images, "annotations": annotations, "categories": names}


def _save_png(picture: Image.Image, path: Path) -> None:
    with atomic_write(path) as part:
        picture.save(part, "PNG")


def _write(path: Path, text: str) -> None:
    with atomic_write(path) as part:
        part.write_text(text, encoding="utf-8")
