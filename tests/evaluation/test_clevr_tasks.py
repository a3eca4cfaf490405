"""CLEVR's pictures and their edits, on scenes whose camera is known, read by a reader that makes no errors but those asked for."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from clevr_shards import CAMERA, SIDE, SOLIDS, differs, write_shard
from PIL import Image

from ldm.data.clevr import ClevrError
from ldm.evaluation.clevr_pictures import ClevrPictures, reading_shares
from ldm.evaluation.clevr_tasks import ClevrJudge, ClevrTasks
from ldm.evaluation.edit_benchmark import measure
from ldm.evaluation.editors import EditResult, answer, needs_truth, truth
from ldm.evaluation.task_sources import find_judge, find_tasks
from ldm.synthetic.readings import SceneReading
from ldm.synthetic.rendered.clevr_files import project
from ldm.synthetic.rendered.decoding import Detection
from ldm.synthetic.rendered.detector import Detector, save_detector
from ldm.synthetic.rendered.vocabulary import CLEVR
from ldm.synthetic.rendered.world import ClevrWorld
from ldm.util.errors import UserError


def reading_of(graph, places) -> SceneReading:
    """The reading of a picture that shows this graph, with relations by places."""
    things = tuple(
        Detection(kind, words[0], *words[1:], box, place, None, None, 1.0)
        for kind, words, box, place in zip(graph.objects, graph.attributes, graph.boxes, places)
    )
    return SceneReading(graph, evidence=things)


def shown(scene, objects) -> SceneReading:
    return reading_of(scene.graph(objects), [each.place for each in objects])


@pytest.fixture
def folder(tmp_path):
    write_shard(tmp_path / "val", SOLIDS, SOLIDS[:2])
    return tmp_path


@pytest.fixture
def tasks(folder, tmp_path, monkeypatch):
    """The tasks of the folder; the reader says cyan where the file says gray, and reads whatever is in `tasks.readings`."""
    weights = tmp_path / "checker.safetensors"
    save_detector(Detector(0.125, CLEVR), weights)
    found = ClevrTasks(str(folder), str(weights))
    readings = {}
    for scene in ClevrPictures(folder).scenes:
        objects = [each._replace(colour=each.colour.replace("gray", "cyan")) for each in scene.objects]
        readings[scene.picture().tobytes()] = shown(scene, objects)
    monkeypatch.setattr(ClevrWorld, "read_scene", lambda self, picture: readings[picture.tobytes()])
    return found, readings, ClevrJudge(str(weights))


# Pictures ------------------------------------------------------------------------------------------------------------


def test_the_camera_is_found_from_where_objects_are_seen(folder):
    camera = ClevrPictures(folder).scenes[0].camera
    length, flat = math.hypot(*CAMERA.location), math.hypot(*CAMERA.location[:2])
    assert camera == pytest.approx((flat / length, CAMERA.location[2] / length, length, 0), abs=1e-3)


def test_an_object_elsewhere_is_seen_where_the_generators_camera_sees_it(folder):
    scene = ClevrPictures(folder).scenes[0]
    x, y, half = 1.0, -2.0, 0.35
    place = (x * scene.right[0] + y * scene.right[1], x * scene.away[0] + y * scene.away[1])
    expected = project(np.array([(x, y, half)]), CAMERA, SIDE)[0] / (SIDE, SIDE, 1)
    assert scene.camera.pixel(place, half) == pytest.approx(expected, abs=1e-3)
    assert scene.placed(scene.objects[0], place, half).pixel == pytest.approx(expected, abs=1e-3)


def test_a_wide_picture_becomes_a_square_that_the_same_camera_took(folder, tmp_path):
    scene, wide = ClevrPictures(folder).scenes[0], tmp_path / "wide" / "images"
    wide.mkdir(parents=True)
    entry = json.loads((folder / "val" / "CLEVR_scenes.json").read_text())["scenes"][0]
    cut = scene.picture().crop((0, 24, SIDE, SIDE - 24))  # as wide as before, of 80 rows
    cut.save(wide / "one.png")
    for each in entry["objects"]:
        each["pixel_coords"][1] -= 24
    (wide.parent / "CLEVR_scenes.json").write_text(json.dumps({"scenes": [entry | {"image_filename": "one.png"}]}))
    (other,) = ClevrPictures(wide.parent).scenes
    for one, two in zip(scene.objects, other.objects):
        assert other.box(two) == pytest.approx(scene.box(one), abs=1e-3)
    assert not differs(other.picture(), scene.picture())[24:-24].any()


def test_the_share_of_what_is_read_right_is_that_of_the_file(tasks, folder):
    shares = reading_shares(ClevrPictures(folder), ClevrWorld())
    # Five objects in two scenes; the one that is gray is read as cyan.
    assert shares.pop("colour") == 0.8 and shares.pop("exact") == 0.5
    assert (shares.pop("scenes"), shares.pop("objects")) == (2, 5)
    assert all(value == 1 for value in shares.values())


def test_a_folder_without_scenes_or_places_is_an_error_in_one_sentence(folder, tmp_path):
    (tmp_path / "none").mkdir()
    with pytest.raises(ClevrError, match=r"has no CLEVR_scenes\.json"):
        _ = ClevrPictures(tmp_path / "none").scenes
    path = folder / "val" / "CLEVR_scenes.json"
    data = json.loads(path.read_text())
    del data["scenes"][1]["directions"]["behind"]
    path.write_text(json.dumps(data))
    with pytest.raises(ClevrError, match="scene 1 lacks places or directions"):
        _ = ClevrPictures(folder).scenes


def test_boxes_of_the_real_pictures_lie_on_what_differs_from_the_floor(realdata):
    """Objects are more colourful than CLEVR's grey floor."""
    inside, outside = [], []
    for scene in ClevrPictures(realdata / "clevr").scenes:
        pixels = np.asarray(scene.picture(), float)
        colourful = np.ptp(pixels, axis=-1) > 20
        covered = np.zeros(colourful.shape, bool)
        for item in scene.objects:
            x0, y0, x1, y1 = (round(SIDE * edge) for edge in scene.box(item))
            covered[y0:y1, x0:x1] = True
        inside.append(colourful[covered].mean())
        outside.append(colourful[~covered].mean())
    assert len(inside) == 25 and np.mean(inside) > 0.5 and np.mean(outside) < 0.02


# Edits ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("operation", ["replace", "recolour", "remove", "add", "move", "resize"])
def test_an_edit_changes_what_its_operation_says_and_nothing_else(tasks, operation):
    source = tasks[0]
    count = source.count(operation)
    assert count > 0
    for index in range(count):
        task = source.task(operation, index)
        before, after = (
            {id: (name, words, box) for id, name, words, box in zip(g.ids, g.objects, g.attributes, g.boxes)}
            for g in (task.source, task.target)
        )
        (changed,) = task.changed
        differing = {id for id in before.keys() | after.keys() if before.get(id) != after.get(id)}
        assert differing == {changed}
        old, new = before.get(changed), after.get(changed)
        assert (old is None, new is None) == (operation == "add", operation == "remove")
        if old and new:
            same = old[0] == new[0], old[1][0] == new[1][0], old[1][1:] == new[1][1:], old[2] == new[2]
            assert (
                same
                == {
                    "replace": (False, True, True, False),
                    "recolour": (True, True, False, True),
                    "move": (True, True, True, False),
                    "resize": (True, False, True, False),
                }[operation]
            )
        assert task.truth is None and "cyan" in task.source.attributes[-1] or len(before) == 2
        assert all(0 <= edge <= 1 for box in task.target.boxes for edge in box)
    with pytest.raises(UserError, match=f"none numbered {count}"):
        source.task(operation, count)


def test_an_object_that_the_reader_takes_for_another_kind_is_not_edited(tasks, folder):
    source, readings, _ = tasks
    scene = ClevrPictures(folder).scenes[0]
    wrong = [scene.objects[0]._replace(kind="cube"), *scene.objects[1:]]
    readings[scene.picture().tobytes()] = shown(scene, wrong)
    changed = {tuple(source.task("remove", index).changed) for index in range(source.count("remove"))}
    assert source.count("remove") == 2 + 2 and ("object 0",) in changed  # of the second scene
    with_three = [source.task("remove", i) for i in range(4)]
    assert {*(id for task in with_three if len(task.source.ids) == 3 for id in task.changed)} == {
        "object 1",
        "object 2",
    }


def test_tasks_depend_on_the_checker(tasks, folder, tmp_path):
    other = tmp_path / "other.safetensors"
    save_detector(Detector(0.125, CLEVR), other)
    assert ClevrTasks(str(folder), str(other)).identity() != tasks[0].identity()


# Verdicts ------------------------------------------------------------------------------------------------------------


def edited(tasks, operation, number=0, change=lambda objects: objects):
    """A task, and the judgement of a picture that shows its target, changed."""
    source, readings, judge = tasks
    known, turn = source._turns[operation][number]
    image = Image.new("RGB", (SIDE, SIDE), (number, 1, 2))
    readings[image.tobytes()] = shown(known.scene, change([item for _, item in turn.objects]))
    task = source.task(operation, number)
    return task, image, judge


@pytest.mark.parametrize("operation", ["replace", "recolour", "remove", "add", "move", "resize"])
def test_a_picture_that_shows_the_target_is_right_and_the_source_is_wrong(tasks, operation):
    task, image, judge = edited(tasks, operation)
    row = judge.judge(task, image).row
    assert row["success"] and row["changed"] and row["intact"]
    assert row["of_untouched"] == len(set(task.source.ids) - task.changed)
    row = judge.judge(task, task.picture).row
    assert not row["success"] and not row["changed"] and row["intact"]


def test_an_object_that_became_another_is_a_fault_unless_the_reader_took_it_for_that_before(tasks, folder):
    scene = ClevrPictures(folder).scenes[0]

    def as_cube(objects):
        return [objects[0]._replace(kind="cube"), *objects[1:]]

    numbers = [n for n, (known, turn) in enumerate(tasks[0]._turns["recolour"]) if turn.changed != "object 0"]
    number = next(n for n in numbers if len(tasks[0].task("recolour", n).source.ids) == 3)
    task, image, judge = edited(tasks, "recolour", number, as_cube)
    row = judge.judge(task, image).row
    assert row["changed"] and not row["intact"] and not row["success"] and row["untouched"] == row["of_untouched"] - 1
    tasks[1][scene.picture().tobytes()] = shown(scene, as_cube(list(scene.objects)))
    assert judge.judge(task, image).row["success"] and judge.judge(task, image).row["of_untouched"] == 1


def test_one_more_object_is_a_fault(tasks):
    task, image, judge = edited(tasks, "remove", 0, lambda objects: [*objects, objects[0]._replace(kind="cylinder")])
    assert not judge.judge(task, image).row["success"]


def test_the_benchmark_measures_an_edit_without_a_true_result(tasks):
    task, image, judge = edited(tasks, "recolour")
    row, _ = measure(task, lambda task: EditResult(image, 1), judge=judge)
    assert row["success"] and "truth_psnr" not in row and row["psnr"] is not None
    for editor in (truth, answer):
        with pytest.raises(UserError, match="nobody knows"):
            editor(None, task)
    assert needs_truth("truth") and needs_truth("answer") and not needs_truth("edit:steps=3")


def test_the_folder_and_the_checker_are_asked_for_in_one_sentence(folder):
    with pytest.raises(UserError, match="--tasks"):
        find_tasks("clevr")
    with pytest.raises(UserError, match="--checker"):
        find_tasks("clevr", str(folder)).identity()
    with pytest.raises(UserError, match="--checker"):
        find_judge("clevr").identity()
    assert Path(find_tasks("clevr", str(folder), "c").folder) == folder
