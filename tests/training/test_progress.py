"""What a run prints about the parts that train."""

import re

import torch
from tiny import MODEL, tiny_model
from torch import nn

from ldm.training.progress import in_bytes, trained_lines


def test_what_trains_is_printed_by_adapter_with_its_memory():
    torch.manual_seed(0)
    model = tiny_model()
    adapters, total = trained_lines(model)
    named = re.findall(r"([A-Za-z ]+?) ([\d,]+)(?:, |$)", adapters.removeprefix("adapters: "))
    stated = {kind: int(size.replace(",", "")) for kind, size in named}
    lora = sum(p.numel() for name, p in model.unet.named_parameters() if name.endswith(("lora_A", "lora_B")))
    film = sum(p.numel() for p in model.unet.film.parameters())
    assert stated["LoRA"] == lora and stated["FiLM"] == film
    count = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert total.startswith(f"{count:,} parameters train: {4 * count / 1e6:,.1f} MB")
    assert total.endswith(f"averages {16 * count / 1e6:,.1f} MB")


def test_attention_to_graphs_is_named_and_counted():
    torch.manual_seed(0)
    unet = {**MODEL["params"]["unet_config"]["params"], "graph_attention": True}
    model = tiny_model(unet_config={**MODEL["params"]["unet_config"], "params": unet})
    expected = sum(p.numel() for name, p in model.unet.named_parameters() if "_graph." in name)
    assert expected and f"attention to graphs beside the text {expected:,}" in trained_lines(model)[0]


def test_models_of_other_kinds_have_no_adapters_and_frozen_ones_no_lines():
    assert trained_lines(nn.Linear(3, 2)) == [
        "8 parameters train: 0.0 MB, with gradients and AdamW's two averages 0.0 MB"
    ]
    assert trained_lines(nn.Linear(3, 2).requires_grad_(False)) == []


def test_sizes_are_in_megabytes_or_gigabytes():
    assert (in_bytes(1_540_000), in_bytes(2_100_000_000)) == ("1.5 MB", "2.1 GB")
