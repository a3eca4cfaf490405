"""The two frozen encoders that training needs of an image: the first stage's and CLIP's."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from ldm.checkpoints.loading import CheckpointError, load_part
from ldm.graph.batch import Latents
from ldm.models.runtime import set_memory_format
from ldm.util.config import instantiate_from_config

# Of a first stage, what comes after the latent: another decoder leaves latents as they are.
BEHIND_THE_LATENT = ("decoder.", "post_quant_conv.", "quantize.", "loss.")
# What decides beside the weights, and changes none of their shapes, where a layer has it.
SETTINGS = (
    "patch_size", "normalize", "image_size", "num_heads", "pool_type", "attn_pool_type", "final_ln_after_pool", "num_groups",
    "eps", "stride", "padding", "padding_mode", "dilation", "approximate",
)  # fmt: skip


def load(params: Mapping) -> tuple[nn.Module, nn.Module | None]:
    """The first stage and the image encoder, if there is one, of a model's `params`, and no more of it. Raises
    CheckpointError where weights are missing."""
    first_stage = build_frozen(params["first_stage_config"])
    if first_stage.weights_from is None and params.get("ckpt_path"):
        load_part(first_stage, params["ckpt_path"], "first_stage")
    if first_stage.weights_from is None:
        raise CheckpointError("the first stage has no weights: name a checkpoint (ckpt_path) in its config")
    return first_stage, build_frozen(params["global_stage_config"]) if params.get("global_stage_config") else None


def build_frozen(config: Mapping) -> nn.Module:
    """Parts that are random by intent are the same ones each time: checkpoints do not hold them."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        part = instantiate_from_config(config)
    return part.eval().requires_grad_(False)


def make_encode_function(first_stage: nn.Module, image_encoder: nn.Module | None) -> Callable[[Tensor], Latents]:
    """(B,3,H,W) in [-1,1] -> Latents of both encoders, on the first stage's device and in its precision. Lays it out
    for that (`ldm.speed`)."""
    set_memory_format(first_stage, next(first_stage.parameters()).device)

    @torch.no_grad()
    def encode(image: Tensor) -> Latents:
        image = image.to(next(first_stage.parameters()).device)
        return Latents(first_stage.encode(image).float(), image_encoder and image_encoder(image).float())

    return encode


def checksums(first_stage: nn.Module, image_encoder: nn.Module | None) -> dict[str, str]:
    """A checksum for each encoder there is, by its name; the same where it makes the same of every image."""
    named = {"first stage": first_stage, "image encoder": image_encoder}
    return {name: checksum(part) for name, part in named.items() if part is not None}


def checksum(encoder: nn.Module) -> str:
    """Of weights, and of the layers' kinds and settings, since two activations, or numbers of heads, can share their weights."""
    ours = {name: value for name, value in encoder.state_dict().items() if not name.startswith(BEHIND_THE_LATENT)}
    layers = [
        (name, type(layer).__name__, [f"{key}={getattr(layer, key)}" for key in SETTINGS if key in vars(layer)])
        for name, layer in encoder.named_modules()
        if not f"{name}.".startswith(BEHIND_THE_LATENT)
    ]
    digest = hashlib.sha256(repr(sorted(layers)).encode())
    for name, value in ours.items():
        digest.update(f"{name} {value.dtype}".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()[:16]
