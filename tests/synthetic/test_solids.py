"""Graphs and pictures of solids: the pixels are where the graph says, and its triples hold."""

import colorsys
import dataclasses
import random
import time

import numpy as np
import pytest

from ldm.data.demo import DemoValidation
from ldm.graph.scene_graph import SceneGraph
from ldm.graph.validation import GraphError
from ldm.synthetic import solids
from ldm.synthetic.annotation import subsample_graph
from ldm.synthetic.solids import (
    CELLS,
    COLOURS,
    FLOOR,
    MATERIALS,
    SHAPES,
    SIDES,
    Background,
    box_at,
    main_relation,
    relation_holds,
    render,
)

GREY = Background((150,) * 3, (150,) * 3, (150,) * 3, 0.0)
SCENES = [DemoValidation(60, scenes="hard").scene(index) for index in range(60)]


def one(shape="cube", words=("red",), box=None) -> SceneGraph:
    return SceneGraph((shape,), (box or box_at("large", 64, 100),), (words,))


def pixels(graph, background=GREY, size=128) -> np.ndarray:
    return np.asarray(render(graph, background, size)).astype(float)


def saturation(picture) -> np.ndarray:
    return np.ptp(picture, -1) / picture.max(-1)


@pytest.mark.parametrize("image_size", [128, 192])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_solid_extends_over_its_box(shape, image_size):
    for material in MATERIALS:
        for base in (60, 90, 124):
            box = box_at("small", 41, base)
            coloured = saturation(pixels(one(shape, ("blue", material), box), size=image_size)) > 0.05
            rows, columns = np.nonzero(coloured)
            extent = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
            assert extent == pytest.approx([image_size * edge for edge in box], abs=1)


@pytest.mark.parametrize(
    "shape, share", [("sphere", np.pi / 4), ("cylinder", 0.64 + 0.36 * np.pi / 4), ("cube", 0.833)]
)
def test_a_solid_covers_its_share_of_its_box(shape, share):
    picture = pixels(one(shape, box=(0.25, 0.25, 0.75, 0.75)), size=512)
    assert (saturation(picture) > 0.2).mean() == pytest.approx(share / 4, rel=0.01)


def test_random_scenes_keep_the_stated_limits():
    counts, covered = set(), 0
    for graph, _ in SCENES:
        counts.add(len(graph.objects))
        kinds = {(shape, words[1]) for shape, words in zip(graph.objects, graph.attributes)}
        assert len(kinds) == len(graph.objects)
        bases = [box[3] for box in graph.boxes]
        assert bases == sorted(bases)
        for box, (size, colour, material) in zip(graph.boxes, graph.attributes):
            assert colour in COLOURS and material in MATERIALS
            x0, y0, x1, y1 = (CELLS * edge for edge in box)
            assert x1 - x0 == y1 - y0 >= 20 and FLOOR[0] <= y1 <= FLOOR[1] and 0 <= x0 < x1 <= CELLS and y0 >= 0
            assert box == box_at(size, (x0 + x1) / 2, y1)
        covered += any(
            a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
            for i, a in enumerate(graph.boxes)
            for b in graph.boxes[:i]
        )
        graph.validate(solids.VOCAB)
        assert solids.find_ambiguity(graph) is None
    assert counts == set(range(3, 9))
    assert covered >= 30


def test_nearer_solids_are_larger_and_every_large_one_exceeds_every_small_one():
    for size in SIDES:
        lengths = [solids.side(size, base) for base in range(FLOOR[0], FLOOR[1] + 1)]
        assert lengths == sorted(lengths)
    assert solids.side("small", FLOOR[1]) + 4 < solids.side("large", FLOOR[0])


def test_every_triple_holds_and_its_converse_holds_from_the_other_end():
    words = set()
    for graph, _ in SCENES:
        assert len({frozenset((s, o)) for s, _, o in graph.triples}) == len(graph.triples)
        for subject, predicate, object in graph.triples:
            a, b = graph.boxes[subject], graph.boxes[object]
            words.add(predicate)
            assert relation_holds(a, predicate, b, subject > object, slack=0)
            assert relation_holds(b, solids.CONVERSE[predicate], a, object > subject, slack=0)
            assert not relation_holds(b, predicate, a, object > subject)
            assert main_relation(b, a) == solids.CONVERSE[predicate]
    assert words == {"left of", "right of", "in front of"}


@pytest.mark.parametrize(
    "column, base, word",
    [(20, 100, "left of"), (110, 100, "right of"), (64, 124, "in front of"), (66, 62, "behind")]
    + [(76, 108, "in front of"), (74, 102, None), (114, 76, None)],
)
def test_main_relation_follows_the_stated_rules(column, base, word):
    assert main_relation(box_at("small", column, base), box_at("small", 64, 100)) == word


def test_two_predicates_may_hold_of_one_pair():
    nearer, farther = box_at("small", 80, 120), box_at("small", 50, 70)
    assert relation_holds(nearer, "right of", farther, True) and relation_holds(nearer, "in front of", farther, True)
    assert not relation_holds(nearer, "left of", farther, True) and not relation_holds(nearer, "behind", farther, True)


def test_the_nearer_solid_covers_the_farther_one_in_either_order():
    near, far = box_at("large", 64, 110), box_at("large", 64, 95)
    first = SceneGraph(("cube", "cube"), (near, far), (("red",), ("blue",)))
    second = SceneGraph(("cube", "cube"), (far, near), (("blue",), ("red",)))
    assert (pixels(first) == pixels(second)).all()
    row, column = int(CELLS * near[1]) + 14, 64
    red, _, blue = pixels(first)[row, column]
    assert red > 2 * blue


@pytest.mark.parametrize("shape", SHAPES)
def test_metal_is_darker_than_rubber_and_has_a_highlight(shape):
    x0, y0, x1, y1 = (int(CELLS * edge) for edge in one().boxes[0])
    middle = slice(y0 + 7, y1 - 9), slice(x0 + 7, x1 - 7)  # without the edges, which the background shines through
    rubber, metal = (pixels(one(shape, ("red", material)))[middle] for material in ("rubber", "metal"))
    assert np.median(metal.max(-1)) < 0.75 * np.median(rubber.max(-1))
    assert metal.min(-1).max() > 2 * rubber.min(-1).max()


@pytest.mark.parametrize("colour", COLOURS)
def test_shading_does_not_change_the_hue(colour):
    hue = colorsys.rgb_to_hsv(*COLOURS[colour])[0]
    for shape in SHAPES:
        for material in MATERIALS:
            picture = pixels(one(shape, (colour, material)))
            for pixel in picture[saturation(picture) > 0.5][::7]:
                away = abs(colorsys.rgb_to_hsv(*pixel)[0] - hue)
                assert min(away, 1 - away) < 0.02


def test_backgrounds_are_paler_than_every_solid():
    dot = one("sphere", ("red",), (0.5, 0.5, 0.505, 0.505))
    for index in range(200):
        picture = pixels(dot, solids.random_background(random.Random(index)))
        assert saturation(picture[:60]).max() < 0.19 and picture[:60].min() > 100


@pytest.mark.parametrize("lamp", [-1.0, 1.0])
def test_the_lamp_s_side_is_brighter_and_shadows_fall_on_the_other(lamp):
    picture = pixels(one("sphere"), GREY._replace(lamp=lamp))
    x0, y0, x1, y1 = (int(CELLS * edge) for edge in one().boxes[0])
    left, right = picture[y0:y1, x0 : (x0 + x1) // 2].max(), picture[y0:y1, (x0 + x1) // 2 : x1].max()
    assert (right > left) == (lamp > 0)
    floor = picture / pixels(one("sphere", box=(0.5, 0.1, 0.505, 0.105)), GREY._replace(lamp=lamp))
    left, right = floor[y1 - 3, x0 - 6 : x0 + 4].mean(), floor[y1 - 3, x1 - 4 : x1 + 6].mean()
    assert (left < right) == (lamp > 0)


def test_an_edit_changes_the_picture_around_the_object_s_box_only():
    for graph, background in SCENES[:20]:
        words = graph.attributes[-1]
        colour = "red" if words[1] != "red" else "blue"
        edited = dataclasses.replace(graph, attributes=(*graph.attributes[:-1], (words[0], colour, words[2])))
        gone = SceneGraph(graph.objects[:-1], graph.boxes[:-1], graph.attributes[:-1])
        for other in (edited, gone):
            changed = (pixels(graph, background) != pixels(other, background)).any(-1)
            x0, y0, x1, y1 = (int(CELLS * edge) for edge in graph.boxes[-1])
            assert changed[y0:y1, x0:x1].any()
            changed[max(0, y0 - 8) : y1 + 8, max(0, x0 - 8) : x1 + 8] = False
            assert not changed.any()


def scene(*parts) -> SceneGraph:
    shapes, boxes, words = zip(*parts)
    return SceneGraph(shapes, boxes, words)


@pytest.mark.parametrize(
    "graph, reason",
    [
        (scene(("cube", box_at("large", 64, 100), ("small", "red", "metal"))), "not of a small size"),
        (scene(("cube", (0.2, 0.1, 0.44, 0.34), ("large", "red", "metal"))), "object 0 is not of a large size"),
        (scene(("cube", box_at("small", 64, 50), ("small", "red", "metal"))), "does not stand on the floor"),
        (
            scene(*(("cube", box_at("large", x, b), ("large", "red", "metal")) for x, b in ((40, 90), (70, 104)))),
            "of one colour and touch",
        ),
        (
            scene(*(("cube", box_at("large", x, 90), ("large", c, "metal")) for x, c in ((40, "red"), (60, "blue")))),
            "neither is clearly nearer",
        ),
        (
            scene(*(("cube", box_at("large", 60, b), ("large", c, "metal")) for b, c in ((90, "red"), (99, "blue")))),
            "object 0 is hidden",
        ),
    ],
)
def test_find_ambiguity_gives_the_reason(graph, reason):
    assert reason in solids.find_ambiguity(graph)


@pytest.mark.parametrize(
    "graph",
    [one("dog"), SceneGraph(("cube",), attributes=(("red",),)), one(words=("large",))],
)
def test_an_object_that_cannot_be_drawn_is_an_error(graph):
    with pytest.raises(GraphError, match="object 0"):
        render(graph, GREY)


def test_rendering_a_scene_takes_less_than_10_ms():
    for graph, background in SCENES:
        render(graph, background)
    start = time.process_time()
    for graph, background in SCENES:
        render(graph, background)
    assert (time.process_time() - start) / len(SCENES) < 0.01


def test_a_subsampled_graph_stays_true_of_its_boxes():
    for index, (graph, _) in enumerate(SCENES):
        subsampled = subsample_graph(graph, random.Random(index), boxes="all")
        order = solids.back_to_front(subsampled)
        assert [subsampled.boxes[i][3] for i in order] == [box[3] for box in graph.boxes]
        for subject, predicate, object in subsampled.triples:
            nearer = order.index(subject) > order.index(object)
            assert relation_holds(subsampled.boxes[subject], predicate, subsampled.boxes[object], nearer)
