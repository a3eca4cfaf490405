"""A text encoder with rows for some words only: CLIP's tokens and positions, few parameters."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from text_models import PROMPTS

from ldm.graph.text_spans import count_tokens, token_characters
from ldm.graph.text_tokens import END, START, pad_with, token_ids, tokenize
from ldm.modules.encoders.modules import FrozenCLIPEmbedder
from ldm.modules.encoders.small import SmallTextEncoder

WORDS = ["red", "blue", "square", "triangle", ","]


def small(words=WORDS, **changes):
    torch.manual_seed(0)
    return SmallTextEncoder(words, width=32, layers=2, heads=2, **{"init": "random", **changes})


def test_texts_of_known_words_differ_and_others_share_one_row():
    encoder = small()
    red, blue, dog, cat = (encoder([f"{word} square"]).tokens for word in ("red", "blue", "dog", "cat"))
    assert torch.equal(dog, cat)
    for other in (blue, dog):
        assert (red - other).abs().max() > 0.01


def test_the_table_has_rows_for_the_tokens_of_the_words_start_end_and_all_others():
    encoder = small()
    tokens = {token for word in WORDS for chunk in tokenize(word).chunks for token in chunk}
    assert encoder.model.token_embedding.weight.shape[0] == len(tokens | {START, END}) + 1
    assert encoder.model.token_embedding.weight[0].abs().max() == 0
    rows = encoder.rows[torch.tensor(sorted(tokens | {START, END}))]
    assert len(rows.unique()) == len(rows) and rows.min() == 1


def test_it_computes_what_clips_tower_does_with_the_same_rows():
    encoder = small()
    clip = FrozenCLIPEmbedder(version={"width": 32, "layers": 2, "heads": 2, "embed_dim": 32}, init="random")
    state = dict(encoder.model.state_dict())
    state["token_embedding.weight"] = state["token_embedding.weight"][encoder.rows]
    clip.model.load_state_dict(state)
    for texts in (["red square, a dog"], PROMPTS):
        assert torch.equal(encoder(texts).tokens, clip(texts).tokens)


def test_the_order_of_the_words_in_a_config_is_of_no_account():
    state = small().model.state_dict()
    other = small(WORDS[::-1] + ["red"])
    other.model.load_state_dict(state)
    assert torch.equal(other(["red square"]).tokens, small()(["red square"]).tokens)


def test_texts_may_be_given_as_their_tokens():
    ids = torch.stack([token_ids(text) for text in PROMPTS])
    for encoder in (
        small(),
        FrozenCLIPEmbedder(version={"width": 32, "layers": 1, "heads": 2, "embed_dim": 8}, init="random"),
    ):
        from_text, from_ids = encoder(PROMPTS), encoder(ids)
        assert torch.equal(from_text.tokens, from_ids.tokens) and torch.equal(from_text.mask, from_ids.mask)


@pytest.mark.parametrize("padding", [0, END])
def test_tokens_are_padded_as_each_tower_pads_them(padding):
    ids = torch.stack([token_ids(text) for text in PROMPTS])
    assert torch.equal(pad_with(ids, padding), torch.cat([tokenize(text).ids(padding) for text in PROMPTS]))


def test_weights_load_under_the_key_that_stable_diffusion_uses(tmp_path):
    trained = small()
    trained.model.requires_grad_(False).positional_embedding.add_(1)
    path = tmp_path / "model.pt"
    torch.save({f"cond_stage_model.{key}": value for key, value in trained.state_dict().items()}, path)
    loaded = small(init=None, ckpt_path=str(path))
    assert loaded.weights_from == str(path)
    assert torch.equal(loaded(["red square"]).tokens, trained(["red square"]).tokens)


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=60))
def test_the_number_of_tokens_is_that_of_the_traced_ones(text):
    assert count_tokens(text) == len(token_characters(text)) + 2
