"""LoRA layers: nothing at start, the dense formula after, plain layers that do the same, and peft's file layout."""

import pytest
import torch
from torch import nn

from ldm.modules.lora import LoRALinear, lora_layers, peft_config, peft_state_dict


def trained_layer(rank=2, alpha=None, seed=0):
    torch.manual_seed(seed)
    layer = LoRALinear(6, 5, rank=rank, alpha=alpha)
    nn.init.normal_(layer.lora_B)
    return layer


def model(seed=0, rank=2, alpha=None):
    return nn.ModuleDict({"attn2": nn.ModuleDict({"to_q": trained_layer(rank, alpha, seed),
                                                  "to_k": trained_layer(rank, alpha, seed + 1)}),
                          "attn1": nn.ModuleDict({"to_q": nn.Linear(6, 5)})})


def test_a_new_adapter_changes_nothing():
    layer, x = LoRALinear(6, 5, rank=2), torch.randn(3, 6)
    assert torch.equal(layer(x), nn.functional.linear(x, layer.weight, layer.bias))


def test_the_base_layers_keys_stay():
    assert set(LoRALinear(6, 5, rank=2).state_dict()) == {*nn.Linear(6, 5).state_dict(), "lora_A", "lora_B"}


@pytest.mark.parametrize("alpha, scale", [(None, 1.0), (1, 0.5), (6, 3.0)])
def test_the_adapter_adds_b_times_a_scaled_by_alpha_over_rank(alpha, scale):
    layer, x = trained_layer(rank=2, alpha=alpha), torch.randn(3, 6)
    dense = layer.weight + scale * layer.lora_B @ layer.lora_A
    torch.testing.assert_close(layer(x), x @ dense.T + layer.bias)


def test_a_plain_layer_computes_the_same_and_leaves_the_adapted_one_as_it_was():
    layer, x = trained_layer(alpha=6), torch.randn(3, 6)
    before, weight = layer(x), layer.weight.clone()
    plain = layer.merge()
    assert type(plain) is nn.Linear and plain.bias is layer.bias and not plain.weight.requires_grad
    torch.testing.assert_close(plain(x), before)
    assert torch.equal(layer.weight, weight) and torch.equal(layer(x), before)


def test_only_the_adapter_of_a_frozen_layer_gets_a_gradient():
    layer = trained_layer()
    layer.weight.requires_grad_(False), layer.bias.requires_grad_(False)
    layer(torch.randn(3, 6)).sum().backward()
    assert layer.weight.grad is None and layer.bias.grad is None
    assert layer.lora_A.grad.abs().sum() > 0 and layer.lora_B.grad.abs().sum() > 0


def test_pefts_layout_says_all_of_each_adapter_in_its_formula():
    """The difference to the base layer is lora_alpha / r B A, of what peft's two files hold (LoRA, section 4.1)."""
    source = model(alpha=8)
    state, config = peft_state_dict(source), peft_config(source)
    assert set(state) == {f"base_model.model.attn2.to_{x}.lora_{y}.weight" for x in "qk" for y in "AB"}
    assert (config["peft_type"], config["r"], config["lora_alpha"]) == ("LORA", 2, 8)
    x = torch.randn(3, 6)
    for name, layer in lora_layers(source).items():
        a, b = (state[f"base_model.model.{name}.lora_{side}.weight"] for side in "AB")
        dense = layer.weight + config["lora_alpha"] / config["r"] * b @ a
        torch.testing.assert_close(layer(x), x @ dense.T + layer.bias)


def test_pefts_target_modules_name_the_adapted_layers_and_no_others():
    targets = peft_config(model())["target_modules"]
    names = [name for name, layer in model().named_modules() if isinstance(layer, nn.Linear)]
    matched = [n for n in names if any(n == t or n.endswith(f".{t}") for t in targets)]  # peft's rule
    assert sorted(matched) == ["attn2.to_k", "attn2.to_q"]


def test_a_rank_below_one_is_refused():
    with pytest.raises(ValueError, match="at least 1"):
        LoRALinear(6, 5, rank=0)
