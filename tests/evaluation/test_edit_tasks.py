import math

import numpy as np
import pytest

from ldm.data.demo import DemoValidation
from ldm.evaluation.edit_tasks import OPERATIONS, changed_boxes, make_task
from ldm.evaluation.scene_changes import MIN_MOVE, SINGLE_OPERATIONS
from ldm.graph.diff import Add, ChangeAttribute, ChangeRelation, Move, Remove, Replace, Resize, diff
from ldm.graph.scene_graph import SceneGraph
from ldm.synthetic.readings import SceneReading
from ldm.synthetic.worlds import WORLDS
from ldm.util.errors import UserError
from ldm.util.processes import single_thread

KINDS = {"replace": Replace, "recolour": ChangeAttribute, "remove": Remove, "add": Add, "move": Move, "resize": Resize}
FIRST, COUNT = 5000, 6

every_world = pytest.mark.parametrize("scenes", sorted(WORLDS))
every_operation = pytest.mark.parametrize("operation", OPERATIONS)


@pytest.fixture(autouse=True)
def one_thread():
    with single_thread():
        yield


def make_tasks(scenes, operation):
    return [make_task(scenes, operation, FIRST + number) for number in range(COUNT)]


def from_back_to_front(source):
    """A source graph without triples, with its objects in the order of their ids, which are numbered from back to front."""
    order = sorted(range(len(source.objects)), key=lambda i: source.ids[i])
    fields = ([field[i] for i in order] for field in (source.objects, source.boxes, source.attributes))
    return SceneGraph(*fields, ids=[source.ids[i] for i in order])


@every_world
@every_operation
def test_a_task_does_not_depend_on_other_tasks(scenes, operation):
    alone, among_others = make_task(scenes, operation, FIRST + 2), make_tasks(scenes, operation)[2]
    assert alone == among_others and alone.picture.tobytes() == among_others.picture.tobytes()


@every_world
@every_operation
def test_the_source_graph_describes_a_held_out_scene_completely(scenes, operation):
    world = WORLDS[scenes]
    for task in make_tasks(scenes, operation):
        source = task.source
        assert all(source.boxes) and all(source.ids) and len(set(source.ids)) == len(source.ids)
        ordered = from_back_to_front(source)
        complete = world.graph_from_boxes(ordered.objects, ordered.boxes, ordered.attributes)
        assert world.find_ambiguity(complete) is None and len(complete.triples) == len(source.triples)
        assert task.picture.size == task.truth.size == (world.image_size,) * 2
    scene, background = DemoValidation(FIRST + 1, scenes=scenes).scene(FIRST)
    first = make_task(scenes, "remove", FIRST)
    assert sorted(first.source.boxes) == sorted(scene.boxes)
    assert first.picture.tobytes() == world.render(scene, background).tobytes()


@every_world
@every_operation
def test_the_truth_is_unambiguous_and_its_objects_differ_from_each_other(scenes, operation):
    for task in make_tasks(scenes, operation):
        graph = task.truth_graph
        assert WORLDS[scenes].find_ambiguity(graph) is None
        kinds = {(name, words[1]) for name, words in zip(graph.objects, graph.attributes)}
        assert len(kinds) == len(graph.objects) <= WORLDS[scenes].max_objects
        assert task.truth.tobytes() != task.picture.tobytes()


@every_world
@pytest.mark.parametrize("operation", SINGLE_OPERATIONS)
def test_a_single_operation_changes_one_object(scenes, operation):
    for task in make_tasks(scenes, operation):
        found = [op for op in diff(task.source, task.target) if "Relation" not in type(op).__name__]
        assert KINDS[operation] in map(type, found)
        touched = {task.source.ids[op.source] if hasattr(op, "source") else task.target.ids[op.target] for op in found}
        assert touched == task.changed and len(task.changed) == 1


@every_world
def test_two_operations_change_two_objects(scenes):
    for task in make_tasks(scenes, "two"):
        assert len(task.changed) == 2
        before, after = task.source.ids, task.target.ids
        for i, id in enumerate(before):
            j = after.index(id) if id in after else None
            unchanged = j is not None and all(
                getattr(task.source, field)[i] == getattr(task.target, field)[j]
                for field in ("objects", "boxes", "attributes")
            )
            assert unchanged == (id not in task.changed)
        assert set(after) - set(before) <= task.changed


@every_world
def test_a_moved_object_moves_by_a_minimal_distance(scenes):
    for task in make_tasks(scenes, "move"):
        (id,) = task.changed
        old, new = (graph.boxes[graph.ids.index(id)] for graph in (task.source, task.target))
        assert math.hypot(old[0] + old[2] - new[0] - new[2], old[1] + old[3] - new[1] - new[3]) / 2 >= MIN_MOVE


@every_world
def test_a_new_relation_leaves_the_box_open_and_does_not_hold_before(scenes):
    world = WORLDS[scenes]
    for task in make_tasks(scenes, "relation"):
        (id,) = task.changed
        moved = task.target.ids.index(id)
        assert [box is None for box in task.target.boxes] == [i == moved for i in range(len(task.target.objects))]
        (relation,) = [triple for triple in task.target.triples if moved in (triple[0], triple[2])]
        assert relation[1] in world.directions
        ends = [task.target.ids[relation[0]], task.target.ids[relation[2]]]
        operations = diff(task.source, task.target)
        assert [op for op in operations if isinstance(op, ChangeRelation) and op.target == relation]
        for graph, holds in ((from_back_to_front(task.source), False), (task.truth_graph, True)):
            subject, object = (graph.ids.index(end) for end in ends)
            assert world.triple_holds(SceneReading(graph), subject, relation[1], object) == holds
        others = [triple for triple in task.target.triples if moved not in (triple[0], triple[2])]
        assert set(others) <= set(task.source.triples)


@every_world
def test_a_restyle_keeps_the_graph_and_changes_the_background(scenes):
    for task in make_tasks(scenes, "restyle"):
        assert task.source == task.target and not task.changed and task.reference is not None
        pictures = (task.picture, task.truth, task.reference)
        world = WORLDS[scenes]
        before, after, wanted = (world.read_scene(picture).style for picture in pictures)
        assert world.same_style(after, wanted) and not world.same_style(before, wanted)
    assert make_task(scenes, "remove", FIRST).reference is None


@every_world
@pytest.mark.parametrize("operation", [operation for operation in OPERATIONS if operation != "restyle"])
def test_the_truth_equals_the_source_outside_the_changed_boxes(scenes, operation):
    for task in make_tasks(scenes, operation):
        before, after = (np.asarray(picture, int) for picture in (task.picture, task.truth))
        equal, size = (before == after).all(-1), len(before)
        for x0, y0, x1, y1 in changed_boxes(task, task.truth_graph):
            equal[math.floor(y0 * size) : math.ceil(y1 * size), math.floor(x0 * size) : math.ceil(x1 * size)] = True
        assert equal.all()
        assert 1 <= len(changed_boxes(task)) <= 4


def test_tasks_of_different_numbers_have_different_scenes():
    first, second = ([make_task("shapes", "move", i) for i in numbers] for numbers in (range(3), range(3, 6)))
    assert not {task.picture.tobytes() for task in first} & {task.picture.tobytes() for task in second}


def test_unknown_operations_and_scenes_are_refused():
    with pytest.raises(UserError, match="'remove'"):
        make_task("shapes", "remov", 0)
    with pytest.raises(UserError, match="'flowers'"):
        make_task("flowers", "remove", 0)
