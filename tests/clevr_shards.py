"""Folders like those of scripts/render_scenes.py --look clevr, with discs in the place of renders, written without Blender."""

import json
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from ldm.data.clevr import estimate_box
from ldm.synthetic.rendered.clevr import COLOURS, DIAMETERS, STYLE, Solid
from ldm.synthetic.rendered.clevr_files import clevr_fields
from ldm.synthetic.rendered.scenes import SENSOR, Camera, Scene

SIDE = 128
CAMERA = Camera((7.5, -6.5, 5.3), (0.0, 0.0, 0.0), SENSOR * 35 / 32, 11.0, 1e6)
SOLIDS = (
    Solid("sphere", "large", "red", "rubber", -1.5, -1.5),
    Solid("cube", "small", "cyan", "metal", 2.0, 0.0, turn=0.4),
    Solid("cylinder", "large", "gray", "rubber", 0.0, 2.0),
)


def write_shard(folder: Path, *scenes: tuple[Solid, ...]) -> None:
    """Writes a complete shard of scenes, each a disc for each solid."""
    folder.mkdir(parents=True)
    lines, entries = [], []
    for seed, solids in enumerate(scenes or (SOLIDS,)):
        scene, name = Scene(seed, solids, CAMERA, STYLE), f"{seed:06d}.webp"
        entries.append(clevr_fields(scene, name, SIDE))
        boxes = [box_of(each, entries[-1]) for each in entries[-1]["objects"]]
        draw_discs(boxes, [each["color"] for each in entries[-1]["objects"]]).save(folder / name, quality=95)
        line = {"file": name, "scene": scene.to_json(), "boxes": boxes, "visible_boxes": boxes}
        lines.append(line | {"visible": [1.0] * len(solids)})
    (folder / "CLEVR_scenes.json").write_text(json.dumps({"scenes": entries}))
    (folder / "scenes.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def box_of(item: dict, entry: dict) -> tuple:
    """The box that the scenes file gives an object."""
    half = DIAMETERS[item["size"]] / 2
    right = entry["directions"]["right"]
    return estimate_box(item["pixel_coords"], half, item["rotation"], item["shape"], right, (SIDE, SIDE))


def draw_discs(boxes, colours) -> Image.Image:
    """Discs in boxes on grey."""
    picture = Image.new("RGB", (SIDE, SIDE), (120, 120, 120))
    for box, colour in zip(boxes, colours):
        ImageDraw.Draw(picture).ellipse([SIDE * edge for edge in box], fill=COLOURS[colour])
    return picture


def differs(a: Image.Image, b: Image.Image) -> np.ndarray:
    """(H,W) bool: where two pictures differ."""
    return (np.asarray(a) != np.asarray(b)).any(-1)
