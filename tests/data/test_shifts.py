"""Shifted pictures: boxes lie on what they lay on, all of it stays inside, and every place is reached."""

import random

import pytest
import torch

from ldm.data.shifts import shift_within
from ldm.graph.scene_graph import SceneGraph
from ldm.synthetic.checker import check
from ldm.synthetic.worlds import WORLDS
from ldm.util.images import to_image, to_tensor

SIZE = 16


def picture(*boxes):
    """A picture (3,16,16) of zeros in which every box, in pixels, has a value of its own, and its graph."""
    image = torch.zeros(3, SIZE, SIZE)
    for number, (x0, y0, x1, y1) in enumerate(boxes, 1):
        image[:, y0:y1, x0:x1] = number
    shares = tuple(tuple(side / SIZE for side in box) for box in boxes)
    return image, SceneGraph(("circle",) * len(boxes), boxes=shares)


def pixels(graph) -> list[tuple[int, ...]]:
    return [tuple(round(side * SIZE) for side in box) for box in graph.boxes]


def test_every_box_lies_where_its_object_is_and_every_place_inside_is_reached():
    image, graph = picture((3, 5, 7, 9), (8, 10, 12, 15))
    chance, seen = random.Random(0), set()
    for _ in range(400):
        moved, (first, second) = (made := shift_within(image, graph, chance))[0], pixels(made[1])
        assert moved.equal(picture(first, second)[0])  # drawn again at the boxes: all else is background
        assert [b - a for a, b in zip(first, second)] == [5, 5, 5, 6]
        seen.add(first[:2])
    assert seen == {(x, y) for x in range(8) for y in range(7)}  # 3 to the left and 4 to the right, 5 up and 1 down


def test_shifts_depend_on_the_source_of_chance_alone():
    image, graph = picture((3, 5, 7, 9))
    first, again = (shift_within(image, graph, random.Random("a")) for _ in range(2))
    assert first[0].equal(again[0]) and first[1] == again[1]


@pytest.mark.parametrize("boxes", [(None,), ((0.2, 0.2, 0.4, 0.4), None), ((0.0, 0.0, 1.0, 1.0),)])
def test_a_picture_stays_as_it_is_if_a_place_is_unknown_or_leaves_no_room(boxes):
    image, graph = torch.rand(3, SIZE, SIZE), SceneGraph(("circle",) * len(boxes), boxes=boxes)
    moved, same = shift_within(image, graph, random.Random(0))
    assert moved.equal(image) and same == graph


def test_boxes_stay_between_0_and_1_whatever_their_last_digits():
    chance = random.Random(1)
    for _ in range(300):
        x0, y0 = chance.random() * 0.6, chance.random() * 0.6
        graph = SceneGraph(("circle",), boxes=((x0, y0, x0 + 0.3, y0 + 0.4),))
        ((a, b, c, d),) = shift_within(torch.zeros(3, 10, 10), graph, chance)[1].boxes
        assert 0 <= a < c <= 1 and 0 <= b < d <= 1
        assert (c - a, d - b) == (pytest.approx(0.3), pytest.approx(0.4))


def test_the_checker_reads_shifted_scenes_as_their_shifted_graphs():
    world, rng = WORLDS["shapes"], random.Random(3)
    passed, moved = 0, 0
    for _ in range(40):
        graph, background = world.random_graph(rng), world.random_background(rng)
        image, shifted = shift_within(to_tensor(world.render(graph, background)), graph, rng)
        moved += shifted != graph
        passed += check(shifted, to_image(image)).passed
    assert moved > 10 and passed >= 39
