"""A model back from disk: from a training run's folder, its checkpoint, or a config alone."""

from __future__ import annotations

from pathlib import Path

import torch
from omegaconf import OmegaConf

from ldm.checkpoint import CheckpointError
from ldm.graph import Vocab
from ldm.models.diffusion.ddpm import LatentDiffusion
from ldm.util import instantiate_from_config, refuse_foreign_targets


def checkpoint_of(run: str | Path) -> Path:
    """The last checkpoint in a run's log folder. Raises CheckpointError if there is none."""
    path = Path(run) / "checkpoints" / "last.ckpt"
    if not path.is_file():
        raise CheckpointError(f"{run}: no {path.relative_to(run)} in it; name a folder that trainer.py wrote under logs/")
    return path


def load_model(
    checkpoint: str | Path | None = None, config: str | Path | None = None, device: str | torch.device = "cpu"
) -> LatentDiffusion:
    """The model ready for use: averaged weights, evaluation mode, on `device`.

    The config is the one inside the checkpoint unless a YAML file is named. Without a checkpoint, the config's frozen
    parts are loaded and its adapters begin as the identity. Raises UserError.
    """
    saved = _read(checkpoint) if checkpoint else None
    if config:
        merged = OmegaConf.load(config)
    elif saved:
        merged = OmegaConf.create(saved["config"])
        refuse_foreign_targets(merged, checkpoint)
    else:
        raise CheckpointError("nothing to load a model from: name a run, a checkpoint or a config")

    try:
        model = instantiate_from_config(merged.model)
    except ValueError as error:  # a config that its parts refuse
        raise CheckpointError(f"{config or checkpoint}: {error}") from error
    if saved:
        model.on_load_checkpoint(saved)
        model.load_state_dict(saved["state_dict"], strict=False)
        if model.model_ema is not None:
            model.model_ema.copy_to(model)
    vocab = saved and saved["vocab"]
    model.vocab = Vocab.from_json(vocab) if vocab else instantiate_from_config(merged.data.params.train).vocab
    return model.eval().requires_grad_(False).to(device)


def _read(path: str | Path) -> dict:
    if not Path(path).is_file():
        raise CheckpointError(f"{path}: there is no such file")
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise CheckpointError(f"{path}: not a checkpoint of trainer.py ({type(error).__name__})") from None
    if not isinstance(saved, dict) or not {"state_dict", "config", "vocab"} <= set(saved):
        raise CheckpointError(
            f"{path}: not a checkpoint of trainer.py; published weights belong in the config, as ckpt_path"
        )
    return saved
