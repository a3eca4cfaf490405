"""Which timesteps a sampler visits: the ways of diffusers' schedulers (`timestep_spacing`), and where sampling ends.

Lin et al. (2305.08891, table 2) compare them: 'leading' never visits the last timestep, 'linspace' and 'trailing' do, as a model
of zero-terminal SNR needs.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ldm.util.errors import UserError

KINDS = ("leading", "linspace", "trailing")


@dataclass(frozen=True)
class Spacing:
    """How the timesteps of a sampler are chosen.

    Attributes:
        kind: one of KINDS.
        offset: added to the timesteps of 'leading' (`steps_offset`).
        ends_clean: whether the last step arrives at x_0 itself, alpha-bar 1 (DDIM's `set_alpha_to_one`, DPM-Solver++'s
            `final_sigmas_type: zero`), instead of the level of the first timestep.
        sampler: the sampler that visits these timesteps, where others choose their own; None for all samplers.
    """

    kind: str = "leading"
    offset: int = 1
    ends_clean: bool = False
    sampler: str | None = None

    def __post_init__(self):
        if self.kind not in KINDS:
            raise ValueError(f"timestep_spacing {self.kind!r} is not known; known are {', '.join(KINDS)}")

    def timesteps(self, total: int, steps: int, with_end: bool = False) -> Tensor:  # -> (S,) long, ascending
        """The timesteps out of 0 ... total - 1.

        Args:
            total: T.
            steps: S.
            with_end: whether 'leading' and 'linspace' count the place where sampling ends as one more timestep, as diffusers'
                DPM-Solver++ does and its DDIM does not.

        Raises:
            UserError: the number of steps is out of range, or the offset leads out of it.
        """
        if not 1 <= steps < total:
            raise UserError(f"{steps} steps of a schedule over {total}: choose between 1 and {total - 1}")
        if self.kind == "trailing":
            visited = torch.arange(total, 0, -total / steps, dtype=torch.float64)[:steps].round().flip(0) - 1
        elif self.kind == "leading":
            visited = (torch.arange(steps) + with_end) * (total // (steps + with_end)) + self.offset
        else:
            visited = torch.linspace(0, total - 1, steps + with_end, dtype=torch.float64).round()[-steps:]
        visited = visited.long()
        if visited[0] < 0 or visited[-1] >= total:
            raise UserError(
                f"{steps} steps from timestep {self.offset} on do not fit a schedule over {total}; choose another number"
            )
        return visited


TRAILING = Spacing("trailing")
