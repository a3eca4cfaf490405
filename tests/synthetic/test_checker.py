"""Verdicts on pictures whose truth is known, and distances with closed-form answers."""

import itertools
import math
import random

import numpy as np
import pytest
import torch
from torchmetrics.functional.image import structural_similarity_index_measure

from ldm.data.demo import DemoValidation
from ldm.graph.scene_graph import SceneGraph
from ldm.synthetic import checker
from ldm.synthetic.checker import check, same_style, style_distance, style_follows
from ldm.synthetic.shapes import CELLS, Background, graph_from_boxes, read_scene, render, subsample_graph
from ldm.synthetic.readings import SceneReading, StyleReading
from ldm.util.errors import UserError
from ldm.util.image_similarity import mask_outside, psnr, ssim

PALE = Background((205, 215, 225), (230, 220, 205), 0.7, "dots")
LOOK = StyleReading((200, 210, 220), ((0, 0, 0), (0, 0, 0)), "smooth", (0.0, 0.0, 0.0))


def box(x, y, side) -> tuple[float, ...]:
    return x / CELLS, y / CELLS, (x + side) / CELLS, (y + side) / CELLS


OBJECTS = ["square", "circle", "triangle"]
BOXES = [box(4, 4, 24), box(22, 6, 16), box(40, 28, 16)]
WORDS = [("large", "red", "striped"), ("small", "blue", "plain"), ("small", "green", "plain")]
GRAPH = graph_from_boxes(OBJECTS, BOXES, WORDS)
BARE = SceneGraph(GRAPH.objects, (), GRAPH.attributes, GRAPH.triples)


assert [predicate for _, predicate, _ in GRAPH.triples] == ["in front of", "right of"]


def but(index, shape=None, where=None, words=None, drop=False) -> SceneGraph:
    """GRAPH with one object changed."""
    objects, boxes, attributes = OBJECTS.copy(), BOXES.copy(), WORDS.copy()
    objects[index], boxes[index] = shape or objects[index], where or boxes[index]
    attributes[index] = words or attributes[index]
    if drop:
        del objects[index], boxes[index], attributes[index]
    return graph_from_boxes(objects, boxes, attributes)


def seen(graph: SceneGraph | None, stray: int = 0) -> SceneReading:
    return SceneReading(graph, stray, LOOK)


# Verdicts ------------------------------------------------------------------------------------------------------------


def test_a_picture_of_the_graph_passes():
    for target in (GRAPH, BARE, SceneGraph(GRAPH.objects)):
        verdict = check(target, render(GRAPH, PALE))
        assert verdict.passed and verdict.complaints == () and verdict.extra == 0
        assert all(verdict.objects) and len(verdict.objects) == 3
        assert all(verdict.triples) and len(verdict.triples) == len(target.triples)


@pytest.mark.parametrize(
    "shown, objects, extra, complaint",
    [
        (but(1, drop=True), (True, False, True), 0, "object 1, the small blue plain circle, is missing"),
        (but(1, shape="square"), (True, False, True), 0, "object 1, the small blue plain circle, is a square"),
        (
            but(1, words=("small", "green", "plain")),
            (True, False, True),
            0,
            "object 1, the small blue plain circle, is green",
        ),
        (
            but(0, words=("large", "red", "plain")),
            (False, True, True),
            0,
            "object 0, the large red striped square, is plain",
        ),
        (
            but(2, where=box(36, 24, 24), words=("large", "green", "plain")),
            (True, True, False),
            0,
            "object 2, the small green plain triangle, is large",
        ),
        (
            but(2, where=box(46, 28, 16)),
            (True, True, False),
            0,
            "object 2, the small green plain triangle, stands 9 % of the picture too far right",
        ),
        (
            graph_from_boxes([*OBJECTS, "circle"], [*BOXES, box(44, 8, 16)], [*WORDS, ("small", "orange", "plain")]),
            (True, True, True),
            1,
            "there is a small orange plain circle that the graph lacks",
        ),
        (
            graph_from_boxes([OBJECTS[i] for i in (1, 0, 2)], [BOXES[i] for i in (1, 0, 2)], [WORDS[i] for i in (1, 0, 2)]),
            (True, True, True),
            0,
            "'in front of' does not hold between object 1, the small blue plain circle and object 0, "
            "the large red striped square",
        ),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence(shown, objects, extra, complaint):
    for verdict in (check(GRAPH, render(shown, PALE)), check(GRAPH, seen(shown))):
        assert not verdict.passed
        assert verdict.objects == objects and verdict.extra == extra
        assert complaint in verdict.complaints


def test_a_target_without_boxes_asks_for_no_place_but_for_its_triples():
    moved = but(2, where=box(40, 34, 16))
    assert not check(GRAPH, seen(moved)).passed and check(BARE, seen(moved)).passed
    below = but(2, where=box(8, 40, 16))
    verdict = check(BARE, seen(below))
    assert verdict.objects == (True,) * 3 and not all(verdict.triples)
    assert all("does not hold between" in complaint for complaint in verdict.complaints)


def test_a_target_asks_only_for_the_words_that_it_says():
    target = SceneGraph(("square", "circle", "triangle"), (), (("red",), (), ("small",)))
    assert check(target, seen(GRAPH)).passed
    assert check(target, seen(but(0, words=("large", "red", "plain")))).passed
    assert not check(target, seen(but(0, words=("large", "blue", "striped")))).passed


def test_the_order_of_the_target_does_not_matter():
    for number in range(10):
        graph, background = DemoValidation(10).scene(number)
        shown = read_scene(render(graph, background))
        for seed in range(4):
            assert check(subsample_graph(graph, random.Random(seed)), shown).passed


@pytest.mark.parametrize("cells, passes", [(1, True), (2, True), (4, False), (6, False)])
def test_a_box_may_be_missed_by_two_cells(cells, passes):
    for dx, dy in itertools.product((-cells, 0, cells), repeat=2):
        verdict = check(GRAPH, seen(but(2, where=box(40 + dx, 28 + dy, 16))))
        assert verdict.passed == (passes or dx == dy == 0)


def test_a_missing_object_holds_no_triple_and_is_complained_of_once():
    verdict = check(GRAPH, seen(but(1, drop=True)))
    assert verdict.triples == tuple(1 not in (s, o) for s, _, o in GRAPH.triples)
    assert len(verdict.complaints) == 1


def test_an_empty_picture_lacks_everything():
    verdict = check(GRAPH, seen(None))
    assert verdict.objects == (False,) * 3 and not any(verdict.triples) and verdict.extra == 0
    assert len(verdict.complaints) == 3 and not verdict.passed


def test_much_that_looks_like_an_object_and_is_none_is_complained_of():
    assert check(GRAPH, seen(GRAPH, stray=3)).passed
    verdict = check(GRAPH, seen(GRAPH, stray=100))
    assert not verdict.passed and all(verdict.objects)
    assert verdict.complaints == ("100 pixels look like an object, but like none that is known",)


def test_triples_tell_which_of_two_alike_is_which():
    red = ("small", "red", "plain")
    shown = graph_from_boxes(["circle"] * 2 + ["square"], [box(2, 4, 16), box(46, 4, 16), box(24, 40, 16)], [red] * 3)
    for left, right in ((0, 1), (1, 0)):
        target = SceneGraph(("circle", "circle"), (), (("red",),) * 2, ((left, "left of", right),))
        verdict = check(target, seen(shown))
        assert verdict.objects == verdict.triples[:1] * 2 == (True, True) and verdict.extra == 1
    both = SceneGraph(("circle", "circle"), (), (("red",),) * 2, ((0, "left of", 1), (1, "left of", 0)))
    assert sum(check(both, seen(shown)).triples) == 1


def test_one_object_seen_is_not_two():
    shown = graph_from_boxes(["circle"], [box(4, 4, 16)], [("small", "red", "plain")])
    verdict = check(SceneGraph(("circle", "circle"), (), (("red",),) * 2), seen(shown))
    assert sorted(verdict.objects) == [False, True]


def test_unknown_scenes_are_refused():
    with pytest.raises(UserError, match="there are no scenes 'shape', only shapes, hard; did you mean 'shapes'"):
        check(GRAPH, seen(GRAPH), "shape")


def test_pairs_gain_as_much_together_as_the_best_of_all_ways():
    rng = random.Random(0)
    for _ in range(200):
        rows, columns = rng.randint(1, 4), rng.randint(1, 4)
        gains = [[float(rng.choice([0, 1, 2, 5, 9])) for _ in range(columns)] for _ in range(rows)]
        ways = itertools.permutations([*range(columns), *[None] * rows], rows)
        best = max(sum(gains[i][j] for i, j in enumerate(way) if j is not None) for way in ways)
        pairs = checker._best_pairs(gains)
        taken = [j for j, _ in pairs if j is not None]
        assert sum(gain for _, gain in pairs) == best and len(set(taken)) == len(taken)
        assert all(gain == (0 if j is None else gains[i][j]) for i, (j, gain) in enumerate(pairs))


# Style ---------------------------------------------------------------------------------------------------------------


def look_of(background, graph=GRAPH) -> StyleReading:
    return read_scene(render(graph, background)).style


def test_one_background_behind_other_objects_is_one_style():
    for number in range(10):
        graph, background = DemoValidation(10).scene(number)
        assert same_style(look_of(background), look_of(background, graph))


def test_another_texture_or_colour_is_another_style():
    assert not same_style(look_of(PALE), look_of(PALE._replace(texture="lines")))
    assert not same_style(look_of(PALE), look_of(PALE._replace(start=(200, 150, 160), end=(210, 160, 170))))


def test_distances_of_style_are_those_of_their_numbers():
    other = StyleReading((203, 210, 224), ((0, 0, 6), (8, 0, 0)), "dots", (0.0, 0.1, 0.0))
    assert style_distance(LOOK, LOOK) == (0, 0, 0)
    assert style_distance(LOOK, other) == pytest.approx((5, 10, 0.1))


def test_a_style_that_goes_half_the_way_follows_by_a_half():
    end = LOOK._replace(mean=(100, 210, 120), strength=(0.0, 0.14, 0.0))
    middle = LOOK._replace(mean=(150, 210, 170), strength=(0.0, 0.07, 0.0))
    assert style_follows(LOOK, LOOK, end) == (0, 0) and style_follows(end, LOOK, end) == (1, 1)
    assert style_follows(middle, LOOK, end) == pytest.approx((0.5, 0.5))
    aside = LOOK._replace(mean=(200, 250, 220))  # across the way: neither nearer nor farther
    assert style_follows(aside, LOOK, end) == (0, 0)
    assert all(math.isnan(share) for share in style_follows(end, LOOK, LOOK))


# Pixels --------------------------------------------------------------------------------------------------------------

GREY = np.full((64, 64, 3), 100, np.uint8)
NOISE = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
WAVES = (128 + 60 * np.sin(np.arange(64) / 5)[None, :, None] + 40 * np.cos(np.arange(64) / 7)[:, None, None]).repeat(
    3, 2
)
WAVES = WAVES.astype(np.uint8)


def test_outside_leaves_out_every_pixel_that_a_box_touches():
    mask = mask_outside([(0.25, 0.5, 0.5, 1.0), None], 8)
    expected = np.ones((8, 8), bool)
    expected[4:8, 2:4] = False
    assert (mask == expected).all()
    assert not mask_outside([(0.26, 0.26, 0.49, 0.49)], 8)[2:4, 2:4].any()
    assert mask_outside([], 8).all()
    expected[3:8, 1:5] = False
    assert (mask_outside([(0.25, 0.5, 0.5, 1.0)], 8, grow=1 / 8) == expected).all()


def test_psnr_of_a_constant_error_is_its_closed_form():
    assert psnr(GREY, GREY + 10) == pytest.approx(20 * math.log10(25.5))
    assert psnr(GREY, GREY) == math.inf


def test_psnr_counts_only_what_the_mask_shows():
    other = GREY + 10
    other[:32] = 250
    mask = mask_outside([(0, 0, 1, 0.5)], 64)
    assert psnr(GREY, other, mask) == pytest.approx(20 * math.log10(25.5))
    assert math.isnan(psnr(GREY, other, np.zeros((64, 64), bool)))


def test_ssim_of_two_even_pictures_is_its_closed_form():
    c1 = (0.01 * 255) ** 2
    assert ssim(GREY, GREY + 50) == pytest.approx((2 * 100 * 150 + c1) / (100**2 + 150**2 + c1))
    assert ssim(NOISE, NOISE) == pytest.approx(1)


def test_ssim_of_a_whole_picture_is_that_of_torchmetrics_but_for_the_border():
    noise = (0.7 * WAVES + 0.3 * NOISE).astype(np.uint8)
    a, b = (torch.from_numpy(x).permute(2, 0, 1)[None].double() for x in (WAVES, noise))
    theirs = structural_similarity_index_measure(a, b, data_range=255.0).item()
    assert ssim(WAVES, noise) == pytest.approx(theirs, abs=0.01)
    wide = [np.tile(x, (4, 4, 1)) for x in (NOISE, NOISE // 2)]  # of which the border is a small part
    a, b = (torch.from_numpy(x).permute(2, 0, 1)[None].double() for x in wide)
    theirs = structural_similarity_index_measure(a, b, data_range=255.0).item()
    assert ssim(*wide) == pytest.approx(theirs, abs=2e-3)


def test_what_the_mask_hides_changes_no_ssim():
    mask = mask_outside([(0.2, 0.2, 0.6, 0.6)], 64)
    changed = WAVES.copy()
    changed[~mask] = NOISE[~mask]
    noise = (0.7 * WAVES + 0.3 * NOISE).astype(np.uint8)
    assert ssim(changed, noise, mask) == pytest.approx(ssim(WAVES, noise, mask), abs=1e-12)
    assert ssim(changed, WAVES, mask) == pytest.approx(1)
    assert ssim(changed, WAVES) < 0.9
    assert math.isnan(ssim(WAVES, NOISE, np.zeros((64, 64), bool)))
