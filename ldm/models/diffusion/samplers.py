"""The samplers by name. Imports no torch, since command lines list the names.

A sampler is a module of this package that has the functions of `Sampler`; a line in `SAMPLERS` makes it available to
sampling, editing and all methods of inversion that are not made of DDIM's own steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, cast

from ldm.util.errors import UserError, did_you_mean

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ldm.models.diffusion.ddim import Denoiser
    from ldm.models.diffusion.schedule import DDIMSchedule, NoiseSchedule


class Entry(NamedTuple):
    module: str
    default_steps: int


SAMPLERS = {
    "ddim": Entry("ldm.models.diffusion.ddim", default_steps=50),
    "dpm++": Entry("ldm.models.diffusion.dpm_solver", default_steps=10),
}


class Sampler(Protocol):
    """What the module of a sampler defines."""

    def make_schedule(self, schedule: NoiseSchedule, steps: int) -> DDIMSchedule:
        """The timesteps that suit the sampler. Raises UserError if the number of steps is out of range."""
        ...

    def sample(
        self,
        denoiser: Denoiser,
        schedule: DDIMSchedule,
        x: Tensor,
        eta: float = 0.0,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        progress: Callable = reversed,
    ) -> Tensor:
        """x_T -> x_0, both (B,C,H,W)."""
        ...

    def invert(self, denoiser: Denoiser, schedule: DDIMSchedule, x0: Tensor, progress: Callable = iter) -> Tensor:
        """x_0 (B,C,H,W) -> its path (S+1,B,C,H,W); see `ldm.models.diffusion.inversion_paths`."""
        ...

    def Stepper(self, schedule: DDIMSchedule, eta: float = 0.0) -> Callable[[int, Tensor, Tensor], Tensor]:
        """A class whose instances map (i, x, predicted noise) at the i-th timestep to x at the previous one."""
        ...


def refuse_divergence(latents: Tensor) -> None:
    """Raises UserError if what was sampled has infinite values or NaN."""
    if not latents.isfinite().all():
        raise UserError(
            "sampling diverged to infinite values: lower the guidance scales, or check the model's training"
        ).coded("diverged")


def get_sampler(name: str) -> Sampler:
    """The sampler of a name in SAMPLERS. Raises UserError for any other name."""
    if name not in SAMPLERS:
        raise UserError(f"there is no sampler {name!r}, only {' and '.join(SAMPLERS)}{did_you_mean(name, SAMPLERS)}")
    module: Any = import_module(SAMPLERS[name].module)
    return cast(Sampler, module)
