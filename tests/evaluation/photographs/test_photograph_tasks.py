"""Edits of photographs as tasks: what changes, what stays, and what is refused."""

import json

import numpy as np
import pytest
from paths import SHARED
from photograph_files import EDITS, write_photographs

from ldm.evaluation.photographs.annotations import PhotographError, PhotographSplit
from ldm.evaluation.photographs.tasks import OPERATIONS, PhotographTasks
from ldm.evaluation.task_sources import find_judge, find_tasks
from ldm.graph.diff import Add, Move, Remove, Replace, Resize, diff
from ldm.util.errors import UserError

PHOTOS = SHARED / "photos"
EXPECTED = {"add": {Add}, "remove": {Remove}, "replace": {Replace}, "move": {Move}}


@pytest.fixture
def folder(tmp_path):
    return write_photographs(tmp_path)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_task_is_the_operation_and_nothing_else(folder, operation):
    source = find_tasks("photographs", str(folder))
    assert source.operations == OPERATIONS and source.count(operation) == 1 and source.count() == 4
    task = source.task(operation, 0)
    found = [step for step in diff(task.source, task.target) if type(step) in (Add, Remove, Replace, Move, Resize)]
    assert {type(step) for step in found} == EXPECTED[operation] and len(found) == 1
    assert task.operation == operation and len(task.changed) == 1 and task.truth_graph == task.target


@pytest.mark.parametrize("operation", OPERATIONS)
def test_pictures_are_equal_outside_of_the_changed_boxes(folder, operation):
    task = PhotographTasks(str(folder)).task(operation, 0)
    outside = np.ones((64, 64), bool)
    for graph in (task.source, task.target):
        for id, box in zip(graph.ids, graph.boxes):
            if id in task.changed:
                x0, y0, x1, y1 = (round(64 * edge) for edge in box)
                outside[y0:y1, x0:x1] = False
    before, after = np.asarray(task.picture), np.asarray(task.truth)
    assert np.array_equal(before[outside], after[outside]) and not np.array_equal(before, after)


@pytest.mark.parametrize(
    "operation, composed",
    [("add", (False, True)), ("remove", (True, False)), ("replace", (True, True)), ("move", (True, True))],
)
def test_a_task_says_which_pictures_are_composed(folder, operation, composed):
    assert PhotographTasks(str(folder)).task(operation, 0).composed == composed


def test_the_ground_is_an_object_that_holds_everything_and_stays(folder):
    task = PhotographTasks(str(folder)).task("move", 0)
    for graph in (task.source, task.target):
        assert graph.objects[-1] == "sand" and graph.boxes[-1] == (0, 0, 1, 1) and graph.ids[-1] == "ground"
        assert {(0, "inside", 2), (1, "inside", 2)} < set(graph.known_triples)
    assert "ground" not in task.changed


def test_relations_of_things_are_those_of_their_boxes(folder):
    task = PhotographTasks(str(folder)).task("move", 0)
    assert (0, "above", 1) in task.source.known_triples and (0, "left of", 1) in task.target.known_triples


def test_scenes_have_graphs_and_pictures_by_number(folder):
    source = PhotographTasks(str(folder))
    assert source.graph(1).objects == ("Rock", "Bolt", "sand") and source.graph(1, "none").boxes == (None,) * 3
    assert source.other_picture(3, 2).tobytes() == source.picture(1).tobytes()


def change(folder, kind, edit):
    path = folder / f"{kind}_val.json"
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    "kind, edit, message",
    [
        ("edits", lambda pairs: pairs[0].update(target=3), None),
        ("edits", lambda pairs: pairs[0].update(target=99), "target 99 is no image"),
        ("edits", lambda pairs: pairs[0].pop("kind"), "not a list of pairs"),
        ("edits", lambda pairs: pairs[3].update(target=3), "'move' says"),
        ("edits", lambda pairs: pairs[2].update(target=4), "'replace' says"),
        ("instances", lambda content: content.pop("categories"), "not in COCO's form"),
        ("instances", lambda content: content["annotations"][0].update(bbox=[1, 2]), "not in COCO's form"),
    ],
)
def test_damaged_files_and_pairs_that_do_something_else_are_errors(folder, kind, edit, message):
    change(folder, kind, edit)
    source = PhotographTasks(str(folder))
    if message is None:  # another thing is added, which is an 'add', too
        assert source.task("add", 0).target.objects == ("Rock", "Hammer", "sand")
        return
    with pytest.raises(PhotographError, match=message):
        for operation, *_ in EDITS:
            source.task(operation, 0)


def test_a_task_that_is_not_there_is_an_error(folder):
    with pytest.raises(PhotographError, match="has 1 edits of the operation 'add', none numbered 1"):
        PhotographTasks(str(folder)).task("add", 1)


def test_the_identity_depends_on_annotations_and_pairs(folder):
    before = PhotographTasks(str(folder)).identity()
    assert PhotographTasks(str(folder)).identity() == before
    change(folder, "edits", lambda pairs: pairs.pop())
    assert PhotographTasks(str(folder)).identity() != before


def test_photographs_need_a_folder_and_a_classifier():
    with pytest.raises(UserError, match="--scenes photographs.*--tasks"):
        find_tasks("photographs")
    with pytest.raises(UserError, match="--classifier.*train_crop_classifier"):
        find_judge("photographs").identity()
    with pytest.raises(UserError, match="there is no file nowhere.safetensors"):
        find_judge("photographs", "nowhere.safetensors").identity()
    with pytest.raises(UserError, match="--classifier judges photographs"):
        find_judge("shapes", "nowhere.safetensors")


@pytest.mark.skipif(
    not PHOTOS.is_dir(), reason="the prepared photographs are not beside the checkout (../shared/photos)"
)
def test_every_pair_of_the_prepared_photographs_is_a_task():
    source = PhotographTasks(str(PHOTOS))
    split = PhotographSplit(PHOTOS, "val")
    assert {operation: source.count(operation) for operation in OPERATIONS} == dict.fromkeys(OPERATIONS, 150)
    for operation in OPERATIONS:
        for number in range(0, 150, 37):
            task = source.task(operation, number)
            assert task.target.objects[-1] in ("concrete", "sand", "plaster", "floor")
            assert set(task.target.objects[:-1]) <= set(split.categories)
