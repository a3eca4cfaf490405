"""Finds out whether one picture is a part of another: normalised cross-correlation over place and scale."""

from __future__ import annotations

import numpy as np
from PIL import Image
from scipy.signal import fftconvolve

SCALES = tuple(1.08**-step for step in range(1, 14))  # side of the crop, of the side of the whole: 0.93 to 0.37
FINE = tuple(1.02**step for step in range(-3, 4))  # factors of the best of these, tried at full size
PROMISING = 0.7  # least correlation of the search at half the size that is refined
MIN_SIDE = 8  # pixels of the crop within the whole, at half the size
FLAT = 6.0  # standard deviation of the grey values (of 255) below which a part looks like any other


def find_crop(
    whole: np.ndarray, crop: np.ndarray, aspects: tuple[float, float] = (1.0, 1.0)
) -> tuple[float, tuple[float, float, float, float]]:
    """Where `crop` lies within `whole`, and how well it fits.

    All scales are tried at half the size, those around the best one again at full size.

    Args:
        whole: (S,S) grey values 0..255 of a picture that was made square.
        crop: the same of the other picture.
        aspects: width over height of each before that.

    Returns:
        The largest correlation in -1..1 (0 for flat pictures) and the place x0 y0 x1 y1 in [0,1].
    """
    if crop.std() < FLAT or whole.std() < FLAT:
        return 0.0, (0.0, 0.0, 1.0, 1.0)
    ratio = aspects[1] / aspects[0]
    half = np.asarray(Image.fromarray(whole).resize((whole.shape[1] // 2, whole.shape[0] // 2), Image.Resampling.BOX))
    coarse = [(*_fit(half, crop, scale, ratio), scale) for scale in SCALES]
    correlation, place, scale = max(coarse, key=lambda each: each[0])
    if correlation < PROMISING:
        return correlation, place
    return max((_fit(whole, crop, scale * factor, ratio) for factor in FINE), key=lambda each: each[0])


def _fit(
    whole: np.ndarray, crop: np.ndarray, scale: float, ratio: float
) -> tuple[float, tuple[float, float, float, float]]:
    """Best correlation and place of a crop whose longer side, in parts of the whole's, is `scale`."""
    side = whole.shape[0]
    width, height = (scale, scale / ratio) if ratio >= 1 else (scale * ratio, scale)
    w, h = round(width * side), round(height * side)
    if min(w, h) < MIN_SIDE or max(w, h) > side:
        return 0.0, (0.0, 0.0, 1.0, 1.0)
    template = np.asarray(Image.fromarray(crop).resize((w, h), Image.Resampling.BOX), np.float32)
    correlation = normalised_correlation(np.asarray(whole, np.float32), template)
    y, x = np.unravel_index(int(correlation.argmax()), correlation.shape)
    return float(correlation[y, x]), (x / side, y / side, (x + w) / side, (y + h) / side)


def normalised_correlation(whole: np.ndarray, template: np.ndarray) -> np.ndarray:
    """Correlation coefficient of a template with each window of its size, 0 where a window is flat (Lewis 1995, eq. 2).

    Args:
        whole: (H,W).
        template: (h,w).

    Returns:
        (H-h+1, W-w+1) in -1..1.
    """
    h, w = template.shape
    count = h * w
    zero_mean = template - template.mean()
    norm = np.sqrt((zero_mean**2).sum())
    products = fftconvolve(whole, zero_mean[::-1, ::-1], mode="valid")
    sums, squares = (_window_sums(values, h, w) for values in (whole.astype(np.float64), whole.astype(np.float64) ** 2))
    deviation = np.sqrt(np.maximum(squares - sums**2 / count, 0))
    flat = deviation < FLAT * np.sqrt(count)
    return np.where(flat, 0, products / np.maximum(norm * deviation, 1e-9)).clip(-1, 1)


def _window_sums(values: np.ndarray, h: int, w: int) -> np.ndarray:
    total = np.pad(values.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    return total[h:, w:] - total[:-h, w:] - total[h:, :-w] + total[:-h, :-w]
