"""The frozen encoders that training needs: the first stage, CLIP's image tower, and the text encoder for captions."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from ldm.checkpoints.loading import load_part
from ldm.checkpoints.reading import CheckpointError
from ldm.data.cache import IMAGE_ENCODER, TEXT_ENCODER
from ldm.graph.batch import Latents
from ldm.graph.caption import caption
from ldm.graph.scene_graph import SceneGraph
from ldm.graph.text_spans import count_tokens
from ldm.models.first_stage import AutoencoderKL, VQModelInterface
from ldm.models.runtime import set_memory_format
from ldm.models.tiny_autoencoder import TinyAutoencoder
from ldm.modules.encoders.modules import TextEncoder
from ldm.util.config import instantiate_without_training, resolve

FirstStage = VQModelInterface | AutoencoderKL | TinyAutoencoder

# Parts of a first stage that work on the latent and do not change it.
DECODER_PREFIXES = ("decoder.", "post_quant_conv.", "quantize.", "loss.")
# Attributes of a layer that change its output and not the shapes of its weights.
SETTINGS = (
    "patch_size",
    "normalize",
    "image_size",
    "num_heads",
    "pool_type",
    "attn_pool_type",
    "final_ln_after_pool",
    "num_groups",
    "eps",
    "stride",
    "padding",
    "padding_mode",
    "dilation",
    "approximate",
    "read_layer",
    "final_norm",
)


class Encoders(NamedTuple):
    """The frozen encoders of a LatentDiffusion; None for those that it does not have."""

    first_stage: FirstStage
    image_encoder: nn.Module | None = None
    text_encoder: TextEncoder | None = None


def build_encoders(params: Mapping, with_text: bool = True) -> Encoders:
    """Builds the frozen encoders of a LatentDiffusion, with their weights.

    Args:
        params: `model.params` of the config.
        with_text: whether the text encoder is built too, if there is one.

    Raises:
        CheckpointError: weights are missing or do not fit.
    """
    first_stage = cast(FirstStage, build_frozen(params["first_stage_config"]))
    if first_stage.weights_from is None and params.get("ckpt_path"):
        load_part(first_stage, params["ckpt_path"], "first_stage")
    if first_stage.weights_from is None:
        raise CheckpointError("first_stage_config: the first stage has no weights; name a checkpoint as its ckpt_path")
    image_encoder = build_frozen(params["global_stage_config"]) if params.get("global_stage_config") else None
    text_stage = text_stage_of(params) if with_text else None
    text_encoder = None if text_stage is None else cast(TextEncoder, build_frozen(text_stage))
    if text_encoder is not None and text_encoder.weights_from is None:
        if not params.get("ckpt_path"):
            raise CheckpointError(
                "text_stage_config: the text encoder has no weights; name a checkpoint as its ckpt_path"
            )
        text_encoder.load_weights(params["ckpt_path"])
    return Encoders(first_stage, image_encoder, text_encoder)


def is_text_encoder(config: Mapping | None) -> bool:
    """Whether a config's target is a text encoder."""
    target = resolve(config["target"]) if config and isinstance(config.get("target"), str) else None
    return isinstance(target, type) and issubclass(target, TextEncoder)


def text_stage_of(params: Mapping) -> dict | None:
    """The config of the text encoder in `model.params`; Stable Diffusion's own configs have it as cond_stage_config."""
    cond_stage = params.get("cond_stage_config")
    return params.get("text_stage_config") or (cond_stage if is_text_encoder(cond_stage) else None)


def build_frozen(config: Mapping) -> nn.Module:
    """Builds a frozen part in evaluation mode; `init: random` gives the same weights each time, as no file holds them."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        part = instantiate_without_training(config)
    return part.eval().requires_grad_(False)


def make_encode_function(first_stage: FirstStage, image_encoder: nn.Module | None) -> Callable[[Tensor], Latents]:
    """A function from images (B,3,H,W) in [-1,1] to the outputs of both encoders.

    It runs on the first stage's device, in its precision, and sets the memory format that is fastest there.
    """
    set_memory_format(first_stage, next(first_stage.parameters()).device)

    @torch.no_grad()
    def encode(image: Tensor) -> Latents:
        image = image.to(next(first_stage.parameters()).device)
        return Latents(first_stage.encode(image).float(), image_encoder and image_encoder(image).float())

    return encode


def make_describe_function(text_encoder: TextEncoder, side: int) -> Callable[[Sequence[SceneGraph]], dict[str, Tensor]]:
    """A function from graphs to the text encoder's outputs for their captions, as fields of `Latents`.

    Args:
        text_encoder: runs on its device.
        side: height and width of the images in pixels.
    """

    @torch.no_grad()
    def describe(graphs: Sequence[SceneGraph]) -> dict[str, Tensor]:
        texts = [caption(graph, count_tokens=count_tokens).text for graph in graphs]
        encoded = text_encoder(texts, (side, side))
        fields = {"text": encoded.tokens.float()}
        return fields if encoded.vector is None else {**fields, "text_vector": encoded.vector.float()}

    return describe


def checksums(
    first_stage: nn.Module, image_encoder: nn.Module | None, text_encoder: nn.Module | None = None
) -> dict[str, str]:
    """The checksum of each encoder by its name."""
    named = {"first stage": first_stage, IMAGE_ENCODER: image_encoder, TEXT_ENCODER: text_encoder}
    return {name: checksum(part) for name, part in named.items() if part is not None}


def checksum(encoder: nn.Module) -> str:
    """16 hexadecimal digits, equal for encoders that compute the same of every image; a cache of latents stores them.

    They cover the weights, and the types and settings of the layers, since models with another activation or number of
    heads may have the same weights. The decoder of a first stage is left out.
    """
    weights = {name: value for name, value in encoder.state_dict().items() if not name.startswith(DECODER_PREFIXES)}
    layers = [
        (name, type(layer).__name__, [f"{key}={vars(layer)[key]}" for key in SETTINGS if key in vars(layer)])
        for name, layer in encoder.named_modules()
        if not f"{name}.".startswith(DECODER_PREFIXES)
    ]
    digest = hashlib.sha256(repr(sorted(layers)).encode())
    for name, value in weights.items():
        digest.update(f"{name} {value.dtype}".encode())
        digest.update(tensor_bytes(value))
    return digest.hexdigest()[:16]


def tensor_bytes(value: Tensor) -> memoryview:
    """The bytes of a tensor in row-major order."""
    return value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data
