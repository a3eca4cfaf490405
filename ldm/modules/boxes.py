"""Bounding boxes on the grid of a feature map."""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor


def box_coverage(boxes: Tensor, h: int, w: int) -> Tensor:  # (B,N,4) -> (B,N,h*w)
    """Returns the share of each cell of an h x w grid that lies inside each box, x0 y0 x1 y1 in [0,1]."""

    def overlap(low: Tensor, high: Tensor, cells: int) -> Tensor:  # (B,N) -> (B,N,cells)
        start = torch.arange(cells, device=boxes.device, dtype=boxes.dtype)
        low, high = low[..., None] * cells, high[..., None] * cells
        return (torch.minimum(high, start + 1) - torch.maximum(low, start)).clamp(min=0)

    x0, y0, x1, y1 = boxes.unbind(-1)
    return (overlap(y0, y1, h)[..., :, None] * overlap(x0, x1, w)[..., None, :]).flatten(-2)


def box_preference(boxes: Tensor, h: int, w: int) -> Tensor:  # (B,N,4) -> (B,1,h*w,N)
    """Returns 2 * coverage - 1 for each token's box, and 0 for a token without a box (-1 throughout)."""
    has_box = (boxes != -1).any(dim=-1, keepdim=True)
    return rearrange(torch.where(has_box, 2 * box_coverage(boxes, h, w) - 1, 0), "b n c -> b 1 c n")
