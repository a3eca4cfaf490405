"""Exponential moving average (EMA) of the trainable parameters."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class EMA(nn.Module):
    """Exponential moving average of all parameters of a model that require a gradient.

    The averages are initialised with the parameters and stored as buffers, in float32 or higher precision. A buffer has the
    parameter's name with "/" in place of ".". (Latent diffusion deletes the dots, which cannot be undone and may give two
    parameters the same name.) The buffer `updates` counts the updates, so that the state dict is complete.

    Args:
        model: Its trainable parameters are averaged.
        decay: Decay rate in [0,1]. As in latent diffusion, update n uses min(decay, (1 + n) / (10 + n)).

    Raises:
        ValueError: for a decay outside [0,1].
    """

    updates: Tensor

    def __init__(self, model: nn.Module, decay: float = 0.9999):
        super().__init__()
        if not 0 <= decay <= 1:
            raise ValueError(f"EMA decay {decay} is not between 0 and 1; choose a value close to 1, such as 0.9999")
        self.decay = decay
        self.register_buffer("updates", torch.tensor(0))
        self.names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
        for name in self.names:
            parameter = model.get_parameter(name).detach()
            dtype = torch.promote_types(parameter.dtype, torch.float32)
            self.register_buffer(name.replace(".", "/"), parameter.to(dtype, copy=True))

    def average(self, name: str) -> Tensor:
        """Returns the average of a parameter by its name in `model.named_parameters()`."""
        return self.get_buffer(name.replace(".", "/"))

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Moves the averages towards the parameters. Call it after each optimizer step."""
        self.updates += 1
        weight = (9 / (10 + self.updates)).clamp(min=1 - self.decay)  # 1 - (1 + n) / (10 + n) in the first updates
        for parameter, average in self._pairs(model):
            average.lerp_(parameter.to(average.dtype), weight.to(average.dtype))

    @torch.no_grad()
    def restart(self, model: nn.Module) -> None:
        """Sets the averages to the parameters, as at the beginning."""
        self.updates.zero_()
        for parameter, average in self._pairs(model):
            average.copy_(parameter)

    @torch.no_grad()
    def copy_to(self, model: nn.Module) -> None:
        """Overwrites the parameters with the averages, in place."""
        for parameter, average in self._pairs(model):
            parameter.copy_(average)

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[None]:
        """Context manager in which the parameters hold the averages; restores the parameters on exit."""
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
