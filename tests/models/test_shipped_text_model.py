"""The small text-to-image model that ships (configs/flat/text.yaml): untrained adapters add nothing, and captions matter."""

import pytest
import torch
from paths import ROOT

from ldm.checkpoints.shipped import FOLDER, read_manifest
from ldm.data.demo import DemoValidation
from ldm.graph.batch import Batch, collate
from ldm.graph.caption import caption
from ldm.graph.text_tokens import token_ids
from ldm.models.loading import load_model
from ldm.modules.conditioning import Conditioning

TEXT = ROOT / FOLDER / "text"
CONFIG = ROOT / "configs" / "flat" / "text.yaml"
SCENES = 12


@pytest.fixture(scope="module")
def model():
    return load_model(config=CONFIG)


@pytest.fixture(scope="module")
def batch():
    scenes = DemoValidation(SCENES, boxes="all")
    samples = [scenes[i] for i in range(SCENES)]
    ids = torch.stack([token_ids(caption(graph).text) for _, graph in samples])
    batch = collate(samples, scenes.vocab)
    return Batch(batch.image, batch.graph, text_ids=ids)


def losses(model, batch):
    with torch.no_grad():
        return model.losses(batch, torch.Generator().manual_seed(0))[0].mean().item()


def test_the_weights_of_u_net_and_text_encoder_take_6_megabytes():
    assert (TEXT / "backbone.safetensors").stat().st_size <= 6_000_000
    assert set(read_manifest(TEXT)) == {"backbone.safetensors", "adapters.safetensors"}


def test_adapters_that_nobody_trained_are_bit_equal_to_the_model_of_text_alone(model, batch):
    cond = model.condition(batch.graph, batch.image, texts=batch.text_ids)
    assert cond.tokens.shape[1] > 0 and cond.style is not None
    x, t = torch.randn(SCENES, 4, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(SCENES) * 80
    with torch.no_grad():
        alone = model.unet(x, t, Conditioning.from_text(cond.text))
        assert torch.equal(model.unet(x, t, cond), alone)


def test_a_caption_says_more_of_its_scene_than_that_of_another_scene_or_none(model, batch):
    others = Batch(batch.image, batch.graph, text_ids=batch.text_ids.roll(1, 0))
    nothing = Batch(batch.image, batch.graph, text_ids=torch.stack([token_ids("")] * SCENES))
    own = losses(model, batch)
    assert own < 0.95 * losses(model, others) and own < 0.98 * losses(model, nothing)


def test_the_shipped_adapters_read_boxes_that_captions_do_not_have(model, batch):
    adapted = load_model(TEXT / "adapters.safetensors")
    assert losses(adapted, batch) < 0.8 * losses(model, batch)
    assert adapted.unet.graph_attention and adapted.vocab.objects == DemoValidation(1).vocab.objects
