"""CGIPModel: published outputs and keys, tokens of triples, and loading of SGDiff's checkpoints."""

import random

import pytest
import torch
from parity import assert_close_to_published
from torch import nn

from ldm.checkpoints.loading import CheckpointError, load_part
from ldm.graph.batch import GraphBatch, encode
from ldm.graph.scene_graph import SceneGraph
from ldm.graph.vocab import Vocab
from ldm.modules.cgip.cgip import CGIPModel, group_mean
from ldm.modules.diffusionmodules.openaimodel import UNetModel

VOCAB = Vocab(("__image__", "sheep", "grass", "sky"), ("__in_image__", "on", "under"))
SHEEP = SceneGraph(("sheep", "grass", "sky"), triples=((0, "on", 1), (1, "under", 2)))
SKY = SceneGraph(("sky",))
TINY = {"num_objs": 4, "num_preds": 3, "width": 12, "layers": 2, "embed_dim": 8}


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    return CGIPModel(**TINY, max_sample_per_img=6).eval()


def published_batch(inputs):
    return GraphBatch(boxes=torch.zeros(len(inputs["objs"]), 4), **inputs)


def random_graphs(count):
    draw = random.Random(0)
    for _ in range(count):
        objects = [draw.choice(VOCAB.objects[1:]) for _ in range(draw.randint(2, 5))]
        pairs = [draw.sample(range(len(objects)), 2) for _ in range(draw.randint(0, 6))]
        yield SceneGraph(objects, triples=[(s, draw.choice(VOCAB.predicates[1:]), o) for s, o in pairs])


def test_published_weights_reproduce_the_published_output(parity):
    published = parity("sgdiff_cgip")
    model = CGIPModel(**published.params)
    model.load_state_dict(published.weights_for(model))
    cond = model(published_batch(published.inputs))
    assert_close_to_published(cond.tokens, published.outputs["local"])
    assert_close_to_published(cond.style, published.outputs["global"])


def test_a_published_sgdiff_checkpoint_has_exactly_the_keys_of_the_encoder(manifest):
    shapes = manifest("sgdiff_vg")
    with torch.device("meta"):
        model = CGIPModel(num_objs=179, num_preds=46, width=512, layers=5, embed_dim=512)
    report = load_part(model, {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}, "cond_stage")
    published = {key.removeprefix("cond_stage_model.") for key in shapes if key.startswith("cond_stage_model.")}
    assert set(report.loaded) == published == model.state_dict().keys()


def test_sgdiffs_u_net_attends_to_padding_as_in_its_training(encoder):
    unet = UNetModel(
        image_size=8, in_channels=4, out_channels=4, model_channels=32, attention_resolutions=[1], num_res_blocks=1,
        channel_mult=[1], num_heads=1, context_dim=8, context_local_dim=encoder.dim,
    )  # fmt: skip
    cond = encoder(encode([SKY], VOCAB))
    context = unet.context(torch.zeros(1, 4, 8, 8), cond)
    assert torch.equal(context.tokens[0, 1], unet.context_local_mlp[0].bias)  # as in the published code
    assert torch.equal(context.tokens[:, -1], cond.style)
    assert not context.bias.any()


def test_padding_can_be_masked():
    model = CGIPModel(**TINY, max_sample_per_img=6, attend_to_padding=False)
    assert model(encode([SKY, SHEEP], VOCAB)).mask.tolist() == [[True] + [False] * 5, [True] * 5 + [False]]


def test_tokens_equal_those_of_a_loop_over_images(encoder):
    graph = encode(list(random_graphs(20)), VOCAB)
    triples = torch.randn(len(graph.triples), 5)
    tokens, mask = encoder._tokens(triples, graph)
    for image in range(20):
        expected = triples[graph.triple_to_img == image][:6]
        count = len(expected)
        assert torch.equal(tokens[image, :count], expected) and not tokens[image, count:].any()
        assert mask[image].tolist() == [slot < count for slot in range(6)]


def test_tokens_and_style_of_an_image_do_not_depend_on_the_others(encoder):
    graphs = list(random_graphs(6))
    together = encoder(encode(graphs, VOCAB))
    for image, graph in enumerate(graphs):
        alone = encoder(encode([graph], VOCAB))
        torch.testing.assert_close(together.tokens[image], alone.tokens[0])
        torch.testing.assert_close(together.style[image], alone.style[0])


def test_triples_beyond_the_token_limit_still_affect_the_style(encoder):
    crowd = SceneGraph(("sheep", "grass"), triples=((0, "on", 1),) * 20)
    turned = SceneGraph(("sheep", "grass"), triples=((0, "on", 1),) * 19 + ((1, "under", 0),))
    a, b = (encoder(encode([graph], VOCAB)) for graph in (crowd, turned))
    assert a.tokens.shape == b.tokens.shape == (1, 6, encoder.dim)
    assert (a.style - b.style).abs().max() > 1e-5


def test_graphs_without_triples_have_only_padding(encoder):
    objs, image = torch.tensor([1, 0, 3]), torch.tensor([0, 0, 1])
    cond = encoder((objs, torch.zeros(3, 4), torch.empty(0, 3, dtype=torch.long), image, image[:0]))
    assert cond.tokens.shape == (2, 6, encoder.dim) and not cond.tokens.any()
    assert cond.style.isfinite().all()


def test_an_untrained_encoder_of_the_published_depth_distinguishes_graphs():
    torch.manual_seed(0)
    style = CGIPModel(num_objs=4, num_preds=3, width=64, layers=5, embed_dim=64)(encode([SHEEP, SKY], VOCAB)).style
    assert torch.cosine_similarity(style[0], style[1], dim=0) < 0.999


def test_tokens_have_no_boxes(encoder):
    assert (encoder(encode([SHEEP], VOCAB)).boxes == -1).all()


def test_group_mean_of_an_empty_group_is_zero():
    values, group = torch.tensor([[1.0], [5], [2]]), torch.tensor([2, 2, 0])
    assert group_mean(values, group, 4).flatten().tolist() == [2, 0, 3, 0]


def test_every_parameter_has_a_gradient(encoder):
    cond = encoder(encode([SHEEP, SKY], VOCAB))
    (cond.tokens.sum() + cond.style.sum()).backward()
    assert all(p.grad is not None and p.grad.any() for p in encoder.parameters())


@pytest.mark.parametrize("wrapper", ["", "module."])
def test_weights_of_sgdiffs_pretraining_load_by_key(encoder, tmp_path, wrapper):
    state = {f"{wrapper}{key}": value for key, value in encoder.state_dict().items()}
    state[f"{wrapper}clip_model.visual.proj"] = torch.zeros(3)
    path = tmp_path / "sip_vg.pt"
    torch.save({"epoch": 100, "name": "sip", "state_dict": state, "optimizer": {"state": {}}}, path)
    assert_loads(encoder, path)


def test_weights_load_from_a_complete_sgdiff_checkpoint(encoder, tmp_path):
    state = {f"cond_stage_model.{key}": value for key, value in encoder.state_dict().items()}
    path = tmp_path / "vg.ckpt"
    others = {"model.diffusion_model.out.0.bias": torch.zeros(3), "betas": torch.zeros(3)}
    torch.save({"state_dict": state | others}, path)
    assert_loads(encoder, path)


def assert_loads(encoder, path):
    loaded = CGIPModel(**TINY, ckpt_path=path)
    assert loaded.weights_from == str(path)
    for key, value in loaded.state_dict().items():
        assert torch.equal(value, encoder.state_dict()[key]), key


@pytest.mark.parametrize("change, message", [
    (lambda state: state.pop("graph_projection.bias"), "1 missing: graph_projection.bias"),
    (lambda state: state.update({"graph_conv.net3.0.bias": torch.zeros(1)}), "1 unexpected: graph_conv.net3.0.bias"),
    (lambda state: state.update({"pred_embeddings.weight": torch.zeros(9, 8)}), "num_preds"),
])  # fmt: skip
def test_weights_that_do_not_fit_are_refused(encoder, tmp_path, change, message):
    state = dict(encoder.state_dict())
    change(state)
    torch.save(state, tmp_path / "sip.pt")
    with pytest.raises(CheckpointError, match=message):
        CGIPModel(**TINY, ckpt_path=tmp_path / "sip.pt")


def test_weights_from_is_none_until_weights_are_loaded():
    assert CGIPModel(**TINY).weights_from is None
    assert "random" in CGIPModel(**TINY, init="random").weights_from
    with pytest.raises(ValueError, match="random"):
        CGIPModel(**TINY, init="zeros")


def test_an_id_beyond_the_encoders_vocabulary_names_the_option(encoder):
    graph = encode([SHEEP], VOCAB)
    with pytest.raises(ValueError, match="num_objs"):
        encoder(graph._replace(objs=graph.objs.clamp(max=0) + torch.tensor([5, 0, 0, 0])))
    with pytest.raises(ValueError, match="num_preds"):
        encoder(graph._replace(triples=graph.triples + torch.tensor([0, 7, 0])))


def test_the_published_temperature_is_not_trainable(encoder):
    assert "logit_scale" in encoder.state_dict() and "logit_scale" not in dict(encoder.named_parameters())
    assert not isinstance(encoder.logit_scale, nn.Parameter)
