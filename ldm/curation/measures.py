"""What is measured of each picture besides its embedding: size, sharpness, exposure, perceptual hashes, a small grey copy."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from PIL import Image
from scipy.fft import dctn

THUMBNAIL = 64  # side of the grey copy that crops are searched in
MEASURED_SIDE = 512  # sharpness is that of the picture at this longer side, so that it does not depend on its size
WEIGHTS = (1 << np.arange(64, dtype=np.uint64)).astype(np.uint64)


class Measures(NamedTuple):
    """Measures of one picture.

    Attributes:
        size: width and height in pixels.
        sharpness: variance of the Laplacian of the grey values in 0..255 (Pech-Pacheco et al. 2000, section 2).
        brightness: mean of the grey values in 0..1.
        contrast: their standard deviation.
        clipped: share of pixels that are black or white, at most 2 or at least 253 of 255.
        hash: perceptual hash, 64 bits.
        mirrored: perceptual hash of the mirror image.
        thumbnail: (64,64) uint8, grey, whatever the aspect.
    """

    size: tuple[int, int]
    sharpness: float
    brightness: float
    contrast: float
    clipped: float
    hash: int
    mirrored: int
    thumbnail: np.ndarray


def measure(image: Image.Image) -> Measures:
    """Measures an RGB picture."""
    grey = image.convert("L")
    thumbnail = np.asarray(grey.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX))
    side = max(grey.size)
    if side > MEASURED_SIDE:
        shape = tuple(max(1, round(length * MEASURED_SIDE / side)) for length in grey.size)
        grey = grey.resize((shape[0], shape[1]), Image.Resampling.BOX)
    pixels = np.asarray(grey, np.float32)
    return Measures(
        image.size,
        sharpness(pixels),
        float(pixels.mean() / 255),
        float(pixels.std() / 255),
        float(((pixels <= 2) | (pixels >= 253)).mean()),
        perceptual_hash(thumbnail),
        perceptual_hash(thumbnail[:, ::-1]),
        thumbnail,
    )


def sharpness(grey: np.ndarray) -> float:  # (H,W)
    """Variance of the Laplacian over the interior; 0 for a picture of fewer than 3 x 3 pixels."""
    if min(grey.shape) < 3:
        return 0.0
    middle = grey[1:-1, 1:-1]
    return float((grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:] - 4 * middle).var())


def perceptual_hash(grey: np.ndarray) -> int:  # (64,64) -> 64 bits
    """Signs, against their median, of 8 x 8 low frequencies, those of the first row and column left out (pHash; Zauner 2010)."""
    small = grey.reshape(32, 2, 32, 2).mean((1, 3))
    spectrum = dctn(small, norm="ortho")[1:9, 1:9].ravel()
    return int(WEIGHTS[spectrum > np.median(spectrum)].sum(dtype=np.uint64))


def differing_bits(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The number of differing bits of hashes, uint64 arrays that numpy broadcasts, as uint8."""
    differing = np.bitwise_xor(first, second)
    if hasattr(np, "bitwise_count"):  # numpy 2
        return np.bitwise_count(differing)
    octets = np.ascontiguousarray(differing).view(np.uint8).reshape(*differing.shape, 8)
    return np.unpackbits(octets, axis=-1).sum(-1, dtype=np.uint8)
