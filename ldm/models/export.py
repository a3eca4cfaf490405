"""Exports the weights that a run trained as safetensors, in half precision where that is safe.

A whole part has the keys of published weights, so that it can be loaded by a config's `ckpt_path` or `pretrained`:

    first_stage   encoder.*, decoder.*, quantize.*, ...   of a VQModelInterface or AutoencoderKL
    image_tower   visual.*                                of a GraphImagePretraining with train_image
    unet          model.diffusion_model.*, scale_factor   of a LatentDiffusion with freeze_unet: false
                  cond_stage_model.*                      with text_stage_trainable: true, as in files of Stable Diffusion

Adapters are everything that a LatentDiffusion trained, with its config and vocabulary as JSON in the file's metadata;
ldm.models.loading.load_model builds the model from them and the frozen parts that the config names.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from types import NoneType
from typing import NamedTuple

import safetensors
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from ldm.checkpoints.loading import ema_keys, format_shape
from ldm.checkpoints.own_files import METADATA
from ldm.checkpoints.reading import CheckpointError, list_names
from ldm.checkpoints.saving import save_safetensors
from ldm.models.first_stage import Autoencoder
from ldm.modules.diffusionmodules.openaimodel import UNetModel
from ldm.modules.encoders.modules import TextEncoder
from ldm.modules.image_encoder import CLIPGlobalEncoder
from ldm.util.config import instantiate_from_config, resolve
from ldm.util.trust import read_untrusted


class ExportablePart(NamedTuple):
    """Where a part is found in a run and how its keys are named in an exported file."""

    kind: type[nn.Module]
    config_path: str  # of the part in the run's config
    prefix: str  # of its keys in the run's checkpoint
    published_prefix: str  # of its keys in published weights, and in the exported file


PARTS = {
    "first_stage": ExportablePart(Autoencoder, "model", "", ""),
    "image_tower": ExportablePart(CLIPGlobalEncoder, "model.params.image_config", "image_model.", ""),
    "unet": ExportablePart(UNetModel, "model.params.unet_config", "model.diffusion_model.", "model.diffusion_model."),
}
TEXT = ExportablePart(TextEncoder, "model.params.text_stage_config", "text_stage_model.", "cond_stage_model.")
SCALE = "scale_factor"  # of the latents that the U-Net was trained on
# Keys of what is added to a published U-Net, and of what trains a first stage.
LEFT_OUT = r"(^|\.)(film|lora_A|lora_B)(\.|$)|^loss\."


def export_part(part: str, checkpoint: str | Path, path: str | Path) -> dict[str, Tensor]:
    """Writes a whole part of a model to a safetensors file, EMA weights where the run kept them.

    Args:
        part: a key of PARTS.
        checkpoint: a checkpoint of trainer.py.
        path: the file to write.

    Returns:
        The tensors in the file.

    Raises:
        CheckpointError: the checkpoint cannot be read, or its run did not train all parameters of the part.
    """
    saved = read_checkpoint(checkpoint)
    weights = select_ema_weights(saved["state_dict"])
    tensors = _whole_part(part, PARTS[part], saved["config"], weights, checkpoint)
    if part == "unet":
        if any(name.startswith(TEXT.prefix) for name in weights):
            tensors |= _whole_part("text encoder", TEXT, saved["config"], weights, checkpoint)
        tensors[SCALE] = weights[SCALE]
    save_safetensors(path, tensors)
    return tensors


def _whole_part(
    name: str, part: ExportablePart, run_config: dict, weights: Mapping[str, Tensor], checkpoint: str | Path
) -> dict[str, Tensor]:
    """The tensors of a part with its published keys. Raises CheckpointError if the run did not train all of it."""
    kind, config_path, prefix, published_prefix = part
    config = OmegaConf.select(OmegaConf.create(run_config), config_path)
    module = None if config is None else _build_without_weights(config)
    if module is None or not isinstance(module, kind):
        raise CheckpointError(
            f"{checkpoint}: did not train the {name} (its config has no {kind.__name__} as {config_path}); name the run "
            "that did"
        )
    found = {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}
    stored = {key: value for key, value in found.items() if not re.search(LEFT_OUT, key)}
    expected = {key: value for key, value in module.state_dict().items() if not re.search(LEFT_OUT, key)}
    differing = [key for key in expected.keys() | stored.keys() if _shape(stored, key) != _shape(expected, key)]
    if differing:
        raise CheckpointError(
            f"{checkpoint}: did not train the whole {name} ({list_names(sorted(differing))} missing or unexpected); name "
            "the run that did"
        )
    return {published_prefix + key: to_half(key, stored[key]) for key in expected}


def export_adapters(checkpoint: str | Path, path: str | Path) -> dict[str, Tensor]:
    """Writes everything that a LatentDiffusion trained to a safetensors file, with config and vocabulary as metadata.

    Returns:
        The tensors in the file.

    Raises:
        CheckpointError: the checkpoint cannot be read, or is not one of a LatentDiffusion.
    """
    saved = read_checkpoint(checkpoint)
    weights = select_ema_weights(saved["state_dict"])
    if SCALE not in weights:
        kind = saved["config"]["model"]["target"].rpartition(".")[2]
        raise CheckpointError(f"{checkpoint}: a checkpoint of {kind}; name the run of a LatentDiffusion")
    # One metadata key only: safetensors writes several in random order, and equal weights should give equal files.
    metadata = {METADATA: json.dumps({name: saved[name] for name in ("config", "vocab")})}
    tensors = {name: to_half(name, value) for name, value in weights.items()}
    save_safetensors(path, tensors, metadata)
    return tensors


def read_adapters(path: str | Path) -> dict | None:
    """Reads a file of `export_adapters` as a checkpoint dictionary: state_dict, config, vocab.

    Nothing in the file is executed. Call ldm.util.trust.read_untrusted before anything is built from its config.

    Returns:
        The dictionary, or None if the file is of another kind.

    Raises:
        CheckpointError: the metadata is damaged.
    """
    try:
        with safetensors.safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            if METADATA not in metadata:
                return None
            saved = json.loads(metadata[METADATA])
            names = file.keys()  # the handle is no dict and cannot be iterated
            state = {name: file.get_tensor(name) for name in names}
    except safetensors.SafetensorError:  # another format
        return None
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: its metadata cannot be read ({error}); export it again") from error
    vocab = saved.get("vocab", "") if isinstance(saved, dict) else ""  # None of a model that reads text alone
    if not (isinstance(saved, dict) and isinstance(saved.get("config"), dict) and isinstance(vocab, (dict, NoneType))):
        raise CheckpointError(f"{path}: its metadata holds no config and vocabulary; export it again")
    return {"state_dict": state, "config": saved["config"], "vocab": saved["vocab"]}


def read_checkpoint(path: str | Path) -> dict:
    """Reads a checkpoint of trainer.py, memory-mapped. Raises CheckpointError for any other file."""
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        complete = saved["config"]["model"]["target"] and {"state_dict", "vocab"} <= saved.keys()
    except FileNotFoundError:
        raise CheckpointError(f"{path}: there is no such file; name a checkpoint of trainer.py") from None
    except Exception as error:  # a damaged file can raise any exception
        raise CheckpointError(f"{path}: damaged, or not a checkpoint of trainer.py; name another one") from error
    if not complete:
        raise CheckpointError(f"{path}: not a checkpoint of trainer.py; name one")
    read_untrusted(saved["config"], str(path))
    return saved


def select_ema_weights(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights in a state dict of trainer.py, each replaced by its moving average (EMA) where that exists."""
    weights = {name: value for name, value in state.items() if not name.startswith("model_ema.")}
    return {name: state.get(ema_keys(name)[0], value) for name, value in weights.items()}


def to_half(name: str, value: Tensor) -> Tensor:
    """Casts matrices and convolution kernels to float16.

    Scalars, biases and norms stay as they are, since they take little space, and so do codebooks, whose nearest code
    depends on small differences, and tensors with values beyond the range of float16.
    """
    is_large = value.is_floating_point() and value.ndim > 1 and not name.endswith("quantize.embedding.weight")
    return value.half() if is_large and value.abs().max() < torch.finfo(torch.float16).max else value


def _shape(state: Mapping[str, Tensor], name: str) -> str | None:
    return format_shape(state[name]) if name in state else None


def _build_without_weights(config: DictConfig) -> nn.Module:
    """Builds the module of a config at random, for its keys and shapes."""
    plain = OmegaConf.to_container(config, resolve=True)
    assert isinstance(plain, dict)
    params = plain["params"]
    for key in ("ckpt_path", "pretrained", "lossconfig"):
        params.pop(key, None)
    if issubclass(resolve(plain["target"]), CLIPGlobalEncoder):  # the only part that loads weights by default
        params["init"] = "random"
    with torch.random.fork_rng(devices=[]):
        return instantiate_from_config(plain)
