"""Loads a video model for use: the image model that its config names, and the temporal layers that were trained beside it."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from omegaconf import OmegaConf

from ldm.checkpoints import shipped
from ldm.checkpoints.errors import CheckpointError
from ldm.models.diffusion.ddpm import LatentDiffusion
from ldm.models.diffusion.video import VideoDiffusion
from ldm.models.finding import is_run, last_checkpoint
from ldm.models.loading import build_model, read_model_config, require_trained
from ldm.models.runtime import prepare_for_inference
from ldm.models.trained import load_trained
from ldm.util.config import plain, resolve
from ldm.util.config_merging import ConfigPaths, config_name

logger = logging.getLogger(__name__)


def find_video_checkpoint(
    run: str | Path | None = None,
    ckpt: str | Path | None = None,
    config: ConfigPaths | None = None,
    scenes: str = "shapes",
) -> Path | None:
    """The checkpoint of a video model that the options --run, --ckpt and --config select.

    Args:
        scenes: the world of synthetic scenes whose temporal layers are the default.

    Returns:
        The checkpoint; None if only a config is given; the temporal layers that ship with the project if nothing is given.

    Raises:
        CheckpointError: the run has no checkpoint, none is shipped for these scenes, or the shipped files are incomplete.
    """
    if ckpt or run:
        return Path(ckpt) if ckpt else last_checkpoint(run)
    return None if config else shipped.shipped_temporal(shipped.weights_for(scenes))


def load_video_model(
    checkpoint: str | Path | None = None, config: ConfigPaths | None = None, device: str | torch.device = "cpu"
) -> VideoDiffusion:
    """Loads a video model for inference: EMA weights, evaluation mode, no gradients.

    Args:
        checkpoint: the log folder of a run, a checkpoint of trainer.py, or what scripts/export.py wrote of one. With `config`
            alone, or a checkpoint of a LatentDiffusion, the temporal layers are the identity; with neither, those that ship with
            the project are loaded.
        config: a YAML file, or several of which later ones override earlier ones (default: the config in the checkpoint).
        device: where the model will run.

    Raises:
        UserError: files are missing, damaged or do not fit, or the config cannot be built.
    """
    if checkpoint is None:
        checkpoint = find_video_checkpoint(config=config)
    elif is_run(checkpoint):
        checkpoint = last_checkpoint(checkpoint)
    saved = require_trained(checkpoint, config) if checkpoint else None
    if checkpoint and not saved:
        raise CheckpointError(f"{checkpoint}: not a checkpoint of a video model; name a run of configs/flat/video.yaml")
    merged = read_model_config(saved, checkpoint, config)
    if saved and resolve(merged.model.target) is LatentDiffusion:
        logger.warning("%s: an image model without temporal layers, so each frame is made by itself", checkpoint)
        model, saved = VideoDiffusion(f"{checkpoint}", shared_noise=1.0, use_ema=False), None
    else:
        model = build_model(merged, config_name(config or checkpoint), VideoDiffusion)
    if saved:
        load_trained(model, saved, f"{checkpoint}")
        model.is_trained = True
    model.config, model.vocab = plain(OmegaConf.masked_copy(merged, ["model", "data"])), model.image.vocab
    model.setup("predict")
    model.eval().requires_grad_(False)
    prepare_for_inference(model.image, device)
    return model.to(device)
