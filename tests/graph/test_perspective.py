"""Perspective of scenes on a floor."""

import pytest

from ldm.graph.perspective import shows_floor, size_growth
from ldm.graph.scene_graph import SceneGraph


def standing(side, foot, growth, x=0.5):
    """A square box; `side` is its side at a foot of 0.6."""
    side *= 1 + growth * (foot - 0.6)
    return x - side / 2, foot - side, x + side / 2, foot


def test_a_floor_shows_in_objects_apart_of_which_those_in_front_stand_lower():
    far, near, overlapping = (standing(0.2, foot, 0, x) for foot, x in ((0.4, 0.2), (0.7, 0.8), (0.5, 0.7)))

    def floor(front, back):
        graphs = [
            SceneGraph(("a", "b"), (front, back), (), (triple,)) for triple in ((0, "in front of", 1), (1, "behind", 0))
        ]
        first, second = map(shows_floor, graphs)
        assert first is second
        return first

    assert floor(near, far) is True
    assert floor(far, near) is False
    assert floor(near, overlapping) is None
    assert shows_floor(SceneGraph(("a", "b"), (near, far))) is False


def test_size_growth_is_the_slope_of_sizes_that_are_linear_in_the_feet():
    """Only objects of equal name or size word are compared."""
    background = (0, 0, 0.9, 0.2)
    sizes_and_feet = ((0.1, 0.4), (0.1, 0.8), (0.3, 0.5), (0.3, 0.7))
    boxes = [*(standing(side, foot, 0.5) for side, foot in sizes_and_feet), background]
    assert size_growth(SceneGraph(["man", "man", "car", "car", "sky"], boxes)) == pytest.approx(0.5)
    assert size_growth(SceneGraph(["a", "b", "c", "d", "sky"], boxes)) == 0
    words = [["small"], ["small"], ["large"], ["large"], []]
    assert size_growth(SceneGraph(["a", "b", "c", "d", "sky"], boxes, words)) == pytest.approx(0.5)
