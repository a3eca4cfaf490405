"""No training step waits for the GPU: while it computes, the CPU prepares what comes next."""

import copy
from dataclasses import replace

import pytest
import torch
from device_waits import allow_autocast, waits_of
from linear_model import LinearModel, make_data
from personal_models import batch_of, personalization, pictures, write_pictures
from small_text import captioned, with_text
from text_models import SHAPE
from tiny import MODEL, demo_batch, tiny_model

from ldm.graph.batch import Batch, Latents, collate
from ldm.graph.scene_graph import SceneGraph
from ldm.models.diffusion.graph_words import GraphWords
from ldm.models.diffusion.video import VideoDiffusion
from ldm.models.export import export_adapters
from ldm.models.pretraining import GraphImagePretraining
from ldm.synthetic.shapes import VOCAB
from ldm.training.callbacks import Arriving, Checks, StepSeed
from ldm.util.config import instantiate_from_config

PARAMS = MODEL["params"]
DISCRIMINATOR = {
    "target": "ldm.modules.losses.perceptual_adversarial.PerceptualAdversarialLoss",
    "params": {"channels": 8, "layers": 1},
}


class Reads(LinearModel):
    def training_step(self, batch, batch_idx):
        loss = self.trained(self.frozen(batch)).square().mean()
        return loss if loss.item() else 2 * loss


class Moves(LinearModel):
    def training_step(self, batch, batch_idx):
        return self.trained(self.frozen(batch)).square().mean() * torch.ones(()).to(batch.device)


class Makes(LinearModel):
    def training_step(self, batch, batch_idx):
        return self.trained(self.frozen(batch)).square().mean() * batch.new_tensor([2.0])[0]


class Shows(LinearModel):
    def training_step(self, batch, batch_idx):
        loss = self.trained(self.frozen(batch)).square().mean()
        self.log("loss", loss, prog_bar=True)
        return loss


@pytest.fixture(autouse=True)
def autocast_that_knows_the_device(monkeypatch):
    allow_autocast(monkeypatch)


@pytest.mark.parametrize(
    "kind, wait", [(Reads, "_local_scalar"), (Moves, "_to_copy"), (Makes, "new_tensor"), (Shows, "_local_scalar")]
)
def test_a_step_that_waits_is_noticed(kind, wait):
    assert any(wait in each for each in waits_of(kind(), [make_data()]))


def cached_batch(style: bool) -> Batch:
    batch = demo_batch(3)
    return Batch(
        None, batch.graph, latents=Latents(torch.randn(3, 4, 8, 8).half(), torch.randn(3, 16) if style else None)
    )


def backbone():
    unet = copy.deepcopy(PARAMS["unet_config"])
    unet["params"] |= {"film_embedding_dim": None, "lora_rank": None, "box_bias": True, "coordinates": 2}
    return tiny_model(unet_config=unet, freeze_unet=False, global_stage_config=None)


def with_sgdiff_encoder():
    encoder = {"target": "ldm.modules.cgip.cgip.CGIPModel", "params": {"width": 8, "layers": 2, "embed_dim": 8}}
    encoder["params"] |= {"num_objs": len(VOCAB.objects), "num_preds": len(VOCAB.predicates)}
    unet = copy.deepcopy(PARAMS["unet_config"])
    unet["params"] |= {"context_local_dim": 3 * 8, "film_embedding_dim": 8}
    return tiny_model(unet_config=unet, cond_stage_config=encoder, global_stage_config=None)


def reading_text(**changes):
    """A backbone for text as published, with adapters for graphs and styles, like that of configs/flat/text.yaml."""
    return lambda: tiny_model(**with_text(coordinates=2, box_bias=True), **changes)


def predicting_v():
    return tiny_model(**with_text(), parameterization="v", rescale_betas_zero_snr=True, timestep_spacing="trailing")


def like_sdxl():
    """A text encoder of two towers, whose pooled text, with the sizes of the image, is a part of the U-Net's time."""
    params = with_text(context_dim=2 * 32, adm_in_channels=24 + 6 * 256, num_classes="sequential")
    towers = {"first": {"version": SHAPE | {"quick_gelu": True}, "layer_idx": 2}, "second": {"arch": SHAPE}}
    text = {"target": "ldm.modules.encoders.modules.SDXLTextEncoder", "params": {**towers, "init": "random"}}
    return tiny_model(**params | {"text_stage_config": text})


def cached_text() -> Batch:
    batch = cached_batch(style=True)
    return replace(batch, latents=batch.latents._replace(text=torch.randn(3, 77, 24).half()))


def image_tower():
    images = PARAMS["global_stage_config"]
    return GraphImagePretraining(PARAMS["cond_stage_config"], images, True, True, decoder_heads=2, decoder_dim_head=8)


def first_stage():
    config = copy.deepcopy(PARAMS["first_stage_config"])
    return instantiate_from_config({**config, "params": config["params"] | {"lossconfig": DISCRIMINATOR}})


def test_no_training_step_of_temporal_layers_waits_for_the_gpu(tmp_path):
    saved: dict = {}
    tiny_model().on_save_checkpoint(saved)
    torch.save(saved, tmp_path / "image.ckpt")
    options = {"frames": 3, "head_channels": 16, "box_step": 0.25, "recompute": True}
    model = VideoDiffusion(f"{tmp_path / 'image.ckpt'}", **options)
    assert waits_of(model, [cached_batch(style=True)], StepSeed(1), Checks()) == []


@pytest.mark.parametrize(
    "make_model, batch",
    [
        (tiny_model, demo_batch(3)),
        (tiny_model, cached_batch(style=True)),
        (backbone, cached_batch(style=False)),
        (with_sgdiff_encoder, cached_batch(style=False)),
        (reading_text(), captioned(demo_batch(3), "small red circle")),
        (reading_text(), cached_text()),
        (reading_text(text_stage_trainable=True), captioned(demo_batch(3), "large blue square")),
        (predicting_v, captioned(demo_batch(3), "small red circle")),
        (like_sdxl, captioned(demo_batch(3), "small red circle")),
        (image_tower, demo_batch(3)),
        (first_stage, demo_batch(3)),
    ],
    ids=["adapters", "adapters-cached", "backbone", "sgdiff", "text", "text-cached", "text-trained", "v", "sdxl"]
    + ["image_tower", "first_stage"],
)
def test_no_training_step_waits_for_the_gpu(make_model, batch):
    assert waits_of(make_model(), [batch], StepSeed(1), Checks()) == []


def test_no_step_of_textual_inversion_with_lora_waits_for_the_gpu(tmp_path):
    words = [{"word": "<my-cat>", "init": "fluffy white cat", "vectors": 3}]
    lora = [{"part": "unet", "rank": 2}, {"part": "text", "rank": 2}]
    model = personalization(words=words, lora=lora, min_snr=5.0, progressive_steps=2, words_steps=1)
    folder = write_pictures(tmp_path, ["a photo of <my-cat>", "a <my-cat>"], boxes=[[0, 0, 0.5, 1]])
    assert waits_of(model, [batch_of(pictures(folder))], StepSeed(1), Checks()) == []


@pytest.mark.parametrize("outside", [1.0, 0.3])
def test_no_step_that_learns_names_of_graphs_waits_for_the_gpu(outside, checkpoint, tmp_path):
    export_adapters(checkpoint, tmp_path / "adapters.safetensors")
    words, lora = [{"word": "zorp", "init": "triangle"}], [{"part": "unet", "targets": ["resnets"], "rank": 2}]
    model = GraphWords(
        str(tmp_path / "adapters.safetensors"), words, lora, outside=outside, v_loss=True, **copy.deepcopy(PARAMS)
    )
    images = demo_batch(2).image
    assert images is not None
    batch = collate([(image, SceneGraph(("zorp", "circle"))) for image in images], model.taught_vocab)
    assert waits_of(model, [batch], StepSeed(1), Checks()) == []


def test_an_arriving_number_is_the_one_that_was_sent():
    number = torch.tensor(0.25)
    arriving = Arriving(number)
    assert arriving.value() == 0.25
