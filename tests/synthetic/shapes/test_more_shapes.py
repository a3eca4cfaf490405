"""Star and heart: drawn and read by a world of their own, while the other world's pictures stay as they were."""

import hashlib
import random

import numpy as np
import pytest

from ldm.synthetic.checker import check
from ldm.synthetic.shapes import MORE_SHAPES, SHAPES, VOCAB
from ldm.synthetic.shapes.outlines import inside, outline
from ldm.synthetic.shapes.scenes import shape_mask
from ldm.synthetic.worlds import WORLDS

WORLD = WORLDS["more_shapes"]
DIGEST = "64c8c57dc893fcfe7b52026e44870b3d53b855b4a4ffb7cd7df791c86361e05c"


def area(corners) -> float:
    """The shoelace formula."""
    pairs = zip(corners, (*corners[1:], corners[0]))
    return abs(sum(x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in pairs)) / 2


@pytest.mark.parametrize("shape", ["star", "heart"])
def test_an_outline_fills_its_box_is_symmetric_and_its_mask_has_its_area(shape):
    corners = np.array(outline(shape))
    assert corners.min(0).tolist() == [0, 0] and corners.max(0) == pytest.approx([1, 1])
    mask = shape_mask(shape, 200)
    assert mask.mean() == pytest.approx(area(outline(shape)), abs=0.01)
    assert (mask != mask[:, ::-1]).mean() < 0.01


def test_the_middle_is_inside_and_the_notch_of_a_heart_is_not():
    for shape in ("star", "heart"):
        assert inside(shape, np.array(0.5), np.array(0.5))
    assert not inside("heart", np.array(0.5), np.array(0.02))


def test_the_vocabulary_of_the_shipped_weights_is_a_part_of_the_worlds():
    assert WORLD.vocab.objects == (*VOCAB.objects, "star", "heart")
    assert (WORLD.vocab.predicates, WORLD.vocab.attributes) == (VOCAB.predicates, VOCAB.attributes)
    assert MORE_SHAPES[:3] == SHAPES == WORLDS["shapes"].object_names


def test_the_other_worlds_scenes_and_readings_are_those_of_before_these_shapes():
    world, digest, rng = WORLDS["shapes"], hashlib.sha256(), random.Random(0)
    for _ in range(20):
        graph = world.random_graph(rng)
        picture = world.render(graph, world.random_background(rng))
        digest.update(repr(graph).encode() + picture.tobytes() + repr(world.read_scene(picture).graph).encode())
    assert digest.hexdigest() == DIGEST


@pytest.mark.slow
def test_the_checker_reads_99_of_100_true_pictures():
    rng = random.Random(11)
    wrong = []
    for _ in range(300):
        graph = WORLD.random_graph(rng)
        verdict = check(graph, WORLD.render(graph, WORLD.random_background(rng)), "more_shapes")
        wrong += verdict.complaints
    assert len(wrong) <= 3, wrong


def test_a_star_is_no_heart_and_no_triangle():
    rng = random.Random(4)
    for seed in range(12):
        graph = WORLD.random_graph(random.Random(seed))
        picture = WORLD.render(graph, WORLD.random_background(rng))
        for index, name in enumerate(graph.objects):
            other = "heart" if name != "heart" else "star"
            swapped = type(graph)(
                (*graph.objects[:index], other, *graph.objects[index + 1 :]), graph.boxes, graph.attributes
            )
            assert not check(swapped, picture, "more_shapes").passed
