"""Batches: known numbers, decoding inverts encoding, and a Batch survives everything between loader and model."""

import pickle

import pytest
import torch
from graph_examples import GRAPH, VOCAB, graphs_in_vocab, repeatable, with_nothing_unknown
from hypothesis import given
from hypothesis import strategies as st
from lightning_fabric.utilities import move_data_to_device
from torch.distributed.utils import _to_kwargs

from ldm.graph.batch import Batch, GraphBatch, Latents, collate, decode, encode
from ldm.graph.scene_graph import SceneGraph


def test_encoding_two_graphs_gives_the_numbers_worked_out_by_hand():
    batch = encode([GRAPH, SceneGraph(("horse",), attributes=(("brown",),))], VOCAB)
    assert batch.objs.tolist() == [1, 2, 3, 0, 4, 0]
    assert batch.boxes.tolist() == [
        [0.25, 0.5, 0.5, 0.75],
        [-1.0, -1.0, -1.0, -1.0],
        [0.0, 0.0, 1.0, 0.5],
        [0.0, 0.0, 1.0, 1.0],
        [-1.0, -1.0, -1.0, -1.0],
        [0.0, 0.0, 1.0, 1.0],
    ]
    assert batch.triples.tolist() == [[0, 1, 1], [2, 2, 1], [0, 0, 3], [1, 0, 3], [2, 0, 3], [4, 0, 5]]
    assert batch.obj_to_img.tolist() == [0, 0, 0, 0, 1, 1]
    assert batch.triple_to_img.tolist() == [0, 0, 0, 0, 0, 1]
    assert batch.attributes.tolist() == [[0, 0], [2, 1], [2, 0], [4, 1]]
    assert batch.num_images == 2
    assert {x.dtype for x in batch} == {torch.long, torch.float32}


@repeatable
@given(st.lists(graphs_in_vocab, max_size=4))
def test_decode_inverts_encode(graphs):
    batch = encode(graphs, VOCAB)
    assert decode(batch, VOCAB) == [with_nothing_unknown(graph) for graph in graphs]
    assert batch.num_images == len(graphs)
    without_attributes = [SceneGraph(g.objects, g.boxes, triples=g.known_triples) for g in graphs]
    assert decode(batch._replace(attributes=None), VOCAB) == without_attributes


@repeatable
@given(st.lists(graphs_in_vocab, min_size=1, max_size=4))
def test_every_image_ends_with_its_image_object_to_which_all_others_relate(graphs):
    batch = encode(graphs, VOCAB)
    for image, graph in enumerate(graphs):
        objects = (batch.obj_to_img == image).nonzero().flatten().tolist()
        assert batch.objs[objects].tolist().index(0) == len(objects) - 1 == len(graph.objects)
        triples = batch.triples[batch.triple_to_img == image]
        assert triples[triples[:, 1] == 0].tolist() == [[o, 0, objects[-1]] for o in objects[:-1]]
        assert set(triples[:, [0, 2]].flatten().tolist()) <= set(objects)


def test_decode_drops_self_relations_of_published_data():
    batch = encode([GRAPH], VOCAB)
    self_relation = torch.tensor([[1, 3, 1]])
    batch = batch._replace(
        triples=torch.cat([batch.triples, self_relation]),
        triple_to_img=torch.cat([batch.triple_to_img, torch.tensor([0])]),
    )
    assert decode(batch, VOCAB)[0].triples == GRAPH.triples


# Batch ----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def batch() -> Batch:
    return collate([(torch.rand(3, 2, 2), GRAPH) for _ in range(2)], VOCAB)


def assert_equal(batch: Batch, expected: Batch):
    assert type(batch) is Batch and type(batch.graph) is GraphBatch
    assert all(torch.equal(x, y) for x, y in zip(batch, expected, strict=True))
    assert torch.equal(batch.graph.attributes, expected.graph.attributes)
    assert torch.equal(batch.reference, expected.reference)


def test_a_batch_unpacks_to_the_six_tensors_of_sg2im():
    images = [torch.full((3, 2, 2), float(i)) for i in range(2)]
    batch = collate([(image, GRAPH) for image in images], VOCAB)
    image, objs, boxes, triples, obj_to_img, triple_to_img = batch
    assert torch.equal(image, torch.stack(images)) and image is batch.image
    assert (objs, boxes, triples, obj_to_img, triple_to_img) == batch.graph[:5]
    assert len(batch) == 6 and batch[1] is objs and batch[-1] is triple_to_img and batch[1:3] == (objs, boxes)
    assert batch.graph.attributes.tolist() == [[0, 0], [2, 1], [2, 0], [4, 0], [6, 1], [6, 0]]


def test_six_tensors_make_a_batch_without_attributes(batch):
    assert Batch.of(batch) is batch
    six = Batch.of(tuple(batch))
    assert six.graph.attributes is None and all(x is y for x, y in zip(six, batch, strict=True))
    assert Batch.of(list(batch)).to("meta").graph.attributes is None


class Collate:
    def __call__(self, samples):
        return collate(samples, VOCAB)


def test_a_batch_can_be_pickled_and_comes_whole_from_a_worker_process(batch):
    assert_equal(pickle.loads(pickle.dumps(batch)), batch)
    samples = [(image, GRAPH) for image in batch.image]
    loader = torch.utils.data.DataLoader(samples, 2, num_workers=1, collate_fn=Collate())
    assert_equal(next(iter(loader)), batch)


def test_moving_a_batch_moves_all_its_tensors(batch):
    of_captions = torch.rand(2, 77, 3), torch.rand(2, 5)
    cached = Batch(None, batch.graph, latents=Latents(torch.rand(2, 4, 1, 1), torch.rand(2, 8), *of_captions))
    for move in (Batch.to, move_data_to_device):  # Lightning's function uses Batch.to
        moved = move(batch, torch.device("meta"))
        assert type(moved) is Batch and {x.device.type for x in (*moved, *moved.graph, moved.reference)} == {"meta"}
        moved = move(cached, torch.device("meta"))
        assert {x.device.type for x in (*moved.graph, *moved.latents)} == {"meta"}
        assert moved.image is None and moved.reference is None
    assert_equal(batch.to("cpu", non_blocking=True), batch)


def test_distributed_data_parallel_passes_a_batch_to_the_model_unchanged(batch):
    """DDP moves the arguments of `forward` with this function, which rebuilds tuples."""
    ((argument,),), _ = _to_kwargs((batch,), {}, torch.device("meta"), False)
    assert argument is batch


def test_an_image_is_its_own_style_reference_unless_the_data_has_another():
    image, other = torch.zeros(3, 4, 4), torch.ones(3, 4, 4)
    alone = collate([(image, GRAPH), (image, GRAPH)], VOCAB)
    for batch in (alone, alone.to("meta"), pickle.loads(pickle.dumps(alone))):
        assert batch.reference is batch.image  # so that it is encoded once
    both = collate([(image, GRAPH, other), (image, GRAPH, other)], VOCAB)
    for batch in (both, both.to("cpu"), pickle.loads(pickle.dumps(both))):
        assert len(batch) == 6 and (batch.image == 0).all() and (batch.reference == 1).all()
