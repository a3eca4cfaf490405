"""Loads a model for use from a training run's folder, a checkpoint, exported adapters, or a config alone."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn
from torch.utils.data import Dataset

from ldm.checkpoints import shipped
from ldm.checkpoints.errors import CheckpointError
from ldm.checkpoints.folders import find_weights
from ldm.checkpoints.reading import PARTS, has_part
from ldm.graph.vocab import OpenVocab, Vocab
from ldm.models.diffusion.latent_diffusion import LatentDiffusion
from ldm.models.encoders import Encoders, build_encoders, tensor_bytes
from ldm.models.finding import find_checkpoint, is_run, last_checkpoint
from ldm.models.published_models import build_published, published_architecture
from ldm.models.runtime import prepare_for_inference
from ldm.models.tiny_autoencoder import TinyAutoencoder
from ldm.models.trained import load_trained, read_trained
from ldm.models.vocabulary import training_vocab
from ldm.models.word_loading import load_words
from ldm.modules.graph_encoder import NoGraphEncoder
from ldm.modules.lora_files import add_lora
from ldm.util.config import instantiate_from_config, instantiate_without_training, plain, resolve
from ldm.util.config_merging import ConfigPaths, config_name, read_configs
from ldm.util.errors import UserError, did_you_mean
from ldm.util.trust import read_untrusted

logger = logging.getLogger(__name__)

M = TypeVar("M", bound=nn.Module)

# Parts of a model whose weights a published file or folder may hold -> their names in `PARTS`.
STAGES = {"first_stage": "first_stage", "cond_stage": "cond_stage", "text_stage": "text_encoder"}


def choose_device(requested: str | None = None) -> str:
    """The requested device; by default a GPU if there is one, and under torchrun one per process.

    Raises:
        UserError: the device is not available.
    """
    device = requested or ("cuda" if torch.cuda.is_available() else "cpu")
    if device == "cuda":
        device = f"cuda:{int(os.environ.get('LOCAL_RANK', '0')) % max(1, torch.cuda.device_count())}"
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError):
        raise UserError(f"--device {requested}: not available here; give cpu, or cuda where there is a GPU") from None
    return device


def load_model(
    checkpoint: str | Path | None = None,
    config: ConfigPaths | None = None,
    device: str | torch.device = "cpu",
    loras: Sequence[tuple[str | Path, float]] = (),
    prediction: str | None = None,
    words: Sequence[str | Path] = (),
    renames: Sequence[tuple[str, str]] = (),
) -> LatentDiffusion:
    """Loads a model for inference: EMA weights, evaluation mode, no gradients.

    Args:
        checkpoint: the log folder of a run, a checkpoint of trainer.py, adapters that scripts/export.py wrote, or,
            together with `config`, a published checkpoint of a whole model, which may be a folder of diffusers. A whole Stable
            Diffusion 1, 2 or XL needs no config; it reads graphs as text. With
            `config` alone, its frozen parts are loaded and its adapters are the identity; with neither, the weights that
            ship with the project are loaded.
        config: a YAML file, or several of which later ones override earlier ones (default: the config in the
            checkpoint). Relative paths of weights in a config are looked up in the current folder, then in the root of
            the checkout.
        device: where the model will run.
        loras: LoRA files for the U-Net and its text encoder, in the layout of kohya, diffusers, peft or cloneofsimo, and their
            scales.
        prediction: 'eps' or 'v', what the U-Net of a Stable Diffusion without config predicts; by default what its weights state.
        words: files of learned words, of the graph encoder or (textual inversion) of the text encoder.
        renames: pairs of a learned word in these files and the name that it gets.

    Raises:
        UserError: files are missing, damaged or do not fit, or the config cannot be built.
    """
    added = loras, words, renames
    if checkpoint is None:
        checkpoint = find_checkpoint(config=config)
    elif is_run(checkpoint):
        checkpoint = last_checkpoint(checkpoint)
    elif not config and (found := published_architecture(checkpoint)):
        return _for_inference(build_published(checkpoint, found, prediction), device, *added)
    if prediction:
        raise UserError(
            f"--prediction {prediction}: only for a Stable Diffusion without config; set model.params.parameterization there"
        )
    source = config_name(config or checkpoint)
    saved = require_trained(checkpoint, config) if checkpoint else None
    merged = read_model_config(saved, checkpoint, config)
    if checkpoint and not saved:
        _load_all_parts_from(checkpoint, merged.model.params)
    model = build_model(merged, source)
    if saved:
        load_trained(model, saved, f"{checkpoint}")
    model.config = plain(OmegaConf.masked_copy(merged, ["model", "data"]))
    model.vocab = _find_vocab(model, saved, plain(merged.data.params.train))
    return _for_inference(model, device, *added)


def _for_inference(
    model: LatentDiffusion,
    device: str | torch.device,
    loras: Sequence[tuple[str | Path, float]],
    words: Sequence[str | Path] = (),
    renames: Sequence[tuple[str, str]] = (),
) -> LatentDiffusion:
    model.setup("predict")
    for path, scale in loras:
        add_lora(model.unet, path, scale, model.text_stage_model)
    if words or renames:
        load_words(model, words, dict(renames))
    prepare_for_inference(model.eval().requires_grad_(False), device)
    return model


def load_encoders(config: DictConfig, with_text: bool = True) -> Encoders:
    """Builds the frozen encoders of a config's model, without its U-Net.

    Args:
        config: with model.params, of a LatentDiffusion, or of a model that names one as `image_model`.
        with_text: whether the text encoder is built too, if there is one.

    Raises:
        UserError: weights are missing, or the config cannot be built.
    """
    try:
        return build_encoders(_locate_weights(plain(_image_params(config.model.params))), with_text)
    except UserError:
        raise
    except (KeyError, ValueError, TypeError, OSError) as error:
        raise UserError(f"model.params: {error}") from error


def _image_params(params: DictConfig) -> DictConfig:
    """The parameters of the LatentDiffusion that a model of videos names as its image model, or else `params` themselves."""
    if not params.get("image_model"):
        return params
    path = shipped.find_in_checkout(params.image_model)
    saved = require_trained(last_checkpoint(path) if is_run(path) else path, None)
    return read_model_config(saved, path, None).model.params


def load_dataset(model: LatentDiffusion, split: str) -> Dataset:
    """Builds the dataset of a split ("train", "validation" or "test") of the model's config.

    Raises:
        UserError: the config has no such split, or the files of the dataset are missing.
    """
    splits = (model.config or {})["data"]["params"]
    if splits.get(split) is None:
        known = [name for name in ("train", "validation", "test") if splits.get(name) is not None]
        raise UserError(
            f"the config's data.params has no split {split!r}, only {', '.join(known)}{did_you_mean(split, known)}"
        )
    try:
        return instantiate_from_config(splits[split])
    except OSError as error:
        raise UserError(f"the split {split!r}: {error}") from error


def fingerprint(model: nn.Module) -> str:
    """16 hexadecimal digits that identify the weights, frozen ones included; records and caches store them."""
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        if not name.startswith("model_ema."):
            digest.update(name.encode())
            digest.update(tensor_bytes(value))
    return digest.hexdigest()[:16]


def require_trained(path: str | Path, config: ConfigPaths | None) -> dict | None:
    """A checkpoint of trainer.py or exported adapters; None for other weights, if there is a config to build them with."""
    remedy = "if these are published weights, name their config too, such as --config configs/sgdiff_vg.yaml"
    if Path(path).is_dir():
        if not config:
            raise CheckpointError(f"{path}: no log folder of a run (it has no checkpoints/last.ckpt); {remedy}")
        find_weights(Path(path), PARTS["unet"].folders)  # raises for a folder of something else
        return None
    if not Path(path).is_file():
        raise CheckpointError(f"{path}: there is no such file; name a checkpoint or exported adapters")
    if saved := read_trained(path):
        return saved
    if not config:
        raise CheckpointError(
            f"{path}: damaged, or neither a checkpoint of trainer.py nor adapters exported from one; {remedy}"
        )
    return None


def read_model_config(saved: dict | None, checkpoint: str | Path | None, config: ConfigPaths | None) -> DictConfig:
    """The config that the user names, or else that in the checkpoint. Raises UserError if it describes no model."""
    stored = saved["config"] if saved and not config else None
    merged = read_configs(config or ()) if stored is None else read_untrusted(stored, f"{checkpoint}")
    for key in ("model.target", "model.params", "data.params.train"):
        if OmegaConf.select(merged, key) is None:
            source = config_name(config or checkpoint)
            hint = "name one such as configs/vg.yaml; if this one changes another config, name that one first"
            raise CheckpointError(f"{source}: its config has no {key}; {hint}")
    return merged


def _load_all_parts_from(checkpoint: str | Path, params: DictConfig) -> None:
    """Takes every part's weights from one published file or folder, so that the files the config names need not exist.

    A part that a folder, or a file of diffusers' U-Net, lacks keeps the file that the config names, as does a tiny autoencoder.
    """
    params.ckpt_path = str(checkpoint)
    if Path(checkpoint).name.startswith("diffusion_pytorch_model"):
        return
    for stage, part in STAGES.items():
        config = params.get(f"{stage}_config")
        in_no_subfolder = Path(checkpoint).is_dir() and not has_part(checkpoint, part)
        if not (config is None or in_no_subfolder or resolve(config.target) is TinyAutoencoder):
            config.get("params", {}).pop("ckpt_path", None)


def build_model(merged: DictConfig, source: str, kind: type[M] = LatentDiffusion) -> M:
    """Builds the model of a config, whose class must be `kind`. Raises UserError if it cannot be built."""
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # parts whose weights are in no file are the same each time
            model = instantiate_without_training(_locate_weights(plain(merged.model)))
    except ValueError as error:  # the config has values that a part refuses
        raise CheckpointError(f"{source}: {error}") from error
    if not isinstance(model, kind):
        raise CheckpointError(f"{source}: a config of {type(model).__name__}; name one of a {kind.__name__}")
    return model


def _locate_weights(config: Any) -> Any:
    """The config with relative paths of weights resolved, in the current folder or the root of the checkout."""
    if isinstance(config, dict):
        files = {key: config[key] for key in ("ckpt_path", "pretrained") if isinstance(config.get(key), str)}
        found = {key: str(shipped.find_in_checkout(path)) for key, path in files.items()}
        return {key: _locate_weights(value) for key, value in config.items()} | found
    return [_locate_weights(value) for value in config] if isinstance(config, list) else config


def _find_vocab(model: LatentDiffusion, saved: dict | None, train: dict) -> Vocab:
    """The checkpoint's vocabulary, or the training set's, read from its own file where the config names one.

    A model of text alone takes any names, and so does one whose graph encoder is untrained if the data are not there.
    """
    if saved and saved["vocab"]:
        return Vocab.from_json(saved["vocab"])
    if isinstance(model.cond_stage_model, NoGraphEncoder):
        return OpenVocab()
    try:
        return training_vocab(train)
    except UserError:
        if model.text_stage_model is None or saved:
            raise
        return OpenVocab()
