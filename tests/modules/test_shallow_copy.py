"""Copies of a module with some submodules replaced."""

import pytest
import torch
from torch import nn

from ldm.modules.shallow_copy import with_submodules


@pytest.fixture
def module():
    return nn.ModuleDict({"a": nn.Sequential(nn.Linear(2, 2), nn.ReLU()), "b": nn.Linear(2, 2)})


def test_only_the_path_to_a_replaced_submodule_is_copied(module):
    before, new = dict(module.named_modules()), nn.Identity()
    changed = with_submodules(module, {"a.0": new})
    assert changed["a"][0] is new and changed["a"][1] is module["a"][1] and changed["b"] is module["b"]
    assert dict(module.named_modules()) == before
    assert changed["a"](-torch.ones(1, 2)).tolist() == [[0, 0]]


def test_several_submodules_below_one_parent_can_be_replaced(module):
    changed = with_submodules(module, {"a.0": nn.Identity(), "a.1": nn.Tanh(), "b": nn.Identity()})
    assert [type(layer) for layer in changed["a"]] == [nn.Identity, nn.Tanh] and type(changed["b"]) is nn.Identity


def test_the_module_itself_is_returned_without_replacements_and_can_be_replaced(module):
    new = nn.Identity()
    assert with_submodules(module, {}) is module and with_submodules(module, {"": new}) is new


def test_an_unknown_path_is_refused(module):
    with pytest.raises(AttributeError, match="c"):
        with_submodules(module, {"c": nn.Identity()})
