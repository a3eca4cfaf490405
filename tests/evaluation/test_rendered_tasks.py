"""Edits of rendered scenes, read from a folder: graphs with the same ids, boxes and triples but for the change."""

import json

import numpy as np
import pytest
from PIL import Image

from ldm.evaluation.rendered_tasks import RenderedTasks
from ldm.evaluation.task_sources import DrawnTasks, find_tasks
from ldm.graph.diff import Add, Move, Remove, diff
from ldm.synthetic.rendered.records import RenderedError
from ldm.util.errors import UserError

CAMERA = {"location": [0.0, -5.0, 2.8], "target": [0.0, 0.1, 0.5], "lens": 46.0, "focus": 5.0, "aperture": 0.9}
STYLE = {"floor": "oak", "wall": "cream", "light": "studio", "side": "left"}
KINDS = {"mug": "red", "vase": "blue", "lamp": "green", "stool": "white"}


def record(file, things, boxes, edit=None):
    """A line of scenes.jsonl; things are (kind, x, y)."""
    fields = [
        {"kind": kind, "size": "small", "colour": KINDS[kind], "material": None, "x": x, "y": y}
        for kind, x, y in things
    ]
    scene = {"seed": 1, "things": fields, "camera": CAMERA, "style": STYLE}
    line = {"file": file, "scene": scene, "boxes": boxes, "visible_boxes": boxes, "visible": [1.0] * len(things)}
    return line | ({"edit": edit} if edit else {})


THINGS = [("mug", -1.0, 0.0), ("vase", 0.0, 1.2), ("lamp", 1.0, 0.0)]
BOXES = [[0.1, 0.4, 0.3, 0.6], [0.4, 0.2, 0.55, 0.5], [0.7, 0.3, 0.9, 0.62]]
EDITS = {
    "remove": (THINGS[:1] + THINGS[2:], [BOXES[0], BOXES[2]], {"origin": [0, 2], "removed": [1]}),
    "add": (
        [*THINGS, ("stool", 0.0, -1.0)],
        [*BOXES, [0.4, 0.6, 0.6, 0.9]],
        {"origin": [0, 1, 2, None], "changed": [3]},
    ),
    "relation": (
        [("mug", 1.8, 0.0), *THINGS[1:]],
        [[0.8, 0.4, 1.0, 0.6], [0.4001, 0.2, 0.55, 0.5], BOXES[2]],
        {"origin": [0, 1, 2], "changed": [0], "relation": [0, "right of", 2]},
    ),
    "restyle": (THINGS, BOXES, {"origin": [0, 1, 2], "reference": "000001_restyle_style.webp"}),
}


@pytest.fixture
def tasks(tmp_path):
    lines = [record("000001.webp", THINGS, BOXES), record("000001_restyle_style.webp", THINGS[:2], BOXES[:2])]
    for operation, (things, boxes, edit) in EDITS.items():
        fields = {
            "operation": operation,
            "source": "000001.webp",
            "changed": [],
            "removed": [],
            "relation": None,
        } | edit
        lines.append(record(f"000001_{operation}.webp", things, boxes, fields))
    shard = tmp_path / "shard-00000"
    shard.mkdir()
    for number, line in enumerate(lines):
        Image.fromarray(np.full((32, 32, 3), 40 * number, np.uint8)).save(shard / line["file"], "WEBP", lossless=True)
    (shard / "scenes.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return RenderedTasks(str(tmp_path))


def shade(image):
    return round(float(np.asarray(image).mean()) / 40)


def test_a_removal_leaves_everything_else_as_it_was(tasks):
    task = tasks.task("remove", 0)
    (operation,) = diff(task.source, task.target)
    assert isinstance(operation, Remove) and task.source.objects[operation.source] == "vase"
    assert task.changed == {"object 1"} and task.target.ids == ("object 0", "object 2")
    assert (shade(task.picture), shade(task.truth), task.reference) == (0, 2, None)


def test_an_addition_has_an_id_of_its_own(tasks):
    task = tasks.task("add", 0)
    assert task.source.ids == task.target.ids[:3] and task.changed == {task.target.ids[3]}
    assert any(isinstance(operation, Add) for operation in diff(task.source, task.target))


def test_a_relation_leaves_the_box_open_and_asks_for_one_triple(tasks):
    task = tasks.task("relation", 0)
    assert task.target.boxes == (None, (0.4, 0.2, 0.55, 0.5), tuple(BOXES[2]))  # no box but the moved one's differs
    assert [triple for triple in task.target.known_triples if 0 in triple[::2]] == [(2, "left of", 0)]
    assert task.truth_graph.boxes[0] == (0.8, 0.4, 1.0, 0.6)
    assert any(isinstance(operation, Move) for operation in diff(task.source, task.truth_graph))


def test_a_restyling_keeps_the_graph_and_names_the_picture_of_the_style(tasks):
    task = tasks.task("restyle", 0)
    assert task.source == task.target and not task.changed and shade(task.reference) == 1


def test_the_scenes_are_those_that_are_neither_edits_nor_show_a_style(tasks):
    assert tasks.count() == 1 and shade(tasks.picture(0)) == 0
    assert sorted(tasks.graph(0).boxes) == sorted(map(tuple, BOXES)) and set(tasks.graph(0, "none").boxes) == {None}


def test_what_the_folder_does_not_have_is_named(tasks):
    with pytest.raises(RenderedError, match="1 edits of the operation 'add', none numbered 1"):
        tasks.task("add", 1)
    with pytest.raises(RenderedError, match="1 scenes, none numbered 4"):
        tasks.picture(4)


def test_a_damaged_edit_is_named(tasks):
    index = next(iter(tasks._pictures)).with_name("scenes.jsonl")
    index.write_text(index.read_text().replace('"origin": [0, 2]', '"origin": [0, 7, 2]'))
    with pytest.raises(RenderedError, match="000001_remove.webp: the record of this edit is damaged"):
        RenderedTasks(tasks.folder).task("remove", 0)


def test_rendered_scenes_need_a_folder_and_drawn_ones_none(tmp_path):
    assert find_tasks("shapes") == DrawnTasks("shapes")
    with pytest.raises(UserError, match="--tasks"):
        find_tasks("rendered")
    with pytest.raises(UserError, match="drawn"):
        find_tasks("shapes", str(tmp_path))
