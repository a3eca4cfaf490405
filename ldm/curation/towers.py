"""What embeds pictures: a config's image tower, any CLIP that is named, or the pixels alone as a baseline."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from PIL import Image
from torch import Tensor

from ldm.curation.errors import CurationError
from ldm.modules.global_film import CLIPGlobalEncoder
from ldm.util.config import instantiate_from_config
from ldm.util.images import to_tensor

PIXELS = "pixels"
PLACES = ("model.params.global_stage_config", "model.params.image_config")  # of image towers in configs


class Tower(Protocol):
    """Embeds pictures.

    Attributes:
        name: for reports.
        checksum: identifies the weights; embeddings are stored under it.
        width: E, length of an embedding.
    """

    name: str
    checksum: str
    width: int

    def __call__(self, images: Sequence[Image.Image]) -> np.ndarray:  # -> (B,E) float32
        """The embeddings of RGB pictures of any size."""
        ...


class ImageTower:
    """CLIP's image encoder, or one of its form.

    Args:
        encoder: from a config, or built from a name.
        name: for reports.
        device: where it runs.
    """

    def __init__(self, encoder: CLIPGlobalEncoder, name: str, device: str | torch.device = "cpu"):
        self.encoder, self.name, self.device = encoder.to(device), name, device
        self.width = encoder.embedding_dim
        state = hashlib.sha256(str(encoder.image_size).encode())
        for key, value in encoder.state_dict().items():
            state.update(key.encode())
            state.update(value.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
        self.checksum = state.hexdigest()

    @torch.no_grad()
    def __call__(self, images: Sequence[Image.Image]) -> np.ndarray:
        # each picture by itself, since preprocessing depends on its aspect; the tower gets them together
        inputs = [self.encoder.preprocess(to_tensor(image)[None]) for image in images]
        weight = next(self.encoder.parameters())
        batch: Tensor = torch.cat(inputs).to(self.device, weight.dtype)
        return self.encoder.visual(batch).float().cpu().numpy()


class PixelTower:
    """The pixels themselves at 16 x 16, a baseline that knows nothing: what a trained tower has to beat."""

    name, width = "pixels at 16 x 16", 768

    def __init__(self):
        self.checksum = hashlib.sha256(f"{PIXELS}/1".encode()).hexdigest()

    def __call__(self, images: Sequence[Image.Image]) -> np.ndarray:
        small = [np.asarray(image.resize((16, 16), Image.Resampling.BOX), np.float32).ravel() for image in images]
        return np.stack(small) / 127.5 - 1


def load_tower(
    name: str | None, weights: str | None, config: DictConfig | None, device: str | torch.device = "cpu"
) -> Tower:
    """The tower that is named, else that of the config, else OpenAI's ViT-B/32.

    Args:
        name: OpenAI's or open_clip's name of a model, or "pixels".
        weights: file of its weights.
        config: merged config of a model, or None.

    Raises:
        CurationError: the config has no image tower, or the name is unknown.
        CheckpointError: weights are missing or do not fit.
    """
    if name == PIXELS:
        return PixelTower()
    if name is None and config is not None:
        for place in PLACES:
            if (section := OmegaConf.select(config, place)) is not None:
                encoder = instantiate_from_config(section)
                if not isinstance(encoder, CLIPGlobalEncoder):
                    raise CurationError(f"{place}: {type(encoder).__name__} is no image tower; name one with --tower")
                return ImageTower(encoder, f"{place} ({encoder.weights_from})", device)
        raise CurationError(f"the config has no image tower ({' or '.join(PLACES)}); name one with --tower")
    try:
        encoder = CLIPGlobalEncoder(name or "ViT-B/32", pretrained=weights)
    except ValueError as error:
        raise CurationError(f"--tower: {error}; or take {PIXELS}, which needs no weights") from None
    return ImageTower(encoder, f"CLIP {name or 'ViT-B/32'} ({encoder.weights_from})", device)
