"""The noise levels of EDM (Karras et al. 2206.00364), in which Stable Video Diffusion states its process.

An image with noise of standard deviation sigma, divided by sqrt(1 + sigma^2), is that of a variance-preserving process with
alpha-bar 1 / (1 + sigma^2). There SVD's preconditioning (c_skip 1 / (sigma^2 + 1), c_out -sigma / sqrt(sigma^2 + 1), c_in
1 / sqrt(sigma^2 + 1)) is v-prediction (Salimans & Ho 2202.00512), and an Euler step in sigma is DDIM's.
"""

from __future__ import annotations

import torch
from torch import Tensor

SIGMAS = {"steps": 1000, "sigma_min": 0.002, "sigma_max": 700.0, "rho": 7.0}  # of Stable Video Diffusion


def karras_sigmas(
    steps: int = 1000, sigma_min: float = 0.002, sigma_max: float = 700.0, rho: float = 7.0
) -> Tensor:  # -> (T,) float64, ascending
    """Noise levels whose rho-th roots are evenly spaced (EDM eq. 5)."""
    return torch.linspace(sigma_min ** (1 / rho), sigma_max ** (1 / rho), steps, dtype=torch.float64) ** rho


def edm_betas(sigmas: Tensor) -> Tensor:  # (T,) -> (T,)
    """The betas of the variance-preserving process that passes through these noise levels."""
    alphas = 1 / (1 + sigmas.square())
    return 1 - torch.cat([alphas[:1], alphas[1:] / alphas[:-1]])


def c_noise(sigmas: Tensor) -> Tensor:  # (T,) -> (T,)
    """What the U-Net reads as its time (EDM table 1)."""
    return sigmas.log() / 4
