"""Modules without values are those of torch's meta device, without the import of torch's compiler."""

import subprocess
import sys

import pytest
import torch
from paths import ROOT
from torch import nn

from ldm.modules.text_encoder import TextTower, TowerShape
from ldm.modules.without_values import without_values

SHAPE = TowerShape(32, 2, 4, 16)
BUILD = """
import sys
from ldm.modules.text_encoder import TextTower, TowerShape
from ldm.modules.without_values import without_values
with without_values():
    TextTower(TowerShape(32, 2, 4, 16), pooled=True)
assert not {"torch._dynamo", "sympy"} & sys.modules.keys()
"""


def test_a_module_without_values_has_the_keys_and_the_shapes_of_one_with_values():
    with without_values():
        module = TextTower(SHAPE, pooled=True)
    assert all(value.is_meta for value in module.state_dict().values())
    expected = {name: value.shape for name, value in TextTower(SHAPE, pooled=True).state_dict().items()}
    assert {name: value.shape for name, value in module.state_dict().items()} == expected


@pytest.mark.parametrize("make", [lambda: nn.Linear(3, 4), lambda: nn.Embedding(3, 4), lambda: nn.Conv2d(3, 4, 1)])
def test_layers_after_the_context_have_values_and_random_numbers_go_on_as_without_it(make):
    torch.manual_seed(0)
    expected = make()
    torch.manual_seed(0)
    with without_values():
        make()
    assert torch.equal(make().weight, expected.weight)


def test_a_text_tower_without_values_is_built_without_torchs_compiler():
    subprocess.run([sys.executable, "-c", BUILD], check=True, cwd=ROOT)
