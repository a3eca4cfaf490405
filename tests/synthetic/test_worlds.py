"""Every world keeps the promises of the `World` protocol."""

import math
import pickle
import random

import numpy as np
import pytest

from ldm.synthetic.annotation import subsample_graph
from ldm.synthetic.readings import SceneReading
from ldm.synthetic.worlds import READERS, WORLDS, find_reader, find_world
from ldm.util.errors import UserError

every_world = pytest.mark.parametrize("world", WORLDS.values(), ids=WORLDS.keys())


@every_world
def test_random_graphs_are_complete_valid_and_unambiguous(world):
    for seed in range(10):
        graph = world.random_graph(random.Random(seed))
        graph.validate(world.vocab)
        assert len(graph.objects) <= world.max_objects and None not in graph.boxes
        for name, (size, colour, finish) in zip(graph.objects, graph.attributes):
            assert name in world.object_names
            assert size in world.sizes and colour in world.colours and finish in world.finishes
        assert world.find_ambiguity(graph) is None
        assert world.back_to_front(graph) == list(range(len(graph.objects)))
        assert world.graph_from_boxes(graph.objects, graph.boxes, graph.attributes) == graph


@every_world
def test_every_generated_triple_holds_and_its_converse_holds_from_the_other_end(world):
    assert set(world.directions) <= set(world.vocab.predicates)
    for seed in range(10):
        graph = world.random_graph(random.Random(seed))
        for subject, predicate, object in graph.triples:
            assert world.triple_holds(SceneReading(graph), subject, predicate, object)
            if predicate in world.converse:
                assert world.triple_holds(SceneReading(graph), object, world.converse[predicate], subject)


@every_world
def test_a_world_reads_its_own_pictures(world):
    rng = random.Random(1)
    graph, background = world.random_graph(rng), world.random_background(rng)
    picture = world.render(graph, background)
    assert picture.size == (world.image_size,) * 2
    reading = world.read_scene(picture)
    assert sorted(zip(reading.graph.objects, map(sorted, reading.graph.attributes))) == sorted(
        zip(graph.objects, map(sorted, graph.attributes))
    )
    assert reading.stray_pixels == 0
    assert world.read_scene(np.asarray(picture)) == reading


@every_world
def test_random_and_resized_boxes_lie_in_the_picture(world):
    rng = random.Random(2)
    for size, other in zip(world.sizes, reversed(world.sizes)):
        for _ in range(20):
            box = world.random_box(size, rng)
            for x0, y0, x1, y1 in (box, world.random_box(size, rng, like=box), *world.resized_boxes(other, box, rng)):
                assert 0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1


@every_world
def test_a_world_can_be_sent_to_a_data_loader_worker(world):
    restored = pickle.loads(pickle.dumps(world))
    assert restored.random_graph(random.Random(0)) == world.random_graph(random.Random(0))


@every_world
def test_a_subsampled_graph_uses_the_world_s_converses(world):
    vocab = set(world.vocab.predicates)
    for seed in range(5):
        graph = subsample_graph(world.random_graph(random.Random(seed)), random.Random(seed), converse=world.converse)
        assert {predicate for _, predicate, _ in graph.triples} <= vocab


@every_world
def test_styles_compare_by_the_parts_that_the_world_names(world):
    rng = random.Random(3)
    graph, backgrounds = world.random_graph(rng), [world.random_background(rng) for _ in range(2)]
    source, reference = (world.read_scene(world.render(graph, background)).style for background in backgrounds)
    assert world.same_style(source, source) and not world.same_style(source, reference)
    assert world.style_distance(source, source) == dict.fromkeys(world.style_parts, 0)
    for style, position in ((source, 0), (reference, 1)):
        follows = world.style_follows(style, source, reference)
        assert tuple(follows) == world.style_parts
        assert all(math.isnan(value) or value == pytest.approx(position) for value in follows.values())


def test_every_world_that_can_be_drawn_can_be_read():
    assert WORLDS.items() <= READERS.items()


@pytest.mark.parametrize("find", [find_world, find_reader])
def test_an_unknown_world_is_an_error(find):
    with pytest.raises(UserError, match="did you mean 'shapes'"):
        find("shpaes")
