"""NSGEncoder: the layout of tokens, what they depend on, incomplete graphs, and numerics."""

import random
import warnings
from dataclasses import replace

import pytest
import torch

from ldm.graph.batch import GraphBatch, encode
from ldm.graph.scene_graph import SceneGraph
from ldm.graph.vocab import Vocab
from ldm.modules.nsg_encoder import NSGEncoder

VOCAB = Vocab(
    objects=("__image__", "sheep", "grass", "sky", "tree", "man"),
    predicates=("__in_image__", "on", "under", "near"),
    attributes=("white", "big", "wet"),
)
LEFT, RIGHT = (0.1, 0.4, 0.4, 0.8), (0.6, 0.4, 0.9, 0.8)
PASTURE = SceneGraph(
    ("sheep", "grass", "sky", "man"),
    boxes=(LEFT, None, (0.0, 0.0, 1.0, 0.4), None),
    attributes=(("white", "big"), (), (), ("wet",)),
    triples=((0, "on", 1), (1, "under", 2), (3, "near", 0)),
)
BOXED = SceneGraph(("sheep", "sky"), boxes=(LEFT, RIGHT))


@pytest.fixture
def make():
    """make(**arguments) -> a small encoder of VOCAB in evaluation mode, with the same weights in each call."""

    def make(**arguments):
        torch.manual_seed(0)
        defaults = {
            "num_objs": 6,
            "num_preds": 4,
            "num_attributes": 3,
            "dim": 32,
            "depth": 2,
            "heads": 4,
            "max_tokens": 24,
        }
        return NSGEncoder(**defaults | arguments).eval()

    return make


@pytest.fixture
def encoder(make):
    return make()


def tokens(encoder, *graphs):
    return encoder(encode(graphs, VOCAB)).tokens.detach()


def assert_same(a, b):
    torch.testing.assert_close(a, b, rtol=0, atol=1e-5)


def differ(a, b):
    return (a - b).abs().max() > 1e-3


def random_graph(draw, objects, triples):
    names = [draw.choice(VOCAB.objects[1:]) for _ in range(objects)]
    pairs = [draw.sample(range(objects), 2) for _ in range(triples)]
    return SceneGraph(
        tuple(names),
        boxes=tuple(draw.choice([None, LEFT, RIGHT]) for _ in names),
        attributes=tuple(tuple(draw.sample(VOCAB.attributes, draw.randrange(3))) for _ in names),
        triples=tuple((s, draw.choice(VOCAB.predicates[1:]), o) for s, o in pairs),
    )


def random_batch(seed):
    draw = random.Random(seed)
    return [random_graph(draw, objects, draw.randrange(12)) for objects in (2, 5, 9, 3)]


# The layout


def layout_by_loops(graph, max_tokens):
    """Reference implementation: token indices, one image and one element at a time."""
    objects, triples = [-1] * len(graph.objs), [-1] * len(graph.triples)
    filled = []
    for image in range(graph.num_images):
        own = [i for i, img in enumerate(graph.obj_to_img.tolist()) if img == image]
        relations = [i for i, img in enumerate(graph.triple_to_img.tolist()) if img == image]
        real = [i for i in relations if graph.triples[i, 1] != 0]
        queue = [(objects, i) for i in own] + [(triples, i) for i in real]
        queue += [(triples, i) for i in relations if i not in real]
        for slot, (slots, i) in enumerate(queue[:max_tokens]):
            slots[i] = slot
        filled.append(min(len(queue), max_tokens))
    return objects, triples, filled


@pytest.mark.filterwarnings("ignore:a graph has")
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("max_tokens", [3, 8, 12, 40])
def test_the_layout_equals_that_of_a_loop_over_images(make, seed, max_tokens):
    graph = encode(random_batch(seed), VOCAB)
    shuffled = torch.randperm(len(graph.triples), generator=torch.Generator().manual_seed(seed))
    graph = graph._replace(triples=graph.triples[shuffled], triple_to_img=graph.triple_to_img[shuffled])
    layout = make(max_tokens=max_tokens).layout(graph)
    objects, triples, filled = layout_by_loops(graph, max_tokens)
    assert layout.object_token.tolist() == objects
    assert layout.triple_token.tolist() == triples
    assert layout.mask.tolist() == [[slot < taken for slot in range(max_tokens)] for taken in filled]


@pytest.mark.parametrize(
    "max_tokens, objects, triples",
    [
        (12, [0, 1, 2, 3, 4], [5, 6, 7, 8, 9, 10, 11]),
        (10, [0, 1, 2, 3, 4], [5, 6, 7, 8, 9, -1, -1]),  # two of the __in_image__ triples
        (7, [0, 1, 2, 3, 4], [5, 6, -1, -1, -1, -1, -1]),  # all of them, and a relation
        (4, [0, 1, 2, 3, -1], [-1] * 7),  # all triples, and __image__
        (3, [0, 1, 2, -1, -1], [-1] * 7),
    ],
)
@pytest.mark.filterwarnings("ignore:a graph has")
def test_tokens_beyond_max_tokens_are_dropped_in_the_documented_order(make, max_tokens, objects, triples):
    layout = make(max_tokens=max_tokens).layout(encode([PASTURE], VOCAB))
    assert layout.object_token.tolist() == objects
    assert layout.triple_token.tolist() == triples


def test_dropping_tokens_warns_once_with_their_number(make):
    graph = encode([PASTURE], VOCAB)  # 5 objects and 7 triples
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make(max_tokens=12)(graph)
    encoder = make(max_tokens=9)
    with pytest.warns(UserWarning, match="max_tokens is 9: the last 3 "):
        encoder(graph)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        encoder(graph)


@pytest.mark.filterwarnings("ignore:a graph has")
def test_dropped_triples_do_not_change_the_other_tokens(make):
    """5 objects and 3 triples fit; the __in_image__ triples, which do not, make no difference."""
    encoder, graph = make(max_tokens=8), encode([PASTURE], VOCAB)
    related = graph.triples[:, 1] != 0
    without = graph._replace(triples=graph.triples[related], triple_to_img=graph.triple_to_img[related])
    assert_same(encoder(graph).tokens, encoder(without).tokens)


# The tokens


def test_tokens_of_an_image_do_not_depend_on_the_rest_of_the_batch(encoder):
    graphs = [random_graph(random.Random(1), 6, 8), PASTURE, SceneGraph(("sky",))]
    together = encoder(encode(graphs, VOCAB))
    for row, graph in enumerate(graphs):
        alone = encoder(encode([graph], VOCAB))
        assert_same(together.tokens[row], alone.tokens[0])
        assert torch.equal(together.mask[row], alone.mask[0]) and torch.equal(together.boxes[row], alone.boxes[0])


def test_padding_is_zero_and_does_not_change_other_tokens(make):
    wide, narrow = make(max_tokens=64), make(max_tokens=12)
    assert_same(tokens(wide, PASTURE)[:, :12], tokens(narrow, PASTURE))
    assert not tokens(wide, PASTURE)[:, 12:].any()


def test_the_mask_marks_one_token_per_object_and_per_triple(encoder):
    cond = encoder(encode([PASTURE, SceneGraph(("sky",))], VOCAB))
    assert cond.mask.sum(1).tolist() == [5 + 3 + 4, 2 + 1]
    assert (cond.tokens.abs().sum(-1) > 0).equal(cond.mask)
    assert cond.style is None


def test_boxes_of_tokens_are_those_of_their_objects(encoder):
    graph = encode(random_batch(0), VOCAB)
    cond, layout = encoder(graph), encoder.layout(graph)
    assert torch.equal(cond.boxes[graph.obj_to_img, layout.object_token], graph.boxes)
    others = cond.boxes.clone()
    others[graph.obj_to_img, layout.object_token] = -1
    assert (others == -1).all()


def test_permuting_triples_only_permutes_their_tokens(encoder):
    order = [2, 0, 1]
    permuted = replace(PASTURE, triples=tuple(PASTURE.triples[i] for i in order))
    a, b = tokens(encoder, PASTURE)[0], tokens(encoder, permuted)[0]
    slots = [*range(5), *(5 + i for i in order), *range(8, 24)]
    assert_same(a[slots], b)
    assert differ(a, b)


def test_permuting_objects_only_permutes_their_tokens(encoder):
    order = [3, 1, 0, 2]
    new = [order.index(i) for i in range(4)]
    permuted = SceneGraph(
        tuple(PASTURE.objects[i] for i in order),
        tuple(PASTURE.boxes[i] for i in order),
        tuple(PASTURE.attributes[i] for i in order),
        tuple((new[s], predicate, new[o]) for s, predicate, o in PASTURE.triples),
    )
    a, b = tokens(encoder, PASTURE)[0], tokens(encoder, permuted)[0]
    slots = [*order, *range(4, 8), *(8 + i for i in order), *range(12, 24)]
    assert_same(a[slots], b)
    assert differ(a, b)


@pytest.mark.parametrize(
    "change, touched",
    [
        ({"objects": ("tree", "grass", "sky", "man")}, [0, 5, 7]),
        ({"boxes": (RIGHT, None, (0.0, 0.0, 1.0, 0.4), None)}, [0, 5, 7]),
        ({"boxes": (None, None, (0.0, 0.0, 1.0, 0.4), None)}, [0, 5, 7]),
        ({"attributes": (("white",), (), (), ("wet",))}, [0, 5, 7]),
        ({"attributes": (("white", "wet"), (), (), ("wet",))}, [0, 5, 7]),
        ({"triples": ((0, "under", 1), (1, "under", 2), (3, "near", 0))}, [5]),
        ({"triples": ((1, "on", 0), (1, "under", 2), (3, "near", 0))}, [5]),
        ({"triples": ((0, "on", 3), (1, "under", 2), (3, "near", 0))}, [5]),
    ],
    ids=["name", "box", "no box", "fewer attributes", "attribute", "predicate", "swapped", "object"],
)
def test_each_property_of_an_object_changes_most_the_tokens_that_represent_it(encoder, change, touched):
    """Token 0 represents the sheep, tokens 5 and 7 its triples."""
    a, b = tokens(encoder, PASTURE)[0], tokens(encoder, replace(PASTURE, **change))[0]
    changes = (a - b).norm(dim=-1)[:8]  # objects and relations
    others = [slot for slot in range(8) if slot not in touched]
    assert differ(a, b)
    assert changes[touched].min() > changes[others].max()


def test_an_object_embedding_is_the_sum_of_the_embeddings_of_its_properties(encoder):
    graph = SceneGraph(("sky", "sheep", "sheep"), attributes=((), (), ("white", "wet")))
    name, twin, attribute = (table.weight for table in (encoder.name, encoder.twin, encoder.attribute))
    expected = name[1] + twin[1] + attribute[0] + attribute[2] + encoder.no_box
    assert_same(encoder.objects(encode([graph], VOCAB))[2], expected)


def test_a_box_shift_of_one_pixel_changes_the_embedding_even_in_half_precision(encoder):
    graph = encode([BOXED], VOCAB)
    moved = graph._replace(boxes=graph.boxes + torch.tensor([1 / 512, 0, 1 / 512, 0]))
    for dtype in (torch.float32, torch.bfloat16):
        encoder.to(dtype)
        before, after = encoder.objects(graph), encoder.objects(moved)
        assert ((after - before).norm(dim=1) > 0.02 * before.norm(dim=1)).all()


def test_the_order_of_attributes_does_not_matter(encoder):
    reordered = replace(PASTURE, attributes=(("big", "white"), (), (), ("wet",)))
    assert_same(tokens(encoder, PASTURE), tokens(encoder, reordered))


def test_an_encoder_with_num_attributes_0_ignores_attributes(make):
    encoder = make(num_attributes=0)
    assert encoder.attribute is None
    assert_same(tokens(encoder, PASTURE), tokens(encoder, replace(PASTURE, attributes=())))


def test_triples_distinguish_two_objects_of_the_same_name_without_boxes(encoder):
    flock = SceneGraph(("sheep", "sheep", "grass", "tree"), triples=((0, "on", 2), (0, "near", 3)))
    one, both = tokens(encoder, flock), tokens(encoder, replace(flock, triples=((0, "on", 2), (1, "near", 3))))
    assert differ(one[:, 6], both[:, 6])


def test_triples_change_the_embeddings_of_their_objects_before_the_transformer(encoder, monkeypatch):
    monkeypatch.setattr(encoder.transformer, "forward", lambda tokens, **_: tokens)
    original = tokens(encoder, PASTURE)[0]
    turned = tokens(encoder, replace(PASTURE, triples=((0, "under", 1), *PASTURE.triples[1:])))[0]
    swapped = tokens(encoder, replace(PASTURE, triples=((1, "on", 0), *PASTURE.triples[1:])))[0]
    for other in (turned, swapped):
        assert differ(original[0], other[0]) and differ(original[1], other[1])
        assert_same(original[2:4], other[2:4])


def test_more_objects_of_one_name_than_the_encoding_distinguishes_are_accepted(make):
    encoder = make(max_tokens=48)
    crowd = SceneGraph(("sheep",) * 20)
    assert tokens(encoder, crowd).isfinite().all()


def test_the_encoder_accepts_sg2ims_five_tensors(encoder):
    graph = encode([replace(PASTURE, attributes=())], VOCAB)
    assert_same(encoder(tuple(graph[:5])).tokens, encoder(graph).tokens)


# Incomplete graphs


def bare(objs, images):
    """Objects without boxes, triples or attributes."""
    return GraphBatch(
        torch.tensor(objs),
        torch.full((len(objs), 4), -1.0),
        torch.empty(0, 3, dtype=torch.long),
        torch.tensor(images),
        torch.empty(0, dtype=torch.long),
    )


def test_a_graph_without_triples_or_boxes_works(encoder):
    cond = encoder(bare([1, 1, 2], [0, 1, 1]))
    assert cond.mask.sum(1).tolist() == [1, 2]
    assert cond.tokens.isfinite().all() and cond.tokens[cond.mask].abs().sum(-1).all()


@pytest.mark.parametrize("training", [False, True])
def test_an_image_without_objects_has_zero_tokens_and_does_not_affect_others(encoder, training):
    encoder.train(training)
    cond = encoder(bare([1, 2], [0, 2]))
    assert cond.mask.sum(1).tolist() == [1, 0, 1]
    assert not cond.tokens[1].any()
    assert_same(cond.tokens[[0, 2]], encoder(bare([1, 2], [0, 1])).tokens)
    with torch.no_grad():
        assert_same(encoder(bare([1, 2], [0, 2])).tokens, cond.tokens)
    cond.tokens.square().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in encoder.parameters())


@pytest.mark.parametrize("graph", [bare([1, 2], [0, 1]), encode([PASTURE], VOCAB), encode([BOXED], VOCAB)])
@pytest.mark.parametrize("num_attributes", [0, 3])
def test_every_parameter_has_a_gradient_for_incomplete_graphs(make, graph, num_attributes):
    encoder = make(num_attributes=num_attributes, dropout=0.1).train()
    encoder(graph).tokens.square().sum().backward()
    assert [name for name, parameter in encoder.named_parameters() if parameter.grad is None] == []


def test_a_complete_graph_gives_every_parameter_a_nonzero_gradient(encoder):
    encoder(encode([PASTURE], VOCAB)).tokens.pow(3).sum().backward()
    assert [name for name, parameter in encoder.named_parameters() if not parameter.grad.any()] == []


# Numerics


def test_tokens_are_the_same_without_gradients(encoder, monkeypatch):
    """Then torch would use a fused layer, which on a GPU approximates GELU by tanh."""

    def fused(*_):
        raise AssertionError("the fused layer is used")

    monkeypatch.setattr(torch, "_transformer_encoder_layer_fwd", fused)
    graph = encode(random_batch(0), VOCAB)
    with torch.no_grad():
        without = encoder(graph)
    assert_same(without.tokens, encoder(graph).tokens)


def test_transformer_layers_are_initialised_independently(encoder):
    first, second = (dict(layer.named_parameters()) for layer in encoder.transformer.layers)
    assert all(differ(first[name], second[name]) for name in first if "norm" not in name and first[name].dim() == 2)


@pytest.mark.parametrize("autocast", [False, True])
def test_bfloat16_is_close_to_float32_and_keeps_the_boxes_exact(encoder, autocast):
    graph = encode([PASTURE], VOCAB)
    full = encoder(graph)
    if autocast:
        with torch.autocast("cpu", torch.bfloat16):
            low = encoder(graph)
    else:
        low = encoder.bfloat16()(graph)
    assert torch.equal(low.boxes, full.boxes)
    assert (low.tokens.float() - full.tokens).abs().max() < 0.1 * full.tokens.abs().max()


@pytest.mark.parametrize("size", ["num_objs", "num_preds", "num_attributes"])
def test_an_id_beyond_the_encoders_vocabulary_names_the_option(make, size):
    with pytest.raises(ValueError, match=size):
        make(**{size: 1})(encode([PASTURE], VOCAB))


def test_the_default_size_has_the_documented_shapes():
    with torch.device("meta"):
        encoder = NSGEncoder(num_objs=179, num_preds=46, num_attributes=80)
    assert len(encoder.transformer.layers) == 4 and encoder.max_tokens == 64
    assert encoder.name.weight.shape == (179, 512) and encoder.transformer.layers[0].self_attn.num_heads == 8


def test_weights_load_from_a_pretraining_checkpoint(make, tmp_path):
    trained = make()
    for parameter in trained.parameters():
        parameter.data += 1  # make() gives the same weights each time
    state = {f"cond_stage_model.{name}": value for name, value in trained.state_dict().items()}
    torch.save(
        {"state_dict": state | {"decoder.weight": torch.ones(1), "logit_scale": torch.ones(())}}, tmp_path / "a.ckpt"
    )
    loaded = make(ckpt_path=tmp_path / "a.ckpt")
    assert loaded.weights_from == str(tmp_path / "a.ckpt")
    for name, value in trained.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value)
