"""A tiny random Stable Diffusion of diffusers and transformers, this project's Personalization on its weights, and pictures."""

import copy
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from text_models import QUICK, SHAPE, text_model
from tiny import DATA

sys.path.append(str(Path(__file__).with_name("checkpoints")))
import diffusers_models

from ldm.data.personalized import Personalized
from ldm.util.config import instantiate_from_config

UNET = diffusers_models.UNET | {"layers_per_block": 1, "cross_attention_dim": 32}
KL = diffusers_models.KL | {"layers_per_block": 1}
PICTURES = 16  # pixels, whose latents have 8
TEXT = {"target": "ldm.modules.encoders.modules.FrozenCLIPEmbedder", "params": {"version": QUICK}}
TEXT_XL = {
    "target": "ldm.modules.encoders.modules.SDXLTextEncoder",
    "params": {"first": {"version": QUICK, "layer_idx": 2}, "second": {"arch": SHAPE}, "init": "random"},
}
WORD = {"word": "<my-cat>", "init": "cat", "vectors": 1}


def networks() -> tuple:
    """U-Net, autoencoder and text model of the installed diffusers and transformers, random."""
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    unet, kl = diffusers.UNet2DConditionModel(**UNET).eval(), diffusers.AutoencoderKL(**KL).eval()
    return unet.requires_grad_(False), kl.requires_grad_(False), text_model(seed=1)


def save(folder: Path, parts: tuple) -> Path:
    for name, network in zip(("unet", "vae", "text_encoder"), parts):
        network.save_pretrained(folder / name)
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionPipeline"}))
    return folder


def config(folder: Path | None, **params) -> dict:
    """The config of a Personalization on such a folder; of random weights without one."""
    random = None if folder else "random"
    text = copy.deepcopy(TEXT)
    if random:
        text["params"]["init"] = random
    values = {
        "ckpt_path": folder and str(folder),
        "init": random,
        "freeze_unet": True,
        "image_size": 8,
        "scale_factor": 0.18215,
        "linear_start": 0.00085,
        "linear_end": 0.012,
        "words": [WORD],
        "unet_config": {
            "target": "ldm.modules.diffusionmodules.openaimodel.UNetModel",
            "params": diffusers_models.unet_params(UNET),
        },
        "first_stage_config": {
            "target": "ldm.models.autoencoder.AutoencoderKL",
            "params": {
                "embed_dim": 4,
                **({"init": random} if random else {}),
                "ddconfig": diffusers_models.kl_ddconfig(KL),
            },
        },
        "text_stage_config": text,
    }
    values = {key: value for key, value in (values | params).items() if value is not None}
    return {"target": "ldm.models.diffusion.personalization.Personalization", "params": values}


def personalization(folder: Path | None = None, **params):
    model = instantiate_from_config(config(folder, **params))
    model.config = {"model": config(folder, **params), "data": copy.deepcopy(DATA)}
    return model


def write_pictures(folder: Path, captions: list[str] | None = None, count: int = 4, **extra) -> Path:
    """A folder of pictures, with metadata.jsonl if there are captions."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(0)
    names = [f"{number}.png" for number in range(count if captions is None else len(captions))]
    for name in names:
        Image.fromarray(generator.integers(0, 255, (24, 20, 3), dtype=np.uint8)).save(folder / name)
    if captions is not None:
        lines = [json.dumps({"file_name": name, "text": text, **extra}) for name, text in zip(names, captions)]
        (folder / "metadata.jsonl").write_text("\n".join(lines))
    return folder


def pictures(folder: Path, **options) -> Personalized:
    return Personalized(str(folder), image_size=PICTURES, **options)


def batch_of(dataset: Personalized, indices=range(2)):
    return dataset.collate([dataset[index] for index in indices])
