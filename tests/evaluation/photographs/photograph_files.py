"""A small folder of photographs in the prepared form that tests write to disk: coloured squares on noise."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

SIDE = 64
COLOURS = {"Bolt": (210, 40, 40), "Hammer": (40, 60, 200), "Rock": (30, 160, 60)}
ONE, TWO, THREE = (8, 8, 18, 16), (30, 40, 18, 20), (36, 6, 18, 20)  # x, y, width, height
EDITS = (("add", 0, 1), ("remove", 1, 0), ("replace", 1, 2), ("move", 1, 3))
SHOWN = (
    [("Rock", ONE)],
    [("Rock", ONE), ("Bolt", TWO)],
    [("Rock", ONE), ("Hammer", TWO)],
    [("Rock", ONE), ("Bolt", THREE)],
)


def picture(things, seed: int) -> Image.Image:
    pixels = np.random.default_rng(seed).normal(128, 5, (SIDE, SIDE, 3))
    for name, (x, y, w, h) in things:
        pixels[y : y + h, x : x + w] = COLOURS[name]
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def write_photographs(folder: Path, split: str = "val", real: int = 0) -> Path:
    """One scene with its four edits, and `real` photographs of one thing each, with as many thirds of them empty.

    Edited pictures are equal outside of their things.
    """
    shown = [("mix" if number else "real", things, 1) for number, things in enumerate(SHOWN)]
    rng = np.random.default_rng(len(split))
    for number in range(real):
        x, y = (int(value) for value in rng.integers(4, 40, 2))
        shown.append(("real", [(sorted(COLOURS)[number % 3], (x, y, 18, 17))], 100 + number))
        if number % 3 == 0:
            shown.append(("empty", [], 1000 + number))
    (folder / "images").mkdir(parents=True, exist_ok=True)
    names = sorted(COLOURS)
    images, annotations, stuff = [], [], []
    for id, (kind, things, seed) in enumerate(shown, 1):
        file = f"{split}_{id:03}.png"
        picture(things, seed).save(folder / "images" / file)
        images.append({"id": id, "file_name": file, "width": SIDE, "height": SIDE, "kind": kind, "clip": 1})
        annotations += [
            {"id": 0, "image_id": id, "category_id": names.index(name) + 1, "bbox": list(box)} for name, box in things
        ]
        stuff.append({"id": id, "image_id": id, "category_id": 93, "bbox": [0, 0, SIDE, SIDE]})
    categories = [{"id": number, "name": name} for number, name in enumerate(names, 1)]
    edits = [{"kind": kind, "source": before + 1, "target": after + 1} for kind, before, after in EDITS]
    for name, content in (
        ("instances", {"images": images, "annotations": annotations, "categories": categories}),
        ("stuff", {"images": images, "annotations": stuff, "categories": [{"id": 93, "name": "sand"}]}),
        ("edits", edits),
    ):
        (folder / f"{name}_{split}.json").write_text(json.dumps(content))
    return folder
