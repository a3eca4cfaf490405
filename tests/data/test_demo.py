"""The demo scenes against their own pixels: what a graph says can be seen where it says."""

import dataclasses
import pickle
import random

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from ldm.data.demo import DemoTrain, DemoValidation
from ldm.graph.scene_graph import SceneGraph, Vocab
from ldm.graph.validation import GraphError
from ldm.synthetic.shapes import (
    STRIPE_HEIGHT,
    CELLS,
    COLOURS,
    CONVERSE,
    FILLS,
    DIAGONAL_MARGIN,
    TEXTURE_CONTRAST,
    STRIPE_BRIGHTNESS,
    SHAPES,
    SIDES,
    TEXTURES,
    MIN_VISIBLE,
    VOCAB,
    Background,
    back_to_front,
    relation_holds,
    find_ambiguity,
    graph_from_boxes,
    main_relation,
    render,
    subsample_graph,
)

GREY = Background((128, 128, 128), (128, 128, 128), 0.0)
SCENES = [DemoValidation(200).scene(index) for index in range(200)]


def box(x, y, side) -> tuple[float, ...]:
    return x / CELLS, y / CELLS, (x + side) / CELLS, (y + side) / CELLS


def pixels(graph, background=GREY, size=64) -> np.ndarray:
    return np.asarray(render(graph, background, size)).astype(float)


def saying(graph: SceneGraph, index: int, *kinds) -> tuple[str, ...]:
    return tuple(next(word for word in graph.attributes[index] if word in kind) for kind in kinds)


def names(graph: SceneGraph) -> list[tuple[str, ...]]:
    return [(shape, *sorted(words)) for shape, words in zip(graph.objects, graph.attributes)]


# What is drawn -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("image_size", [64, 128])
@pytest.mark.parametrize("fill", FILLS)
def test_a_box_is_the_extent_of_what_is_drawn(image_size, fill):
    for shape in SHAPES:
        for side in SIDES["small"] + SIDES["large"]:
            where = box(9, 13, side)
            drawn = (pixels(SceneGraph((shape,), (where,), (("blue", fill),)), size=image_size) != 128).any(-1)
            rows, columns = np.nonzero(drawn)
            extent = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
            assert np.array(extent) / image_size == pytest.approx(where, abs=1e-9)


@pytest.mark.parametrize("shape, share", [("circle", np.pi / 4), ("square", 1.0), ("triangle", 0.5)])
def test_a_shape_covers_its_share_of_its_box(shape, share):
    drawn = pixels(SceneGraph((shape,), ((0.25, 0.25, 0.75, 0.75),), (("blue",),)), size=256)
    covered = ((drawn - 128) / (np.array(COLOURS["blue"]) - 128)).mean()  # anti-aliased edges count in part
    assert covered == pytest.approx(share / 4, rel=0.01)


def test_edges_are_anti_aliased():
    drawn = pixels(SceneGraph(("circle",), ((0.2, 0.2, 0.8, 0.8),), (("red",),)))
    assert len({tuple(pixel) for row in drawn for pixel in row}) > 8


@pytest.mark.parametrize("image_size", [64, 128])
def test_stripes_begin_bright_at_the_top_and_change_every_few_cells(image_size):
    for colour in COLOURS:
        drawn = pixels(SceneGraph(("square",), (box(10, 21, 24),), ((colour, "striped"),)), size=image_size)
        fine = image_size // CELLS
        for cell in range(24):
            shade = drawn[(21 + cell) * fine, 20 * fine] / np.array(COLOURS[colour])
            assert shade == pytest.approx(STRIPE_BRIGHTNESS if cell // STRIPE_HEIGHT % 2 else 1, abs=0.03)


def test_backgrounds_ramp_from_one_colour_to_the_other():
    pixel = SceneGraph(("square",), (box(40, 40, 1),), (("red",),))
    across = pixels(pixel, Background((0, 0, 0), (255, 255, 255), 0.0))
    assert tuple(across[0, 0]) == (0, 0, 0) and tuple(across[63, 63]) == (255, 255, 255)
    assert (np.diff(across[0, :, 0]) > 0).all() and (across[0] == across[63]).all()


@pytest.mark.parametrize("texture", TEXTURES)
def test_a_texture_darkens_as_far_as_its_relief_says_and_keeps_its_place(texture):
    pixel = SceneGraph(("square",), (box(40, 40, 1),), (("red",),))
    ground = Background((200, 200, 200), (200, 200, 200), 0.0, texture)
    drawn = pixels(pixel, ground, 256)[:128]
    assert drawn.max() == 200
    assert drawn.min() == pytest.approx(200 if texture == "smooth" else 200 * (1 - TEXTURE_CONTRAST), abs=1)
    assert (drawn[:32, :32] == drawn[32:64, 96:128]).all()  # a period of 8 cells is 32 pixels here


def test_every_background_is_paler_than_every_shape():
    shapes = min(np.ptp(colour) / max(colour) for colour in COLOURS.values())
    for _, background in SCENES:
        ends = [np.ptp(end) / max(end) for end in (background.start, background.end)]
        assert max(ends) < 0.36 < 0.7 < shapes
        assert min(max(end) for end in (background.start, background.end)) * (1 - TEXTURE_CONTRAST) > 128


# What is in the graphs -----------------------------------------------------------------------------------------------


def test_scenes_are_as_described():
    counts, words = set(), set()
    for graph, background in SCENES:
        counts.add(len(graph.objects))
        assert len({(shape, *saying(graph, i, COLOURS)) for i, shape in enumerate(graph.objects)}) == len(graph.objects)
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


def test_every_relation_occurs_and_some_pairs_have_none():
    said, pairs = set(), 0
    for graph, _ in SCENES:
        said |= {predicate for _, predicate, _ in graph.triples}
        count = len(graph.objects)
        assert len({frozenset((s, o)) for s, _, o in graph.triples}) == len(graph.triples)
        pairs += count * (count - 1) // 2 - len(graph.triples)
    assert said == set(VOCAB.predicates[1:]) - {"behind"} and pairs


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
def test_relations_follow_the_stated_rules(front, back, predicate):
    assert main_relation(front, back) == predicate


def test_every_triple_of_a_graph_holds_and_so_does_its_converse():
    for graph, _ in SCENES:
        for subject, predicate, object in graph.triples:
            a, b = graph.boxes[subject], graph.boxes[object]
            assert relation_holds(a, predicate, b, subject > object, slack=0)
            if predicate in CONVERSE:
                assert relation_holds(b, CONVERSE[predicate], a, object > subject, slack=0)
                assert not relation_holds(b, predicate, a, object > subject)


def test_overlapping_shapes_may_also_be_left_of_each_other():
    a, b = box(0, 0, 16), box(10, 2, 16)
    assert relation_holds(a, "left of", b, False) and relation_holds(a, "behind", b, False) and relation_holds(a, "in front of", b, True)
    assert not relation_holds(a, "in front of", b, False) and not relation_holds(a, "right of", b, True)


def test_what_is_in_front_is_what_is_seen_where_two_overlap():
    seen = set()
    for graph, _ in SCENES:
        drawn = pixels(graph)
        for subject, predicate, object in graph.triples:
            if predicate not in ("inside", "in front of"):
                continue
            x0, y0, x1, y1 = (round(CELLS * edge) for edge in graph.boxes[subject])
            row, column = (y0 + y1) // 2, (x0 + x1) // 2
            u0, v0, u1, v1 = (CELLS * edge for edge in graph.boxes[object])
            apart = all(  # nothing else covers that place
                not (box[0] < column / CELLS < box[2] and box[1] < row / CELLS < box[3])
                for index, box in enumerate(graph.boxes)
                if index > subject
            )
            if u0 < column < u1 and v0 < row < v1 and apart:
                (colour,) = saying(graph, subject, COLOURS)
                shade = drawn[row, column] / np.array(COLOURS[colour])
                assert np.ptp(shade) < 0.05 or shade.max() < STRIPE_BRIGHTNESS + 0.05
                seen.add(predicate)
    assert seen == {"inside", "in front of"}


def test_every_shape_shows_most_of_itself():
    for graph, _ in SCENES[:60]:
        for index in range(len(graph.objects)):
            attributes = list(graph.attributes)
            whole = graph_from_boxes([graph.objects[index]], [graph.boxes[index]], [attributes[index]])
            other = next(colour for colour in COLOURS if colour not in attributes[index])
            attributes[index] = tuple(other if word in COLOURS else word for word in attributes[index])
            changed = (pixels(graph) != pixels(dataclasses.replace(graph, attributes=tuple(attributes)))).any(-1)
            assert changed.sum() >= 0.95 * MIN_VISIBLE * (pixels(whole) != 128).any(-1).sum()


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
        (scene(("square", box(4, 4, 24), RED), ("circle", box(27, 27, 16), BLUE)), "neither is clearly in front"),
        (scene(("square", box(4, 4, 24), RED), ("circle", box(8, 8, 16), ("small", "red", "plain"))), "one colour"),
        (scene(("square", box(4, 4, 16), RED)), "not of a large size"),
        (SceneGraph(("square",), ((0.1, 0.1, 0.475, 0.5),), (RED,)), "not of a large size"),
    ],
)
def test_what_cannot_be_read_off_a_picture_is_illegible(graph, reason):
    assert find_ambiguity(graph) is None if reason is None else reason in find_ambiguity(graph)


# What graphs tell ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("boxes", ["all", "part", "none", "mixed"])
def test_what_is_told_is_true_and_in_another_order(boxes):
    orders, boxed = set(), set()
    for index, (graph, _) in enumerate(SCENES):
        less = subsample_graph(graph, random.Random(index), boxes)
        assert sorted(names(less)) == sorted(names(graph))
        place = [names(graph).index(name) for name in names(less)]  # each name is there once
        orders.add(tuple(place))
        boxed.add((sum(box is not None for box in less.boxes), len(less.boxes)))
        for new, old in enumerate(place):
            assert less.boxes[new] in (None, graph.boxes[old])
        for subject, predicate, object in less.triples:
            s, o = place[subject], place[object]
            assert (s, predicate, o) in graph.triples or (o, CONVERSE[predicate], s) in graph.triples
    assert len(orders) > 20
    expected = {"all": {"all"}, "none": {"none"}, "part": {"part"}, "mixed": {"all", "part", "none"}}[boxes]
    assert {"all" if n == of else "none" if n == 0 else "part" for n, of in boxed} == expected


def test_who_covers_whom_is_always_told():
    for index, (graph, _) in enumerate(SCENES):
        covering = ("inside", "in front of", "behind")
        kept = [t for t in subsample_graph(graph, random.Random(index)).triples if t[1] in covering]
        assert len(kept) == len([t for t in graph.triples if t[1] in covering])


def test_a_share_of_the_other_triples_is_told():
    said = sum(len(graph.triples) for graph, _ in SCENES)
    kept = sum(len(subsample_graph(graph, random.Random(i), share=0.5).triples) for i, (graph, _) in enumerate(SCENES))
    all_kept = sum(len(subsample_graph(graph, random.Random(i), share=1).triples) for i, (graph, _) in enumerate(SCENES))
    assert all_kept == said and 0.45 * said < kept < 0.75 * said


def test_a_told_graph_with_boxes_and_depth_draws_the_same_picture():
    for index, (graph, background) in enumerate(SCENES):
        again = subsample_graph(graph, random.Random(index), "all", share=0)
        assert (pixels(again, background) == pixels(graph, background)).all()


def test_drawing_order_follows_the_triples_and_then_the_list():
    graph = SceneGraph(("circle",) * 4, triples=((0, "in front of", 2), (1, "behind", 0), (3, "left of", 0)))
    assert back_to_front(graph) == [1, 2, 0, 3]
    assert back_to_front(SceneGraph(("circle",) * 3)) == [0, 1, 2]
    circle = SceneGraph(("circle",) * 2, triples=((0, "in front of", 1), (1, "in front of", 0)))
    assert sorted(back_to_front(circle)) == [0, 1]


def test_an_edited_graph_changes_only_the_edited_place():
    graph, background = next(scene for scene in SCENES if len(scene[0].objects) == 3)
    objects = ("square" if graph.objects[0] == "circle" else "circle", *graph.objects[1:])
    changed = (pixels(graph, background) != pixels(dataclasses.replace(graph, objects=objects), background)).any(-1)
    x0, y0, x1, y1 = (round(64 * edge) for edge in graph.boxes[0])
    assert changed[y0:y1, x0:x1].any()
    changed[y0:y1, x0:x1] = False
    assert not changed.any()


@pytest.mark.parametrize(
    "graph",
    [
        SceneGraph(objects=("dog",), boxes=((0, 0, 1, 1),), attributes=(("red",),)),
        SceneGraph(objects=("circle",), attributes=(("red",),)),
        SceneGraph(objects=("circle",), boxes=((0, 0, 1, 1),), attributes=(("large",),)),
    ],
)
def test_what_cannot_be_drawn_is_refused(graph):
    with pytest.raises(GraphError, match="object 0 .* cannot be drawn; give it a box"):
        render(graph, GREY)


# The data sets -------------------------------------------------------------------------------------------------------


def test_train_scenes_follow_seed_epoch_and_index():
    train = DemoTrain(3)
    same = DemoTrain(3)
    assert train.scene(1) == same.scene(1) != train.scene(2)
    first = train.scene(1)
    train.epoch = 1
    assert train.scene(1) != first
    assert DemoTrain(3, seed=1).scene(1) != first


def test_validation_scenes_follow_the_index_alone():
    validation = DemoValidation(3, seed=5)
    validation.epoch = 7
    assert validation.scene(2) == SCENES[2]


def test_train_and_validation_share_no_scene():
    validation = [str(scene) for scene in SCENES[:60]]
    train = DemoTrain(60)
    for train.epoch in range(3):
        assert not set(validation) & {str(train.scene(index)) for index in range(60)}


@pytest.mark.parametrize("image_size", [32, 64, 100])
def test_items_are_an_image_and_its_graph(image_size):
    image, graph = DemoTrain(4, image_size=image_size)[3]
    assert image.shape == (3, image_size, image_size) and image.dtype == torch.float32
    assert -1 <= image.min() < image.max() <= 1
    assert isinstance(graph, SceneGraph)


def test_an_item_shows_its_scene_and_tells_as_many_boxes_as_asked():
    for boxes, share in (("all", 1), ("none", 0)):
        validation = DemoValidation(20, boxes=boxes)
        for index in range(20):
            image, graph = validation[index]
            shown = (image.permute(1, 2, 0).numpy() + 1) * 127.5
            assert np.abs(shown - np.asarray(validation.picture(index))).max() < 1
            assert sorted(names(graph)) == sorted(names(SCENES[index][0]))
            assert sum(box is not None for box in graph.boxes) == share * len(graph.objects)


def test_workers_give_the_items_that_one_process_gives():
    train = DemoTrain(8, seed=3)
    train.epoch = 2
    loaded = list(DataLoader(train, batch_size=None, num_workers=2))
    for index, (image, graph) in enumerate(loaded):
        assert graph == train[index][1] and torch.equal(image, train[index][0])
    assert pickle.loads(pickle.dumps(train)).scene(1) == train.scene(1)


def test_the_vocabulary_has_the_reserved_names_first():
    vocab = DemoTrain(1).vocab
    assert isinstance(vocab, Vocab)
    assert vocab.objects[0] == "__image__" and vocab.predicates[0] == "__in_image__"
    assert (len(vocab.objects), len(vocab.predicates), len(vocab.attributes)) == (4, 8, 10)


def test_max_samples_shortens_the_set_and_its_end_is_an_end():
    train = DemoTrain(1000, max_samples=5)
    assert len(train) == 5
    with pytest.raises(IndexError):
        train[5]


@pytest.mark.parametrize("name, value", [("scenes", "easy"), ("boxes", "some")])
def test_what_a_set_cannot_be_is_refused(name, value):
    with pytest.raises(ValueError, match=f"{name} is '{value}'; it can be"):
        DemoTrain(2, **{name: value})


def test_a_reference_shows_another_scene_under_the_same_background():
    plain, with_reference = DemoTrain(30), DemoTrain(30, reference=True)
    for index in range(30):
        image, graph, reference = with_reference[index]
        assert torch.equal(image, plain[index][0]) and graph == plain[index][1]
        assert not torch.equal(image, reference)
        same = (image == reference).all(0).float().mean()
        assert same > 0.1  # of the pixels: what neither scene covers


def test_there_is_nothing_for_the_data_doctor():
    assert list(DemoTrain(2).check()) == []


def test_fewer_shapes_apart_means_more_of_them_over_and_inside_others():
    def overlapping(apart):
        scenes = DemoTrain(200, apart=apart)
        words = [predicate for i in range(200) for _, predicate, _ in scenes.scene(i)[0].triples]
        return sum(word in ("inside", "in front of") for word in words)

    assert overlapping(1.0) == 0 < overlapping(0.74) < overlapping(0.3)
    with pytest.raises(ValueError, match="leave it out"):
        DemoTrain(1, scenes="hard", apart=0.5)
