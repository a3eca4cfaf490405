"""Outputs that the published code computed, to compare this project's modules with (tests/parity_small/README.txt).

Two sets exist: tests/parity_small, whose weights follow from a recipe, and ../shared/parity, whose files hold the weights.
"""

import json
import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor, nn


@dataclass(frozen=True)
class Parity:
    """One published computation.

    Attributes:
        params: the constructor's arguments.
        inputs: input tensors by name.
        outputs: output tensors by name.
        stored_weights: the state dict (float32) under the published keys, None where it follows from the recipe.
        summary: number of keys, sums and CRC of the recipe's state dict, None where the weights are stored.
    """

    params: dict
    inputs: dict[str, Tensor]
    outputs: dict[str, Tensor]
    stored_weights: dict[str, Tensor] | None
    summary: dict | None

    def weights_for(self, module: nn.Module) -> dict[str, Tensor]:
        """The published state dict; `module` gives keys and shapes to the recipe, which are checked against the summary."""
        if self.stored_weights is not None:
            return dict(self.stored_weights)
        assert self.summary is not None
        shapes = {key: tuple(value.shape) for key, value in module.state_dict().items()}
        lines = "\n".join(f"{key} {list(shape)}" for key, shape in sorted(shapes.items()))
        assert len(shapes) == self.summary["keys"], "the module has another number of keys than the published one"
        assert zlib.crc32(lines.encode()) == self.summary["crc32_of_names"], (
            "keys or shapes differ from the published ones"
        )
        weights = {key: recipe_weight(key, shape) for key, shape in shapes.items()}
        for name, power in (("sum", 1), ("sum_of_squares", 2)):
            total = sum(float(value.double().pow(power).sum()) for value in weights.values())
            assert math.isclose(total, self.summary[name], rel_tol=1e-9), f"the recipe gives another {name}"
        return weights


def recipe_weight(key: str, shape: tuple[int, ...]) -> Tensor:
    """The weight of a published key, float32, by the recipe of tests/parity_small/README.txt."""
    z = np.random.RandomState(zlib.crc32(key.encode())).standard_normal(shape)
    fan_in = math.prod(shape[1:])
    if key.endswith("bias"):
        weight = 0.02 * z
    elif len(shape) <= 1:
        weight = 1 + 0.1 * z
    elif "embedding" in key:
        weight = 0.5 * z
    elif "net1." in key or "net2." in key:
        weight = math.sqrt(2 / fan_in) * z
    elif len(shape) == 4 and "block" in key:
        weight = 0.3 / math.sqrt(fan_in) * z
    else:
        weight = 1 / math.sqrt(fan_in) * z
    return torch.from_numpy(np.asarray(weight, dtype=np.float32))


def read_parity(path: Path) -> Parity:
    groups: dict[str, dict[str, Tensor]] = {"weights": {}, "in": {}, "out": {}}
    with safe_open(path, "pt") as file:
        metadata: Mapping[str, str] = file.metadata()
        for key in file.keys():  # noqa: SIM118 - the handle is no dict and cannot be iterated
            group, rest = key.split(".", 1)
            groups[group][rest] = file.get_tensor(key)
    stored = {key: value.float() for key, value in groups["weights"].items()} or None
    summary = json.loads(metadata["weights"]) if "weights" in metadata else None
    return Parity(json.loads(metadata["params"]), groups["in"], groups["out"], stored, summary)


def assert_close_to_published(ours: Tensor, published: Tensor, tolerance: float = 1e-5) -> None:
    """max |ours - published| <= tolerance * max |published|."""
    assert ours.shape == published.shape
    error = (ours - published).abs().max() / published.abs().max()
    assert error <= tolerance, f"relative error {error:.2e}"
