"""The text encoders give the tokens that transformers' give to Stable Diffusion 1, 2 and XL, and nothing similar passes."""

import pytest
import torch
from text_models import (
    PROMPTS,
    QUICK,
    SHAPE,
    ldm_clip_keys,
    sd1_encoder,
    sd2_encoder,
    text_model,
    xl_encoder,
    xl_first,
    xl_second,
)

from ldm.graph.text_tokens import END, LENGTH, tokenize
from ldm.modules.encoders.modules import FrozenCLIPEmbedder, FrozenOpenCLIPEmbedder, FrozenOpenCLIPEmbedder2
from ldm.modules.text_encoder import TextTower, TowerShape

TOLERANCE = 1e-5


def error(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """The largest difference, relative to the largest value."""
    return float((ours - theirs).abs().max() / theirs.abs().max())


def ids(padding: int) -> torch.Tensor:
    return torch.cat([tokenize(text).ids(padding) for text in PROMPTS])


@pytest.fixture(scope="module")
def clip():
    """CLIP-L's kind of tower: QuickGELU."""
    return text_model(hidden_act="quick_gelu")


@pytest.fixture(scope="module")
def open_clip():
    """OpenCLIP's kind of tower: GELU, with a projection."""
    return text_model("CLIPTextModelWithProjection", seed=1, hidden_act="gelu")


def hidden_states(model, padding: int):
    return model(ids(padding), output_hidden_states=True).hidden_states


def normed_penultimate(model) -> torch.Tensor:
    """What Stable Diffusion 2 reads; diffusers' folders hold a tower of one layer less for it."""
    norm = getattr(model, "text_model", model).final_layer_norm
    return norm(hidden_states(model, 0)[-2])


def test_sd1_reads_the_last_hidden_state_behind_the_final_norm(clip):
    assert error(sd1_encoder(clip.state_dict()).encode(PROMPTS), clip(ids(END)).last_hidden_state) < TOLERANCE


def test_sd2_reads_the_penultimate_layer_behind_the_final_norm(open_clip):
    assert error(sd2_encoder(open_clip.state_dict()).encode(PROMPTS), normed_penultimate(open_clip)) < TOLERANCE


def test_the_folder_that_diffusers_publishes_for_sd2_has_one_layer_less_and_gives_the_same(open_clip):
    shorter = text_model(hidden_act="gelu", num_hidden_layers=2)
    theirs = {key.removeprefix("text_model."): value for key, value in open_clip.state_dict().items()}
    own = {key: theirs[key.removeprefix("text_model.")] for key in shorter.state_dict()}
    shorter.load_state_dict(own)
    ours = sd2_encoder(shorter.state_dict()).encode(PROMPTS)
    assert error(ours, shorter(ids(0)).last_hidden_state) < TOLERANCE
    assert torch.equal(ours, sd2_encoder(open_clip.state_dict()).encode(PROMPTS))


def test_sdxl_reads_both_penultimate_layers_without_norm_and_the_pooled_embedding_of_the_second(clip, open_clip):
    assert error(xl_first(clip.state_dict()).encode(PROMPTS), hidden_states(clip, END)[-2]) < TOLERANCE
    second = xl_second(open_clip.state_dict())
    tokens, _, pooled = second.encode_with_pooled(PROMPTS)
    assert error(tokens, hidden_states(open_clip, 0)[-2]) < TOLERANCE
    assert error(pooled, open_clip(ids(0)).text_embeds) < TOLERANCE


def test_sdxls_tokens_stand_side_by_side_and_its_vector_is_pooled_text_and_sizes(clip, open_clip):
    encoder = xl_encoder()
    encoder.embedders[0].load_weights(clip.state_dict())
    encoder.embedders[1].load_weights(open_clip.state_dict())
    text = encoder(PROMPTS, size=(64, 96))
    theirs = torch.cat([hidden_states(clip, END)[-2], hidden_states(open_clip, 0)[-2]], dim=-1)
    assert error(text.tokens, theirs) < TOLERANCE and encoder.dim == 64
    diffusers = pytest.importorskip("diffusers")
    embed = diffusers.models.embeddings.Timesteps(256, flip_sin_to_cos=True, downscale_freq_shift=0)
    sizes = embed(torch.tensor([64, 96, 0, 0, 64, 96])).flatten()[None].expand(len(PROMPTS), -1)
    assert error(text.vector, torch.cat([open_clip(ids(0)).text_embeds, sizes], dim=1)) < TOLERANCE
    assert text.vector.shape[1] == encoder.vector_dim


def test_controls_a_wrong_layer_norm_padding_or_activation_gives_other_tokens(clip, open_clip):
    state, theirs = clip.state_dict(), clip(ids(END)).last_hidden_state
    assert error(sd1_encoder(state, layer="hidden", layer_idx=3).encode(PROMPTS), theirs) > 0.1  # no norm
    assert error(sd1_encoder(state, layer="hidden", layer_idx=2).encode(PROMPTS), theirs) > 0.1
    penultimate = normed_penultimate(open_clip)
    assert error(sd2_encoder(open_clip.state_dict(), "last").encode(PROMPTS), penultimate) > 0.1
    assert error(xl_second(open_clip.state_dict()).encode(PROMPTS), penultimate) > 0.1  # the norm is missing
    unnormed = hidden_states(open_clip, 0)[-2]
    assert error(sd2_encoder(open_clip.state_dict()).encode(PROMPTS), unnormed) > 0.1  # the norm is too much
    for encoder, expected in ((sd1_encoder(state), theirs), (sd2_encoder(open_clip.state_dict()), penultimate)):
        encoder.padding = 0 if encoder.padding == END else END
        assert error(encoder.encode(PROMPTS[:2]), expected[:2]) > 0.01
    gelu = FrozenCLIPEmbedder(version=SHAPE)
    gelu.load_weights(state)
    assert error(gelu.encode(PROMPTS), theirs) > 1e-3


def test_the_defaults_are_the_published_architectures():
    large, huge, big = (TowerShape.of(name) for name in ("ViT-L-14-quickgelu", "ViT-H-14", "ViT-bigG-14"))
    assert (large.width, large.layers, large.heads, large.quick_gelu) == (768, 12, 12, True)
    assert (huge.width, huge.layers, huge.heads, huge.quick_gelu) == (1024, 24, 16, False)
    assert (big.width, big.layers, big.heads, big.embed_dim, big.quick_gelu) == (1280, 32, 20, 1280, False)
    with torch.device("meta"):
        layers = [TextTower(huge, skip=1).read_layer, TextTower(big, skip=1, final_norm=False, pooled=True).read_layer]
        assert layers == [23, 31]
        assert FrozenCLIPEmbedder().model.activation == "quick_gelu"
        assert FrozenOpenCLIPEmbedder(layer="penultimate").padding == 0
        assert FrozenOpenCLIPEmbedder2().dim == 1280


def test_lost_words_are_said_and_chunks_read_them(clip, caplog):
    encoder = sd1_encoder(clip.state_dict())
    text = " ".join(["word"] * 75) + " red apple"
    cut = encoder([text])
    assert "lost: red apple" in caplog.text and "--long-prompt chunk" in caplog.text
    caplog.clear()
    whole = encoder([text, "a cat"], chunked=True)
    assert not caplog.text
    assert whole.tokens.shape == (2, 2 * LENGTH, 32)
    torch.testing.assert_close(whole.tokens[0, :LENGTH], cut.tokens[0], rtol=0, atol=1e-5)
    torch.testing.assert_close(whole.tokens[0, LENGTH:], encoder(["red apple"]).tokens[0], rtol=0, atol=1e-5)
    assert whole.mask[0].all() and whole.mask[1].tolist() == [True] * LENGTH + [False] * LENGTH


def test_a_text_does_not_depend_on_the_others_in_its_batch(clip):
    encoder = sd1_encoder(clip.state_dict())
    together = encoder(PROMPTS).tokens
    for text, tokens in zip(PROMPTS, together):
        torch.testing.assert_close(encoder([text]).tokens[0], tokens, rtol=0, atol=1e-5)


def test_encoders_are_frozen_and_stay_in_evaluation_mode(clip):
    encoder = sd1_encoder(ldm_clip_keys(clip)).train()
    assert not encoder.training and not any(parameter.requires_grad for parameter in encoder.parameters())
    assert not encoder(["a"]).tokens.requires_grad


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: FrozenCLIPEmbedder(version=QUICK, layer="pooled"), "layer 'pooled' with layer_idx None"),
        (lambda: FrozenCLIPEmbedder(version=QUICK, layer="hidden"), "layer 'hidden' with layer_idx None"),
        (lambda: FrozenCLIPEmbedder(version="openai/clip-vit-large"), "no CLIP of the name 'openai/clip-vit-large'"),
        (lambda: FrozenCLIPEmbedder(version=QUICK, freeze=False), "freeze False is not supported"),
        (lambda: FrozenCLIPEmbedder(version=QUICK, max_length=248), "max_length: 248 is not supported"),
        (lambda: FrozenCLIPEmbedder(version=QUICK, layer="hidden", layer_idx=4), "no output -1 before the last"),
        (lambda: FrozenCLIPEmbedder(version={"width": 3}), "a text tower is described by width"),
        (lambda: FrozenOpenCLIPEmbedder(arch=SHAPE, layer="middle"), "layer 'middle' is not supported"),
        (lambda: FrozenOpenCLIPEmbedder2(arch=SHAPE, legacy=True), "legacy True is not supported"),
        (lambda: FrozenOpenCLIPEmbedder(arch=SHAPE, init="zeros"), "init: 'zeros' is not supported"),
    ],
)
def test_values_that_are_not_supported_are_refused_by_name(build, words):
    with pytest.raises(ValueError, match=words):
        build()
