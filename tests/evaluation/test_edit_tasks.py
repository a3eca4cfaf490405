import math

import numpy as np
import pytest

from ldm.data.demo import DemoValidation
from ldm.evaluation.edit_tasks import DIRECTIONS, FARTHER, MOST, OPERATIONS, SINGLE, changed_boxes, task
from ldm.graph.diff import Add, ChangeAttribute, ChangeRelation, Move, Remove, Replace, Resize, diff
from ldm.synthetic.checker import read_scene, same_style
from ldm.synthetic.worlds import SCENES
from ldm.util.errors import UserError
from ldm.util.processes import single_thread

KINDS = {"replace": Replace, "recolour": ChangeAttribute, "remove": Remove, "add": Add, "move": Move, "resize": Resize}
OFFSET, COUNT = 5000, 6

every_world = pytest.mark.parametrize("scenes", sorted(SCENES))
every_operation = pytest.mark.parametrize("operation", OPERATIONS)


@pytest.fixture(autouse=True)
def alone():
    with single_thread():
        yield


def several(scenes, operation):
    return [task(scenes, operation, OFFSET + number) for number in range(COUNT)]


@every_world
@every_operation
def test_a_task_is_the_same_whenever_and_with_whatever_others_it_is_made(scenes, operation):
    alone, among = task(scenes, operation, OFFSET + 2), several(scenes, operation)[2]
    assert alone == among and alone.picture.tobytes() == among.picture.tobytes()


@every_world
@every_operation
def test_the_source_is_a_held_out_scene_told_whole(scenes, operation):
    world = SCENES[scenes]
    for one in several(scenes, operation):
        source = one.source
        assert all(source.boxes) and all(source.ids) and len(set(source.ids)) == len(source.ids)
        order = sorted(range(len(source.objects)), key=lambda i: source.ids[i])  # ids are numbered from back to front
        complete = world.graph_from_boxes(*([f[i] for i in order] for f in (source.objects, source.boxes, source.attributes)))
        assert world.find_ambiguity(complete) is None and len(complete.triples) == len(source.triples)
        assert one.picture.size == one.truth.size == (world.IMAGE_SIZE,) * 2
    scene, background = DemoValidation(OFFSET + 1, scenes=scenes).scene(OFFSET)
    first = task(scenes, "remove", OFFSET)
    assert sorted(first.source.boxes) == sorted(scene.boxes)
    assert first.picture.tobytes() == world.render(scene, background).tobytes()


@every_world
@every_operation
def test_the_truth_is_legible_and_no_two_objects_are_alike(scenes, operation):
    for one in several(scenes, operation):
        shown = one.shown
        assert SCENES[scenes].find_ambiguity(shown) is None
        kinds = {(name, words[1]) for name, words in zip(shown.objects, shown.attributes)}
        assert len(kinds) == len(shown.objects) <= MOST[scenes]
        assert one.truth.tobytes() != one.picture.tobytes()


@every_world
@pytest.mark.parametrize("operation", SINGLE)
def test_one_object_changes_as_the_operation_says(scenes, operation):
    for one in several(scenes, operation):
        found = [op for op in diff(one.source, one.target) if "Relation" not in type(op).__name__]
        assert KINDS[operation] in map(type, found)
        touched = {one.source.ids[op.source] if hasattr(op, "source") else one.target.ids[op.target] for op in found}
        assert touched == one.changed and len(one.changed) == 1


@every_world
def test_two_operations_change_two_objects(scenes):
    for one in several(scenes, "two"):
        assert len(one.changed) == 2
        ids, after = one.source.ids, one.target.ids
        for i, id in enumerate(ids):
            there = after.index(id) if id in after else None
            same = there is not None and all(
                getattr(one.source, what)[i] == getattr(one.target, what)[there]
                for what in ("objects", "boxes", "attributes")
            )
            assert same == (id not in one.changed)
        assert set(after) - set(ids) <= one.changed


@every_world
def test_a_moved_object_goes_far_enough_to_be_seen_elsewhere(scenes):
    for one in several(scenes, "move"):
        (id,) = one.changed
        old, new = (graph.boxes[graph.ids.index(id)] for graph in (one.source, one.target))
        assert math.hypot(old[0] + old[2] - new[0] - new[2], old[1] + old[3] - new[1] - new[3]) / 2 >= FARTHER


@every_world
def test_a_relation_is_changed_without_saying_where_to_and_does_not_hold_before(scenes):
    world = SCENES[scenes]
    for one in several(scenes, "relation"):
        (id,) = one.changed
        moved = one.target.ids.index(id)
        assert [box is None for box in one.target.boxes] == [i == moved for i in range(len(one.target.objects))]
        (claim,) = [triple for triple in one.target.triples if moved in (triple[0], triple[2])]
        assert claim[1] in DIRECTIONS[scenes]
        ends = [one.target.ids[claim[0]], one.target.ids[claim[2]]]
        assert [op for op in diff(one.source, one.target) if isinstance(op, ChangeRelation) and op.target == claim]
        boxes = [one.source.boxes[one.source.ids.index(end)] for end in ends]
        assert not world.relation_holds(boxes[0], claim[1], boxes[1], ends[0] > ends[1])
        boxes = [one.shown.boxes[one.shown.ids.index(end)] for end in ends]
        assert world.relation_holds(boxes[0], claim[1], boxes[1], one.shown.ids.index(ends[0]) > one.shown.ids.index(ends[1]))
        others = [triple for triple in one.target.triples if moved not in (triple[0], triple[2])]
        assert set(others) <= set(one.source.triples)


@every_world
def test_a_restyle_keeps_the_graph_and_shows_another_background(scenes):
    for one in several(scenes, "restyle"):
        assert one.source == one.target and not one.changed and one.reference is not None
        before, after, wanted = (read_scene(scenes, picture).look for picture in (one.picture, one.truth, one.reference))
        assert same_style(after, wanted) and not same_style(before, wanted)
    assert task(scenes, "remove", OFFSET).reference is None


@every_world
@pytest.mark.parametrize("operation", [operation for operation in OPERATIONS if operation != "restyle"])
def test_nothing_changes_outside_the_changed_boxes(scenes, operation):
    for one in several(scenes, operation):
        pixels, other = (np.asarray(picture, int) for picture in (one.picture, one.truth))
        same, size = (pixels == other).all(-1), len(pixels)
        for x0, y0, x1, y1 in changed_boxes(one, one.shown):
            same[math.floor(y0 * size) : math.ceil(y1 * size), math.floor(x0 * size) : math.ceil(x1 * size)] = True
        assert same.all()
        assert 1 <= len(changed_boxes(one)) <= 4


def test_other_numbers_give_other_scenes():
    here, there = ([task("shapes", "move", number) for number in numbers] for numbers in (range(3), range(3, 6)))
    assert not {a.picture.tobytes() for a in here} & {b.picture.tobytes() for b in there}


def test_what_there_is_not_is_refused_in_a_sentence():
    with pytest.raises(UserError, match="did you mean 'remove'"):
        task("shapes", "remov", 0)
    with pytest.raises(UserError, match="scenes 'flowers'"):
        task("flowers", "remove", 0)
