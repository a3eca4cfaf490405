"""Rows that are learned beside the tables of a graph encoder."""

import pytest
import torch

from ldm.graph.batch import encode
from ldm.graph.scene_graph import SceneGraph
from ldm.graph.vocab import KINDS
from ldm.modules.graph_words import (
    has_new_name,
    initial_row,
    table_sizes,
    tables_by_kind,
    tables_digest,
    weights_by_boxes,
)
from ldm.modules.nsg_encoder import NSGEncoder
from ldm.synthetic.shapes import VOCAB
from ldm.util.errors import UserError

SIZES = {"num_objs": len(VOCAB.objects), "num_preds": len(VOCAB.predicates), "num_attributes": len(VOCAB.attributes)}
GRAPH = SceneGraph(("circle", "circle", "square"), triples=((0, "above", 2),), attributes=(("red",), ("blue",), ()))


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    return NSGEncoder(**SIZES, dim=32, depth=1, heads=2, max_tokens=16, init="random").eval()


def test_a_graph_of_known_names_has_the_same_bits_with_learned_rows_beside_the_tables(encoder):
    batch = encode([GRAPH], VOCAB)
    before = encoder(batch).tokens
    for kind in KINDS:
        encoder.add_rows(kind, torch.randn(2, 32))
    assert torch.equal(encoder(batch).tokens, before)
    assert (
        encoder.num_objs == SIZES["num_objs"] + 2 and table_sizes(encoder)["attribute"] == SIZES["num_attributes"] + 2
    )


def test_a_learned_row_that_equals_a_names_row_gives_the_names_tokens(encoder):
    wide = VOCAB.extended({"object": ["ring"], "predicate": ["over"], "attribute": ["crimson"]})
    for kind, init in (("object", "circle"), ("predicate", "above"), ("attribute", "red")):
        encoder.add_rows(kind, initial_row(encoder, VOCAB, kind, init)[None])
    new = SceneGraph(("ring", "ring", "square"), triples=((0, "over", 2),), attributes=(("crimson",), ("blue",), ()))
    torch.testing.assert_close(encoder(encode([new], wide)).tokens, encoder(encode([GRAPH], VOCAB)).tokens)


def test_only_learned_rows_have_a_gradient_and_each_word_its_own(encoder):
    encoder.requires_grad_(False)
    encoder.add_rows("object", torch.randn(2, 32))
    encoder.name.added.requires_grad_(True)
    wide = VOCAB.extended({"object": ["zorp", "blip"]})
    encoder(encode([SceneGraph(("square", "blip"))], wide)).tokens.square().sum().backward()
    assert {name for name, p in encoder.named_parameters() if p.grad is not None} == {"name.added"}
    assert not encoder.name.added.grad[0].any() and encoder.name.added.grad[1].any()


def test_an_id_beyond_the_learned_rows_is_an_error(encoder):
    encoder.add_rows("object", torch.zeros(1, 32))
    wide = VOCAB.extended({"object": ["zorp", "blip"]})
    with pytest.raises(ValueError, match="num_objs is 5"):
        encoder(encode([SceneGraph(("blip",))], wide))


def test_a_table_with_more_rows_than_names_gives_learned_names_ids_behind_its_rows():
    encoder = NSGEncoder(**SIZES | {"num_objs": 9}, dim=32, depth=1, heads=2, init="random")
    encoder.add_rows("object", torch.zeros(1, 32))
    wide = VOCAB.extended({"object": ["zorp"]}, {"object": 9})
    assert wide.object_id("zorp") == 9 and wide.object_id("square") == VOCAB.object_id("square")


def test_the_digest_is_of_the_tables_and_not_of_what_was_learned_beside_them(encoder):
    before = tables_digest(encoder)
    encoder.add_rows("object", torch.randn(1, 32))
    assert tables_digest(encoder) == before
    with torch.no_grad():
        encoder.predicate.weight[0, 0] += 1
    assert tables_digest(encoder) != before


def test_the_initial_row_without_a_name_is_the_mean_of_the_names(encoder):
    rows = tables_by_kind(encoder)["object"].weight[1:]
    torch.testing.assert_close(initial_row(encoder, VOCAB, "object", None), rows.mean(0))


def test_an_encoder_without_attributes_learns_none():
    encoder = NSGEncoder(**SIZES | {"num_attributes": 0}, dim=32, depth=1, heads=2, init="random")
    with pytest.raises(UserError, match="ignores attributes"):
        encoder.add_rows("attribute", torch.zeros(1, 32))


def test_objects_of_learned_names_attributes_and_predicates_are_found(encoder):
    wide = VOCAB.extended({"object": ["ring"], "predicate": ["over"], "attribute": ["crimson"]})
    for kind in KINDS:
        encoder.add_rows(kind, torch.zeros(1, 32))
    graphs = [
        SceneGraph(("circle", "ring"), triples=((0, "above", 1),), attributes=(("red",), ("red",))),
        SceneGraph(("circle", "square", "circle"), triples=((2, "over", 0),), attributes=((), ("blue",), ())),
        SceneGraph(("circle", "square"), triples=(), attributes=((), ("red", "crimson"))),
    ]
    found = has_new_name(encoder, encode(graphs, wide)).tolist()
    image = [False]  # the last object of every graph
    assert found == [False, True, *image, True, False, True, *image, False, True, *image]


def test_weights_are_one_in_the_widened_boxes_of_chosen_objects_and_lower_elsewhere():
    boxes = ((0.25, 0.25, 0.5, 0.5), (0.5, 0.5, 1.0, 1.0), None)
    graph = encode([SceneGraph(("circle",) * 3, boxes=boxes)] * 2, VOCAB)
    chosen = torch.tensor([True, False, True, False, False, False, True, False])
    first, second = weights_by_boxes(graph, chosen, 4, 0.2)
    share = torch.tensor(
        [0.5, 1.0, 0.5, 0.0]
    )  # of the cells of an axis that lie in 0.25 to 0.5 and half a cell around it
    torch.testing.assert_close(first, (0.2 + 0.8 * share[:, None] * share)[None])
    assert torch.equal(second, torch.ones(1, 4, 4))  # no chosen object has a box


def test_overlapping_boxes_weigh_as_much_as_the_better_cover():
    graph = encode([SceneGraph(("circle",) * 2, boxes=((0.0, 0.0, 0.5, 1.0), (0.25, 0.0, 0.75, 1.0)))], VOCAB)
    chosen = torch.tensor([True, True, False])
    both = weights_by_boxes(graph, chosen, 8, 0.0)
    alone = [weights_by_boxes(graph, torch.tensor(one), 8, 0.0) for one in ([True, False, False], [False, True, False])]
    assert torch.equal(both, torch.maximum(*alone))
