"""YAML configs, and what is built from them."""

import sys
import types

import pytest
import torch
from omegaconf import OmegaConf
from paths import SHARED

from ldm.util.config import instantiate_from_config, plain, read_config, resolve
from ldm.util.errors import ConfigError, did_you_mean


def test_a_target_is_built_with_its_params():
    layer = instantiate_from_config({"target": "torch.nn.Linear", "params": {"in_features": 2, "out_features": 3}})
    assert layer.weight.shape == (3, 2)


def test_params_may_be_left_out():
    assert isinstance(instantiate_from_config({"target": "torch.nn.Identity"}), torch.nn.Identity)


def test_a_target_gets_plain_dicts_and_resolved_values():
    config = OmegaConf.create({"size": 7, "a": {"target": "builtins.dict", "params": {"b": {"c": ["${size}"]}}}})
    built = instantiate_from_config(config.a)
    assert built == {"b": {"c": [7]}} and type(built["b"]) is dict and type(built["b"]["c"]) is list


def test_published_names_lead_to_the_present_classes():
    from ldm.data.datamodule import DataModuleFromConfig

    assert resolve("scripts.datamodule.DataModuleFromConfig") is DataModuleFromConfig
    assert resolve("main.DataModuleFromConfig") is DataModuleFromConfig
    assert resolve("trainer.ImageLogger") is resolve("main.ImageLogger") is resolve("ldm.callbacks.ImageLogger")
    assert resolve("ldm.callbacks.LastCheckpoint") is resolve("ldm.training.callbacks.LastCheckpoint")


@pytest.mark.parametrize(
    "config, word",
    [
        ({}, "target"),
        ("__is_first_stage__", "__is_first_stage__"),
        ({"target": "Linear"}, "dotted"),
        ({"target": "torch..Linear"}, "dotted"),
        ({"target": "torch.nm.Linear"}, "torch.nm"),
        ({"target": "torch.nn.Linaer"}, "'Linear'"),
        ({"target": "torch.nn.Linear", "params": [1, 2]}, "params"),
        ({"target": "torch.nn.Linear", "params": {"in_feature": 1}}, "'in_features'"),
        ({"target": "torch.nn.Linear", "params": {"in_features": 1}}, "'out_features'"),
        ({"target": "torch.nn.Linear", "params": {"in_features": "a", "out_features": 1}}, "TypeError"),
        ({"target": "torch.nn.Linear", "params": {"in_features": 0, "out_features": 1}}, "no weights"),
    ],
)
def test_a_config_that_cannot_be_built_is_refused_in_one_line(config, word):
    with pytest.raises(ConfigError, match=word) as refusal:
        instantiate_from_config(config)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    "params, word",
    [
        ({"warmup_steps": "abc"}, "warmup_steps"),
        ({"warmup_steps": 1.5}, "1.5"),
        ({"ema_decay": float("nan")}, "ema_decay"),
        ({"monitor": {"step": 6}}, "quotes"),
        ({"use_ema": 3}, "use_ema"),
    ],
)
def test_a_value_of_the_wrong_type_is_named(params, word):
    required = {"unet_config": {}, "first_stage_config": {}, "cond_stage_config": {}}
    config = {"target": "ldm.models.diffusion.ddpm.LatentDiffusion", "params": {**required, **params}}
    with pytest.raises(ConfigError, match=word):
        instantiate_from_config(config)


def test_whole_floats_are_whole_numbers():
    """1e4 is a float in YAML."""
    sampler = {"target": "ldm.training.callbacks.ImageLogger", "params": {"batch_frequency": 1e4}}
    assert instantiate_from_config(sampler).batch_frequency == 10_000


def test_a_package_that_a_target_needs_and_lacks_is_named(tmp_path, monkeypatch):
    (tmp_path / "needs_more.py").write_text("import a_package_that_is_not_there\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match="a_package_that_is_not_there"):
        resolve("needs_more.Thing")


def test_an_error_inside_a_constructor_is_not_taken_for_a_wrong_parameter(monkeypatch):
    module = types.ModuleType("broken")
    exec("class Broken:\n    def __init__(self):\n        len(3)", module.__dict__)
    monkeypatch.setitem(sys.modules, "broken", module)
    with pytest.raises(ConfigError, match="has no len") as refusal:
        instantiate_from_config({"target": "broken.Broken"})
    assert isinstance(refusal.value.__cause__, TypeError)


def test_a_missing_value_is_named():
    with pytest.raises(ConfigError, match="image_dir"):
        plain(OmegaConf.create({"params": {"image_dir": "???"}}))


def test_similar_names_are_suggested_only_if_there_are_some():
    assert did_you_mean("batchsize", ["batch_size", "train"]) == "; did you mean 'batch_size'?"
    assert did_you_mean("zzz", ["batch_size"]) == ""


# Files ---------------------------------------------------------------------------------------------------------------

ALIASES = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]\n" for before, name in zip("abcdefgh", "bcdefghi")
)


@pytest.mark.parametrize(
    "content, word",
    [
        ("model:\n  a: [1, 2\n", "line 3"),
        ("- 1\n", "not a config"),
        ("5\n", "not a config"),
        ("'1'\n", "not a config"),
        ("null: 1\n", "key"),
        ("1: 2\n", "not a config"),
        ("a: 1\na: 2\n", "line 2"),
        ("a: !!set {x}\n", "set"),
        ("a: !!python/object/apply:os.system ['false']\n", "line 1"),
        ("a: \x01\n", "not YAML"),
        ("a: " + "[" * 2000, "deep"),
        ("a: " + "[" * 80 + "]" * 80, "deep"),
        ("a: " + "9" * 5000 + "\n", "digits"),
        ("a: &a [*a]\n", "deep"),
        (ALIASES, "values"),
        (b"a: \xe9\n", "UTF-8"),
    ],
)
def test_a_file_that_holds_no_config_is_refused_in_one_line(tmp_path, content, word):
    path = tmp_path / "broken.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ConfigError, match=word) as refusal:
        plain(read_config(path))
    assert str(refusal.value).startswith(f"{path}") and "\n" not in str(refusal.value)


def test_a_config_may_begin_with_a_byte_order_mark(tmp_path):
    path = tmp_path / "bom.yaml"
    path.write_bytes(b"\xef\xbb\xbfmodel: {params: {name: \xed\x95\x9c}}\n")
    assert read_config(path) == {"model": {"params": {"name": "한"}}}


@pytest.mark.skipif(not (SHARED / "bad_inputs").is_dir(), reason="the damaged files are not beside the checkout")
def test_damaged_yaml_files_are_read_or_refused_in_one_line():
    files = sorted((SHARED / "bad_inputs" / "yaml").iterdir())
    assert files
    for path in files:
        try:
            plain(read_config(path))
        except ConfigError as error:
            assert "\n" not in str(error)


# Errors of data loaders' workers --------------------------------------------------------------------------------------


class BrokenDataset(torch.utils.data.Dataset):
    def __len__(self):
        return 1

    def __getitem__(self, index):
        raise ConfigError("a.png: truncated; download it again")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_user_error_is_one_sentence_whichever_process_raises_it(workers):
    with pytest.raises(ConfigError) as refusal:
        next(iter(torch.utils.data.DataLoader(BrokenDataset(), num_workers=workers)))
    assert str(refusal.value) == "a.png: truncated; download it again"


def test_a_number_of_thousands_of_digits_is_one_sentence_without_advice_about_python(tmp_path):
    (tmp_path / "long.yaml").write_text(f"model: {{params: {{timesteps: {'1' * 5000}}}}}\n")
    with pytest.raises(ConfigError, match="long.yaml: has a whole number of more than 4300 digits") as error:
        read_config(tmp_path / "long.yaml")
    assert "set_int_max_str_digits" not in str(error.value)


def test_a_module_that_fails_when_it_is_imported_is_one_sentence(tmp_path, monkeypatch):
    (tmp_path / "mine_that_fails.py").write_text("raise RuntimeError('no\\nlicence')")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ConfigError, match=r"mine_that_fails' cannot be imported \(RuntimeError: no licence\)"):
        resolve("mine_that_fails.Model")
