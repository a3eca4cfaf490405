"""Moves tensors to a device; a GPU would otherwise have to finish its work for each of them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def mover(device: torch.device | str, non_blocking: bool | None = None) -> Callable[[Tensor], Tensor]:
    """A function that moves a tensor.

    Args:
        device: the target.
        non_blocking: whether to go on before the tensor has arrived; by default on a GPU, as Lightning does for a tensor.
    """
    if non_blocking is None:
        non_blocking = torch.device(device).type not in ("cpu", "mps")
    return lambda x: x.to(device, non_blocking=non_blocking)
