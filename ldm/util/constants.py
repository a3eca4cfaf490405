"""Constant tensors that are moved to a device once: a GPU would have to finish its work for each move."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor


def constant(values: Any, like: Tensor) -> Tensor:
    """A tensor with the type and device of another one, which is kept for the next call; do not change it in place.

    Args:
        values: a number, or nested tuples of numbers.
    """
    return _make(values, like.dtype, like.device)


@cache
def _make(values: Any, dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # a tensor made in inference mode could not be used in training
        return torch.tensor(values, dtype=dtype, device=device)
