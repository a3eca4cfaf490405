"""What may happen to a picture without changing what it shows: compression, blur, noise, other exposure, an autoencoder.

Everything runs in batches on the device of the pictures, (B,3,H,W) floats in 0..1.
"""

from __future__ import annotations

import math
import random

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ldm.util.constants import constant

SHARP = 0.2  # share of the pictures of which nothing but exposure and light is changed
BLOCK = 8  # pixels of a side of JPEG's blocks
# ITU-T T.81, tables K.1 and K.2, at quality 50
LUMINANCE = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
CHROMINANCE = (
    (17, 18, 24, 47, 99, 99, 99, 99),
    (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99),
    *((99,) * 8,) * 4,
)
TO_YCBCR = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))
TO_RGB = ((1.0, 0.0, 1.402), (1.0, -0.344136, -0.714136), (1.0, 1.772, 0.0))


def degrade(pictures: Tensor, rng: random.Random) -> Tensor:
    """A random selection of degradations for each picture.

    Args:
        rng: for what all pictures of the batch share.
    """
    pictures = exposed = _shade(_expose(pictures))
    pictures = _sometimes(0.3, pictures, _resample(pictures, rng.randrange(72, pictures.shape[-1], 4)))
    pictures = _sometimes(0.4, pictures, torch.lerp(pictures, blur(pictures), _uniform(pictures, 0, 1)))
    pictures = _sometimes(0.4, pictures, pictures + _uniform(pictures, 0, 0.04) * torch.randn_like(pictures))
    quality = _uniform(pictures, 40, 95)
    pictures = _sometimes(0.4, pictures, compress(pictures.clamp(0, 1), quality))
    return _sometimes(SHARP, pictures, exposed).clamp(0, 1)


def compress(pictures: Tensor, quality: Tensor) -> Tensor:
    """What JPEG makes of pictures, with chroma at half resolution.

    Args:
        pictures: sides divisible by 16.
        quality: 1 to 100, as libjpeg counts; (B,1,1,1).
    """
    to_ycbcr = constant(TO_YCBCR, pictures)
    planes = torch.einsum("ij,bjhw->bihw", to_ycbcr, 255 * pictures)
    scale = torch.where(quality < 50, 5000 / quality, 200 - 2 * quality)
    luma = _quantize(planes[:, :1] - 128, LUMINANCE, scale) + 128
    chroma = F.interpolate(
        _quantize(F.avg_pool2d(planes[:, 1:], 2), CHROMINANCE, scale), scale_factor=2.0, mode="bilinear"
    )
    planes = torch.cat([luma, chroma], 1)
    return torch.einsum("ij,bjhw->bihw", constant(TO_RGB, pictures), planes).clamp(0, 255).round() / 255


def _quantize(planes: Tensor, table: tuple[tuple[int, ...], ...], scale: Tensor) -> Tensor:
    count, channels, height, width = planes.shape
    blocks = planes.reshape(count, channels, height // BLOCK, BLOCK, width // BLOCK, BLOCK)
    k = torch.arange(BLOCK, device=planes.device, dtype=planes.dtype)
    cosines = torch.cos(math.pi / BLOCK * (k + 0.5) * k[:, None]) * math.sqrt(2 / BLOCK)
    cosines[0] /= math.sqrt(2)
    steps = ((constant(table, planes) * scale + 50) / 100).floor().clamp(1, 255)[:, :, None, :, None, :]
    frequencies = torch.einsum("ui,bcyixj,vj->bcyuxv", cosines, blocks, cosines)
    frequencies = (frequencies / steps).round() * steps
    return torch.einsum("ui,bcyuxv,vj->bcyixj", cosines, frequencies, cosines).reshape(planes.shape)


def blur(pictures: Tensor) -> Tensor:
    """By a Gaussian with a standard deviation of one pixel, at most 5 pixels wide."""
    weights = constant((1.0, 4.0, 6.0, 4.0, 1.0), pictures) / 16
    kernel = weights.expand(pictures.shape[1], 1, 5)
    padded = F.pad(pictures, (2, 2, 2, 2), mode="replicate")
    across = F.conv2d(padded, kernel[:, :, None], groups=pictures.shape[1])
    return F.conv2d(across, kernel[:, :, :, None], groups=pictures.shape[1])


def _expose(pictures: Tensor) -> Tensor:
    """A little lighter or darker, of more or less contrast and colour, with another white point; colour words still hold."""
    gain = _uniform(pictures, 0.93, 1.07) * (1 + 0.04 * (torch.rand_like(pictures[:, :, :1, :1]) - 0.5))
    exposed = (gain * pictures).clamp(1e-4, 1) ** _uniform(pictures, 0.92, 1.08)
    grey = torch.einsum("j,bjhw->bhw", constant(TO_YCBCR[0], pictures), exposed)[:, None]
    return torch.lerp(grey, exposed, _uniform(pictures, 0.85, 1.15)).clamp(0, 1)


def _shade(pictures: Tensor) -> Tensor:
    """Sometimes unevenly lit, by a smooth field of a tenth more or less light."""
    light = 1 + 0.1 * (2 * torch.rand_like(pictures[:, :1, :4, :4]) - 1)
    field = F.interpolate(light, size=pictures.shape[-2:], mode="bilinear", align_corners=True)
    return _sometimes(0.3, pictures, field * pictures).clamp(0, 1)


def _resample(pictures: Tensor, side: int) -> Tensor:
    small = F.interpolate(pictures, size=(side, side), mode="bilinear", antialias=True)
    return F.interpolate(small, size=pictures.shape[-2:], mode="bicubic", align_corners=False)


def _uniform(pictures: Tensor, low: float, high: float) -> Tensor:  # (B,1,1,1)
    return low + (high - low) * torch.rand_like(pictures[:, :1, :1, :1])


def _sometimes(share: float, pictures: Tensor, changed: Tensor) -> Tensor:
    return torch.where(_uniform(pictures, 0, 1) < share, changed, pictures)


class ThrowawayAutoencoder(nn.Module):
    """A small f8 autoencoder, trained beside the detector; its reconstructions resemble those of the ones that ship.

    Args:
        channels: of the latents.
    """

    def __init__(self, channels: int = 4):
        super().__init__()

        def down(a: int, b: int) -> list[nn.Module]:
            return [nn.Conv2d(a, b, 4, 2, 1), nn.SiLU(), nn.Conv2d(b, b, 3, padding=1), nn.SiLU()]

        def up(a: int, b: int) -> list[nn.Module]:
            return [
                nn.Upsample(scale_factor=2.0),
                nn.Conv2d(a, b, 3, padding=1),
                nn.SiLU(),
                nn.Conv2d(b, b, 3, padding=1),
                nn.SiLU(),
            ]

        self.encoder = nn.Sequential(*down(3, 32), *down(32, 64), *down(64, 128), nn.Conv2d(128, channels, 1))
        self.decoder = nn.Sequential(
            nn.Conv2d(channels, 128, 3, padding=1), nn.SiLU(), *up(128, 96), *up(96, 64), *up(64, 32),
            nn.Conv2d(32, 3, 3, padding=1),
        )  # fmt: skip

    def forward(self, pictures: Tensor) -> Tensor:
        """Reconstructions through latents that are disturbed a little, as quantisation or a diffusion model would."""
        latents = torch.tanh(self.encoder(2 * pictures - 1) / 3) * 3
        disturbance = 0.1 * torch.rand_like(latents[:, :1, :1, :1])
        return (self.decoder(latents + disturbance * torch.randn_like(latents)) + 1) / 2


def reconstruction_loss(reconstruction: Tensor, pictures: Tensor) -> Tensor:
    """Mean absolute errors of the pictures and of their differences between neighbours."""

    def slopes(images: Tensor) -> tuple[Tensor, Tensor]:
        return images.diff(dim=-1), images.diff(dim=-2)

    edges = sum(F.l1_loss(a, b) for a, b in zip(slopes(reconstruction), slopes(pictures)))
    return F.l1_loss(reconstruction, pictures) + edges
