"""Differences of graphs: the operations are those that made the edit."""

import itertools

from graph_examples import repeatable
from hypothesis import assume, given
from hypothesis import strategies as st

from ldm.graph.diff import (
    Add,
    AddRelation,
    ChangeAttribute,
    ChangeRelation,
    Move,
    Remove,
    RemoveRelation,
    Replace,
    Resize,
    diff,
)
from ldm.graph.graph_files import read_graphs
from ldm.graph.scene_graph import SceneGraph

A, B, C, D = (0.1, 0.1, 0.3, 0.3), (0.6, 0.1, 0.9, 0.4), (0.1, 0.6, 0.3, 0.9), (0.6, 0.6, 0.9, 0.9)
CELLS = [(x / 4, y / 4, (x + 1) / 4, (y + 1) / 4) for x in range(4) for y in range(4)]
WORDS = ["sheep", "grass", "sky", "horse", "tree", "boat", "man", "car", "kite", "dog", "hill", "road"]


def sentences(a, b):
    return [str(operation) for operation in diff(a, b)]


def draw_triples(draw, count):
    index = st.integers(0, count - 1)
    triples = st.tuples(index, st.sampled_from(["on", "above", "has"]), index).filter(lambda t: t[0] != t[2])
    return draw(st.lists(triples, max_size=8)) if count > 1 else []


@st.composite
def any_graph(draw):
    """A graph with few names, so that several objects are similar."""
    count = draw(st.integers(1, 7))

    def draw_per_object(values):
        return draw(st.lists(values, min_size=count, max_size=count))

    ids = draw(st.permutations([f"id {i}" for i in range(9)]))[:count]
    return SceneGraph(
        draw_per_object(st.sampled_from(["sheep", "grass", "sky"])),
        draw_per_object(st.none() | st.sampled_from([A, B, C, D])),
        draw_per_object(st.lists(st.sampled_from(["red", "big"]), max_size=2)),
        draw_triples(draw, count),
        [i if draw(st.booleans()) else None for i in ids],
    )


@st.composite
def clear_graph(draw):
    """A graph in which all names or all boxes differ, so that an edit has only one explanation."""
    count = draw(st.integers(3, 8))
    if draw(st.booleans()):
        names = draw(st.permutations(WORDS))[:count]
        boxes = draw(st.sampled_from([(), tuple(CELLS[:count])]))
    else:
        names, boxes = ["sheep"] * count, draw(st.permutations(CELLS))[:count]
    return SceneGraph(names, boxes, triples=draw_triples(draw, count))


def remove_object(graph, removed):
    index = {old: new for new, old in enumerate(i for i in range(len(graph.objects)) if i != removed)}
    return SceneGraph(
        [graph.objects[i] for i in index],
        [graph.boxes[i] for i in index],
        triples=[(index[s], p, index[o]) for s, p, o in graph.triples if removed not in (s, o)],
    )


def insert_object(graph, place, name, box=None, relation=None):
    index = [i + (i >= place) for i in range(len(graph.objects))]
    triples = [(index[s], p, index[o]) for s, p, o in graph.triples]
    if relation is not None:
        triples.insert(0, (place, "inside", index[relation]))
    return SceneGraph(
        [*graph.objects[:place], name, *graph.objects[place:]],
        [*graph.boxes[:place], box, *graph.boxes[place:]],
        triples=triples,
    )


def rename_object(graph, index, name):
    objects = [name if i == index else old for i, old in enumerate(graph.objects)]
    return SceneGraph(objects, graph.boxes, graph.attributes, graph.triples)


# Properties -----------------------------------------------------------------------------------------------------------


@repeatable
@given(any_graph())
def test_a_graph_does_not_differ_from_itself(graph):
    assert diff(graph, graph) == []


@repeatable
@given(any_graph(), any_graph())
def test_every_object_is_matched_removed_or_added(a, b):
    operations = diff(a, b)
    removed = [o.source for o in operations if isinstance(o, Remove)]
    added = [o.target for o in operations if isinstance(o, Add)]
    assert len(set(removed)) == len(removed) and len(set(added)) == len(added)
    assert len(a.objects) - len(removed) == len(b.objects) - len(added)
    for i, j in itertools.product(range(len(a.objects)), range(len(b.objects))):
        if a.ids[i] is not None and a.ids[i] == b.ids[j]:
            assert i not in removed and j not in added
    for operation in operations:
        assert set(operation.boxes) <= {box for box in a.boxes + b.boxes if box is not None}
        assert len(set(operation.boxes)) == len(operation.boxes)
        assert str(operation).split()[0] in ("replace", "remove", "add", "move", "make", "change")


@repeatable
@given(clear_graph(), st.data())
def test_deleting_an_object_is_one_removal(graph, data):
    removed = data.draw(st.integers(0, len(graph.objects) - 1))
    boxes = () if graph.boxes[removed] is None else (graph.boxes[removed],)
    assert diff(graph, remove_object(graph, removed)) == [Remove(removed, graph.objects[removed], boxes)]


@repeatable
@given(clear_graph(), st.data())
def test_inserting_an_object_with_a_relation_adds_both(graph, data):
    place = data.draw(st.integers(0, len(graph.objects)))
    neighbour = data.draw(st.integers(0, len(graph.objects) - 1))
    edited = insert_object(graph, place, "zebra", A, neighbour)
    there = neighbour + (neighbour >= place)
    add, relation = diff(graph, edited)
    assert add == Add(place, "zebra", (A,))
    assert isinstance(relation, AddRelation) and relation.target == (place, "inside", there)


@repeatable
@given(clear_graph(), st.data())
def test_renaming_an_object_is_one_replacement(graph, data):
    index = data.draw(st.integers(0, len(graph.objects) - 1))
    boxes = () if graph.boxes[index] is None else (graph.boxes[index],)
    assert diff(graph, rename_object(graph, index, "zebra")) == [
        Replace(index, index, graph.objects[index], "zebra", boxes)
    ]


@repeatable
@given(clear_graph(), st.data())
def test_deleting_one_object_and_renaming_another_are_distinguished(graph, data):
    removed, other = data.draw(st.permutations(range(len(graph.objects))))[:2]
    assume(graph.boxes[0] is not None or abs(removed - other) > 1)  # of two neighbours, either may be removed
    operations = diff(graph, remove_object(rename_object(graph, other, "zebra"), removed))
    kinds = {(type(o), o.source) for o in operations}
    assert kinds == {(Remove, removed), (Replace, other)}


@repeatable
@given(clear_graph(), st.data())
def test_changing_a_predicate_is_one_change_of_a_relation(graph, data):
    assume(graph.triples)
    s, predicate, o = data.draw(st.sampled_from(graph.triples))
    triples = [(s, "beside", o) if t == (s, predicate, o) else t for t in graph.triples]
    (change,) = diff(graph, SceneGraph(graph.objects, graph.boxes, triples=triples))
    assert isinstance(change, ChangeRelation)
    assert (change.source, change.target) == ((s, predicate, o), (s, "beside", o))


@repeatable
@given(clear_graph(), st.data())
def test_the_order_of_objects_and_triples_is_no_difference(graph, data):
    order = data.draw(st.permutations(range(len(graph.objects))))
    back = {old: new for new, old in enumerate(order)}
    triples = [(back[s], p, back[o]) for s, p, o in data.draw(st.permutations(graph.triples))]
    objects, boxes = ([values[i] for i in order] for values in (graph.objects, graph.boxes))
    assert diff(graph, SceneGraph(objects, boxes, triples=triples)) == []


@repeatable
@given(st.integers(2, 6), st.data())
def test_ids_match_objects_that_have_nothing_else_in_common(count, data):
    order = data.draw(st.permutations(range(count)))
    ids = [f"id {i}" for i in range(count)]
    a = SceneGraph(WORDS[:count], CELLS[:count], ids=ids)
    b = SceneGraph(WORDS[-count:], CELLS[-count:], ids=[ids[i] for i in order])
    pairs = {(o.source, o.target) for o in diff(a, b) if isinstance(o, Replace)}
    assert pairs == {(old, new) for new, old in enumerate(order)}


def test_objects_with_different_ids_do_not_match():
    a, b = (SceneGraph(("sheep",), (A,), ids=(i,)) for i in "ab")
    assert diff(a, b) == [Remove(0, "sheep", (A,)), Add(0, "sheep", (A,))]


# Known answers --------------------------------------------------------------------------------------------------------


def test_the_published_series_of_edits_is_described_step_by_step(realdata):
    graphs = read_graphs(realdata / "scene_graphs" / "google_sg2im" / "figure_6_sheep.json")
    assert [sentences(a, b) for a, b in itertools.pairwise(graphs)] == [
        ["replace 'zebra' (object 2) by 'sheep'"],
        ["add 'sheep' (object 3 of the edited graph)",
         "add the relation 'sheep' by 'sheep' (objects 3 and 2 of the edited graph)"],
        ["add 'tree' (object 4 of the edited graph)",
         "add the relation 'tree' behind 'sheep' (objects 4 and 2 of the edited graph)"],
        ["add 'ocean' (object 5 of the edited graph)",
         "add the relation 'ocean' by 'tree' (objects 5 and 4 of the edited graph)"],
        ["add 'boat' (object 6 of the edited graph)",
         "add the relation 'boat' in 'ocean' (objects 6 and 5 of the edited graph)"],
        ["remove the relation 'boat' in 'ocean' (objects 6 and 5)",
         "add the relation 'boat' on 'grass' (objects 6 and 1 of the edited graph)"],
    ]  # fmt: skip


def test_sentences_about_boxes_say_in_which_direction_and_how_far():
    graph = SceneGraph(("circle",), (A,), (("red",),))
    moved = SceneGraph(("circle",), ((0.3, 0.0, 0.5, 0.2),), (("red",),))
    assert diff(graph, moved) == [Move(0, 0, "red circle", (A, moved.boxes[0]))]
    assert sentences(graph, moved) == ["move 'red circle' (object 0) right by 0.20 and up by 0.10"]
    assert sentences(moved, graph) == ["move 'red circle' (object 0) left by 0.20 and down by 0.10"]
    grown = SceneGraph(("circle",), ((0.0, 0.1, 0.4, 0.3),), (("red",),))
    assert diff(graph, grown) == [Resize(0, 0, "red circle", (A, grown.boxes[0]))]
    assert sentences(graph, grown) == ["make 'red circle' (object 0) wider by 0.20"]
    assert sentences(grown, graph) == ["make 'red circle' (object 0) narrower by 0.20"]
    taller = SceneGraph(("circle",), ((0.1, 0.1, 0.3, 0.305),), (("red",),))
    assert sentences(graph, taller) == [
        "move 'red circle' (object 0) down by 0.003",
        "make 'red circle' (object 0) taller by 0.005",
    ]


def test_a_box_that_one_graph_lacks_or_that_was_rounded_makes_no_difference():
    known, unknown = SceneGraph(("sheep", "sky"), (A, B)), SceneGraph(("sheep", "sky"), (A, None))
    assert diff(known, unknown) == diff(unknown, known) == []
    assert diff(known, SceneGraph(("sheep", "sky"), ((0.1004, 0.0996, 0.3, 0.3), B))) == []


def test_changed_attributes_are_removed_and_added():
    def circle(*attributes):
        return SceneGraph(("circle",), (A,), (attributes,))

    assert diff(circle("red", "big"), circle("big", "blue")) == [
        ChangeAttribute(0, 0, "red big circle", ("red",), ("blue",), (A,))
    ]
    assert sentences(circle("red"), circle("blue")) == ["make 'red circle' (object 0) blue instead of red"]
    assert sentences(circle(), circle("blue", "big")) == ["make 'circle' (object 0) blue and big"]
    assert sentences(circle("red"), circle()) == ["make 'red circle' (object 0) no longer red"]
    assert diff(circle("red", "big"), circle("big", "red")) == []


def test_a_relation_between_the_same_objects_is_changed_removed_or_added():
    objects, boxes = ("man", "horse"), (A, B)
    riding, leading, none = (SceneGraph(objects, boxes, (), t) for t in ([(0, "riding", 1)], [(0, "leading", 1)], ()))
    assert diff(riding, leading) == [ChangeRelation((0, "riding", 1), (0, "leading", 1), ("man", "horse"), (A, B))]
    assert diff(riding, none) == [RemoveRelation((0, "riding", 1), ("man", "horse"), (A, B))]
    assert diff(none, riding) == [AddRelation((0, "riding", 1), ("man", "horse"), (A, B))]
    assert sentences(riding, leading) + sentences(riding, none) + sentences(none, riding) == [
        "change the relation 'man' riding 'horse' (objects 0 and 1) to 'leading'",
        "remove the relation 'man' riding 'horse' (objects 0 and 1)",
        "add the relation 'man' riding 'horse' (objects 0 and 1 of the edited graph)",
    ]
    twice = SceneGraph(objects, boxes, (), [(0, "riding", 1), (0, "riding", 1)])
    assert diff(riding, twice) == diff(twice, riding) == []


def test_another_object_is_a_replacement_only_in_the_same_place():
    graph = SceneGraph(("sky", "sheep"), (A, B))
    near, far = (0.62, 0.1, 0.95, 0.45), C
    replaced = diff(graph, SceneGraph(("sky", "horse"), (A, near)))
    assert replaced[0] == Replace(1, 1, "sheep", "horse", (B, near))
    assert {type(o) for o in replaced[1:]} == {Move, Resize}
    assert diff(graph, SceneGraph(("sky", "horse"), (A, far))) == [Remove(1, "sheep", (B,)), Add(1, "horse", (far,))]


def test_without_boxes_another_object_is_a_replacement_only_in_the_same_order():
    a, b = SceneGraph(("sky", "cloud", "grass", "tree")), SceneGraph(("sky", "grass", "tree", "boat"))
    assert diff(a, b) == [Remove(1, "cloud", ()), Add(3, "boat", ())]
    assert diff(a, SceneGraph(("sky", "boat", "grass", "tree"))) == [Replace(1, 1, "cloud", "boat", ())]


def test_boxes_whose_area_underflows_are_compared():
    dot = (0.0, 0.0, 1e-200, 1e-200)
    graph = SceneGraph(("sheep", "sheep"), (dot, (0.0, 0.0, 1e-200, 2e-200)))
    assert diff(graph, graph) == []


def test_two_objects_that_swap_places_both_move():
    a, b = SceneGraph(("circle", "square"), (A, D)), SceneGraph(("circle", "square"), (D, A))
    assert [type(o) for o in diff(a, b) if not isinstance(o, Resize)] == [Move, Move]


def test_of_two_equal_objects_the_one_whose_box_or_neighbour_is_missing_is_removed():
    a = SceneGraph(("sheep", "sheep", "grass"), (A, B, None))
    assert diff(a, SceneGraph(("sheep", "grass"), (B, None))) == [Remove(0, "sheep", (A,))]
    a = SceneGraph(("sheep", "sheep", "grass", "hill"), triples=[(0, "on", 2), (1, "behind", 3)])
    b = SceneGraph(("sheep", "grass", "hill"), triples=[(0, "behind", 2)])
    assert diff(a, b) == [Remove(0, "sheep", ())]


def test_renaming_all_objects_of_a_large_graph_matches_them_in_order():
    count = 40
    triples = [(i, "on", (3 * i + 1) % count) for i in range(count) if i != (3 * i + 1) % count]
    a, b = (SceneGraph([f"{word} {i % 7}" for i in range(count)], triples=triples) for word in ("old", "new"))
    assert [(o.source, o.target) for o in diff(a, b)] == [(i, i) for i in range(count)]
