"""A model back from disk: from a training run's folder, its checkpoint, exported adapters, or a config alone."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn
from torch.utils.data import Dataset

from ldm.checkpoints import shipped
from ldm.checkpoints.loading import CheckpointError
from ldm.graph.scene_graph import Vocab
from ldm.models import encoders
from ldm.models.diffusion.ddpm import LatentDiffusion
from ldm.models.export import averages, read_adapters
from ldm.models.runtime import prepare_for_inference
from ldm.util.config import instantiate_from_config, plain, read_config, refuse_foreign_targets
from ldm.util.errors import UserError


def checkpoint_of(run: str | Path) -> Path:
    """The last checkpoint in a run's log folder. Raises CheckpointError if there is none."""
    path = Path(run) / "checkpoints" / "last.ckpt"
    if not path.is_file():
        raise CheckpointError(f"{run}: no {path.relative_to(run)} in it; name a folder that trainer.py wrote under logs/")
    return path


def find_checkpoint(
    run: str | Path | None = None, ckpt: str | Path | None = None, config: str | Path | None = None
) -> Path | None:
    """What --run, --ckpt and --config name: a checkpoint, or None where a config is to be taken alone. With nothing
    named, the weights that ship, and it says so. Raises CheckpointError."""
    if ckpt:
        return Path(ckpt)
    if run:
        return checkpoint_of(run)
    if config:
        return None
    path = shipped.shipped_adapters()
    print(f"no --run, --ckpt or --config: using the weights that ship, {path}", flush=True)
    return path


def choose_device(asked: str | None = None) -> str:
    """The device asked for, or else a GPU if there is one: under torchrun, each process its own. Raises UserError."""
    device = asked or ("cuda" if torch.cuda.is_available() else "cpu")
    if device == "cuda":
        device = f"cuda:{int(os.environ.get('LOCAL_RANK', 0)) % max(1, torch.cuda.device_count())}"
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError):
        raise UserError(f"--device {asked}: not to be had here; give cpu, or cuda where there is a GPU") from None
    return device


def load_model(
    checkpoint: str | Path | None = None, config: str | Path | None = None, device: str | torch.device = "cpu"
) -> LatentDiffusion:
    """The model ready for use: averaged weights, evaluation mode, on `device`.

    checkpoint: of trainer.py, or adapters that scripts/export.py took out of one. The config is the one in it unless
    a YAML file is named. With one, the checkpoint may also be a published one, of a whole model. Without a checkpoint,
    the config's frozen parts are loaded and its adapters begin as the identity. Weights that the config names by a
    relative path are looked for from the current folder, then from the checkout's root. Raises UserError.
    """
    saved = _read(checkpoint, config) if checkpoint else None
    if config:
        merged = read_config(config)
    elif saved:
        merged = OmegaConf.create(saved["config"] or {})
        refuse_foreign_targets(merged, checkpoint)
    else:
        raise CheckpointError("nothing to load a model from: name a run, a checkpoint or a config")
    for key in ("model.params", "data.params.train"):
        if OmegaConf.select(merged, key) is None:
            raise CheckpointError(f"{config or checkpoint}: its config has no {key}; name one such as configs/vg.yaml")
    if config and checkpoint and not saved:
        _take_every_part_from(checkpoint, merged.model.params)

    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # what no file holds is the same each time
            model = instantiate_from_config(_located(plain(merged.model)))
    except ValueError as error:  # a config that its parts refuse
        raise CheckpointError(f"{config or checkpoint}: {error}") from error
    if not isinstance(model, LatentDiffusion):
        raise CheckpointError(f"{config or checkpoint}: is of a {type(model).__name__}; name one of a LatentDiffusion")
    if saved:
        if not any(name.startswith("model_ema.") for name in saved["state_dict"]):
            model.model_ema = None  # exported weights are the averages
        model.on_load_checkpoint(saved)
        model.load_state_dict(saved["state_dict"], strict=False)
        print(f"trained: {len(averages(saved['state_dict']))} tensors from {checkpoint}")
        if model.model_ema is not None:
            model.model_ema.copy_to(model)
    model.config = plain(OmegaConf.masked_copy(merged, ["model", "data"]))
    model.vocab = _vocab(saved, model.config["data"]["params"]["train"])
    model.setup("predict")
    prepare_for_inference(model.eval().requires_grad_(False), device)
    return model


def load_encoders(config: DictConfig) -> tuple[nn.Module, nn.Module | None]:
    """The first stage and the image encoder, if there is one, of a config's model, without the rest of it. Raises
    UserError."""
    try:
        return encoders.load(_located(plain(config.model.params)))
    except UserError:
        raise
    except (KeyError, ValueError, TypeError, OSError) as error:
        raise UserError(f"model.params: {error}") from error


def load_dataset(model: LatentDiffusion, split: str) -> Dataset:
    """The data set that the config names under this split. Raises UserError if there is none."""
    splits = model.config["data"]["params"]
    if split not in splits:
        known = ", ".join(name for name in ("train", "validation", "test") if name in splits)
        raise UserError(f"there is no split {split!r} in the config's data.params; it has {known}")
    try:
        return instantiate_from_config(splits[split])
    except OSError as error:
        raise UserError(f"the split {split!r}: {error}") from error


def fingerprint(model: nn.Module) -> str:
    """The same for the same weights, frozen ones included, and for no others."""
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        if not name.startswith("model_ema."):
            digest.update(name.encode())
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


def _located(config: Any) -> Any:
    """The same config with its files of weights where they are."""
    if isinstance(config, dict):
        files = {key: config[key] for key in ("ckpt_path", "pretrained") if isinstance(config.get(key), str)}
        found = {key: str(shipped.find_in_checkout(path)) for key, path in files.items()}
        return {key: _located(value) for key, value in config.items()} | found
    return [_located(value) for value in config] if isinstance(config, list) else config


def _vocab(saved: dict | None, train: dict) -> Vocab:
    """The one that a checkpoint was trained with, or the training set's, if possible without the rest of the set."""
    if saved and saved["vocab"]:
        return Vocab.from_json(saved["vocab"])
    path = train["params"].get("vocab")
    return Vocab.read(path) if path else instantiate_from_config(train).vocab


def _take_every_part_from(checkpoint: str | Path, params: DictConfig) -> None:
    """A published file holds the frozen parts too, so whatever files the config names for them need not be there."""
    params.ckpt_path = str(checkpoint)
    for part in ("first_stage_config", "cond_stage_config"):
        params[part].params.pop("ckpt_path", None)


def _read(path: str | Path, config: str | Path | None) -> dict | None:
    """A checkpoint of trainer.py's, or adapters out of one; None for any other, if there is a config to build it by."""
    if not Path(path).is_file():
        raise CheckpointError(f"{path}: there is no such file")
    try:
        saved = read_adapters(path) or torch.load(path, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except Exception:
        saved = None
    if isinstance(saved, dict) and {"state_dict", "config", "vocab"} <= set(saved):
        return saved
    if config is None:
        raise CheckpointError(
            f"{path}: broken, or not a checkpoint of trainer.py nor adapters exported from one; if these are published "
            "weights, name their config too, such as --config configs/sgdiff_vg.yaml"
        )
    return None
