"""A config from a file builds only what is on the list, in its place, and reads no environment variable."""

import copy

import pytest
from omegaconf import OmegaConf
from paths import ROOT
from tiny import DATA, MODEL

from ldm.util.config import RETIRED, plain, resolve
from ldm.util.config_merging import read_configs
from ldm.util.errors import ConfigError
from ldm.util.trust import TRUSTED, read_untrusted

CONFIG = {"model": MODEL, "data": DATA}
OVERLAYS = {"tiny.yaml": "vg.yaml"}
OVERLAYS |= {f"{name}_coco.yaml": f"{name}_vg.yaml" for name in ("sgdiff", "pretrain", "sd1", "sd2", "sdxl")}


def changed(path, value):
    """CONFIG with another value at a path."""
    config = copy.deepcopy(CONFIG)
    *sections, key = path.split(".")
    place = config
    for section in sections:
        place = place.setdefault(section, {})
    place[key] = value
    return config


@pytest.mark.parametrize("path", sorted((ROOT / "configs").rglob("*.yaml")), ids=lambda path: path.name)
def test_the_configs_that_ship_may_come_from_a_file(path):
    folder = path.parent
    overlay = OVERLAYS.get(path.name)
    read_untrusted(read_configs([folder / overlay, path] if overlay else path), "last.ckpt")


@pytest.mark.parametrize("target", sorted({name for names in TRUSTED.values() for name in names}))
def test_everything_on_the_list_exists(target):
    assert resolve(target).__module__.startswith(target.split(".")[0])
    assert target not in RETIRED


def test_classes_may_be_named_by_their_former_names():
    read_untrusted(changed("data.target", "scripts.datamodule.DataModuleFromConfig"), "last.ckpt")


@pytest.mark.parametrize(
    "path, target",
    [
        ("model.target", "os.system"),
        ("model.target", "torch.hub.load"),
        ("model.target", "ldm.util.config.instantiate_from_config"),
        ("model.target", "pytorch_lightning.trainer.connectors.signal_connector.call"),
        ("model.target", "ldm.data.vg.VGTrain"),  # on the list, but not as a model
        ("model.target", ["os.system"]),
        ("model.target", "${data.params.name}"),
        ("model.params.unet_config.target", "torch.nn.Identity"),
        ("model.params.first_stage_config.params.lossconfig.target", "taming.modules.losses.vqperceptual.LPIPS"),
        ("model.params.lossconfig.params.tower.target", "torch.nn.Identity"),
        ("model.params.extra", [{"target": "torch.nn.Identity"}]),
        ("data.params.train.target", "ldm.evaluation.image_sets.Split"),
        ("data.params.train.target", "ldm.evaluation.image_sets.Folder"),
        ("data.params.train.params.inner", {"target": "ldm.data.demo.DemoTrain"}),
        ("lightning.callbacks.x.target", "pytorch_lightning.callbacks.LambdaCallback"),
        ("lightning.callbacks.x.target", "pytorch_lightning.callbacks.OnExceptionCheckpoint"),
        ("lightning.logger.target", "pytorch_lightning.loggers.WandbLogger"),
        ("target", "os.system"),
    ],
)
def test_a_class_that_is_not_on_the_list_of_its_place_is_refused(path, target):
    with pytest.raises(ConfigError, match="not on the list"):
        read_untrusted(changed(path, target), "last.ckpt")


@pytest.mark.parametrize(
    "path, value",
    [
        ("data.params.train.params.image_dir", "${oc.env:HOME}"),
        ("data.params.train.params.image_dir", "/a/${ oc.env : HOME }/b"),
        ("data.params.train.params.image_dir", "${oc.decode:${oc.env:HOME}}"),
        ("data.params.train.params.image_dir", "${${data.x}:HOME}"),
        ("model.params.global_stage_config.params.model_name", "hf-hub:someone/model"),
        ("model.params.global_stage_config.params.model_name.timm_model_name", "vit"),
        ("model.params.global_stage_config.params.model_name.timm_model_pretrained", True),
        ("model.params.ckpt_path", "https://example.org/weights.ckpt"),
        ("model.params.ckpt_path", "simplecache::s3://bucket/weights.ckpt"),
        ("lightning.modelcheckpoint.params.dirpath", "/home/user/.ssh"),
        ("lightning.modelcheckpoint.params.filename", "../../{epoch}"),
        ("lightning.modelcheckpoint.params.filename", "${data.params.name}"),
        ("lightning.callbacks.last_checkpoint.params.path", "elsewhere.ckpt"),
        ("lightning.logger.params.save_dir", "somewhere"),
        ("lightning.logger.params.name", "/tmp/somewhere"),
        ("lightning.trainer.default_root_dir", "somewhere"),
        ("model.params.timesteps", object()),
        ("model.params.timesteps", b"bytes"),
    ],
)
def test_a_config_from_a_file_reads_and_writes_nothing_elsewhere(path, value):
    with pytest.raises(ConfigError, match=r"last\.ckpt"):
        read_untrusted(changed(path, value), "last.ckpt")


def test_references_within_the_config_are_allowed():
    config = read_untrusted(changed("model.params.image_size", "${data.params.batch_size}"), "last.ckpt")
    assert plain(config.model.params.image_size) == 4


@pytest.mark.parametrize(
    "config", [None, 5, "text", [CONFIG], {}, {"model": CONFIG}, {1: {2: 3}}, OmegaConf.create([1])]
)
def test_what_is_no_config_is_refused_or_empty(config):
    try:
        assert "model" not in read_untrusted(config, "last.ckpt").get("model", {}) or "target" in str(config)
    except ConfigError as error:
        assert str(error).startswith("last.ckpt")


def test_a_deep_or_large_config_is_refused():
    deep = {}
    for _ in range(3000):
        deep = {"a": deep}
    wide = [0] * 1000
    for config in (deep, {"a": [wide] * 1000}):
        with pytest.raises(ConfigError, match=r"last\.ckpt"):
            read_untrusted(config, "last.ckpt")


def test_values_that_the_user_replaces_are_not_checked():
    hostile = changed("data.params.train", {"target": "os.system", "params": {"command": "${oc.env:HOME}"}})
    own = {"data": {"params": {"train": {"target": "my.Dataset", "params": {"command": "none"}}}}}
    read_untrusted(hostile, "last.ckpt", OmegaConf.create(own))
    own["data"]["params"]["train"]["params"] = {}
    with pytest.raises(ConfigError, match="environment"):
        read_untrusted(hostile, "last.ckpt", OmegaConf.create(own))
