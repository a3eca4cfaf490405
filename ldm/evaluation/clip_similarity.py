"""CLIP's embeddings of images and of texts, whose cosines say how alike they are (Radford et al. 2103.00020)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ldm.checkpoints import torchscript
from ldm.modules.encoders.modules import FrozenOpenCLIPEmbedder2
from ldm.modules.image_encoder import OPENAI, CLIPGlobalEncoder, weights_file
from ldm.util.images import to_tensor


class ClipSimilarity:
    """Both towers of a CLIP.

    Args:
        model: OpenAI's name (ViT-B/32) or open_clip's of an architecture.
        weights: file of the whole CLIP, of OpenAI, open_clip or Hugging Face; by default OpenAI's in ~/.cache/clip.
        device: where it runs.
        towers: image and text tower to use instead.

    Raises:
        CheckpointError: the weights are missing or do not fit.
    """

    def __init__(
        self,
        model: str | Mapping = "ViT-B/32",
        weights: str | None = None,
        device: str = "cpu",
        towers: tuple[CLIPGlobalEncoder, FrozenOpenCLIPEmbedder2] | None = None,
    ):
        self.device = device
        self.image_tower, self.text_tower = towers or _load(model, weights)
        self.image_tower.to(device)
        self.text_tower.to(device)

    @torch.no_grad()
    def images(self, pictures: Sequence[Image.Image]) -> Tensor:  # -> (B,E) of length 1
        """Embeds pictures of any sizes."""
        rows = [self.image_tower(to_tensor(picture)[None].to(self.device)) for picture in pictures]
        return F.normalize(torch.cat(rows).float(), dim=-1).cpu()

    @torch.no_grad()
    def texts(self, texts: Sequence[str]) -> Tensor:  # -> (B,E) of length 1
        """Embeds texts."""
        _, _, pooled = self.text_tower.encode_with_pooled(list(texts))
        assert pooled is not None
        return F.normalize(pooled.float(), dim=-1).cpu()


def _load(model: str | Mapping, weights: str | None) -> tuple[CLIPGlobalEncoder, FrozenOpenCLIPEmbedder2]:
    image = CLIPGlobalEncoder(model, pretrained=weights)
    path = weights_file(model, weights)
    architecture = f"{model.replace('/', '-')}-quickgelu" if isinstance(model, str) and model in OPENAI else model
    text = FrozenOpenCLIPEmbedder2(arch=architecture, layer="last")
    text.load_weights(torchscript.read_state_dict(path) if torchscript.is_archive(path) else Path(path), f"{path}")
    return image, text
