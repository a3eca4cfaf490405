"""LoRA layers: the identity at initialisation, the formula, merging, and the file layout of peft."""

import pytest
import torch
from torch import nn

from ldm.modules.lora import LoRALinear, lora_layers, merge_lora, peft_config, peft_state_dict


def trained_layer(rank=2, alpha=None, seed=0):
    torch.manual_seed(seed)
    layer = LoRALinear(6, 5, rank=rank, alpha=alpha)
    nn.init.normal_(layer.lora_B)
    return layer


def model(seed=0, rank=2, alpha=None):
    return nn.ModuleDict(
        {
            "attn2": nn.ModuleDict(
                {"to_q": trained_layer(rank, alpha, seed), "to_k": trained_layer(rank, alpha, seed + 1)}
            ),
            "attn1": nn.ModuleDict({"to_q": nn.Linear(6, 5)}),
        }
    )


def test_a_new_adapter_leaves_the_output_bit_equal():
    layer, x = LoRALinear(6, 5, rank=2), torch.randn(3, 6)
    assert torch.equal(layer(x), nn.functional.linear(x, layer.weight, layer.bias))


def test_an_adapter_keeps_the_base_layers_keys():
    assert set(LoRALinear(6, 5, rank=2).state_dict()) == {*nn.Linear(6, 5).state_dict(), "lora_A", "lora_B"}


@pytest.mark.parametrize("alpha, scale", [(None, 1.0), (1, 0.5), (6, 3.0)])
def test_an_adapter_adds_b_times_a_scaled_by_alpha_over_rank(alpha, scale):
    layer, x = trained_layer(rank=2, alpha=alpha), torch.randn(3, 6)
    dense = layer.weight + scale * layer.lora_B @ layer.lora_A
    torch.testing.assert_close(layer(x), x @ dense.T + layer.bias)


def test_a_merged_layer_computes_the_same_and_the_adapted_layer_is_unchanged():
    layer, x = trained_layer(alpha=6), torch.randn(3, 6)
    before, weight = layer(x), layer.weight.clone()
    merged = layer.merge()
    assert type(merged) is nn.Linear and merged.bias is layer.bias and not merged.weight.requires_grad
    torch.testing.assert_close(merged(x), before)
    assert torch.equal(layer.weight, weight) and torch.equal(layer(x), before)


def test_merge_lora_shares_all_modules_without_adapters_and_leaves_the_original_unchanged():
    original = nn.ModuleDict({"block": model(), "norm": nn.LayerNorm(6)})
    before = dict(original.named_modules())
    merged = merge_lora(original)
    assert merged["norm"] is original["norm"] and merged["block"]["attn1"] is original["block"]["attn1"]
    assert not lora_layers(merged) and type(merged["block"]["attn2"]["to_q"]) is nn.Linear
    assert all(module is before[name] for name, module in original.named_modules())
    assert merge_lora(merged) is merged
    assert type(merge_lora(trained_layer())) is nn.Linear


def test_only_the_adapter_of_a_frozen_layer_gets_a_gradient():
    layer = trained_layer()
    layer.weight.requires_grad_(False), layer.bias.requires_grad_(False)
    layer(torch.randn(3, 6)).sum().backward()
    assert layer.weight.grad is None and layer.bias.grad is None
    assert layer.lora_A.grad.abs().sum() > 0 and layer.lora_B.grad.abs().sum() > 0


def test_the_peft_export_describes_each_adapter_completely():
    """The base weight plus lora_alpha / r B A, from peft's two files, gives the adapted layer (LoRA, section 4.1)."""
    source = model(alpha=8)
    state, config = peft_state_dict(source), peft_config(source)
    assert set(state) == {f"base_model.model.attn2.to_{x}.lora_{y}.weight" for x in "qk" for y in "AB"}
    assert (config["peft_type"], config["r"], config["lora_alpha"]) == ("LORA", 2, 8)
    x = torch.randn(3, 6)
    for name, layer in lora_layers(source).items():
        a, b = (state[f"base_model.model.{name}.lora_{side}.weight"] for side in "AB")
        dense = layer.weight + config["lora_alpha"] / config["r"] * b @ a
        torch.testing.assert_close(layer(x), x @ dense.T + layer.bias)


def test_pefts_target_modules_match_the_adapted_layers_and_no_others():
    targets = peft_config(model())["target_modules"]
    names = [name for name, layer in model().named_modules() if isinstance(layer, nn.Linear)]
    matched = [n for n in names if any(n == t or n.endswith(f".{t}") for t in targets)]  # peft's rule
    assert sorted(matched) == ["attn2.to_k", "attn2.to_q"]


def test_a_rank_below_one_is_refused():
    with pytest.raises(ValueError, match="rank"):
        LoRALinear(6, 5, rank=0)
