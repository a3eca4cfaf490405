"""Weights that a new run starts from (--actual_resume)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from ldm.graph.vocab import GAP, Vocab
from ldm.models.diffusion.denoising_loss import DenoisingLoss
from ldm.models.export import read_adapters
from ldm.training.progress import print_line
from ldm.util.config import instantiate_from_config
from ldm.util.errors import UserError

TABLES = ("name", "predicate", "attribute")  # of a graph encoder, in the order of a vocabulary's names


def load_initial_weights(config: DictConfig, path: str, vocab: Vocab | None = None) -> pl.LightningModule:
    """Builds the model of a config and loads weights into it.

    Where a table of the graph encoder has another number of names than the file's, rows are taken over by name, and those of
    new names start from the mean of all.

    Args:
        path: a checkpoint of trainer.py, adapters that scripts/export.py wrote, or published weights of a whole model,
            which then replace the file that model.params.ckpt_path names.
        vocab: of the data to train on.

    Raises:
        UserError: the file is missing, damaged, or does not fit the model.
    """
    if not Path(path).exists():
        raise UserError(f"--actual_resume {path}: there is no such file; name a checkpoint")
    saved = _read_trained(path)
    if saved is None:
        return instantiate_from_config(OmegaConf.merge(config.model, {"params": {"ckpt_path": path}}))
    model = instantiate_from_config(config.model)
    expected = model.state_dict()
    state = {name: value for name, value in saved["state_dict"].items() if torch.is_tensor(value)}
    if vocab is not None and saved.get("vocab"):
        state |= _rows_by_name(state, expected, Vocab.from_json(saved["vocab"], f"{path}: vocabulary"), vocab)
    fitting = {name: value for name, value in state.items() if name in expected}
    wrong = [name for name, value in fitting.items() if value.shape != expected[name].shape]
    if wrong or not fitting:
        problem = f"{wrong[0]} has another shape" if wrong else "none of its keys is one of the model"
        raise UserError(f"--actual_resume {path}: {problem}; train with the config that its weights were trained with")
    model.load_state_dict(fitting, strict=False)
    _start_averages(model, fitting)
    return model


def _start_averages(model: pl.LightningModule, loaded: Mapping[str, Any]) -> None:
    """Lets the averages begin at the loaded parameters and not at the random ones before, unless they were loaded too."""
    were_loaded = any(name.startswith("model_ema.") for name in loaded)
    if isinstance(model, DenoisingLoss) and model.model_ema is not None and not were_loaded:
        model.model_ema.restart(model)


def _rows_by_name(
    state: Mapping[str, Tensor], expected: Mapping[str, Tensor], known: Vocab, vocab: Vocab
) -> dict[str, Tensor]:
    """The tables of names whose numbers of rows differ, with the rows of known names where the vocabulary has these.

    Args:
        state: tensors of the file, whose vocabulary is `known`.
        expected: those of the model, for `vocab`.
    """
    tables, new = {}, []
    names = zip(
        TABLES, (known.objects, known.predicates, known.attributes), (vocab.objects, vocab.predicates, vocab.attributes)
    )
    for table, old_names, own_names in names:
        parameter = f"cond_stage_model.{table}.weight"
        for key in (parameter, "model_ema." + parameter.replace(".", "/")):
            rows, own = state.get(key), expected.get(key)
            if rows is None or own is None or rows.shape[1:] != own.shape[1:] or len(rows) == len(own):
                continue
            if len(rows) != len(old_names) or len(own) != len(own_names):
                continue  # refused by its shape
            mean = rows[[name != GAP and not name.startswith("__") for name in old_names]].float().mean(0).to(rows)
            tables[key] = torch.stack(
                [rows[old_names.index(name)] if name in old_names else mean for name in own_names]
            )
            new += [name for name in own_names if name not in old_names and name not in new]
    if tables:
        print_line(f"names that the weights do not know start from the mean of the others: {', '.join(new) or 'none'}")
    return tables


def _read_trained(path: str) -> dict[str, Any] | None:
    """What a checkpoint of trainer.py or exported adapters hold; None for another file."""
    if Path(path).is_dir():
        return None
    try:
        saved = read_adapters(path) or torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except UserError:
        raise
    except Exception:  # published files may need their own reader
        return None
    is_ours = (
        isinstance(saved, dict) and isinstance(saved.get("config"), dict) and isinstance(saved.get("state_dict"), dict)
    )
    return saved if is_ours else None
