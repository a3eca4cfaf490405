"""Self-attention across the frames of a clip, without training: each frame also attends to the first and to the previous one.

As Tune-A-Video (Wu et al. 2212.11565, section 3.2) and Text2Video-Zero (Khachatryan et al. 2303.13439, section 3.3) do; a frame's own
keys stay among the keys here, so that the attention of frame 0 is its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ldm.modules.kernels.sdpa import attend


class FrameAttention(NamedTuple):
    """An attention control (`ldm.modules.attention.AttentionControl`) of clips, whose frames are consecutive rows of the batch.

    Attributes:
        frames: T, of each clip.
    """

    frames: int

    def repeat(self, has_graph: Sequence[bool], rows: int) -> FrameAttention:
        """The control of the branches of guidance, which are stacked along the batch as whole clips."""
        return self

    def at(self, layer: int, size: tuple[int, int]) -> FrameAttention:
        """The control of a layer; it is the same in all of them."""
        return self

    def self_attention(self, y: Tensor, q: Tensor, k: Tensor, v: Tensor) -> Tensor:  # (B T,heads,n,d)
        """Attends to the keys of the first, the previous and the own frame."""
        return attend(q, *(self._of_three(part) for part in (k, v)))

    def cross_attention(self, y: Tensor, q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
        """Leaves cross-attention as it is."""
        return y

    def _of_three(self, part: Tensor) -> Tensor:  # (B T,heads,n,d) -> (B T,heads,3n,d)
        clips = part.unflatten(0, (-1, self.frames))
        first = clips[:, :1].expand_as(clips)
        previous = torch.cat([clips[:, :1], clips[:, :-1]], dim=1)
        return torch.cat([first, previous, clips], dim=-2).flatten(0, 1)
