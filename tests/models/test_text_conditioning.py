"""A LatentDiffusion that reads text: captions of graphs, the empty text of guidance, and the U-Net's cross-attention."""

import pytest
import torch
from tiny import MODEL, tiny_model

from ldm.graph.batch import encode
from ldm.graph.scene_graph import SceneGraph
from ldm.graph.vocab import OpenVocab
from ldm.modules.conditioning import Conditioning

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
