import argparse
import sys
import types

import pytest
import torch
from omegaconf import OmegaConf

from ldm.util import cli, errors
from ldm.util.config import instantiate_from_config, plain, refuse_foreign_targets, resolve
from ldm.util.errors import ConfigError


def test_a_target_is_built_with_its_params():
    layer = instantiate_from_config({"target": "torch.nn.Linear", "params": {"in_features": 2, "out_features": 3}})
    assert layer.weight.shape == (3, 2)


def test_params_may_be_left_out():
    assert isinstance(instantiate_from_config({"target": "torch.nn.Identity"}), torch.nn.Identity)


def test_a_target_gets_plain_dicts_and_resolved_values():
    config = OmegaConf.create({"size": 7, "a": {"target": "builtins.dict", "params": {"b": {"c": ["${size}"]}}}})
    built = instantiate_from_config(config.a)
    assert built == {"b": {"c": [7]}} and type(built["b"]) is dict and type(built["b"]["c"]) is list


def test_published_names_lead_to_where_things_live_now():
    from ldm.data.datamodule import DataModuleFromConfig

    assert resolve("scripts.datamodule.DataModuleFromConfig") is DataModuleFromConfig
    assert resolve("main.DataModuleFromConfig") is DataModuleFromConfig
    assert resolve("trainer.ImageLogger") is resolve("main.ImageLogger") is resolve("ldm.callbacks.ImageLogger")


@pytest.mark.parametrize(
    "config, sentence",
    [
        ({}, "needs 'target: package.module.Name'"),
        ("__is_first_stage__", "'__is_first_stage__'"),
        ({"target": "Linear"}, "not a dotted name"),
        ({"target": "torch.nm.Linear"}, "no module 'torch.nm'"),
        ({"target": "torch.nn.Linaer"}, "did you mean 'Linear'"),
        ({"target": "torch.nn.Linear", "params": {"in_feature": 1}}, "did you mean 'in_features'"),
        ({"target": "torch.nn.Linear", "params": {"in_features": 1}}, "'out_features'"),
    ],
)
def test_a_bad_config_is_refused_in_a_sentence(config, sentence):
    with pytest.raises(ConfigError, match=sentence.replace("(", r"\(")) as caught:
        instantiate_from_config(config)
    assert "\n" not in str(caught.value)


def test_a_package_that_a_target_needs_and_lacks_is_named(tmp_path, monkeypatch):
    (tmp_path / "needs_more.py").write_text("import a_package_that_is_not_there\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match="needs the package 'a_package_that_is_not_there'"):
        resolve("needs_more.Thing")


def test_a_type_error_inside_a_constructor_is_not_taken_for_a_wrong_parameter(monkeypatch):
    module = types.ModuleType("broken")
    exec("class Broken:\n    def __init__(self):\n        len(3)", module.__dict__)
    monkeypatch.setitem(sys.modules, "broken", module)
    with pytest.raises(TypeError, match="has no len"):
        instantiate_from_config({"target": "broken.Broken"})


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "torch.hub.load",
        "torchnn.Linear",
        "ldm_evil.Model",
        # ours by name alone: functions, and other people's classes in our modules
        "torch.nn.functional.relu",
        "pytorch_lightning.trainer.connectors.signal_connector.call",
        "pytorch_lightning.loggers.csv_logs.Namespace",
        "ldm.util.instantiate_from_config",
    ],
)
def test_a_config_from_a_file_runs_no_code_but_ours(target):
    config = {"model": {"params": {"deep": [{"target": "torch.nn.Identity"}, {"target": target, "params": {}}]}}}
    with pytest.raises(ConfigError, match="some.ckpt: .*" + target.replace(".", r"\.")):
        refuse_foreign_targets(config, "some.ckpt")


def test_a_config_from_a_file_may_name_ours_under_old_and_new_names():
    config = OmegaConf.create(
        {
            "model": {"target": "torch.nn.Identity"},
            "data": {"target": "scripts.datamodule.DataModuleFromConfig"},
            "callbacks": [{"target": "pytorch_lightning.callbacks.LearningRateMonitor"}],
        }
    )
    refuse_foreign_targets(config, "some.ckpt")


def test_what_the_user_names_too_is_the_users_own_doing():
    refuse_foreign_targets({"target": "os.system"}, "some.ckpt", named={"os.system"})


def test_a_value_that_is_still_to_be_given_is_named():
    with pytest.raises(Exception, match="image_dir"):
        plain(OmegaConf.create({"params": {"image_dir": "???"}}))


def test_the_nearest_names_are_offered_only_where_there_are_some():
    assert errors.did_you_mean("batchsize", ["batch_size", "train"]) == "; did you mean 'batch_size'?"
    assert errors.did_you_mean("zzz", ["batch_size"]) == ""


class Broken(torch.utils.data.Dataset):
    def __len__(self):
        return 1

    def __getitem__(self, index):
        raise ConfigError("a.png: cut short; fetch it again")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_mistake_is_one_sentence_whichever_process_finds_it(workers):
    with pytest.raises(ConfigError) as caught:
        next(iter(torch.utils.data.DataLoader(Broken(), num_workers=workers)))
    assert str(caught.value) == "a.png: cut short; fetch it again"


def test_a_whole_number_of_the_command_line_has_a_least_one():
    assert (cli.positive("1"), cli.at_least(0)("0"), cli.at_least(32)("256")) == (1, 0, 256)
    for kind, word in ((cli.positive, "0"), (cli.at_least(0), "-1"), (cli.positive, "1.5"), (cli.positive, "many")):
        with pytest.raises(argparse.ArgumentTypeError, match=f"'{word}' is not a whole number from [01] on"):
            kind(word)
