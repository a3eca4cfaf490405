"""A LatentDiffusion that reads text: captions of graphs, the empty text of guidance, and the U-Net's cross-attention."""

import pytest
import torch
from tiny import MODEL, demo_batch, tiny_model

from ldm.graph.batch import encode
from ldm.graph.scene_graph import SceneGraph
from ldm.graph.vocab import OpenVocab
from ldm.modules.conditioning import Conditioning
from ldm.synthetic.shapes import VOCAB

TEXT = {
    "target": "ldm.modules.encoders.modules.FrozenCLIPEmbedder",
    "params": {"init": "random", "version": {"width": 24, "layers": 2, "heads": 2, "embed_dim": 16}},
}
GRAPH = SceneGraph(("fox", "hat"), attributes=(("red",), ()), triples=((0, "wearing", 1),))
X, T = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([500])


@pytest.fixture(scope="module")
def model():
    """A model of text alone: no graph encoder, no image encoder, no adapters."""
    torch.manual_seed(0)
    params = MODEL["params"]["unet_config"]["params"]
    names = ("context_local_dim", "film_embedding_dim", "lora_rank")
    unet = {key: value for key, value in params.items() if key not in names}
    model = tiny_model(
        unet_config={**MODEL["params"]["unet_config"], "params": unet},
        cond_stage_config=None,
        global_stage_config=None,
        text_stage_config=TEXT,
    )
    model.vocab = OpenVocab()
    return model.eval()


def condition(model, *args, **kwargs):
    return model.condition(encode([GRAPH], model.vocab), *args, **kwargs)


def test_a_graph_is_read_as_its_caption(model):
    expected = model.text_stage_model(["red fox wearing hat"]).tokens
    assert torch.equal(condition(model).text.tokens, expected) and expected.shape == (1, 77, 24)
    assert torch.equal(condition(model, texts=["a dog"]).text.tokens, model.text_stage_model(["a dog"]).tokens)


def test_cross_attention_reads_the_texts_tokens(model):
    cond = condition(model)
    with torch.no_grad():
        as_tokens = model.unet(X, T, Conditioning.from_tokens(cond.text.tokens))
        assert torch.equal(model.unet(X, T, cond), as_tokens)
        assert not torch.allclose(model.unet(X, T, condition(model, texts=["a dog"])), as_tokens, atol=1e-4)


def test_guidance_leads_away_from_the_empty_text_or_the_negative_prompt(model):
    cond = condition(model)
    with torch.no_grad():
        for negative in ("", "blurry photo"):
            null = model.unet(X, T, Conditioning.from_tokens(model.text_stage_model([negative]).tokens))
            expected = null + 3 * (model.unet(X, T, cond) - null)
            eps = model.denoiser(cond, 3.0, 3.0, negative=negative)(X, T)
            torch.testing.assert_close(eps, expected, rtol=0, atol=1e-4)


def test_null_tokens_of_null_text_inversion_replace_the_empty_text(model):
    cond, tokens = condition(model), torch.randn(1, 77, 24)
    with torch.no_grad():
        null = model.unet(X, T, Conditioning.from_tokens(tokens))
        expected = null + 3 * (model.unet(X, T, cond) - null)
        eps = model.denoiser(cond, 3.0, 3.0)(X, T, tokens)
        torch.testing.assert_close(eps, expected, rtol=0, atol=1e-4)
        own = model.denoiser(cond, 3.0, 3.0)(X, T, model.null().text.tokens)
        torch.testing.assert_close(own, model.denoiser(cond, 3.0, 3.0)(X, T), rtol=0, atol=1e-5)


def test_a_model_without_graph_encoder_and_without_text_encoder_is_refused():
    with pytest.raises(ValueError, match="neither a cond_stage_config nor a text_stage_config"):
        tiny_model(cond_stage_config=None)


def test_a_text_encoder_without_weights_is_refused_by_name():
    frozen = {**TEXT, "params": {"version": TEXT["params"]["version"]}}
    with pytest.raises(Exception, match="the text encoder is frozen and has no weights"):
        tiny_model(text_stage_config=frozen)


# A graph beside the text


@pytest.fixture
def both():
    """A model that reads the text and, by adapters, the graph and the style beside it."""
    torch.manual_seed(0)
    unet = {**MODEL["params"]["unet_config"]["params"], "graph_attention": True}
    return tiny_model(unet_config={**MODEL["params"]["unet_config"], "params": unet}, text_stage_config=TEXT)


def step(model, batch):
    model.zero_grad()
    losses, _ = model.losses(batch, torch.Generator().manual_seed(0))
    losses.mean().backward()


def test_in_training_every_trainable_parameter_has_a_gradient_by_step_2_and_no_frozen_one(both):
    both.graph_drop = both.style_drop = both.text_drop = 0.5
    optimizer = torch.optim.AdamW([p for p in both.parameters() if p.requires_grad], 1e-2)
    step(both.train(), demo_batch(4))
    optimizer.step()
    step(both, demo_batch(4))
    for name, parameter in both.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name


def test_untrained_adapters_change_nothing_of_what_the_model_says_to_the_text(both):
    batch = demo_batch(1)
    cond = both.condition(batch.graph, batch.image)
    with torch.no_grad():
        expected = both.unet(X, T, Conditioning.from_text(cond.text))
        assert torch.equal(both.unet(X, T, cond), expected)
        assert torch.equal(both.denoiser(cond)(X, T), expected)


def test_caption_graph_and_style_are_dropped_apart_in_training(both, monkeypatch):
    seen = []
    monkeypatch.setattr(both.model["diffusion_model"], "forward", lambda x, t, cond: seen.append(cond) or x)
    both.text_drop, both.graph_drop, both.style_drop = 1.0, 0.0, 0.0
    both.losses(demo_batch(2))
    both.text_drop, both.graph_drop = 0.0, 1.0
    both.losses(demo_batch(2))
    full, empty = both.condition(demo_batch(2).graph, demo_batch(2).image), both.null()
    assert torch.equal(seen[0].text.tokens, empty.text.tokens.expand(2, -1, -1))
    assert torch.equal(seen[0].tokens, full.tokens) and torch.equal(seen[1].text.tokens, full.text.tokens)
    assert torch.equal(seen[1].tokens[:, :1], both.null_tokens.expand(2, -1, -1))


def test_captions_of_a_batch_are_those_of_its_graphs(both):
    both.vocab = VOCAB
    words = both.captions(demo_batch(2).graph)
    assert len(words) == 2 and all(any(name in text for name in VOCAB.objects[1:]) for text in words)


def test_only_trained_parts_are_saved(both):
    saved = both.saved_state()
    assert any("to_v_graph" in key for key in saved) and not any(key.startswith("text_stage_model") for key in saved)
