"""An exponential moving average of the parameters that are trained."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class EMA(nn.Module):
    """The averages begin as the parameters are now and follow them, at first faster than `decay` says.

    A buffer per parameter that requires a gradient, in float32 or better, under the parameter's name with "/" for "."
    (latent diffusion deletes the dots, which cannot be undone and may join two names into one). `updates` counts the
    steps, so the state dict is all that a checkpoint needs.
    """

    updates: Tensor

    def __init__(self, model: nn.Module, decay: float = 0.9999):
        super().__init__()
        if not 0 <= decay <= 1:
            raise ValueError(f"EMA decay {decay} is not between 0 and 1")
        self.decay = decay
        self.register_buffer("updates", torch.tensor(0))
        self.names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
        for name in self.names:
            parameter = model.get_parameter(name).detach()
            dtype = torch.promote_types(parameter.dtype, torch.float32)
            self.register_buffer(name.replace(".", "/"), parameter.to(dtype, copy=True))

    def average(self, name: str) -> Tensor:
        """Of the parameter that `model.named_parameters()` calls `name`."""
        return self.get_buffer(name.replace(".", "/"))

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move the averages towards the parameters; to be called after each step."""
        self.updates += 1
        share = (9 / (10 + self.updates)).clamp(min=1 - self.decay)  # decay (1 + n) / (10 + n) at first, as in LDM
        for parameter, average in self._pairs(model):
            average.lerp_(parameter.to(average.dtype), share.to(average.dtype))

    @torch.no_grad()
    def copy_to(self, model: nn.Module) -> None:
        """The averages become the parameters, in place."""
        for parameter, average in self._pairs(model):
            parameter.copy_(average)

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[None]:
        """The averages stand in for the parameters, in place, until the block ends or raises."""
        pairs = self._pairs(model)
        trained = [parameter.detach().clone() for parameter, _ in pairs]
        try:
            self.copy_to(model)
            yield
        finally:
            for (parameter, _), value in zip(pairs, trained):
                parameter.data.copy_(value)

    def _pairs(self, model: nn.Module) -> list[tuple[nn.Parameter, Tensor]]:
        return [(model.get_parameter(name), self.average(name)) for name in self.names]
