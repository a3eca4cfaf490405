"""Weights that a run starts from: what --actual_resume loads, beside what trainer.py's own tests show."""

import torch
from paths import ROOT

from ldm.training.weights import load_initial_weights
from ldm.util.config_merging import read_configs


def test_averages_begin_at_exported_weights_and_not_at_random_ones(monkeypatch):
    monkeypatch.chdir(ROOT)
    config = read_configs(ROOT / "configs" / "flat" / "adapters.yaml")
    model = load_initial_weights(config, "data/flat/adapters.safetensors")
    trained = {name: parameter.clone() for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert any(parameter.abs().sum() > 0 for name, parameter in trained.items() if "lora_up" in name or "film" in name)
    model.model_ema.copy_to(model)
    assert all(torch.equal(model.get_parameter(name), parameter) for name, parameter in trained.items())
