"""Converts images and graphs to a model's input, and seeds to noise generators."""

from __future__ import annotations

import torch
from PIL import Image
from torch import Tensor

from ldm.graph.batch import GraphBatch, encode
from ldm.graph.scene_graph import SceneGraph
from ldm.models.diffusion.latent_diffusion import LatentDiffusion
from ldm.util.errors import UserError
from ldm.util.images import resize_square, to_image, to_tensor


def encode_graph(graph: SceneGraph, model: LatentDiffusion) -> GraphBatch:
    """Returns a batch of one graph, in the model's vocabulary and on its device."""
    return encode([graph], model.vocab).to(model.device)


def to_image_like(image: Tensor, photograph: Image.Image) -> Image.Image:
    """Converts (1,3,H,W) in [-1,1] to an image of the photograph's size."""
    return to_image(image[0]).resize(photograph.size, Image.Resampling.BICUBIC)


def noise_generator(seed: int) -> torch.Generator:
    """Returns a CPU generator for any integer seed, of which torch takes the lowest 64 bits."""
    return torch.Generator().manual_seed(seed % 2**64)


def to_model_input(model: LatentDiffusion, image: Image.Image) -> Tensor:  # -> (1,3,S,S) in [-1,1]
    """Resizes an image to the model's resolution; as in training, the aspect ratio is not preserved."""
    size = model.latent_size * model.first_stage_model.downsampling
    return to_tensor(resize_square(image, size))[None].to(model.device)


def to_style_input(model: LatentDiffusion, image: Image.Image) -> Tensor:  # -> (1,3,S,S) in [-1,1]
    """Resizes a style reference. Raises UserError if the model has no image encoder."""
    if model.global_stage_model is None:
        raise UserError("this model has no image encoder (global_stage_config): remove the style, or use another model")
    return to_model_input(model, image)
