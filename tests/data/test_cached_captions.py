"""Captions in a latent cache: training reads what the text encoder made of them, and does not run it."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from noise_vg import IMAGES, QUIET, data_module, vg_params
from text_models import xl_encoder
from tiny import MODEL, tiny_model

from ldm.data.cache import CachedDataset, CacheError, read_index
from ldm.data.cache_writing import estimate_cache, write_cache
from ldm.data.flips import RandomFlipDataset, mirror_graph, mirror_words
from ldm.data.vg import VGTrain
from ldm.graph.batch import collate
from ldm.graph.scene_graph import SceneGraph
from ldm.models.encoders import Encoders, build_encoders, make_describe_function, make_encode_function
from ldm.synthetic.shapes import VOCAB
from ldm.training.precompute import estimate_caches, write_caches

TEXT = {
    "target": "ldm.modules.encoders.modules.FrozenCLIPEmbedder",
    "params": {"init": "random", "version": {"width": 24, "layers": 2, "heads": 2, "embed_dim": 16}},
}


def make_reader():
    """A model that reads text, and graphs by adapters beside it."""
    torch.manual_seed(0)
    unet = {**MODEL["params"]["unet_config"]["params"], "graph_attention": True}
    model = tiny_model(unet_config={**MODEL["params"]["unet_config"], "params": unet}, text_stage_config=TEXT)
    model.vocab, model.learning_rate = VOCAB, 1e-3
    return model.eval()


@pytest.fixture(scope="module")
def reader():
    return make_reader()


def encoders_of(model) -> Encoders:
    return Encoders(model.first_stage_model, model.global_stage_model, model.text_stage_model)


@pytest.fixture(scope="module")
def captioned(noise_vg, reader, tmp_path_factory):
    """A cache of the training and validation splits with captions."""
    folder = tmp_path_factory.mktemp("captioned")
    sets = {"train": VGTrain(**vg_params(noise_vg)), "validation": VGTrain(**vg_params(noise_vg, max_samples=2))}
    assert len(list(write_caches(sets, folder, encoders_of(reader), shard_size=4))) == 2
    return folder


def batch_of(dataset, count=IMAGES):
    return collate([dataset[index] for index in range(count)], VOCAB)


def test_cached_captions_are_those_that_the_model_would_encode(dataset, captioned, reader):
    batch = batch_of(CachedDataset(dataset, captioned / "train"))
    live = reader.encode_texts(reader.captions(batch.graph)).tokens
    assert batch.latents.text.dtype == torch.float16 and batch.latents.text.shape == (IMAGES, 77, 24)
    torch.testing.assert_close(batch.latents.text.float(), live, rtol=2e-3, atol=2e-3)
    cond = reader.batch_conditioning(batch)
    assert torch.equal(cond.text.tokens, batch.latents.text.float()) and cond.text.mask.all()


def test_a_flipped_image_has_the_caption_of_its_mirror_image(dataset, captioned, reader):
    cached = CachedDataset(dataset, captioned / "train")
    (text,) = {reader.captions(collate([cached[index]], VOCAB).graph)[0] for index in range(IMAGES)}
    assert "left of" in text
    mirrored = batch_of(RandomFlipDataset(cached, 1.0))
    for words, same in ((text.replace("left of", "right of"), True), (text, False)):
        expected = reader.encode_texts([words]).tokens.expand(IMAGES, -1, -1)
        assert torch.allclose(mirrored.latents.text.float(), expected, rtol=2e-3, atol=2e-3) == same


def test_words_are_mirrored_where_the_vocabulary_lacks_them_too():
    graph = SceneGraph(("left hand",), boxes=((0.0, 0.0, 0.25, 1.0),))
    assert mirror_graph(graph, VOCAB) is None
    assert mirror_words(graph) == SceneGraph(("right hand",), boxes=((0.75, 0.0, 1.0, 1.0),))


def test_losses_on_cached_captions_equal_those_on_encoded_ones_up_to_float16(dataset, captioned, reader):
    batch = batch_of(CachedDataset(dataset, captioned / "train"))
    without = replace(batch, latents=batch.latents._replace(text=None))
    losses = [reader.losses(each, torch.Generator().manual_seed(0))[0] for each in (batch, without)]
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-3, atol=0)
    exchanged = batch.latents._replace(text=batch.latents.text.flip(2))  # other channels
    other, _ = reader.losses(replace(batch, latents=exchanged), torch.Generator().manual_seed(0))
    assert ((other - losses[0]).abs() > 1e-2 * losses[0]).any()


def test_training_on_cached_captions_encodes_the_empty_text_once_and_nothing_else(
    noise_vg, captioned, tmp_path, monkeypatch
):
    model, read = make_reader(), []
    model.text_drop = 0.5
    tower = type(model.text_stage_model)
    forward = tower.forward
    monkeypatch.setattr(
        tower, "forward", lambda self, texts, *args: read.append(list(texts)) or forward(self, texts, *args)
    )
    trainer = pl.Trainer(
        accelerator="cpu", default_root_dir=tmp_path, max_steps=3, use_distributed_sampler=False, **QUIET
    )
    trainer.fit(model, data_module(noise_vg, cache=str(captioned), flip=0.5))
    assert trainer.global_step == 3 and read == [[""]]


def test_a_cache_of_another_text_encoder_is_stale(noise_vg, captioned):
    other = make_reader()
    with torch.no_grad():
        next(other.text_stage_model.parameters()).add_(0.1)
    with pytest.raises(CacheError, match=r"stale \(text encoder: checksum"):
        pl.Trainer(accelerator="cpu", max_steps=1, **QUIET).fit(other, data_module(noise_vg, cache=str(captioned)))


def test_caches_with_and_without_captions_serve_models_without_and_with_a_text_encoder(
    noise_vg, captioned, cache, model, tmp_path
):
    """The graph model of the other tests has the encoders of images of `reader`."""
    graph_only = copy.deepcopy(model)
    graph_only.learning_rate = 1e-3
    for each, folder in ((graph_only, captioned), (make_reader(), cache)):
        trainer = pl.Trainer(accelerator="cpu", default_root_dir=tmp_path, max_steps=1, limit_val_batches=0, **QUIET)
        trainer.fit(each, data_module(noise_vg, cache=str(folder)))
        assert trainer.global_step == 1


def test_the_vector_of_sdxl_is_cached_beside_its_tokens(dataset, reader, tmp_path):
    torch.manual_seed(0)
    encoder = xl_encoder(init="random")
    describe = make_describe_function(encoder, dataset.image_size)
    encode = make_encode_function(reader.first_stage_model, None)
    write_cache(dataset, tmp_path / "train", encode, {"first stage": "0", "text encoder": "0"}, describe=describe)
    latents, graph = CachedDataset(dataset, tmp_path / "train")[0]
    expected = encoder(reader.captions(collate([(latents, graph)], VOCAB).graph), (32, 32))
    torch.testing.assert_close(latents.text[None].float(), expected.tokens, rtol=2e-3, atol=2e-3)
    torch.testing.assert_close(latents.text_vector[None].float(), expected.vector, rtol=2e-3, atol=2e-3)


def test_the_estimate_counts_the_captions(dataset, captioned, reader):
    (sentence,) = estimate_caches({"train": dataset}, encoders_of(reader), True, 2)
    record = read_index(captioned / "train").record_type
    assert record["text"].shape == (2, 77, 24) and record.itemsize == 8 + 2 * 2 * (4 * 64 + 16 + 77 * 24)
    assert f"{IMAGES * record.itemsize / 1e6:,.2f} MB" in sentence
    encode = make_encode_function(reader.first_stage_model, reader.global_stage_model)
    assert estimate_cache(dataset, encode, True, 2).size == IMAGES * (record.itemsize - 2 * 2 * 77 * 24)
    assert np.load(captioned / "train/00000.npy").dtype == record


def test_encoders_are_built_with_the_text_encoder_or_without():
    params = {**MODEL["params"], "text_stage_config": TEXT}
    assert build_encoders(params).text_encoder is not None
    assert build_encoders(params, with_text=False).text_encoder is None
    of_published = {**MODEL["params"], "cond_stage_config": TEXT}  # as Stable Diffusion's own configs have it
    assert build_encoders(of_published).text_encoder is not None
    assert build_encoders(MODEL["params"]).text_encoder is None
