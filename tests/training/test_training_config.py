"""The merged config of a training run, the devices that flags select, and the configs that ship."""

import pytest
import torch
import yaml
from paths import ROOT

import trainer
from ldm.training.config import devices_of, process_count, read_training_config
from ldm.training.log_folder import find_checkpoint, new_log_folder, save_config
from ldm.util.config import instantiate_from_config, plain
from ldm.util.errors import ConfigError, UserError

CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
# Configs that change another one, which comes before them.
OVERLAYS = {"tiny.yaml": "vg.yaml"}
OVERLAYS |= {f"{name}_coco.yaml": f"{name}_vg.yaml" for name in ("sgdiff", "pretrain", "sd1", "sd2", "sdxl")}
FLAT = [  # --base of each training for flat shapes
    ("flat/vq.yaml",),
    ("flat/adapters.yaml", "flat/backbone.yaml"),
    ("flat/image_tower.yaml",),
    ("flat/adapters.yaml",),
]


def merged_config(*names):
    """The config that files of configs/ make, each on top of those before it."""
    return read_training_config(*trainer.parse(["--base", *(str(ROOT / "configs" / name) for name in names)]))


def with_random_weights(config):
    """The config with random weights in place of those in files."""
    if not isinstance(config, dict):
        return config
    files = config.keys() & {"ckpt_path", "pretrained"}
    return {key: with_random_weights(value) for key, value in config.items() if key not in files} | (
        {"init": "random"} if files else {}
    )


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_the_configs_that_ship_are_valid(path):
    base = [OVERLAYS[path.name]] if path.name in OVERLAYS else []
    assert merged_config(*base, path.name).model.base_learning_rate > 0


@pytest.mark.parametrize("name", [*OVERLAYS, "flat/backbone.yaml"])
def test_a_config_that_changes_another_one_is_refused_alone(name):
    with pytest.raises(ConfigError, match="--base"):
        merged_config(name)


@pytest.mark.parametrize("names", FLAT, ids="+".join)
def test_the_models_for_flat_shapes_have_room_for_the_vocabulary_of_their_data(names):
    config = merged_config(*names)
    model, data = (
        instantiate_from_config(with_random_weights(plain(config.model))),
        instantiate_from_config(config.data),
    )
    data.setup()
    model.vocab = data.vocab
    model.setup("fit")


def test_the_adapters_for_flat_shapes_fit_their_backbone_and_autoencoder():
    autoencoder = with_random_weights(plain(merged_config("flat/vq.yaml"))["model"])
    backbone = plain(merged_config("flat/adapters.yaml", "flat/backbone.yaml"))["model"]
    backbone = instantiate_from_config(with_random_weights(backbone), scale_factor=0.5)
    config = plain(merged_config("flat/adapters.yaml"))
    parts = with_random_weights(config["model"])
    weights = instantiate_from_config(autoencoder).state_dict()
    parts["params"]["first_stage_config"]["params"] |= {"ckpt_path": weights, "init": None}
    model = instantiate_from_config(parts, ckpt_path=backbone.state_dict(), init=None)
    image = instantiate_from_config(config["data"]["params"]["validation"])[0][0]
    assert model.encode(image[None]).shape[1:] == (model.channels, model.latent_size, model.latent_size)
    assert model.scale_factor == 0.5
    assert torch.equal(model.schedule.alphas_cumprod, backbone.schedule.alphas_cumprod)


def test_reading_the_run_of_a_stranger_imports_nothing_that_only_the_run_names(tmp_path, monkeypatch):
    (tmp_path / "hostile.py").write_text("raise AssertionError('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "configs").mkdir()
    for number, target in enumerate(["ldm.data.demo.DemoTrain", "hostile.Data"]):
        train = {"target": target, "params": {"size": 1}}
        (tmp_path / f"configs/{number}-project.yaml").write_text(yaml.safe_dump({"data": {"params": {"train": train}}}))
    arguments, overrides = trainer.parse(["--base", str(ROOT / "configs/flat/adapters.yaml")])
    config = read_training_config(arguments, overrides, resumed=tmp_path)
    assert config.data.params.train.target == "ldm.data.demo.DemoTrain"


# Devices -------------------------------------------------------------------------------------------------------------


def test_gpus_are_device_numbers_with_a_comma_and_a_count_without(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert devices_of("0,") == {"accelerator": "gpu", "devices": [0]}
    assert devices_of("1,3") == {"accelerator": "gpu", "devices": [1, 3]}
    assert devices_of(2) == {"accelerator": "gpu", "devices": [0, 1]}
    assert devices_of("-1") == {"accelerator": "gpu", "devices": [0, 1, 2, 3]}
    assert devices_of(None) == {"accelerator": "gpu", "devices": [0]}
    assert devices_of("cpu:2") == {"accelerator": "cpu", "devices": 2}
    for absent in ("4,", "5"):
        with pytest.raises(UserError, match="4 GPUs"):
            devices_of(absent)


@pytest.mark.parametrize("gpus", [None, "0,", "0,1"])
def test_without_a_gpu_the_error_says_how_to_train_on_the_cpu(monkeypatch, gpus):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(UserError, match="--gpus cpu"):
        devices_of(gpus)


@pytest.mark.parametrize("devices, count", [(1, 1), (2, 2), ([0], 1), ([0, 1], 2), ("2", 2), ("0,", 1), ("0,1", 2)])
def test_processes_are_counted_in_every_form_of_lightnings_devices(devices, count):
    assert process_count(devices) == count


# Log folders ---------------------------------------------------------------------------------------------------------


def test_runs_of_one_name_in_the_same_second_have_folders_of_their_own(tmp_path):
    folders = [new_log_folder(str(tmp_path / "logs"), "2026-01-01T00-00-00_vg") for _ in range(3)]
    assert [folder.name for folder in folders] == [
        "2026-01-01T00-00-00_vg",
        "2026-01-01T00-00-00_vg-2",
        "2026-01-01T00-00-00_vg-3",
    ]
    assert all(folder.is_dir() for folder in folders)


def test_the_saved_config_has_its_references_and_environment_variables_resolved(tmp_path, monkeypatch):
    monkeypatch.setenv("DATA", "datasets")
    words = (
        "data.params.image_dir=${oc.env:DATA}/vg",
        "model.params.image_size=${data.params.size}",
        "data.params.size=3",
    )
    config = read_training_config(*trainer.parse(["--base", str(ROOT / "configs" / "vg.yaml"), *words]))
    save_config(config, tmp_path)
    (project,) = tmp_path.glob("configs/*-project.yaml")
    saved = yaml.safe_load(project.read_text())
    assert saved["model"]["params"]["image_size"] == 3 and saved["data"]["params"]["image_dir"] == "datasets/vg"


def test_a_checkpoint_is_found_in_its_log_folder(checkpoint):
    with pytest.raises(UserError, match="--actual_resume"):  # the fixture's holds weights and no optimizer
        find_checkpoint(str(checkpoint.parent.parent))
