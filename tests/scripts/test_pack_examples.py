"""What ships of rendered scenes: examples with one edit each, and what the pictures with shipped latents show."""

import json
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from ldm.evaluation.edit_tasks import OPERATIONS
from ldm.evaluation.rendered_tasks import RenderedTasks
from ldm.synthetic.rendered.records import complete_shards, read_records
from ldm.util.errors import UserError

CAMERA = {"location": [0.0, -5.0, 2.8], "target": [0.0, 0.1, 0.5], "lens": 46.0, "focus": 5.0, "aperture": 0.9}
STYLE = {"floor": "oak", "wall": "cream", "light": "studio", "side": "left"}


def thing(kind, x, **fields):
    return {"kind": kind, "size": "small", "colour": "red", "material": None, "x": x, "y": 0.0, **fields}


def line(file, things, edit=None):
    boxes = [[0.1 + 0.3 * i, 0.4, 0.3 + 0.3 * i, 0.6] for i in range(len(things))]
    scene = {"seed": 1, "things": things, "camera": CAMERA, "style": STYLE}
    fields = {"file": file, "scene": scene, "boxes": boxes, "visible_boxes": boxes, "visible": [1.0] * len(things)}
    return fields | ({"edit": edit} if edit else {})


def write_folder(root, scenes=4):
    """Scenes of two things with a recolouring, a removal and a restyling each."""
    shard = root / "shard-00000"
    shard.mkdir(parents=True)
    lines = []
    for number in range(scenes):
        name, things = f"{number:06d}", [thing("mug", -1.0), thing("vase", 1.0)]
        common = {"source": f"{name}.webp", "origin": [0, 1], "changed": [], "removed": [], "relation": None}
        lines += [
            line(f"{name}.webp", things),
            line(
                f"{name}_recolour.webp",
                [things[0] | {"colour": "blue"}, things[1]],
                common | {"operation": "recolour", "changed": [0]},
            ),
            line(f"{name}_remove.webp", things[1:], common | {"operation": "remove", "origin": [1], "removed": [0]}),
            line(f"{name}_restyle_style.webp", things),
            line(
                f"{name}_restyle.webp",
                things,
                common | {"operation": "restyle", "reference": f"{name}_restyle_style.webp"},
            ),
        ]
    for index, each in enumerate(lines):
        Image.fromarray(np.full((32, 32, 3), 10 * index % 255, np.uint8)).save(shard / each["file"], "WEBP")
    (shard / "scenes.jsonl").write_text("".join(json.dumps(each) + "\n" for each in lines))
    return root


def test_examples_have_one_edit_each_and_are_read_as_tasks(load_script, tmp_path):
    pack = load_script("pack_examples")
    pack.pack_examples(write_folder(tmp_path / "edits"), tmp_path / "examples" / "shard-00000", 4)
    tasks = RenderedTasks(str(tmp_path / "examples"))
    assert tasks.count() == 4
    counts = Counter({name: tasks.count(name) for name in OPERATIONS if tasks.count(name)})
    assert sum(counts.values()) == 4 and max(counts.values()) == 2 and len(counts) == 3
    assert tasks.task("restyle", 0).reference is not None
    with pytest.raises(UserError, match="4 scenes with edits, not 5"):
        pack.pack_examples(tmp_path / "edits", tmp_path / "more", 5)


def test_the_index_of_latents_names_the_first_pictures_and_no_edits(load_script, tmp_path):
    pack = load_script("pack_examples")
    source = write_folder(tmp_path / "train")
    (source / "shard-00000").rename(source / "shard-00001")
    write_folder(source)
    pack.pack_index(source, tmp_path / "latents", validation=1, train=3)
    counts = [sum(1 for _ in read_records(shard)) for shard in complete_shards(tmp_path / "latents")]
    assert counts == [1, 3]
    with pytest.raises(UserError, match="lacks"):
        pack.pack_index(source, tmp_path / "latents", validation=1, train=30)
