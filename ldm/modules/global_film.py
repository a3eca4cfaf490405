"""Global style conditioning: the CLIP embedding of a reference image, and FiLM of the U-Net's blocks by it."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from ldm.modules import image_encoder


class CLIPGlobalEncoder(image_encoder.CLIPGlobalEncoder):
    """CLIP's image encoder (Radford et al. 2021, arXiv 2103.00020), frozen and always in evaluation mode.

    Its tower is open_clip's, which pre-training and feature distances need. Parameters are those of
    `image_encoder.CLIPGlobalEncoder`.
    """

    def build_tower(self, model_name: str | Mapping, quick_gelu: bool = False) -> nn.Module:
        return image_encoder.image_tower(model_name, quick_gelu)


class FiLMGenerator(nn.Module):
    """An MLP from the style to gamma and beta of several feature maps, all zero at initialisation.

    FiLM (Perez et al. 2018, arXiv 1709.07871) as h (1 + gamma) + beta, so that zero is the identity.

    Args:
        embedding_dim: E, width of the style.
        channels: C, number of channels of each feature map.
        hidden_dim: Width of the hidden layer.
    """

    def __init__(self, embedding_dim: int, channels: list[int], hidden_dim: int = 512):
        super().__init__()
        self.widths = [2 * c for c in channels]
        hidden, output = nn.Linear(embedding_dim, hidden_dim), nn.Linear(hidden_dim, sum(self.widths))
        nn.init.zeros_(output.weight)
        nn.init.zeros_(output.bias)
        self.net = nn.Sequential(hidden, nn.SiLU(), output)

    def forward(self, style: Tensor) -> list[tuple[Tensor, Tensor]]:  # (B,E) -> [(gamma (B,C), beta (B,C)), ...]
        films = []
        for film in self.net(style).split(self.widths, dim=1):
            gamma, beta = film.chunk(2, dim=1)
            films.append((gamma, beta))
        return films


def modulate(h: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:  # (B,C,h,w), (B,C), (B,C) -> (B,C,h,w)
    """Applies FiLM to a feature map."""
    return h * (1 + gamma[:, :, None, None]) + beta[:, :, None, None]
