"""docs/configuration.md describes every key that a config uses, as the classes' docstrings do now."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"


@pytest.fixture(scope="module")
def reference():
    sys.path.insert(0, str(DOCS))
    try:
        import configuration_reference
    finally:
        sys.path.remove(str(DOCS))
    return configuration_reference


def test_generated_pages_are_up_to_date(reference, monkeypatch):
    monkeypatch.syspath_prepend(DOCS)
    from generate import pages

    outdated = [name for name, text in pages().items() if (DOCS / name).read_text(encoding="utf-8") != text]
    assert not outdated, "run `make docs`"


def test_every_key_of_every_config_is_described(reference):
    assert reference.undocumented() == []


def test_a_key_without_description_is_found(reference, tmp_path, monkeypatch):
    config = tmp_path / "configs/new.yaml"
    config.parent.mkdir()
    config.write_text(
        "# New.\n#   python trainer.py --base configs/new.yaml\n"
        "model:\n  target: ldm.modules.lora.LoRALinear\n  params: {base: 1, rank: 2}\n"
        "lightning: {trainer: {detect_anomaly: true}}\n"
    )
    monkeypatch.setattr(reference, "ROOT", tmp_path)
    assert {"lightning.trainer.detect_anomaly"} <= set(reference.undocumented())


def test_a_key_of_a_nested_mapping_without_description_is_found(reference, tmp_path, monkeypatch):
    config = tmp_path / "configs/new.yaml"
    config.parent.mkdir()
    config.write_text(
        "# New.\n#   python trainer.py --base configs/new.yaml\n"
        "model:\n  target: ldm.models.autoencoder.VQModelInterface\n  params: {ddconfig: {ch: 32, unknown: 1}}\n"
    )
    monkeypatch.setattr(reference, "ROOT", tmp_path)
    assert reference.undocumented() == ["ldm.models.autoencoder.VQModelInterface: ddconfig.unknown"]


def test_every_section_that_a_config_may_have_is_described(reference):
    from ldm.training.config import SECTIONS

    for section, keys in SECTIONS.items():
        assert set(keys) == set(reference.TEXTS["sections"][section])


def test_every_config_states_the_command_that_uses_it(reference):
    combinations = {path.stem: [file.stem for file in reference.combination(path)] for path in reference.config_files()}
    assert combinations["vg"] == ["vg"] and combinations["tiny"] == ["vg", "tiny"]
    assert combinations["backbone"] == ["adapters", "backbone"]


def test_every_config_is_complete_together_with_the_files_before_it(reference):
    for path in reference.config_files():
        config = reference.read_configs(reference.combination(path))
        assert config.model.base_learning_rate > 0 and config.model.target and config.data.params.train.target, path


def test_args_sections_are_read_as_google_writes_them(reference):
    docstring = """Purpose.

        Args:
            a: first
                and more.
            b, c: both; see: here.

        Returns:
            d: nothing.
        """
    assert reference.parse_args(docstring) == {"a": "first and more.", "b": "both; see: here.", "c": "both; see: here."}


def test_parameters_of_a_base_class_describe_those_of_its_subclass(reference):
    texts = reference.described_parameters(reference.resolve("ldm.models.autoencoder.VQModelInterface"))
    assert "space to depth" in texts["patch_size"] and "codebook" in texts["n_embed"]
    assert "number of scenes" in reference.described_parameters(reference.resolve("ldm.data.demo.DemoTrain"))["size"]
