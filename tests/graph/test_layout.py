"""Layouts of graphs without boxes: the checker verifies renderings of them, and the relations hold by the boxes."""

import itertools

import numpy as np
import pytest

from ldm.data.demo import DemoValidation
from ldm.graph.layout import COARSE, generate_layout
from ldm.graph.scene_graph import SceneGraph
from ldm.graph.spatial_relations import FAIR, KIND, UNAMBIGUOUS, relation_margin_holds
from ldm.synthetic import checker, shapes

FIRST = 100_000  # of the held-out scenes on which nothing was tuned
OVERLAPPING = ("inside", "in front of", "behind")


def overlap(a, b):
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def unrelated_overlaps(graph):
    """Pairs of objects that overlap without a relation that says so."""
    related = {frozenset((s, o)) for s, predicate, o in graph.triples if predicate in OVERLAPPING}
    pairs = itertools.combinations(range(len(graph.boxes)), 2)
    return [(i, j) for i, j in pairs if overlap(graph.boxes[i], graph.boxes[j]) and {i, j} not in related]


def is_within_image(box):
    return 0 <= box[0] < box[2] <= 1 and 0 <= box[1] < box[3] <= 1


def side(box):
    assert box[2] - box[0] == pytest.approx(box[3] - box[1])
    return box[2] - box[0]


# Synthetic scenes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("boxes", ["none", "part"])
def test_the_checker_finds_the_graphs_in_renderings_of_their_layouts(boxes):
    data = DemoValidation(FIRST + 100, boxes=boxes)
    passed = 0
    for index in range(FIRST, FIRST + 100):
        incomplete, background = data[index][1], data.scene(index)[1]
        graph, problems = generate_layout(incomplete, index)
        assert not problems and all(map(is_within_image, graph.boxes)), index
        order = shapes.back_to_front(graph)
        for s, predicate, o in graph.triples:
            in_front = order.index(s) > order.index(o)
            assert shapes.relation_holds(graph.boxes[s], predicate, graph.boxes[o], in_front, slack=0), (index, s, o)
        if boxes == "none":
            assert not unrelated_overlaps(graph), index
        else:
            assert all(old in (None, new) for old, new in zip(incomplete.boxes, graph.boxes)), index
        passed += checker.check(incomplete, shapes.render(graph, background)).passed
    assert passed >= 99


def test_boxes_have_the_positions_and_sizes_of_training_scenes():
    data = DemoValidation(FIRST + 30, boxes="none")
    for index in range(FIRST, FIRST + 30):
        graph, _ = generate_layout(data[index][1], index)
        for words, box in zip(graph.attributes, graph.boxes):
            assert all(float(COARSE * edge).is_integer() for edge in box), index
            size = next(word for word in words if word in shapes.SIDES)
            assert shapes.SIDES[size][0] <= round(shapes.CELLS * side(box)) <= shapes.SIDES[size][1]


# Seeds ----------------------------------------------------------------------------------------------------------------


PAIR = SceneGraph(("circle", "square"), (), (), ((0, "left of", 1),))


def test_equal_seeds_give_equal_layouts_and_different_seeds_different_ones():
    layouts = [generate_layout(PAIR, seed)[0].boxes for seed in range(20)]
    assert layouts == [generate_layout(PAIR, seed)[0].boxes for seed in range(20)]
    assert len(set(layouts)) >= 18
    assert all(circle[2] <= square[0] for circle, square in layouts)


def test_any_integer_is_a_seed():
    assert all(generate_layout(PAIR, seed)[0].boxes for seed in (-1, 0, 2**63, 10**30))


# Known boxes ----------------------------------------------------------------------------------------------------------


def test_a_graph_with_all_boxes_is_returned_unchanged():
    graph = SceneGraph(("circle", "square"), ((0, 0, 0.5, 0.5), (0.2, 0.2, 0.7, 0.7)), (), ((0, "right of", 1),))
    assert generate_layout(graph, 0) == (graph, "")


def test_a_layout_changes_nothing_but_missing_boxes():
    graph = SceneGraph(
        ("circle", "square"),
        (None, (0.1, 0.1, 0.3, 0.3)),
        (("red",), ()),
        ((0, "near", 1),),
        ("a", None),
        "picture.png",
    )
    layout, _ = generate_layout(graph, 0)
    assert layout == SceneGraph(graph.objects, layout.boxes, graph.attributes, graph.triples, graph.ids, graph.image)
    assert layout.boxes[1] == graph.boxes[1] and layout.boxes[0] is not None


def test_known_boxes_off_the_grid_stay_and_nothing_overlaps_them():
    known = (0.413, 0.377, 0.649, 0.561)
    graph = SceneGraph(
        ("square",) + ("circle",) * 3, (known, None, None, None), (), [(i, "near", 0) for i in (1, 2, 3)]
    )
    for seed in range(10):
        layout, problems = generate_layout(graph, seed)
        assert layout.boxes[0] == known and not unrelated_overlaps(layout) and not problems


def test_any_object_may_overlap_the_background():
    sky = (0.0, 0.0, 1.0, 1.0)
    layout, problems = generate_layout(SceneGraph(("sky", "bird", "sun"), (sky, None, None)), 0)
    assert not problems and not overlap(*layout.boxes[1:])


# Relations ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("predicate", sorted(KIND))
def test_every_spatial_predicate_holds_visibly(predicate):
    graph, kind = SceneGraph(("man", "house"), (), (), ((0, predicate, 1),)), KIND[predicate]
    for seed in range(5):
        layout, problems = generate_layout(graph, seed)
        level = (
            UNAMBIGUOUS if kind in ("front", "behind") else FAIR
        )  # the coarse grid has few clearer positions in front
        assert relation_margin_holds(kind, *map(np.array, layout.boxes), level) and not problems
        assert overlap(*layout.boxes) or kind not in ("inside", "around", "front", "behind")


def test_a_predicate_that_is_not_spatial_has_no_effect():
    graph = SceneGraph(("man", "house"), (), (), ((0, "admiring", 1),))
    boxes = [generate_layout(graph, seed)[0].boxes for seed in range(40)]
    assert not any(overlap(*pair) for pair in boxes)
    assert len({(man[0] < house[0], man[1] < house[1]) for man, house in boxes}) == 4
    assert boxes == [generate_layout(SceneGraph(("man", "house")), seed)[0].boxes for seed in range(40)]


def test_an_object_in_front_leaves_both_visible():
    graph = SceneGraph(("circle",) * 2, (), (("small",), ("large",)), ((0, "behind", 1),))
    for seed in range(20):
        (x0, y0, x1, y1), (u0, v0, u1, v1) = generate_layout(graph, seed)[0].boxes
        shared = (min(x1, u1) - max(x0, u0)) * (min(y1, v1) - max(y0, v0))
        assert 0.25 <= shared / (x1 - x0) ** 2 <= 0.5


def test_the_only_arrangement_of_a_crowded_graph_is_found():
    """Four of 6 cells beside and above each other fill 13 of 16; greedy placement would fail."""
    objects = ("square",) * 4
    triples = ((0, "left of", 1), (2, "left of", 3), (0, "above", 2), (1, "above", 3))
    for seed in range(20):
        layout, problems = generate_layout(SceneGraph(objects, (), (("large",),) * 4, triples), seed)
        assert not problems and not unrelated_overlaps(layout)
        left, top = ([box[axis] for box in layout.boxes] for axis in (0, 1))
        assert max(left[0], left[2]) < min(left[1], left[3]) and max(top[0], top[1]) < min(top[2], top[3])


def test_a_contradiction_violates_one_relation_which_the_warning_names():
    cycle = ((0, "left of", 1), (1, "left of", 2), (2, "left of", 0))
    graph = SceneGraph(("ball", "box", "cone", "cube"), (), (), (*cycle, (3, "above", 0)))
    for seed in range(5):
        layout, problems = generate_layout(graph, seed)
        centres = [(box[0] + box[2]) / 2 for box in layout.boxes]
        assert sum(centres[s] < centres[o] for s, _, o in cycle) == 2
        assert layout.boxes[3][3] <= layout.boxes[0][1] and not unrelated_overlaps(layout)
        assert problems.count("left of") == 1
        assert "'ball'" in problems or "'box'" in problems


def test_relations_that_known_boxes_violate_are_not_reported():
    boxes = ((0.0, 0.0, 0.25, 0.25), (0.5, 0.0, 0.75, 0.25), None)
    _, problems = generate_layout(SceneGraph(("a", "b", "c"), boxes, (), ((0, "right of", 1), (2, "below", 1))), 0)
    assert problems == ""


# Numbers of objects ---------------------------------------------------------------------------------------------------


def test_a_single_object_lies_anywhere_in_the_image():
    boxes = [generate_layout(SceneGraph(("sheep",)), seed)[0].boxes[0] for seed in range(30)]
    assert all(map(is_within_image, boxes)) and len(set(boxes)) > 15


@pytest.mark.parametrize("predicate", ["admiring", "next to"])
def test_thirty_objects_shrink_until_none_overlap(predicate):
    graph = SceneGraph(("sheep",) * 30, (), (), [(i, predicate, i + 1) for i in range(0, 29, 2)])
    layout, problems = generate_layout(graph, 1)
    assert not problems and not unrelated_overlaps(layout) and all(map(is_within_image, layout.boxes))
    assert min(map(side, layout.boxes)) >= 0.05
