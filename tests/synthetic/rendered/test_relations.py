"""Spatial relations of rendered things, against closed forms."""

import math

import pytest

from ldm.synthetic.rendered.relations import (
    CONVERSE,
    complete_graph,
    floor_position,
    holds,
    relation_between,
    triples_of,
)
from ldm.synthetic.rendered.scenes import Camera, Scene, Style
from ldm.synthetic.rendered.things import VOCAB, Thing

FRONT = Camera((0.0, -5.0, 2.0), (0.0, 0.0, 0.5), 46.0, 5.0, 1.0)
STYLE = Style("oak", "cream", "studio", "left")


def vase(x: float, y: float, **fields) -> Thing:
    return Thing("vase", "small", "red", None, x, y, **fields)


def scene(*things: Thing, camera: Camera = FRONT) -> Scene:
    return Scene(0, things, camera, STYLE)


def test_a_camera_in_front_sees_x_to_the_right_and_y_away():
    assert floor_position(vase(0.7, 1.5), FRONT) == pytest.approx((0.7, 6.5))


@pytest.mark.parametrize("angle", [-1.0, 0.3, 2.0])
def test_floor_positions_turn_with_the_camera(angle):
    cosine, sine = math.cos(angle), math.sin(angle)

    def turned(x: float, y: float) -> tuple[float, float]:
        return x * cosine - y * sine, x * sine + y * cosine

    camera = FRONT._replace(location=(*turned(0.0, -5.0), 2.0))
    assert floor_position(vase(*turned(0.7, 1.5)), camera) == pytest.approx((0.7, 6.5))


@pytest.mark.parametrize(
    ("right", "away", "relation"),
    [
        (0.5, 0.4, "right of"),
        (-0.5, 0.4, "left of"),
        (0.4, 0.5, "behind"),
        (0.4, -0.5, "in front of"),
        (0.44, -0.44, None),
        (0.46, 0.0, "right of"),
        (0.9, 0.9, "right of"),
    ],
)
def test_the_larger_difference_is_the_relation_and_small_ones_are_none(right, away, relation):
    assert relation_between((1 + right, 2 + away), (1, 2)) == relation


def test_relations_from_the_other_thing_are_converse():
    for angle in range(0, 360, 7):
        place = math.cos(math.radians(angle + 0.5)), math.sin(math.radians(angle + 0.5))
        assert relation_between((0, 0), place) == CONVERSE[relation_between(place, (0, 0))]


def test_every_true_relation_holds_whether_or_not_it_is_the_larger_one():
    assert [word for word in CONVERSE if holds((2.0, 2.5), word, (1.0, 2.0))] == ["right of", "behind"]
    assert not holds((1.4, 2.0), "right of", (1.0, 2.0))
    assert holds((1.4, 2.0), "right of", (1.0, 2.0), slack=0.06)


def test_a_thing_on_another_one_has_that_relation_and_no_other():
    things = (vase(0, 0), vase(0, 0, z=1.0, support=0, relation="on"), vase(1.0, 0.2))
    assert triples_of(scene(*things)) == [(1, "on", 0), (2, "right of", 0)]


def test_a_support_may_come_after_what_it_holds():
    things = (vase(0, 0, support=1, relation="inside"), vase(0, 0), vase(0.1, -1))
    assert triples_of(scene(*things)) == [(0, "inside", 1), (2, "in front of", 1)]


def test_a_complete_graph_has_names_words_boxes_and_triples_of_the_vocabulary():
    boxes = [(0.1, 0.2, 0.3, 0.4), (0.5, 0.5, 0.7, 0.8)]
    graph = complete_graph(scene(vase(0, 0), Thing("cube", "large", None, "marble", 0, 1)), boxes)
    assert graph.objects == ("vase", "cube") and graph.boxes == tuple(boxes)
    assert graph.attributes == (("small", "red"), ("large", "marble"))
    assert graph.triples == ((1, "behind", 0),)
    assert all(predicate in VOCAB.predicates for _, predicate, _ in graph.triples)
