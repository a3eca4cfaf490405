"""How much noise there is at each timestep, and which timesteps a sampler visits."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ldm.util.errors import UserError


@dataclass(frozen=True, eq=False)
class DDIMSchedule:
    """The S timesteps that a sampler visits, ascending, and the signal left at each.

    timesteps   (S,) long
    alphas      (S,) float64, cumulative (what DDIM calls alpha): at each timestep
    alphas_prev (S,) float64, cumulative: at the timestep that sampling goes to from there
    """

    timesteps: Tensor
    alphas: Tensor
    alphas_prev: Tensor

    def __len__(self) -> int:
        return len(self.timesteps)

    def up_to(self, timestep: float) -> DDIMSchedule:
        """Its timesteps up to this one, but at least the first."""
        count = max(1, int((self.timesteps <= timestep).sum()))
        return DDIMSchedule(self.timesteps[:count], self.alphas[:count], self.alphas_prev[:count])

    def sigmas(self, eta: float) -> Tensor:  # -> (S,) float64
        """Standard deviation of the noise that a sampling step adds: none at eta 0, DDPM's at eta 1."""
        a, a_prev = self.alphas, self.alphas_prev
        return eta * ((1 - a_prev) / (1 - a)).sqrt() * (1 - a / a_prev).sqrt()  # DDIM eq. 16


@dataclass(frozen=True, eq=False)
class NoiseSchedule:
    """The forward process over T timesteps, in float64 because 1 - alpha is small at the early ones."""

    betas: Tensor  # (T,) variance of the noise that each timestep adds
    alphas_cumprod: Tensor  # (T,) signal variance that is left after it

    @classmethod
    def linear(cls, steps: int = 1000, start: float = 0.0015, end: float = 0.0195) -> NoiseSchedule:
        """Latent diffusion's 'linear', which is linear in sqrt(beta)."""
        betas = torch.linspace(start**0.5, end**0.5, steps, dtype=torch.float64) ** 2
        return cls(betas, (1 - betas).cumprod(0))

    @classmethod
    def named(cls, name: str, steps: int = 1000, start: float = 0.0015, end: float = 0.0195) -> NoiseSchedule:
        """By the name that a config's `beta_schedule` gives it. Raises UserError on any but 'linear'."""
        if name != "linear":
            raise UserError(f"beta_schedule {name!r}: only 'linear' is supported, as published configs use no other")
        return cls.linear(steps, start, end)

    def __len__(self) -> int:
        return len(self.betas)

    def add_noise(self, z0: Tensor, noise: Tensor, t: Tensor) -> Tensor:  # (B,...), (B,...), (B,) -> (B,...)
        """z_t in z0's dtype, mixed in float32 or better."""
        a = self.alphas_cumprod
        dtype = torch.promote_types(z0.dtype, torch.float32)
        scales = torch.stack([a.sqrt(), (1 - a).sqrt()]).to(dtype).to(z0.device)[:, t]
        signal, sigma = scales.view(2, -1, *[1] * (z0.dim() - 1))
        return (signal * z0 + sigma * noise).to(z0.dtype)  # DDPM eq. 4

    def ddim(self, steps: int) -> DDIMSchedule:
        """Exactly `steps` timesteps, evenly spaced, the first of them 1 (LDM's 'uniform').

        Where `steps` divides T this is the published discretisation. Where it does not, the
        published code rounds the spacing down and so takes more steps than it was asked for
        (31 for 30); here the spacing is rounded timestep by timestep instead. T - 1 steps
        visit every timestep; sampling ends at timestep 0, so there is no room for more.
        Raises UserError for a number of steps outside 1 .. T - 1.
        """
        total = len(self)
        if not 1 <= steps < total:
            raise UserError(f"{steps} DDIM steps of a schedule over {total}: choose between 1 and {total - 1}")
        timesteps = torch.arange(steps) * total // steps + 1
        alphas = self.alphas_cumprod[timesteps]
        return DDIMSchedule(timesteps, alphas, torch.cat([self.alphas_cumprod[:1], alphas[:-1]]))
