"""Modules without values, on torch's meta device, for weights that a file brings."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import init
from torch.overrides import TorchFunctionMode

RANDOM = {
    init.kaiming_uniform_,
    init.normal_,
    init.uniform_,
    Tensor.normal_,
    Tensor.uniform_,
}  # change their first argument


@contextmanager
def without_values() -> Iterator[None]:
    """Modules that are built in the context have no memory and no values.

    As torch.device("meta"), where torch would import its compiler to draw the random numbers, which takes a second.
    """
    with torch.device("meta"), _WithoutRandomNumbers():
        yield


class _WithoutRandomNumbers(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        if func in RANDOM:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)
