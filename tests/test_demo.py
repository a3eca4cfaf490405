"""The demo scenes against their own pixels: what a graph says can be seen where it says."""

import dataclasses
import pickle

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from ldm.data.demo import COLOURS, SHAPES, SIDES, Background, DemoTrain, DemoValidation, relation, render
from ldm.graph import GraphError, SceneGraph, Vocab

GREY = Background((128, 128, 128), (128, 128, 128), 0.0)
SCENES = [DemoValidation(60).scene(index) for index in range(60)]


def extent(picture, background) -> tuple[float, ...]:
    """x0 y0 x1 y1 of the pixels that differ from the background."""
    rows, columns = np.nonzero((np.asarray(picture) != np.asarray(background)).any(-1))
    size = picture.width
    return columns.min() / size, rows.min() / size, (columns.max() + 1) / size, (rows.max() + 1) / size


@pytest.mark.parametrize("image_size", [64, 128])
def test_a_box_is_the_extent_of_what_is_drawn(image_size):
    blank = np.full((image_size, image_size, 3), 128)
    for graph, _ in SCENES[:20]:
        for shape, box, words in zip(graph.objects, graph.boxes, graph.attributes):
            alone = render(SceneGraph(objects=(shape,), boxes=(box,), attributes=(words,)), GREY, image_size)
            assert extent(alone, blank) == pytest.approx(box, abs=1e-9)


def test_the_centre_of_each_shape_has_its_colour():
    for graph, background in SCENES:
        pixels = np.asarray(render(graph, background, 64))
        for box, (_, colour) in zip(graph.boxes, graph.attributes):
            column, row = int(32 * (box[0] + box[2])), int(32 * (box[1] + box[3]))
            assert tuple(pixels[row, column]) == COLOURS[colour]


@pytest.mark.parametrize("shape, share", [("circle", np.pi / 4), ("square", 1.0), ("triangle", 0.5)])
def test_a_shape_covers_its_share_of_its_box(shape, share):
    graph = SceneGraph(objects=(shape,), boxes=((0.25, 0.25, 0.75, 0.75),), attributes=(("blue",),))
    pixels = np.asarray(render(graph, GREY, 256)).astype(float)
    covered = ((pixels - 128) / (np.array(COLOURS["blue"]) - 128)).mean()  # anti-aliased edges count in part
    assert covered == pytest.approx(share / 4, rel=0.01)


def test_edges_are_anti_aliased():
    graph = SceneGraph(objects=("circle",), boxes=((0.2, 0.2, 0.8, 0.8),), attributes=(("red",),))
    colours = {tuple(pixel) for row in np.asarray(render(graph, GREY, 64)) for pixel in row}
    assert len(colours) > 8


def test_scenes_are_as_described():
    counts = set()
    for graph, _ in SCENES:
        counts.add(len(graph.objects))
        assert set(graph.objects) <= set(SHAPES)
        assert len({(shape, words[1]) for shape, words in zip(graph.objects, graph.attributes)}) == len(graph.objects)
        for box, (size, colour) in zip(graph.boxes, graph.attributes):
            assert colour in COLOURS
            shortest, longest = SIDES[size]
            assert shortest <= 64 * (box[2] - box[0]) <= longest
            assert 0 < box[0] < box[2] < 1 and 0 < box[1] < box[3] < 1
        for i, a in enumerate(graph.boxes):
            for b in graph.boxes[:i]:
                assert a[2] < b[0] or b[2] < a[0] or a[3] < b[1] or b[3] < a[1]
        graph.validate(DemoTrain.vocab)
    assert counts == {2, 3, 4}


def test_every_pair_has_one_triple_that_holds():
    for graph, _ in SCENES:
        count = len(graph.objects)
        pairs = {frozenset((subject, object)) for subject, _, object in graph.triples}
        assert len(pairs) == len(graph.triples) == count * (count - 1) // 2
        for subject, predicate, object in graph.triples:
            a, b = graph.boxes[subject], graph.boxes[object]
            dx, dy = (a[0] + a[2] - b[0] - b[2]), (a[1] + a[3] - b[1] - b[3])
            holds = {"left of": -dx, "right of": dx, "above": -dy, "below": dy}
            assert holds[predicate] == max(holds.values())


def test_relations_are_opposite_from_the_other_end():
    opposite = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
    for graph, _ in SCENES:
        for subject, predicate, object in graph.triples:
            assert relation(graph.boxes[object], graph.boxes[subject]) == opposite[predicate]


def test_either_of_two_objects_can_be_the_subject():
    first_is_subject = {subject < object for graph, _ in SCENES for subject, _, object in graph.triples}
    assert first_is_subject == {True, False}


def test_an_edited_graph_changes_only_the_edited_place():
    graph, background = next(scene for scene in SCENES if len(scene[0].objects) == 3)
    objects = ("square" if graph.objects[0] == "circle" else "circle", *graph.objects[1:])
    before = np.asarray(render(graph, background, 64))
    after = np.asarray(render(dataclasses.replace(graph, objects=objects), background, 64))
    changed = (before != after).any(-1)
    x0, y0, x1, y1 = (round(64 * edge) for edge in graph.boxes[0])
    assert changed[y0:y1, x0:x1].any()
    changed[y0:y1, x0:x1] = False
    assert not changed.any()


def test_the_background_is_no_part_of_the_graph():
    graph, background = SCENES[0]
    one, other = (np.asarray(render(graph, style, 64)) for style in (background, GREY))
    assert (one != other).any()
    x0, y0, x1, y1 = graph.boxes[0]
    row, column = int(32 * (y0 + y1)), int(32 * (x0 + x1))
    assert (one[row, column] == other[row, column]).all()


def test_backgrounds_ramp_from_one_colour_to_the_other():
    pixel = SceneGraph(objects=("square",), boxes=((0.5, 0.5, 0.51, 0.51),), attributes=(("red",),))
    across = np.asarray(render(pixel, Background((0, 0, 0), (255, 255, 255), 0.0), 64))
    assert tuple(across[0, 0]) == (0, 0, 0) and tuple(across[63, 63]) == (255, 255, 255)
    assert (np.diff(across[0, :, 0].astype(int)) > 0).all() and (across[0] == across[63]).all()


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
    validation = [str(scene) for scene in SCENES]
    train = DemoTrain(60)
    for train.epoch in range(3):
        assert not set(validation) & {str(train.scene(index)) for index in range(60)}


@pytest.mark.parametrize("image_size", [32, 64, 100])
def test_items_are_an_image_and_its_graph(image_size):
    image, graph = DemoTrain(4, image_size=image_size)[3]
    assert image.shape == (3, image_size, image_size) and image.dtype == torch.float32
    assert -1 <= image.min() < image.max() <= 1
    assert isinstance(graph, SceneGraph)


def test_workers_give_the_items_that_one_process_gives():
    train = DemoTrain(8, seed=3)
    train.epoch = 2
    loaded = list(DataLoader(train, batch_size=None, num_workers=2))
    for index, (image, graph) in enumerate(loaded):
        assert graph == train[index][1] and torch.equal(image, train[index][0])
    assert pickle.loads(pickle.dumps(train)).scene(1) == train.scene(1)


def test_the_vocabulary_has_the_reserved_names_first():
    vocab = DemoTrain.vocab
    assert isinstance(vocab, Vocab)
    assert vocab.objects[0] == "__image__" and vocab.predicates[0] == "__in_image__"
    assert len(vocab.objects) == 4 and len(vocab.predicates) == 5 and len(vocab.attributes) == 8


def test_max_samples_shortens_the_set_and_its_end_is_an_end():
    train = DemoTrain(1000, max_samples=5)
    assert len(train) == 5
    with pytest.raises(IndexError):
        train[5]


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


def test_there_is_nothing_for_the_data_doctor():
    assert list(DemoTrain(2).check()) == []
