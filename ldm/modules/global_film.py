"""A reference image's look: the CLIP embedding of it, and the FiLM by which it colours every U-Net block."""

from __future__ import annotations

from torch import Tensor, nn


class FiLMGenerator(nn.Module):
    """(gamma, beta) for each of several feature maps, from one embedding, all zero at start.

    Perez et al., FiLM (2018): here h (1 + gamma) + beta, so that zero is the identity."""

    def __init__(self, embedding_dim: int, channels: list[int], hidden_dim: int = 512):
        super().__init__()
        self.channels = list(channels)
        self.net = nn.Sequential(
            nn.Linear(embedding_dim, hidden_dim), nn.SiLU(), nn.Linear(hidden_dim, 2 * sum(channels))
        )
        nn.init.zeros_(self.net[-1].weight)
        nn.init.zeros_(self.net[-1].bias)

    def forward(self, style: Tensor) -> list[tuple[Tensor, Tensor]]:  # (B,E) -> one ((B,C), (B,C)) for each C
        return [tuple(both.chunk(2, dim=1)) for both in self.net(style).split([2 * c for c in self.channels], dim=1)]


def modulate(h: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:  # (B,C,h,w), (B,C), (B,C) -> (B,C,h,w)
    return h * (1 + gamma[:, :, None, None]) + beta[:, :, None, None]
