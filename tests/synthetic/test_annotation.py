"""Incomplete annotations of complete graphs: what is left of a graph is true of it."""

import random

import numpy as np
import pytest

from ldm.data.demo import DemoValidation
from ldm.graph.scene_graph import SceneGraph
from ldm.synthetic.annotation import CONVERSE, DEPTH_PREDICATES, box_of, subsample_graph
from ldm.synthetic.shapes import render

SCENES = [DemoValidation(200).scene(index) for index in range(200)]


def names(graph: SceneGraph) -> list[tuple[str, ...]]:
    return [(shape, *sorted(attributes)) for shape, attributes in zip(graph.objects, graph.attributes)]


@pytest.mark.parametrize("boxes", ["all", "part", "none", "mixed"])
def test_a_subsampled_graph_is_true_and_shuffled_and_has_the_boxes_of_its_mode(boxes):
    orders, modes = set(), set()
    for index, (graph, _) in enumerate(SCENES):
        subsampled = subsample_graph(graph, random.Random(index), boxes)
        assert sorted(names(subsampled)) == sorted(names(graph))
        original = [names(graph).index(name) for name in names(subsampled)]  # names are unique within a scene
        orders.add(tuple(original))
        count = sum(box is not None for box in subsampled.boxes)
        modes.add("all" if count == len(subsampled.boxes) else "none" if count == 0 else "part")
        for new, old in enumerate(original):
            assert subsampled.boxes[new] in (None, graph.boxes[old])
        for subject, predicate, object in subsampled.triples:
            s, o = original[subject], original[object]
            assert (s, predicate, o) in graph.triples or (o, CONVERSE[predicate], s) in graph.triples
    assert len(orders) > 20
    assert modes == ({"all", "part", "none"} if boxes == "mixed" else {boxes})


def test_depth_triples_are_always_kept():
    for index, (graph, _) in enumerate(SCENES):
        kept = subsample_graph(graph, random.Random(index), share=0).triples
        assert len(kept) == sum(predicate in DEPTH_PREDICATES for _, predicate, _ in graph.triples)


def test_share_is_the_share_of_the_other_triples_that_are_kept():
    total = sum(len(graph.triples) for graph, _ in SCENES)

    def kept(share):
        graphs = (subsample_graph(graph, random.Random(i), share=share) for i, (graph, _) in enumerate(SCENES))
        return sum(len(graph.triples) for graph in graphs)

    assert kept(1) == total and 0.45 * total < kept(0.5) < 0.75 * total


def test_boxes_and_depth_triples_suffice_to_draw_the_same_picture():
    for index, (graph, background) in enumerate(SCENES):
        subsampled = subsample_graph(graph, random.Random(index), "all", share=0)
        assert (np.asarray(render(subsampled, background)) == np.asarray(render(graph, background))).all()


def test_box_of_an_object_without_a_box_fails():
    with pytest.raises(AssertionError, match="object 0"):
        box_of(SceneGraph(("circle",)), 0)
