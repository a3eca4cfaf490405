"""Plans: which places are chosen for objects, and which options are used where none are given."""

import pytest
from PIL import Image
from tiny import tiny_model

from ldm.editing.options import DEFAULT_GUIDANCE, GLOBAL_METHOD, LOCAL_METHOD, EditOptions, EditRequest
from ldm.editing.plan import make_plan, understand
from ldm.graph.scene_graph import SceneGraph
from ldm.util.errors import UserError

BOXES = ((0.1, 0.4, 0.3, 0.6), (0.4, 0.4, 0.6, 0.6))
BEFORE = SceneGraph(("circle", "square"), BOXES, (("red",), ("blue",)), ((0, "left of", 1),))
AFTER = SceneGraph(("circle", "square"), (None, BOXES[1]), (("red",), ("blue",)), ((0, "right of", 1),))
PHOTOGRAPH = Image.new("RGB", (32, 32))


def test_a_new_relation_moves_its_subject_to_where_it_holds_and_says_so():
    operations, graph, placement = understand(BEFORE, AFTER)
    assert "red circle" in placement and "right of" in placement
    assert graph.boxes[0][0] >= graph.boxes[1][2] and graph.boxes[1] == BOXES[1]
    assert [type(operation).__name__ for operation in operations] == ["Move", "ChangeRelation"]


def test_without_a_source_graph_there_are_no_operations():
    assert understand(None, AFTER) == ([], AFTER, "")


def test_what_the_edited_graph_leaves_out_is_kept():
    moved = SceneGraph(("circle", "square"), ((0.1, 0.1, 0.3, 0.3), BOXES[1]))
    operations, graph, _ = understand(BEFORE, moved)
    assert [type(operation).__name__ for operation in operations] == ["Move"]
    assert (graph.attributes, graph.triples) == (BEFORE.attributes, BEFORE.triples)
    beyond = SceneGraph(("circle", "square"), ((0.7, 0.4, 0.9, 0.6), BOXES[1]))
    operations, graph, _ = understand(BEFORE, beyond)
    assert [type(operation).__name__ for operation in operations] == ["Move", "RemoveRelation"] and graph.triples == ()


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.mark.parametrize(
    "request_, options, everywhere",
    [
        (EditRequest(PHOTOGRAPH, AFTER, BEFORE), {}, False),
        (EditRequest(PHOTOGRAPH, AFTER, BEFORE, mask=PHOTOGRAPH), {}, False),
        (EditRequest(PHOTOGRAPH, AFTER, mask=PHOTOGRAPH), {}, False),
        (EditRequest(PHOTOGRAPH, AFTER, BEFORE), {"region": "none"}, True),
        (EditRequest(PHOTOGRAPH, AFTER, BEFORE, style=PHOTOGRAPH), {}, True),
        (EditRequest(PHOTOGRAPH, AFTER), {}, True),
    ],
)
def test_the_default_method_depends_on_whether_everything_may_change(model, request_, options, everywhere):
    plan = make_plan(request_, EditOptions(**options), model)
    assert plan.everywhere == everywhere
    assert plan.options.method == (GLOBAL_METHOD if everywhere else LOCAL_METHOD)
    assert not plan.changes_nothing
    assert [name for name, value in plan.options.as_dict().items() if value is None] == ["floor", "steer_peak"]


def test_graphs_that_say_nothing_of_attributes_and_relations_change_nothing(model):
    bare = SceneGraph(BEFORE.objects, BEFORE.boxes)
    for source, edited in ((BEFORE, bare), (bare, BEFORE)):
        plan = make_plan(EditRequest(PHOTOGRAPH, edited, source), EditOptions(), model)
        assert plan.changes_nothing and plan.graph == plan.source_graph == BEFORE


def test_options_that_are_given_are_kept(model):
    options = EditOptions(
        method="direct",
        sampler="ddim",
        steps=7,
        text_scale=2.5,
        graph_scale=1.5,
        style_scale=3.0,
        passes=2,
        margin=0.5,
        feather=0.0,
        reach=(0.0, 0.1, 0.2, 0.3),
        spare=0.5,
        floor=(-0.1, 0.5, 0.9),
    )
    plan = make_plan(EditRequest(PHOTOGRAPH, AFTER, BEFORE, style=PHOTOGRAPH), options, model)
    assert plan.options == options


def test_a_models_own_defaults_stand_where_no_option_is_given():
    request = EditRequest(PHOTOGRAPH, AFTER, BEFORE)
    model = tiny_model(edit_defaults={"reach": [1.25, 0, 1.25, 0.25], "steps": 7})
    options = make_plan(request, EditOptions(steps=9), model).options
    assert (options.reach, options.steps, options.margin) == ((1.25, 0, 1.25, 0.25), 9, 1.0)


@pytest.mark.parametrize(
    "defaults, word", [({"reech": 1}, "'reach'"), ({"seed": 1}, "seed"), ({"steps": "many"}, "steps takes")]
)
def test_unknown_and_fixed_defaults_of_a_model_are_refused(defaults, word):
    model = tiny_model(edit_defaults=defaults)
    with pytest.raises(UserError, match=f"edit_defaults: .*{word}"):
        make_plan(EditRequest(PHOTOGRAPH, AFTER, BEFORE), EditOptions(), model)


def test_untouched_objects_are_those_that_no_operation_changes(model):
    moved = SceneGraph(BEFORE.objects, ((0.1, 0.1, 0.3, 0.3), BOXES[1]))
    plan = make_plan(EditRequest(PHOTOGRAPH, moved, BEFORE), EditOptions(), model)
    assert plan.untouched_boxes == [BOXES[1]]


def test_guidance_is_the_default_for_models_trained_with_dropout_alone(model):
    request = EditRequest(PHOTOGRAPH, AFTER, BEFORE)
    without = tiny_model(graph_drop=0.0, style_drop=0.0)
    scales = [make_plan(request, EditOptions(), m).options.graph_scale for m in (model, without)]
    assert scales == [DEFAULT_GUIDANCE, 1.0]


def test_attention_is_needed_for_objects_without_a_box_within_a_region(model):
    bare = SceneGraph(("circle", "square")), SceneGraph(("circle", "triangle"))
    assert make_plan(EditRequest(PHOTOGRAPH, bare[1], bare[0]), EditOptions(), model).needs_attention
    assert not make_plan(EditRequest(PHOTOGRAPH, bare[1], bare[0]), EditOptions(region="none"), model).needs_attention
    assert not make_plan(EditRequest(PHOTOGRAPH, AFTER, BEFORE), EditOptions(), model).needs_attention
