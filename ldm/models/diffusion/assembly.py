"""Puts a diffusion model together: what its config may say, the weights of its parts, and what must not be left open."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ldm.checkpoints.errors import CheckpointError
from ldm.checkpoints.loading import load_part
from ldm.checkpoints.trained_with import TrainedWith
from ldm.graph.vocab import Vocab
from ldm.models.diffusion.published import settle_scale_factor
from ldm.models.encoders import build_frozen
from ldm.util.config import instantiate_from_config
from ldm.util.errors import UserError

if TYPE_CHECKING:
    from ldm.models.diffusion.ddpm import LatentDiffusion

# Keys of published YAML files that select behaviour which this model always has, with the values accepted for them.
PUBLISHED_KEYS = {
    "first_stage_key": ("image", "jpg"),  # The first stage encodes the batch's image.
    # The graph encoder reads the batch's scene graph, the text encoder a caption of it.
    "cond_stage_key": ("class_label", "graph", "caption", "txt"),
    "conditioning_key": ("crossattn", None),  # The conditioning enters the U-Net by cross-attention.
    "cond_stage_forward": ("encode_graph_local_global", None),  # SGDiff's method that encodes a graph; here `forward`.
    "num_timesteps_cond": (1, None),  # The conditioning is not noised.
    "loss_type": ("l2",),  # The loss is the mean squared error.
    "log_every_t": range(1, 1001),  # Interval of intermediate samples in LDM's image logs, which are not logged here.
}


def refuse_unsupported(init: str | None, freeze_first_stage: bool, published_keys: dict[str, Any]) -> None:
    """Raises ValueError for values of `model.params` that this model does not support, and for unknown keys."""
    for key, value in published_keys.items():
        if key not in PUBLISHED_KEYS:
            raise ValueError(
                f"model.params.{key} is not a parameter of LatentDiffusion: remove it or correct its spelling"
            )
        if value not in PUBLISHED_KEYS[key]:
            raise ValueError(
                f"model.params.{key}: {value!r} is not supported; set it to {PUBLISHED_KEYS[key][0]!r} or remove it"
            )
    if init not in (None, "random"):
        raise ValueError(f"model.params.init: {init!r} is not supported; set it to 'random' or remove it")
    if not freeze_first_stage:
        raise ValueError(
            "model.params.freeze_first_stage: the first stage must be frozen; train it in a run of its own"
        )


def build_part(config: dict, frozen: bool) -> nn.Module:
    return build_frozen(config) if frozen else instantiate_from_config(config)


def build_optional(config: dict | None) -> nn.Module | None:
    """Builds a frozen part that a config may leave out."""
    return build_frozen(config) if config else None


def load_weights(model: LatentDiffusion, ckpt_path: str | dict, cond_stage_trainable: bool) -> TrainedWith:
    """Loads the U-Net, and the other frozen parts that have no weights yet."""
    report = load_part(model.unet, ckpt_path, "unet")
    if model.first_stage_model.weights_from is None:
        load_part(model.first_stage_model, ckpt_path, "first_stage")
    if not cond_stage_trainable and model.cond_stage_model.weights_from is None:
        load_part(model.cond_stage_model, ckpt_path, "cond_stage")
    if model.text_stage_model is not None and model.text_stage_model.weights_from is None:
        model.text_stage_model.load_weights(ckpt_path)
    return report.trained_with


def find_scale_factor(
    model: LatentDiffusion, stated: float | None, defaults: dict, trained: TrainedWith
) -> tuple[torch.Tensor, bool]:
    """The scale factor of the latents, and whether the first batch settles it.

    It is the factor that the U-Net was trained with, since any other changes the noise level that it expects.
    """
    if model.first_stage_model.scaled_latents:
        if stated not in (None, 1):
            raise ValueError(
                f"model.params.scale_factor: {stated}, but a tiny autoencoder scales its latents itself; remove it"
            )
        return model.scale_factor, False
    is_open = model.scale_by_std and trained.scale_factor is None
    source = None if is_open else model.first_stage_model.weights_from
    factor, is_published = settle_scale_factor(stated, defaults, trained, source)
    return factor, model.scale_by_std and not is_published


def refuse_frozen_without_weights(model: LatentDiffusion) -> None:
    """Raises CheckpointError for a frozen part without weights."""
    for name, part in model.parts().items():
        is_frozen = not all(p.requires_grad for p in part.parameters())
        if is_frozen and part.weights_from is None:
            raise CheckpointError(
                f"the {name} is frozen and has no weights: name a checkpoint (ckpt_path) in its config, "
                "or set `init: random` there for random weights"
            )


def keep_frozen_out_of_ddp(model: nn.Module) -> None:
    """Excludes frozen parts and buffers from DDP; every process builds the same ones from files or seeds."""
    frozen = [name for name, p in model.named_parameters() if not p.requires_grad]
    buffers = [name for name, _ in model.named_buffers()]
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(model, frozen + buffers)


class HasVocabularySize(Protocol):
    """Graph encoder for a number of objects and of predicates."""

    num_objs: int
    num_preds: int


def refuse_small_vocabulary(encoder: HasVocabularySize, vocab: Vocab) -> None:
    """Raises UserError if the vocabulary of the data is larger than the graph encoder's."""
    sizes = {"num_objs": (encoder.num_objs, vocab.objects), "num_preds": (encoder.num_preds, vocab.predicates)}
    for key, (configured, names) in sizes.items():
        if configured < len(names):
            raise UserError(
                f"cond_stage_config.params.{key} is {configured}, but the vocabulary of the data has {len(names)}: "
                f"set it to {len(names)}"
            )
