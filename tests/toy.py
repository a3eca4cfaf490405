"""A toy module with state dicts for it, shared by the tests of checkpoints."""

import torch
from torch import nn


def toy(**layers) -> nn.Module:
    """Linear layers of the given sizes by name."""
    return nn.ModuleDict({name: nn.Linear(*size) for name, size in (layers or {"a": (2, 3), "b": (3, 1)}).items()})


def random_state(module: nn.Module, prefix: str = "") -> dict:
    """A state dict with random values for the module."""
    return {prefix + key: torch.randn_like(value) for key, value in module.state_dict().items()}


def assert_has_weights(module: nn.Module, state: dict):
    assert module.state_dict().keys() == state.keys()
    for key, value in module.state_dict().items():
        torch.testing.assert_close(value, state[key], rtol=0, atol=0)
