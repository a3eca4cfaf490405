"""A known floor: positions by a camera's projection, and places that are chosen on it."""

import math

import numpy as np
import pytest

from ldm.graph.diff import diff
from ldm.graph.perspective import FOCAL_LENGTH, Floor
from ldm.graph.placement import place_objects
from ldm.graph.scene_graph import SceneGraph

FLOOR = Floor(horizon=-0.1, far=0.5, near=0.85)
HEIGHT, TILT = 1.0, math.atan(0.6 / FOCAL_LENGTH)  # of the camera that sees this horizon


def project(right, away, up=0.0):
    """Image coordinates of a point by a pinhole camera at HEIGHT, looking down by TILT."""
    below = HEIGHT - up
    depth = away * math.cos(TILT) + below * math.sin(TILT)
    down = below * math.cos(TILT) - away * math.sin(TILT)
    return 0.5 + FOCAL_LENGTH * right / depth, 0.5 + FOCAL_LENGTH * down / depth


def box_of(right, away, width=0.3, height=0.3):
    """The box of an upright card that stands on the floor."""
    x0, foot = project(right - width / 2, away)
    x1, _ = project(right + width / 2, away)
    return x0, project(right, away, height)[1], x1, foot


def distances(first, second):
    boxes = np.array([first, second])
    positions = FLOOR.positions(boxes, boxes[:, 3])
    return (positions[0] - positions[1]) * HEIGHT / math.cos(TILT)


@pytest.mark.parametrize(
    "first, second", [((0.1, 1.5), (-0.3, 1.5)), ((0.2, 1.9), (0.2, 1.3)), ((-0.3, 2.0), (0.3, 1.4))]
)
def test_floor_positions_differ_as_the_camera_saw_them(first, second):
    expected = np.subtract(first, second)
    np.testing.assert_allclose(distances(box_of(*first), box_of(*second)), expected, atol=1e-6)


def test_a_thing_twice_as_far_below_the_horizon_looks_twice_as_large():
    assert FLOOR.scale(0.5, np.array(1.1)) == pytest.approx(2)


def relation_edit(predicate, support=None):
    objects, boxes = ("cup", "table"), (box_of(0.0, 1.6, 0.2, 0.2), box_of(0.0, 1.6, 0.5, 0.2))
    if support:
        boxes = ((0.45, boxes[1][1] - 0.1, 0.55, boxes[1][1] + 0.02), boxes[1])
    source = SceneGraph(objects, boxes, ((), ()), ((0, support, 1),) if support else ())
    target = SceneGraph(objects, (None, boxes[1]), ((), ()), ((0, predicate, 1),))
    graph, _ = place_objects(source, target, diff(source, target), 1 / 64, FLOOR)
    return source.boxes[0], graph.boxes[0], boxes[1]


@pytest.mark.parametrize("predicate, axis, sign", [("left of", 0, -1), ("right of", 0, 1), ("behind", 1, 1)])
def test_what_stood_on_another_thing_is_placed_on_the_floor_beside_it(predicate, axis, sign):
    old, new, table = relation_edit(predicate, "on")
    assert FLOOR.far <= new[3] <= FLOOR.near
    assert sign * distances(new, table)[axis] > 0.3
    growth = (new[3] - FLOOR.horizon) / (table[3] - FLOOR.horizon)
    assert new[3] - new[1] == pytest.approx(growth * (old[3] - old[1]))


def test_places_that_are_chosen_stay_between_the_ends_of_the_floor():
    for predicate in ("left of", "right of", "behind"):
        assert FLOOR.far <= relation_edit(predicate)[1][3] <= FLOOR.near
