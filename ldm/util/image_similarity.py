"""Similarity of two images of one size: PSNR and SSIM, over the whole image or within a mask."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import conv2d

from ldm.util.images import Picture


def outside(boxes: Sequence[tuple[float, float, float, float] | None], size: int, grow: float = 0.0) -> np.ndarray:  # (size,size) bool
    """True where a pixel touches no box; `grow` is a share of the picture by which boxes grow on each side."""
    mask = np.ones((size, size), bool)
    for x0, y0, x1, y1 in (box for box in boxes if box is not None):
        low = [max(0, math.floor(size * (edge - grow) + 1e-6)) for edge in (x0, y0)]
        high = [max(0, math.ceil(size * (edge + grow) - 1e-6)) for edge in (x1, y1)]
        mask[low[1] : high[1], low[0] : high[0]] = False
    return mask


def psnr(a: Picture, b: Picture, mask: np.ndarray | None = None) -> float:
    """In dB of a peak of 255, the channels together, where `mask` (H,W) is True; infinite for equal pixels, nan where
    there are none."""
    a, b = _pixels(a), _pixels(b)
    mask = _mask(mask, a)
    if not mask.any():
        return math.nan
    error = float((a - b)[:, mask].square().mean())
    return 10 * math.log10(255**2 / error) if error else math.inf


def ssim(a: Picture, b: Picture, mask: np.ndarray | None = None) -> float:
    """Mean structural similarity where `mask` (H,W) is True: Gaussian windows of sigma 1.5 and 11 pixels, per channel
    (Wang et al. 2004, eq. 13). Windows at the border of the picture and of the mask see only the pixels within, so that
    what is not asked for changes nothing. nan where there is nothing."""
    a, b = _pixels(a), _pixels(b)
    mask = _mask(mask, a)
    if not mask.any():
        return math.nan
    inside = torch.from_numpy(mask)[None].double()
    weight = _blur(inside)
    mean = [_blur(x * inside) / weight.clamp(min=1e-12) for x in (a, b, a * a, b * b, a * b)]
    variance_a, variance_b, both = mean[2] - mean[0] ** 2, mean[3] - mean[1] ** 2, mean[4] - mean[0] * mean[1]
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    likeness = (2 * mean[0] * mean[1] + c1) / (mean[0] ** 2 + mean[1] ** 2 + c1)
    likeness = likeness * (2 * both + c2) / (variance_a + variance_b + c2)
    return float(likeness[:, mask].mean())


def _pixels(image: Picture) -> Tensor:  # (3,H,W) double, 0..255
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).double()


def _mask(mask: np.ndarray | None, image: Tensor) -> np.ndarray:
    return np.ones(image.shape[1:], bool) if mask is None else np.asarray(mask, bool)


def _blur(maps: Tensor) -> Tensor:  # (N,H,W) -> (N,H,W)
    distance = torch.arange(-5, 6, dtype=maps.dtype)
    window = torch.exp(-(distance**2) / (2 * 1.5**2))
    window = window / window.sum()
    maps = conv2d(maps[:, None], window[None, None, :, None], padding=(5, 0))
    return conv2d(maps, window[None, None, None, :], padding=(0, 5))[:, 0]
