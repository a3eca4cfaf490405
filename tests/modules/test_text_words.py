"""Word tables that start from a text encoder: distances between words, and the rows of a vocabulary."""

import copy

import pytest
import torch
from tiny import MODEL, tiny_model

from ldm.graph.vocab import Vocab
from ldm.modules.encoders.modules import FrozenCLIPEmbedder
from ldm.modules.nsg_encoder import NSGEncoder
from ldm.modules.text_words import STD, start_from_text, to_width, word_features
from ldm.synthetic.shapes import VOCAB

SHAPE = {"width": 24, "layers": 2, "heads": 2, "embed_dim": 16}
WORDS = Vocab(("__image__", "fox", "traffic light"), ("__in_image__", "left of"), ("red",))


@pytest.fixture(scope="module")
def text_encoder():
    torch.manual_seed(0)
    return FrozenCLIPEmbedder(version=SHAPE, init="random")


def test_a_words_feature_is_the_mean_over_its_own_tokens(text_encoder):
    features = word_features(WORDS.objects, text_encoder)
    tokens = text_encoder(["image", "fox", "traffic light"]).tokens
    torch.testing.assert_close(features[1], tokens[1, 1])
    torch.testing.assert_close(features[2], tokens[2, 1:3].mean(0))
    torch.testing.assert_close(features[0], tokens[0, 1])  # __image__


@pytest.mark.parametrize("dim", [5, 24, 40])
def test_distances_between_words_keep_their_ratios(dim):
    features = torch.randn(6, 24, generator=torch.Generator().manual_seed(0))
    rows = to_width(features, dim)
    assert rows.shape == (6, dim) and float(rows.std()) == pytest.approx(STD, rel=1e-4)
    ratio = torch.pdist(rows) / torch.pdist(features)
    torch.testing.assert_close(ratio, ratio[0].expand_as(ratio), rtol=1e-3, atol=0)


def test_rows_beyond_the_vocabulary_keep_their_values(text_encoder):
    encoder = NSGEncoder(5, 3, 2, dim=32, depth=1, heads=2)
    before = copy.deepcopy(encoder.state_dict())
    start_from_text(encoder, WORDS, text_encoder)
    torch.testing.assert_close(encoder.name.weight[3:], before["name.weight"][3:])
    torch.testing.assert_close(encoder.predicate.weight[2:], before["predicate.weight"][2:])
    assert not torch.equal(encoder.name.weight[:3], before["name.weight"][:3])
    assert all(torch.equal(value, before[key]) for key, value in encoder.state_dict().items() if "relation" in key)


def test_training_starts_from_the_text_and_so_do_the_averages():
    text = {"target": "ldm.modules.encoders.modules.FrozenCLIPEmbedder", "params": {"init": "random", "version": SHAPE}}
    model = tiny_model(text_stage_config=text, names_from_text=True)
    model.vocab = VOCAB
    model.setup("fit")
    expected = to_width(word_features(VOCAB.objects, model.text_stage_model), 32)
    torch.testing.assert_close(model.cond_stage_model.name.weight.detach(), expected)
    torch.testing.assert_close(model.model_ema.average("cond_stage_model.name.weight"), expected)
    other = tiny_model(text_stage_config=text, names_from_text=True)
    other.vocab, before = VOCAB, other.cond_stage_model.name.weight.clone()
    other.setup("predict")
    assert torch.equal(other.cond_stage_model.name.weight, before)


def test_it_needs_a_text_encoder():
    with pytest.raises(ValueError, match="names_from_text needs a text_stage_config"):
        tiny_model(**{**MODEL["params"], "names_from_text": True})
