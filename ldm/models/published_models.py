"""Builds a model from a file of Stable Diffusion alone, without a config: it reads graphs as text, and nothing is trained."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import Any

import torch

from ldm.checkpoints.architecture import Architecture, find_architecture
from ldm.checkpoints.reading import read_state_dict
from ldm.checkpoints.sidecars import read_sidecars
from ldm.checkpoints.trained_with import trained_with
from ldm.graph.vocab import OpenVocab
from ldm.models.diffusion.ddpm import LatentDiffusion
from ldm.models.vocabulary import is_own_checkpoint
from ldm.util.config import instantiate_from_config

logger = logging.getLogger(__name__)

TEXT_ENCODERS = {
    "Stable Diffusion 1": "ldm.modules.encoders.modules.FrozenCLIPEmbedder",
    "Stable Diffusion 2": "ldm.modules.encoders.modules.FrozenOpenCLIPEmbedder",
    "Stable Diffusion XL": "ldm.modules.encoders.modules.SDXLTextEncoder",
}
V_SIZE = 96  # of the latents of the SD 2 that predicts v


def published_architecture(checkpoint: str | Path) -> Architecture | None:
    """The architecture of published weights that need no config; None for others, and for what this project trained.

    Raises:
        CheckpointError: the weights are of a model that is not supported.
    """
    path = Path(checkpoint)
    if not path.exists() or (path.is_file() and is_own_checkpoint(path)):
        return None
    return find_architecture(path)


def build_published(checkpoint: str | Path, found: Architecture, prediction: str | None = None) -> LatentDiffusion:
    """A model of text alone.

    Args:
        checkpoint: the file or folder of `found`.
        prediction: 'eps' or 'v', what the U-Net predicts; by default what the weights, or the files beside them, state.

    Raises:
        CheckpointError: the weights do not fit, or state another prediction.
    """
    config = model_config(checkpoint, found, prediction)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: LatentDiffusion = instantiate_from_config(config["model"])
    if found.kind == "Stable Diffusion 2" and not found.states_size and model.schedule.prediction == "v":
        model.latent_size = V_SIZE
        found = dataclasses.replace(found, decided=tuple(_with_size(each, found.size) for each in found.decided))
    how = f"prediction {model.schedule.prediction}: {prediction_source(checkpoint, found, prediction)}"
    model.config, model.vocab, model.decided = config, OpenVocab(), (*found.decided, how, "reads graphs as text")
    for line in model.decided:
        logger.info("%s", line)
    return model


def model_config(checkpoint: str | Path, found: Architecture, prediction: str | None) -> dict[str, Any]:
    """The config by which the model is built."""
    defaults = {"timesteps": 1000, "linear_start": 0.00085, "linear_end": 0.012, "scale_factor": found.scale}
    channels = found.first_stage["embed_dim"]
    params = {
        "ckpt_path": str(checkpoint),
        "defaults": defaults,
        "image_size": found.size,
        "channels": channels,
        "freeze_unet": True,
        "use_ema": False,
        "unet_config": {"target": "ldm.modules.diffusionmodules.openaimodel.UNetModel", "params": found.unet},
        "first_stage_config": {"target": "ldm.models.autoencoder.AutoencoderKL", "params": found.first_stage},
        "text_stage_config": {"target": TEXT_ENCODERS[found.kind], "params": found.text},
        **({"parameterization": prediction} if prediction else {}),
    }
    return {"model": {"target": "ldm.models.diffusion.ddpm.LatentDiffusion", "params": params}}


def prediction_source(checkpoint: str | Path, found: Architecture, prediction: str | None) -> str:
    """By what it was decided what the U-Net predicts."""
    if prediction:
        return "--prediction"
    state = read_state_dict(checkpoint, "unet")
    trained = trained_with(state, str(checkpoint), Path(checkpoint), read_sidecars(checkpoint))
    if trained.prediction:
        return trained.prediction_source
    is_probed = found.kind == "Stable Diffusion 2" and found.unet["in_channels"] == found.first_stage["embed_dim"]
    return "one evaluation of the U-Net" if is_probed else f"that of {found.kind}, since nothing states another"


def _with_size(line: str, size: int) -> str:
    old = f"latents of {size} x {size}: the size of Stable Diffusion 2"
    return line.replace(old, f"latents of {V_SIZE} x {V_SIZE}: the size of the Stable Diffusion 2 that predicts v")
