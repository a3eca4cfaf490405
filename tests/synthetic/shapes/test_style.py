"""Styles of backgrounds: which are one style, and distances with closed-form answers."""

import math

import pytest

from ldm.data.demo import DemoValidation
from ldm.graph.scene_graph import SceneGraph
from ldm.synthetic.shapes import (
    Background,
    StyleReading,
    graph_from_boxes,
    read_scene,
    render,
    same_style,
    style_distance,
    style_follows,
)

PALE = Background((205, 215, 225), (230, 220, 205), 0.7, "dots")
STYLE = StyleReading((200, 210, 220), ((0, 0, 0), (0, 0, 0)), "smooth", (0.0, 0.0, 0.0))
GRAPH = graph_from_boxes(["square"], [(0.1, 0.1, 0.5, 0.5)], [("large", "red", "striped")])


def style_of(background, graph: SceneGraph = GRAPH) -> StyleReading:
    return read_scene(render(graph, background)).style


def test_one_background_behind_different_objects_is_one_style():
    for number in range(10):
        graph, background = DemoValidation(10).scene(number)
        assert same_style(style_of(background), style_of(background, graph))


def test_another_texture_or_colour_is_another_style():
    assert not same_style(style_of(PALE), style_of(PALE._replace(texture="lines")))
    assert not same_style(style_of(PALE), style_of(PALE._replace(start=(200, 150, 160), end=(210, 160, 170))))


def test_style_distances_are_euclidean():
    other = StyleReading((203, 210, 224), ((0, 0, 6), (8, 0, 0)), "dots", (0.0, 0.1, 0.0))
    assert style_distance(STYLE, STYLE) == {"colour": 0, "texture": 0}
    assert style_distance(STYLE, other) == pytest.approx({"colour": 5, "texture": 0.1})


def test_style_follows_is_the_projection_onto_the_line_from_source_to_reference():
    def shares(style, end):
        follows = style_follows(style, STYLE, end)
        return follows["colour"], follows["texture"]

    end = STYLE._replace(mean=(100, 210, 120), strength=(0.0, 0.14, 0.0))
    middle = STYLE._replace(mean=(150, 210, 170), strength=(0.0, 0.07, 0.0))
    assert shares(STYLE, end) == (0, 0) and shares(end, end) == (1, 1)
    assert shares(middle, end) == pytest.approx((0.5, 0.5))
    aside = STYLE._replace(mean=(200, 250, 220))  # perpendicular to the line
    assert shares(aside, end) == (0, 0)
    assert all(math.isnan(share) for share in shares(end, STYLE))
