"""Exponential moving average (EMA) of the trainable parameters."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

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
        self._counted: tuple[Tensor, int, int] | None = None  # `updates`, its version and its value
        # The averaged model, and for each of `names` the module that holds the parameter and the parameter's name in it.
        self._owners: tuple[weakref.ref, list[tuple[weakref.ref, str]]] | None = None
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
        count = self._count() + 1
        self.updates += 1
        self._counted = self.updates, self.updates._version, count
        weight = max(9 / (10 + count), 1 - self.decay)  # 1 - (1 + n) / (10 + n) in the first updates
        pairs = self._pairs(model)
        averages = [average for _, average in pairs]
        torch._foreach_lerp_(  # pyright: ignore[reportPrivateImportUsage]
            averages, [parameter.to(average.dtype) for parameter, average in pairs], weight
        )

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

    def _count(self) -> int:
        """The value of `updates`, which is read only if others have changed it: a GPU would wait."""
        if self._counted is not None:
            tensor, version, count = self._counted
            if tensor is self.updates and version == self.updates._version:
                return count
        return int(self.updates)

    def _pairs(self, model: nn.Module) -> list[tuple[nn.Parameter, Tensor]]:
        if self._owners is None or self._owners[0]() is not model:
            paths = [name.rpartition(".") for name in self.names]
            owners = [(weakref.ref(model.get_submodule(path)), name) for path, _, name in paths]
            self._owners = weakref.ref(model), owners
        parameters = [owner()._parameters[name] for owner, name in self._owners[1]]
        averages = [self._buffers[name.replace(".", "/")] for name in self.names]
        return cast(list[tuple[nn.Parameter, Tensor]], list(zip(parameters, averages)))

    def __getstate__(self) -> dict:  # weak references can be neither pickled nor copied
        return self.__dict__ | {"_owners": None}
