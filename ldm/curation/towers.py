"""What embeds pictures: a config's image tower, any CLIP that is named, or the pixels alone as a baseline."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from PIL import Image
from torch import Tensor

from ldm.curation.errors import CurationError
from ldm.curation.pictures import Picture
from ldm.modules.image_encoder import OPENAI, CLIPGlobalEncoder
from ldm.util.config import instantiate_from_config
from ldm.util.images import to_tensor

PIXELS = "pixels"
TEXTS = 64  # texts that the text tower reads at once
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

    def __call__(
        self, images: Sequence[Image.Image], pictures: Sequence[Picture] = ()
    ) -> np.ndarray:  # -> (B,E) float32
        """The embeddings of RGB pictures of any size; `pictures` says which they are, for towers that look them up."""
        ...

    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:  # -> (N,E) float32
        """The embeddings of texts in the same space. Raises CurationError for a tower without text."""
        ...


class ImageTower:
    """CLIP's image encoder, or one of its form.

    Args:
        encoder: from a config, or built from a name.
        name: for reports.
        device: where it runs.
        architecture: whose text tower fits, by open_clip's name or a TowerShape's attributes; None if none does.
        text_weights: file with the weights of that text tower; by default the encoder's.
    """

    def __init__(
        self,
        encoder: CLIPGlobalEncoder,
        name: str,
        device: str | torch.device = "cpu",
        architecture: str | Mapping | None = None,
        text_weights: str | Path | None = None,
    ):
        self.encoder, self.name, self.device = encoder.to(device), name, device
        self.architecture, self.text_weights = architecture, text_weights or encoder.weights_from
        self.width = encoder.embedding_dim
        state = hashlib.sha256(str(encoder.image_size).encode())
        for key, value in encoder.state_dict().items():
            state.update(key.encode())
            state.update(value.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
        self.checksum = state.hexdigest()

    @torch.no_grad()
    def __call__(self, images: Sequence[Image.Image], pictures: Sequence[Picture] = ()) -> np.ndarray:
        # each picture by itself, since preprocessing depends on its aspect; the tower gets them together
        inputs = [self.encoder.preprocess(to_tensor(image)[None]) for image in images]
        weight = next(self.encoder.parameters())
        batch: Tensor = torch.cat(inputs).to(self.device, weight.dtype)
        return self.encoder.visual(batch).float().cpu().numpy()

    @torch.no_grad()
    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        """The pooled embeddings of CLIP's text tower, which is loaded for this. Raises CheckpointError."""
        if self.architecture is None:
            raise CurationError(f"name_words: {self.name} has no text tower; name a CLIP with --tower and --weights")
        from ldm.modules.encoders.modules import FrozenOpenCLIPEmbedder2

        tower = FrozenOpenCLIPEmbedder2(self.architecture, ckpt_path=self.text_weights)
        if tower.model.shape.embed_dim != self.width:
            raise CurationError(
                f"name_words: the text tower's embeddings have {tower.model.shape.embed_dim} numbers, the pictures' "
                f"{self.width}; name weights of one CLIP"
            )
        tower = tower.to(self.device)
        batches = [texts[start : start + TEXTS] for start in range(0, len(texts), TEXTS)]
        pooled = [tower.encode_with_pooled(batch)[2] for batch in batches]
        return torch.cat([each for each in pooled if each is not None]).float().cpu().numpy()


class PixelTower:
    """The pixels themselves at 16 x 16, a baseline that knows nothing: what a trained tower has to beat."""

    name, width = "pixels at 16 x 16", 768

    def __init__(self):
        self.checksum = hashlib.sha256(f"{PIXELS}/1".encode()).hexdigest()

    def __call__(self, images: Sequence[Image.Image], pictures: Sequence[Picture] = ()) -> np.ndarray:
        small = [np.asarray(image.resize((16, 16), Image.Resampling.BOX), np.float32).ravel() for image in images]
        return np.stack(small) / 127.5 - 1

    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Raises CurationError: pixels say nothing about words."""
        raise CurationError("name_words: pixels have no text tower; name a CLIP with --tower")


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
                named = OmegaConf.select(section, "params.model_name")
                return ImageTower(encoder, f"{place} ({encoder.weights_from})", device, _architecture(named))
        raise CurationError(f"the config has no image tower ({' or '.join(PLACES)}); name one with --tower")
    try:
        encoder = CLIPGlobalEncoder(name or "ViT-B/32", pretrained=weights)
    except ValueError as error:
        raise CurationError(f"--tower: {error}; or take {PIXELS}, which needs no weights") from None
    called = f"CLIP {name or 'ViT-B/32'} ({encoder.weights_from})"
    return ImageTower(encoder, called, device, _architecture(name or "ViT-B/32"))


def _architecture(model_name: object) -> str | None:
    """open_clip's name of a CLIP; None for towers that a config describes, of which nobody knows a text tower."""
    if not isinstance(model_name, str | None):
        return None
    return OPENAI[name][0] if (name := model_name or "ViT-B/32") in OPENAI else name
