"""PSNR and SSIM of images, arrays and tensors: over the whole image, within a mask, or without the border."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, overload

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import conv2d, pad

from ldm.util.images import Picture

Mask = np.ndarray | Tensor  # (H,W) bool
Border = Literal["normalise", "reflect", "crop"]

SIGMA, RADIUS = 1.5, 5  # of SSIM's Gaussian window, 11 x 11 pixels (Wang et al. 2004, section III-B)
_INTERIOR = ..., slice(RADIUS, -RADIUS), slice(RADIUS, -RADIUS)


def mask_outside(
    boxes: Sequence[tuple[float, float, float, float] | None], size: int, grow: float = 0.0
) -> np.ndarray:  # (size,size) bool
    """True for the pixels that touch no box.

    Args:
        boxes: x0 y0 x1 y1 in [0,1]; None is skipped.
        size: side of the image in pixels.
        grow: share of the image's side by which boxes are enlarged on each side.
    """
    mask = np.ones((size, size), bool)
    for x0, y0, x1, y1 in (box for box in boxes if box is not None):
        low = [max(0, math.floor(size * (edge - grow) + 1e-6)) for edge in (x0, y0)]
        high = [max(0, math.ceil(size * (edge + grow) - 1e-6)) for edge in (x1, y1)]
        mask[low[1] : high[1], low[0] : high[0]] = False
    return mask


@overload
def psnr(first: Picture, second: Picture, mask: Mask | None = None) -> float: ...
@overload
def psnr(
    first: Tensor, second: Tensor, mask: Mask | None = None, value_range: tuple[float, float] = (0, 255)
) -> Tensor: ...
def psnr(first, second, mask=None, value_range=(0, 255)):
    """Peak signal-to-noise ratio in dB, from the mean squared error over all channels.

    Args:
        first, second: images or uint8 arrays (H,W,3), or tensors (B,3,H,W).
        mask: pixels to compare (H,W); default all.
        value_range: least and largest value of the tensors, beyond which they are clipped; (0, 255) for uint8.

    Returns:
        A number for images and arrays, (B,) float64 for tensors; infinite for equal pixels, NaN for an empty mask.
    """

    def compare(a: Tensor, b: Tensor, where: Tensor) -> Tensor:
        error = (a - b)[:, where].square().mean()
        return 10 * torch.log10((value_range[1] - value_range[0]) ** 2 / error)

    return _compare(compare, first, second, mask, value_range)


@overload
def ssim(first: Picture, second: Picture, mask: Mask | None = None, *, border: Border = "normalise") -> float: ...
@overload
def ssim(
    first: Tensor,
    second: Tensor,
    mask: Mask | None = None,
    value_range: tuple[float, float] = (0, 255),
    border: Border = "normalise",
) -> Tensor: ...
def ssim(first, second, mask=None, value_range=(0, 255), border="normalise"):
    """Mean structural similarity with a Gaussian window, averaged over channels (Wang et al. 2004, eq. 13).

    Pixels outside of the mask have no influence: windows are normalised to the pixels inside.

    Args:
        first, second: images or uint8 arrays (H,W,3), or tensors (B,3,H,W).
        mask: pixels to average over (H,W); default all.
        value_range: least and largest value of the tensors, beyond which they are clipped; (0, 255) for uint8.
        border: what to do where a window reaches beyond the image. 'normalise' it to the pixels inside, 'reflect' the
            image (torchmetrics), or 'crop' these pixels from the average (scikit-image's
            `structural_similarity(gaussian_weights=True, sigma=1.5, use_sample_covariance=False)`, published tables).

    Returns:
        A number for images and arrays, (B,) float64 for tensors; NaN if no pixel is left.
    """
    peak = value_range[1] - value_range[0]
    c1, c2 = (0.01 * peak) ** 2, (0.03 * peak) ** 2

    def compare(a: Tensor, b: Tensor, where: Tensor) -> Tensor:
        a, b, inside = a - value_range[0], b - value_range[0], where[None].to(a)
        if border == "reflect":
            a, b, inside = (pad(maps, (RADIUS,) * 4, "reflect") for maps in (a, b, inside))
        weight = _blur(inside).clamp(min=1e-12)
        mean_a, mean_b, mean_aa, mean_bb, mean_ab = (_blur(x * inside) / weight for x in (a, b, a * a, b * b, a * b))
        variance_a, variance_b, covariance = mean_aa - mean_a**2, mean_bb - mean_b**2, mean_ab - mean_a * mean_b
        similarity = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
        similarity = similarity * (2 * covariance + c2) / (variance_a + variance_b + c2)
        if border == "reflect":
            similarity = similarity[_INTERIOR]
        elif border == "crop":
            similarity, where = similarity[_INTERIOR], where[_INTERIOR]
        return similarity[:, where].mean()

    return _compare(compare, first, second, mask, value_range)


def _compare(compare, first, second, mask: Mask | None, value_range: tuple[float, float]) -> Any:
    """Applies a function of two images (3,H,W) in float64 and a mask (H,W) to each pair of images."""
    if not isinstance(first, Tensor):
        first, second = (torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] for image in (first, second))
        return float(_compare(compare, first, second, mask, value_range)[0])
    where = torch.ones(first.shape[2:], dtype=torch.bool) if mask is None else torch.as_tensor(mask).bool()
    where = where.to(first.device)
    first, second = (batch.double().clamp(*value_range) for batch in (first, second))
    return torch.stack([compare(a, b, where) for a, b in zip(first, second, strict=True)])


def _blur(maps: Tensor) -> Tensor:  # (N,H,W) -> (N,H,W)
    distance = torch.arange(-RADIUS, RADIUS + 1, dtype=maps.dtype, device=maps.device)
    window = torch.exp(-(distance**2) / (2 * SIGMA**2))
    window = window / window.sum()
    maps = conv2d(maps[:, None], window[None, None, :, None], padding=(RADIUS, 0))
    return conv2d(maps, window[None, None, None, :], padding=(0, RADIUS))[:, 0]
