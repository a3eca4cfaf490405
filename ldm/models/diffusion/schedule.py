"""The noise schedule of the forward process, and the timesteps that a sampler visits."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ldm.util.errors import UserError


@dataclass(frozen=True, eq=False)
class DDIMSchedule:
    """The S timesteps that a sampler visits, in ascending order, with their cumulative signal variances.

    Attributes:
        timesteps: (S,) long.
        alphas: (S,) float64, alpha-bar at each timestep (the DDIM paper calls it alpha).
        alphas_prev: (S,) float64, alpha-bar at the timestep that a sampling step from there arrives at.
    """

    timesteps: Tensor
    alphas: Tensor
    alphas_prev: Tensor

    def __len__(self) -> int:
        return len(self.timesteps)

    def levels(self) -> Tensor:  # -> (S+1,)
        """Alpha-bar at each level of a path: where sampling ends, then at each timestep."""
        return torch.cat([self.alphas_prev[:1], self.alphas])

    def up_to(self, timestep: float) -> DDIMSchedule:
        """Returns the schedule without the timesteps above `timestep`, but with one timestep at least."""
        count = max(1, int((self.timesteps <= timestep).sum()))
        return DDIMSchedule(self.timesteps[:count], self.alphas[:count], self.alphas_prev[:count])

    def sigmas(self, eta: float) -> Tensor:  # -> (S,) float64
        """Returns the standard deviation of the noise that each sampling step adds: 0 for eta 0, DDPM's for eta 1."""
        a, a_prev = self.alphas, self.alphas_prev
        return eta * ((1 - a_prev) / (1 - a)).sqrt() * (1 - a / a_prev).sqrt()  # DDIM eq. 16


@dataclass(frozen=True, eq=False)
class NoiseSchedule:
    """The forward process over T timesteps, in float64 because 1 - alpha-bar is small at the first ones.

    Attributes:
        betas: (T,) variance of the noise that each timestep adds.
        alphas_cumprod: (T,) alpha-bar, the signal variance that remains after each timestep.
    """

    betas: Tensor
    alphas_cumprod: Tensor
    _moved_scales: dict[tuple[torch.dtype, torch.device], Tensor] = field(default_factory=dict, init=False, repr=False)

    @classmethod
    def linear(cls, steps: int = 1000, start: float = 0.0015, end: float = 0.0195) -> NoiseSchedule:
        """Returns latent diffusion's 'linear' schedule, which is linear in sqrt(beta)."""
        betas = torch.linspace(start**0.5, end**0.5, steps, dtype=torch.float64) ** 2
        return cls(betas, (1 - betas).cumprod(0))

    @classmethod
    def from_name(cls, name: str, steps: int = 1000, start: float = 0.0015, end: float = 0.0195) -> NoiseSchedule:
        """Returns the schedule that `beta_schedule: name` selects in a config.

        Raises:
            UserError: the name is not 'linear', or the numbers make no schedule.
        """
        if not (steps >= 1 and 0 < start <= end < 1):
            raise UserError(
                f"timesteps {steps}, linear_start {start}, linear_end {end}: no noise schedule; give at least one timestep "
                "and 0 < linear_start <= linear_end < 1"
            )
        if name != "linear":
            raise UserError(f"beta_schedule {name!r} is not supported: set it to 'linear', as all published configs do")
        return cls.linear(steps, start, end)

    def __len__(self) -> int:
        return len(self.betas)

    def add_noise(self, z0: Tensor, noise: Tensor, t: Tensor) -> Tensor:  # (B,...), (B,...), (B,) -> (B,...)
        """Returns z_t (DDPM eq. 4), computed in float32 or better and returned in the dtype of `z0`."""
        scales = self._scales(torch.promote_types(z0.dtype, torch.float32), z0.device)[:, t]
        signal, sigma = scales.view(2, -1, *[1] * (z0.dim() - 1))
        return (signal * z0 + sigma * noise).to(z0.dtype)

    def _scales(self, dtype: torch.dtype, device: torch.device) -> Tensor:  # -> (2,T)
        """The factors of the signal and of the noise; kept, since a GPU waits whenever they are moved to it."""
        if (dtype, device) not in self._moved_scales:
            a = self.alphas_cumprod
            with torch.inference_mode(False):  # a tensor made in inference mode could not be used in training
                self._moved_scales[dtype, device] = torch.stack([a.sqrt(), (1 - a).sqrt()]).to(dtype).to(device)
        return self._moved_scales[dtype, device]

    def ddim(self, steps: int) -> DDIMSchedule:
        """Returns exactly `steps` evenly spaced timesteps, the first of which is 1 (LDM's 'uniform' discretisation).

        If `steps` divides T, this is the published discretisation. Otherwise the published code rounds the spacing down
        and takes more steps than requested (31 for 30); here each timestep is rounded instead.

        Args:
            steps: 1 to T - 1; with T - 1 steps every timestep but 0, where sampling ends, is visited.

        Raises:
            UserError: the number of steps is out of range.
        """
        total = len(self)
        if not 1 <= steps < total:
            raise UserError(f"{steps} DDIM steps of a schedule over {total}: choose between 1 and {total - 1}")
        timesteps = torch.arange(steps) * total // steps + 1
        alphas = self.alphas_cumprod[timesteps]
        return DDIMSchedule(timesteps, alphas, torch.cat([self.alphas_cumprod[:1], alphas[:-1]]))
