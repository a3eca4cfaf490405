"""The noise schedule of the forward process, and the timesteps that a sampler visits."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ldm.checkpoints.edm import SIGMAS, edm_betas, karras_sigmas
from ldm.checkpoints.trained_with import ALL_NOISE
from ldm.models.diffusion.spacing import TRAILING, Spacing
from ldm.util.errors import UserError

# Signal variance that stands for none at the last timestep of a schedule of zero-terminal SNR. DDIM's x_0 is a quotient by its
# root; in float64, as such predictions are (`NoiseSchedule.to_noise`), that is exact to 1e-10.
NO_SIGNAL = 2.0**-40
# Which of EDM's noise levels a sampler visits: the first and the last are among them, and a step from the lowest arrives at x_0.
EDM_SPACING = Spacing("linspace", ends_clean=True)


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
        prediction: What the U-Net predicts, 'eps' (the noise) or 'v' (Salimans & Ho 2202.00512, appendix D).
        spacing: The timesteps that samplers visit; None for each sampler's own (`spacing_for`).
    """

    betas: Tensor
    alphas_cumprod: Tensor
    prediction: str = "eps"
    spacing: Spacing | None = None
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
            UserError: the name is neither 'linear' nor 'edm', or the numbers make no schedule.
        """
        if not (steps >= 1 and 0 < start <= end < 1):
            raise UserError(
                f"timesteps {steps}, linear_start {start}, linear_end {end}: no noise schedule; give at least one timestep "
                "and 0 < linear_start <= linear_end < 1"
            )
        if name == "edm":
            return cls.edm(steps)
        if name != "linear":
            raise UserError(
                f"beta_schedule {name!r} is not supported: set it to 'linear', as all published configs of images do, or to "
                "'edm' for Stable Video Diffusion"
            )
        return cls.linear(steps, start, end)

    @classmethod
    def edm(cls, steps: int = 1000, sigma_max: float = SIGMAS["sigma_max"]) -> NoiseSchedule:
        """Returns the process of Stable Video Diffusion as one of v-prediction (see `ldm.checkpoints.edm`).

        Its timesteps number EDM's noise levels, and samplers visit them as EDM does: evenly spaced, to the end.
        """
        betas = edm_betas(karras_sigmas(**SIGMAS | {"steps": steps, "sigma_max": sigma_max}))
        return cls(betas, (1 - betas).cumprod(0), "v", EDM_SPACING)

    @classmethod
    def from_betas(cls, betas: Tensor) -> NoiseSchedule:  # (T,) float64
        """Returns the schedule of these betas; if they end in pure noise (beta 1), NO_SIGNAL remains."""
        alphas = (1 - betas).cumprod(0)
        if betas[-1] > ALL_NOISE:
            alphas[-1] = NO_SIGNAL
        return cls(betas, alphas)

    def with_zero_terminal_snr(self) -> NoiseSchedule:
        """Returns the schedule shifted and scaled so that the last timestep is pure noise (Lin et al. 2305.08891, alg. 1).

        The square root of alpha-bar keeps its first value; the last one becomes NO_SIGNAL instead of the paper's 0.
        """
        root = self.alphas_cumprod.sqrt()
        alphas = ((root - root[-1]) * root[0] / (root[0] - root[-1])).square()
        betas = 1 - torch.cat([alphas[:1], alphas[1:] / alphas[:-1]])
        return replace(self, betas=betas, alphas_cumprod=alphas.clamp(min=NO_SIGNAL))

    @property
    def ends_in_noise(self) -> bool:
        """Whether the last timestep is pure noise; False where the values are not known, on the meta device."""
        return not self.alphas_cumprod.is_meta and bool(self.alphas_cumprod[-1] <= NO_SIGNAL)

    def __len__(self) -> int:
        return len(self.betas)

    # What the U-Net predicts -----------------------------------------------------------------------------------------

    def target(self, z0: Tensor, noise: Tensor, t: Tensor) -> Tensor:  # (B,...), (B,...), (B,) -> (B,...)
        """Returns what the U-Net is trained to predict: the noise, or v = sqrt(a) noise - sqrt(1 - a) z_0."""
        if self.prediction == "eps":
            return noise
        signal, sigma = self._scales(t, z0)
        return (signal * noise - sigma * z0).to(z0.dtype)

    def v_weight(self, t: Tensor) -> Tensor:  # (B,) -> (B,)
        """The squared error of v where that of the output is 1: 1 / a for a predicted noise, since v = (eps - sqrt(1 - a) x) / sqrt(a).

        Raises:
            ValueError: the schedule ends in pure noise, where a is 0, and the noise is predicted.
        """
        if self.prediction == "v":
            return torch.ones_like(t, dtype=torch.float32)
        if self.ends_in_noise:
            raise ValueError(
                "v_loss: the schedule ends in pure noise, which tells no v; set model.params.parameterization to v"
            )
        return self._all_scales(torch.float32, t.device)[0, t] ** -2

    def to_noise(self, output: Tensor, x: Tensor, t: Tensor) -> Tensor:  # (B,...), (B,...), (B,) -> (B,...)
        """Returns the predicted noise for the U-Net's output at x: of v, eps = sqrt(a) v + sqrt(1 - a) x.

        It is float64 for a schedule that ends in pure noise. There a sampler finds x_0 in the last digits of eps, as
        (x - sqrt(1 - a) eps) / sqrt(a) with a of NO_SIGNAL.
        """
        if self.prediction == "eps":
            return output
        if self.ends_in_noise:
            output, x = output.double(), x.double()
        signal, sigma = self._scales(t, x)
        return signal * output + sigma * x

    def _scales(self, t: Tensor, like: Tensor) -> Tensor:  # (B,) -> (2,B,1,...)
        """Roots of alpha-bar and of its complement at timesteps t: in float32, or in the type of `like` if that is better."""
        dtype = torch.promote_types(like.dtype, torch.float32)
        return self._all_scales(dtype, like.device)[:, t].view(2, -1, *[1] * (like.dim() - 1))

    def _all_scales(self, dtype: torch.dtype, device: torch.device) -> Tensor:  # -> (2,T)
        """The scales of all timesteps; kept, since a GPU waits whenever they are moved to it."""
        if (dtype, device) not in self._moved_scales:
            a = self.alphas_cumprod
            with torch.inference_mode(False):  # a tensor made in inference mode could not be used in training
                self._moved_scales[dtype, device] = torch.stack([a.sqrt(), (1 - a).sqrt()]).to(dtype).to(device)
        return self._moved_scales[dtype, device]

    def sigmas(self) -> Tensor:  # -> (T,)
        """Returns the noise level of each timestep relative to the signal, EDM's sigma."""
        return ((1 - self.alphas_cumprod) / self.alphas_cumprod).sqrt()

    # Noise levels ----------------------------------------------------------------------------------------------------

    def spacing_for(self, sampler: str) -> Spacing | None:
        """The spacing that a sampler uses instead of its own; a schedule that ends in pure noise needs 'trailing'."""
        if self.spacing is not None and self.spacing.sampler in (None, sampler):
            return self.spacing
        return TRAILING if self.ends_in_noise else None

    def visit(self, spacing: Spacing, steps: int, with_end: bool = False) -> DDIMSchedule:
        """Returns the timesteps of a spacing (see `Spacing.timesteps`). Raises UserError if there are none."""
        timesteps = spacing.timesteps(len(self), steps, with_end)
        alphas = self.alphas_cumprod[timesteps]
        end = torch.ones_like(alphas[:1]) if spacing.ends_clean else self.alphas_cumprod[:1]
        return DDIMSchedule(timesteps, alphas, torch.cat([end, alphas[:-1]]))

    def add_noise(self, z0: Tensor, noise: Tensor, t: Tensor) -> Tensor:  # (B,...), (B,...), (B,) -> (B,...)
        """Returns z_t (DDPM eq. 4), computed in float32 or better and returned in the dtype of `z0`."""
        signal, sigma = self._scales(t, z0)
        return (signal * z0 + sigma * noise).to(z0.dtype)

    def ddim(self, steps: int) -> DDIMSchedule:
        """Returns exactly `steps` evenly spaced timesteps, the first of which is 1 (LDM's 'uniform' discretisation).

        If `steps` divides T, this is the published discretisation. Otherwise the published code rounds the spacing down
        and takes more steps than requested (31 for 30); here each timestep is rounded instead. A schedule with a spacing
        (`spacing_for`) visits that instead.

        Args:
            steps: 1 to T - 1; with T - 1 steps every timestep but 0, where sampling ends, is visited.

        Raises:
            UserError: the number of steps is out of range.
        """
        if (spacing := self.spacing_for("ddim")) is not None:
            return self.visit(spacing, steps)
        total = len(self)
        if not 1 <= steps < total:
            raise UserError(f"{steps} DDIM steps of a schedule over {total}: choose between 1 and {total - 1}")
        timesteps = torch.arange(steps) * total // steps + 1
        alphas = self.alphas_cumprod[timesteps]
        return DDIMSchedule(timesteps, alphas, torch.cat([self.alphas_cumprod[:1], alphas[:-1]]))
