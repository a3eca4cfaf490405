import pytest
from omegaconf import OmegaConf

from ldm.util.config_merging import merge_configs, read_configs
from ldm.util.errors import ConfigError

VG = {"target": "ldm.data.vg.VGTrain", "params": {"vocab": "a.json", "max_objects": 10, "image_size": 64}}
COCO = {"target": "ldm.data.coco.COCOTrain", "params": {"image_dir": "b"}}


def merge(*configs):
    return OmegaConf.to_container(merge_configs(*map(OmegaConf.create, configs)))


class Open:
    def __init__(self, size=1, **others):
        """Passes `others` on to some other class."""


def test_later_values_override_earlier_ones_and_other_values_remain():
    assert merge({"a": {"b": 1, "c": 2}}, {"a": {"b": 3}}, {"a": {"d": 4}}) == {"a": {"b": 3, "c": 2, "d": 4}}


def test_another_class_drops_the_parameters_that_it_does_not_have():
    merged = merge({"data": {"train": VG}}, {"data": {"train": COCO}})
    assert merged == {"data": {"train": {"target": COCO["target"], "params": {"image_dir": "b", "image_size": 64}}}}


def test_another_class_keeps_the_parameters_that_it_has_too():
    assert merge(VG, {"target": "ldm.data.vg.VGValidation"})["params"] == VG["params"]


def test_a_former_name_of_the_same_class_drops_nothing():
    ours = {"target": "ldm.data.datamodule.DataModuleFromConfig", "params": {"batch_size": 2, "misspelt": 1}}
    assert merge(ours, {"target": "scripts.datamodule.DataModuleFromConfig"})["params"] == ours["params"]


def test_parameters_that_the_later_config_states_itself_are_kept_even_if_the_class_does_not_have_them():
    assert merge(VG, {**COCO, "params": {"vocab": "c.json"}})["params"] == {"vocab": "c.json", "image_size": 64}


def test_a_users_class_with_keyword_arguments_keeps_all_parameters():
    assert merge(VG, {"target": f"{__name__}.Open", "params": {"size": 3}})["params"] == {**VG["params"], "size": 3}


def test_only_targets_of_later_configs_are_imported():
    assert merge({"target": "no.such.Class", "params": {"a": 1}}, {"params": {"b": 2}})["params"] == {"a": 1, "b": 2}
    with pytest.raises(ConfigError, match="no module"):
        merge(VG, {"target": "no.such.Class"})


def test_targets_that_depend_on_other_keys_drop_nothing():
    assert merge({"name": COCO["target"], **VG}, {"target": "${name}"})["params"] == VG["params"]


def test_one_file_or_several_are_read(tmp_path):
    first, second = tmp_path / "first.yaml", tmp_path / "second.yaml"
    first.write_text("model: {params: {a: 1}}")
    second.write_text("model: {params: {a: 2}}")
    assert read_configs(first).model.params.a == read_configs([str(first)]).model.params.a == 1
    assert read_configs([first, second]).model.params.a == 2


def test_files_that_do_not_fit_together_are_an_error(tmp_path):
    first, second = tmp_path / "first.yaml", tmp_path / "second.yaml"
    first.write_text("model: [1, 2]")
    second.write_text("model: {params: {a: 2}}")
    with pytest.raises(ConfigError, match="cannot be merged"):
        read_configs([first, second])
