"""Sizes of objects without a box."""

import numpy as np
import pytest

from ldm.graph.layout import generate_layout
from ldm.graph.object_sizes import choose_sizes, expected_size
from ldm.graph.scene_graph import SceneGraph


def test_an_object_has_the_size_of_similar_ones_or_else_that_of_its_size_word():
    box = (0.0, 0.0, 0.125, 0.1875)
    names, boxes = ("sheep", "sheep", "sheep", "cow", "cow"), (box, None, None, None, None)
    graph = SceneGraph(names, boxes, ((), (), ("large",), ("small",), ()))
    assert [expected_size(i, graph.objects, graph.attributes, graph.boxes) is None for i in range(5)] == [False] * 4 + [
        True
    ]
    assert choose_sizes(graph)[:4].tolist() == [[0.125, 0.1875]] * 2 + [[0.375, 0.375], [0.25, 0.25]]


def test_containers_are_larger_than_their_contents():
    nested = SceneGraph(("man", "car", "garage"), (), (), ((0, "in", 1), (2, "contains", 1)))
    man, car, garage = choose_sizes(nested)[:, 0]
    assert man < car < garage <= 1
    in_known_box = SceneGraph(("man", "car"), (None, (0.1, 0.1, 0.3, 0.4)), (), ((0, "in", 1),))
    assert choose_sizes(in_known_box)[0].max() < 0.2


def test_objects_are_smaller_the_more_there_are():
    assert choose_sizes(SceneGraph(("bird",) * 2))[0, 0] > choose_sizes(SceneGraph(("bird",) * 20))[0, 0]


@pytest.mark.parametrize("side", [0.9, 0.97, 1.0])
def test_a_container_as_large_as_the_image_does_not_exceed_it(side):
    """Its size is that of an equal object, and it has to grow for its content."""
    boxes = ((0.0, 0.0, side, side), None, (0.0, 0.0, 0.9, 0.9))
    graph = SceneGraph(("house", "house", "car"), boxes, (), ((2, "in", 1),))
    assert (choose_sizes(graph) <= 1).all()
    layout, _ = generate_layout(graph, 0)
    assert np.subtract(layout.boxes[1][2:], layout.boxes[1][:2]).max() <= 1
