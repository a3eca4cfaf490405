"""Images as the models take them: resized, normalised, and noise drawn by a seed."""

from __future__ import annotations

import torch
from PIL import Image
from torch import Tensor

from ldm.graph.batch import encode
from ldm.graph.scene_graph import SceneGraph
from ldm.models.diffusion.ddpm import LatentDiffusion
from ldm.util.errors import UserError
from ldm.util.images import square, to_image, to_tensor


def encode_graph(graph: SceneGraph, model: LatentDiffusion):
    return encode([graph], model.vocab).to(model.device)


def to_image_like(image: Tensor, photograph: Image.Image) -> Image.Image:
    return to_image(image[0]).resize(photograph.size, Image.Resampling.BICUBIC)


def noise_generator(seed: int) -> torch.Generator:
    """What draws noise from a seed, which may be any whole number: torch takes 64 bits of it."""
    return torch.Generator().manual_seed(seed % 2**64)


def to_model_input(model: LatentDiffusion, image: Image.Image) -> torch.Tensor:  # -> (1,3,S,S) in [-1,1]
    """An image at the size and shape that the model was trained at: training squeezes every photograph into a square."""
    size = model.latent_size * model.first_stage_model.downsampling
    return to_tensor(square(image, size))[None].to(model.device)


def to_style_input(model: LatentDiffusion, image: Image.Image) -> torch.Tensor:  # -> (1,3,S,S) in [-1,1]
    """The same for a model that follows styles. Raises UserError for any other."""
    if model.global_stage_model is None:
        raise UserError("this model has no image encoder (global_stage_config), so it cannot follow a style")
    return to_model_input(model, image)
