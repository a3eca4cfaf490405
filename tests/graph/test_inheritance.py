"""What one of two graphs does not say is as in the other one, and no change."""

from dataclasses import replace

from graph_examples import graphs, repeatable
from hypothesis import given
from hypothesis import strategies as st

from ldm.graph.diff import AddRelation, ChangeAttribute, Remove, RemoveRelation, Replace, diff
from ldm.graph.inheritance import drop_contradicted, share_known
from ldm.graph.scene_graph import SceneGraph

LEFT, RIGHT, LOW = (0.1, 0.1, 0.3, 0.3), (0.6, 0.1, 0.9, 0.4), (0.1, 0.6, 0.3, 0.9)
FULL = SceneGraph(("circle", "square"), (LEFT, RIGHT), (("red",), ("blue", "large")), ((0, "left of", 1),))
TWO = SceneGraph(("circle", "square"), (LEFT, RIGHT))


def test_keys_that_either_graph_leaves_out_are_no_change():
    for less in (TWO, replace(TWO, attributes=FULL.attributes), replace(TWO, triples=FULL.triples)):
        assert diff(FULL, less) == diff(less, FULL) == []
        assert share_known(FULL, less) == share_known(less, FULL) == (FULL, FULL)


def test_empty_lists_are_changes():
    plain = replace(TWO, attributes=((), ()), triples=())
    assert {type(operation) for operation in diff(FULL, plain)} == {ChangeAttribute, RemoveRelation}
    assert {type(operation) for operation in diff(plain, FULL)} == {ChangeAttribute, AddRelation}


def test_objects_may_be_unknown_one_by_one():
    edited = replace(FULL, attributes=(None, ("green",)))
    (change,) = diff(FULL, edited)
    assert (change.source, change.old, change.new) == (1, ("blue", "large"), ("green",))
    assert share_known(FULL, edited)[1].attributes == (("red",), ("green",))


def test_a_replaced_object_does_not_inherit_the_attributes_of_the_old_one():
    edited = SceneGraph(("triangle", "square"), (LEFT, RIGHT))
    assert diff(FULL, edited) == [Replace(0, 0, "red circle", "triangle", (LEFT,))]
    assert share_known(FULL, edited)[1] == replace(
        edited, attributes=(None, ("blue", "large")), triples=((0, "left of", 1),)
    )
    assert share_known(edited, FULL)[0].attributes[0] is None


def test_relations_of_removed_objects_are_not_inherited():
    edited = SceneGraph(("square",), (RIGHT,))
    assert diff(FULL, edited) == [Remove(0, "red circle", (LEFT,))]
    assert share_known(FULL, edited)[1].triples == ()


def test_relations_of_an_added_object_are_new_even_if_the_source_graph_says_nothing_of_relations():
    edited = SceneGraph(("circle", "square", "star"), (LEFT, RIGHT, LOW), triples=((0, "left of", 1), (2, "below", 0)))
    relations = [operation for operation in diff(TWO, edited) if isinstance(operation, AddRelation)]
    assert [operation.target for operation in relations] == [(2, "below", 0)]


def test_relations_that_new_boxes_contradict_are_dropped():
    assert drop_contradicted(FULL, replace(FULL, boxes=(RIGHT, LEFT))).triples == ()
    assert drop_contradicted(FULL, replace(FULL, boxes=(LOW, RIGHT))) == replace(FULL, boxes=(LOW, RIGHT))
    wrong_before = replace(FULL, triples=((1, "left of", 0),))
    assert drop_contradicted(wrong_before, wrong_before) == wrong_before
    assert drop_contradicted(FULL, TWO) == TWO


@repeatable
@given(graphs(), st.booleans(), st.data())
def test_leaving_out_any_part_of_a_graph_changes_nothing(graph, relations, data):
    keep = data.draw(st.lists(st.booleans(), min_size=len(graph.objects), max_size=len(graph.objects)))
    ids = tuple(f"id {i}" for i in range(len(graph.objects)))
    graph = replace(graph, ids=ids)
    less = replace(
        graph,
        attributes=tuple(names if kept else None for names, kept in zip(graph.attributes, keep)),
        triples=graph.triples if relations else None,
    )
    assert diff(graph, less) == diff(less, graph) == []
    assert share_known(graph, less) == share_known(less, graph) == (graph, graph)
