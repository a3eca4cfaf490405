"""Random graphs of shapes, and the meaning of their predicates."""

import pytest

from ldm.data.demo import DemoValidation
from ldm.graph.scene_graph import SceneGraph
from ldm.synthetic.shapes import (
    CELLS,
    COLOURS,
    CONVERSE,
    DIAGONAL_MARGIN,
    FILLS,
    SHAPES,
    SIDES,
    TEXTURES,
    VOCAB,
    back_to_front,
    find_ambiguity,
    graph_from_boxes,
    main_relation,
    relation_holds,
)

SCENES = [DemoValidation(200).scene(index) for index in range(200)]


def box(x, y, side) -> tuple[float, ...]:
    return x / CELLS, y / CELLS, (x + side) / CELLS, (y + side) / CELLS


def test_random_scenes_use_all_words_within_the_stated_limits():
    counts, words = set(), set()
    for graph, _ in SCENES:
        counts.add(len(graph.objects))
        kinds = {(shape, attributes[1]) for shape, attributes in zip(graph.objects, graph.attributes)}
        assert len(kinds) == len(graph.objects)
        for index, (x0, y0, x1, y1) in enumerate(graph.boxes):
            size, colour, fill = graph.attributes[index]
            words |= {size, colour, fill, graph.objects[index]}
            shortest, longest = SIDES[size]
            assert shortest <= CELLS * (x1 - x0) <= longest and x1 - x0 == y1 - y0
            assert 0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1
        assert find_ambiguity(graph) is None
        graph.validate(VOCAB)
    assert counts == {2, 3, 4, 5}
    assert words == {*SHAPES, *SIDES, *COLOURS, *FILLS}
    assert {background.texture for _, background in SCENES} == set(TEXTURES)


def test_random_scenes_have_every_predicate_and_pairs_without_one():
    predicates, unrelated_pairs = set(), 0
    for graph, _ in SCENES:
        predicates |= {predicate for _, predicate, _ in graph.triples}
        count = len(graph.objects)
        assert len({frozenset((subject, object)) for subject, _, object in graph.triples}) == len(graph.triples)
        unrelated_pairs += count * (count - 1) // 2 - len(graph.triples)
    assert predicates == set(VOCAB.predicates[1:]) - {"behind"} and unrelated_pairs


@pytest.mark.parametrize(
    "front, back, predicate",
    [
        (box(10, 10, 16), box(8, 8, 26), "inside"),
        (box(8, 8, 16), box(8, 8, 26), "inside"),
        (box(8, 8, 26), box(10, 10, 16), "in front of"),
        (box(20, 10, 16), box(8, 8, 26), "in front of"),
        (box(2, 10, 16), box(40, 12, 16), "left of"),
        (box(40, 12, 16), box(2, 10, 16), "right of"),
        (box(12, 2, 16), box(10, 40, 16), "above"),
        (box(10, 40, 16), box(12, 2, 16), "below"),
        (box(0, 0, 16), box(30, 30, 16), None),
        (box(0, 0, 16), box(30, 30 - DIAGONAL_MARGIN, 16), "left of"),
        (box(0, 0, 16), box(30, 31 - DIAGONAL_MARGIN, 16), None),
        (box(0, 0, 16), box(16, 0, 16), "left of"),
    ],
)
def test_main_relation_follows_the_stated_rules(front, back, predicate):
    assert main_relation(front, back) == predicate


def test_every_triple_of_a_graph_holds_and_so_does_its_converse():
    for graph, _ in SCENES:
        for subject, predicate, object in graph.triples:
            a, b = graph.boxes[subject], graph.boxes[object]
            assert relation_holds(a, predicate, b, subject > object, slack=0)
            if predicate in CONVERSE:
                assert relation_holds(b, CONVERSE[predicate], a, object > subject, slack=0)
                assert not relation_holds(b, predicate, a, object > subject)


def test_of_two_overlapping_shapes_one_may_also_be_left_of_the_other():
    a, b = box(0, 0, 16), box(10, 2, 16)
    assert relation_holds(a, "left of", b, False) and relation_holds(a, "behind", b, False)
    assert relation_holds(a, "in front of", b, True) and not relation_holds(a, "in front of", b, False)
    assert not relation_holds(a, "right of", b, True)


def test_the_drawing_order_follows_the_triples_and_then_the_list():
    graph = SceneGraph(("circle",) * 4, triples=((0, "in front of", 2), (1, "behind", 0), (3, "left of", 0)))
    assert back_to_front(graph) == [1, 2, 0, 3]
    assert back_to_front(SceneGraph(("circle",) * 3)) == [0, 1, 2]
    cycle = SceneGraph(("circle",) * 2, triples=((0, "in front of", 1), (1, "in front of", 0)))
    assert sorted(back_to_front(cycle)) == [0, 1]


def scene(*objects) -> SceneGraph:
    shapes, boxes, attributes = zip(*objects)
    return graph_from_boxes(shapes, boxes, attributes)


RED, BLUE = ("large", "red", "plain"), ("small", "blue", "plain")


@pytest.mark.parametrize(
    "graph, reason",
    [
        (scene(("square", box(4, 4, 24), RED), ("circle", box(40, 40, 16), BLUE)), None),
        (scene(("square", box(4, 4, 24), RED), ("circle", box(8, 8, 16), BLUE)), None),
        (scene(("square", box(4, 4, 24), RED), ("circle", box(8, 8, 24), ("large", "blue", "plain"))), "hidden"),
        (scene(("square", box(4, 4, 24), RED), ("circle", box(27, 27, 16), BLUE)), "neither"),
        (scene(("square", box(4, 4, 24), RED), ("circle", box(8, 8, 16), ("small", "red", "plain"))), "colour"),
        (scene(("square", box(4, 4, 16), RED)), "size"),
        (SceneGraph(("square",), ((0.1, 0.1, 0.475, 0.5),), (RED,)), "size"),
        (SceneGraph(("square",), ((0.75, 0.1, 1.0, 0.35),), (("small", "red"),)), None),
    ],
)
def test_find_ambiguity_gives_the_reason(graph, reason):
    assert find_ambiguity(graph) is None if reason is None else reason in find_ambiguity(graph)
