"""What a run trained, as safetensors in half precision: a whole part to be frozen elsewhere, or all adapters together.

A whole part has the keys that published weights have, so that a config's ckpt_path or pretrained reads it as those:

    first_stage   encoder.*, decoder.*, quantize.*, ...   of a VQModelInterface or AutoencoderKL
    image_tower   visual.*                                of a GraphImagePretraining with train_image
    unet          model.diffusion_model.*, scale_factor   of a LatentDiffusion with freeze_unet: false

Adapters are everything that a LatentDiffusion trained, with its config and vocabulary as JSON in the file's metadata:
with the frozen parts that the config names, ldm.run.load_model builds the model from that.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import safetensors
import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

from ldm.checkpoints.loading import CheckpointError, names_of_average, save_safetensors, shape, some
from ldm.models.autoencoder import Autoencoder
from ldm.modules.diffusionmodules.openaimodel import UNetModel
from ldm.modules.global_film import CLIPGlobalEncoder
from ldm.util.config import instantiate_from_config, refuse_foreign_targets, resolve


class Part(NamedTuple):
    kind: type[nn.Module]
    place: str  # in a run's config
    beginning: str  # of its keys in a run's checkpoint
    published: str  # the same in published weights


PARTS = {
    "first_stage": Part(Autoencoder, "model", "", ""),
    "image_tower": Part(CLIPGlobalEncoder, "model.params.image_config", "image_model.", ""),
    "unet": Part(UNetModel, "model.params.unet_config", "model.diffusion_model.", "model.diffusion_model."),
}
SCALE = "scale_factor"  # of the latents, which a U-Net has learned
METADATA = "ldm"  # the key of an adapters file's JSON: {"config": {...}, "vocab": {...}}
ADDED = r"(^|\.)(film|lora_A|lora_B)(\.|$)"  # to a U-Net, and no part of its body


def export_part(part: str, checkpoint: str | Path, path: str | Path) -> dict[str, Tensor]:
    """Write one of PARTS out of a checkpoint of trainer.py; what was written. Raises CheckpointError where the run did
    not train the whole of it."""
    kind, place, beginning, published = PARTS[part]
    saved = read_checkpoint(checkpoint)
    config = OmegaConf.select(OmegaConf.create(saved["config"]), place)
    module = None if config is None else _build(config)
    if not isinstance(module, kind):
        found = f"its config has no {kind.__name__} as its {place}"
        raise CheckpointError(f"{checkpoint}: {found}, so it trained no {part}")
    weights = averages(saved["state_dict"])
    found = {name.removeprefix(beginning): value for name, value in weights.items() if name.startswith(beginning)}
    body = {name: value for name, value in found.items() if not re.search(ADDED, name)}
    expected = {name: value for name, value in module.state_dict().items() if not re.search(ADDED, name)}
    wrong = [name for name in expected.keys() | body.keys() if shape_in(body, name) != shape_in(expected, name)]
    if wrong:
        raise CheckpointError(
            f"{checkpoint}: this run did not train the whole {part}: {some(sorted(wrong))} missing or unexpected; "
            "name the run that did"
        )
    tensors = {published + name: halved(name, body[name]) for name in expected}
    if part == "unet":
        tensors[SCALE] = weights[SCALE]
    save_safetensors(path, tensors)
    return tensors


def export_adapters(checkpoint: str | Path, path: str | Path) -> dict[str, Tensor]:
    """Write all that a LatentDiffusion trained; what was written. Raises CheckpointError."""
    saved = read_checkpoint(checkpoint)
    weights = averages(saved["state_dict"])
    if SCALE not in weights:
        target = saved["config"]["model"]["target"]
        raise CheckpointError(f"{checkpoint}: is of a {target.rpartition('.')[2]}; name the run of a LatentDiffusion")
    # Under one key, since safetensors writes several in an order of its own each time, and the same weights should be
    # the same file.
    metadata = {METADATA: json.dumps({name: saved[name] for name in ("config", "vocab")})}
    tensors = {name: halved(name, value) for name, value in weights.items()}
    save_safetensors(path, tensors, metadata)
    return tensors


def read_adapters(path: str | Path) -> dict | None:
    """What `export_adapters` wrote, as a checkpoint's dictionary: state_dict, config, vocab. None for another file.

    Nothing in the file is run; its config still has to pass refuse_foreign_targets before anything is built from it.
    Raises CheckpointError for one that is damaged.
    """
    try:
        with safetensors.safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            if METADATA not in metadata:
                return None
            saved = json.loads(metadata[METADATA])
            state = {name: file.get_tensor(name) for name in file.keys()}
    except safetensors.SafetensorError:  # some other format
        return None
    except ValueError as error:
        raise CheckpointError(f"{path}: its metadata cannot be read ({error}); export it again") from error
    if not (isinstance(saved, dict) and all(isinstance(saved.get(name), dict) for name in ("config", "vocab"))):
        raise CheckpointError(f"{path}: its metadata holds no config and vocabulary; export it again")
    return {"state_dict": state, "config": saved["config"], "vocab": saved["vocab"]}


def read_checkpoint(path: str | Path) -> dict:
    """A checkpoint of trainer.py. Raises CheckpointError for anything else."""
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        saved["state_dict"], saved["config"]["model"]["target"], saved["vocab"]
    except FileNotFoundError:
        raise CheckpointError(f"{path}: there is no such file") from None
    except Exception as error:
        raise CheckpointError(f"{path}: broken, or not a checkpoint of trainer.py") from error
    refuse_foreign_targets(saved["config"], str(path))
    return saved


def averages(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a state dict, each as its moving average where there is one."""
    weights = {name: value for name, value in state.items() if not name.startswith("model_ema.")}
    return {name: state.get(names_of_average(name)[0], value) for name, value in weights.items()}


def halved(name: str, value: Tensor) -> Tensor:
    """In float16 what is large. Scalars, biases and norms cost little as they are, and a codebook decides by small
    differences; a number beyond float16 would become infinite."""
    large = value.is_floating_point() and value.ndim > 1 and not name.endswith("quantize.embedding.weight")
    return value.half() if large and value.abs().max() < torch.finfo(torch.float16).max else value


def shape_in(state: Mapping[str, Tensor], name: str) -> str | None:
    return shape(state[name]) if name in state else None


def _build(config: Mapping) -> nn.Module:
    """The part that a config describes, without its weights."""
    config = OmegaConf.to_container(config, resolve=True)
    params = config["params"]
    for key in ("ckpt_path", "pretrained"):
        params.pop(key, None)
    if resolve(config["target"]) is CLIPGlobalEncoder:  # the one part that looks for weights by itself
        params["init"] = "random"
    with torch.random.fork_rng(devices=[]):
        return instantiate_from_config(config)
