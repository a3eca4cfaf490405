"""Weights that a run starts from: what --actual_resume loads, beside what trainer.py's own tests show."""

import pytest
import torch
from paths import ROOT

from ldm.models.export import read_adapters
from ldm.synthetic.rendered.vocabulary import BOTH_LOOKS
from ldm.training.weights import load_initial_weights
from ldm.util.config_merging import read_configs
from ldm.util.errors import UserError


def test_averages_begin_at_exported_weights_and_not_at_random_ones(monkeypatch):
    monkeypatch.chdir(ROOT)
    config = read_configs(ROOT / "configs" / "flat" / "adapters.yaml")
    model = load_initial_weights(config, "data/flat/adapters.safetensors")
    trained = {name: parameter.clone() for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert any(parameter.abs().sum() > 0 for name, parameter in trained.items() if "lora_up" in name or "film" in name)
    model.model_ema.copy_to(model)
    assert all(torch.equal(model.get_parameter(name), parameter) for name, parameter in trained.items())


def test_rows_of_known_names_are_taken_over_by_name_and_new_ones_start_from_the_mean(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    path = "data/demo/adapters.safetensors"
    config = read_configs([ROOT / "configs" / "demo.yaml", ROOT / "configs" / "demo" / "clevr.yaml"])
    model = load_initial_weights(config, path, BOTH_LOOKS)
    assert "start from the mean of the others: gray, cyan, brown" in capsys.readouterr().out
    saved = read_adapters(path)
    old = saved["state_dict"]["cond_stage_model.attribute.weight"].float()
    table, average = (
        model.cond_stage_model.attribute.weight,
        model.model_ema.average("cond_stage_model.attribute.weight"),
    )
    names = saved["vocab"]["attribute_idx_to_name"]
    for name in BOTH_LOOKS.attributes:
        expected = old[names.index(name)] if name in names else old.mean(0)
        assert torch.allclose(table[BOTH_LOOKS.attribute_id(name)], expected, atol=1e-3)
    assert torch.equal(table, average)
    assert torch.equal(model.cond_stage_model.name.weight, saved["state_dict"]["cond_stage_model.name.weight"].float())


def test_without_a_vocabulary_a_table_of_another_size_is_refused(monkeypatch):
    monkeypatch.chdir(ROOT)
    config = read_configs([ROOT / "configs" / "demo.yaml", ROOT / "configs" / "demo" / "clevr.yaml"])
    with pytest.raises(UserError, match=r"attribute\.weight has another shape"):
        load_initial_weights(config, "data/demo/adapters.safetensors")
