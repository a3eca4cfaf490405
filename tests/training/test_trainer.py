import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
import yaml
from torch import nn
from torch.utils.data import Dataset

import trainer
from ldm.training.config import configure, devices
from ldm.util.config import instantiate_from_config, plain

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
DEMO = [  # what each training of the demo's names as its --base
    ("demo/vq.yaml",),
    ("demo/vq.yaml", "demo/hard_vq.yaml"),
    ("demo.yaml", "demo/backbone.yaml"),
    ("demo.yaml", "demo/backbone.yaml", "demo/hard.yaml", "demo/hard_backbone.yaml"),
    ("demo/image_tower.yaml",),
    ("demo.yaml",),
    ("demo.yaml", "demo/hard.yaml"),
]


class Points(Dataset):
    def __init__(self, length: int = 8):
        self.length = length

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        return torch.tensor([index / 8, 1.0])


class Toy(pl.LightningModule):
    """A frozen layer and a trained one; checkpoints hold the trained one and the config."""

    strict_loading = False

    def __init__(self, width: int = 3, wait: float = 0.0, scale: float = 1.0, monitor: str | None = "val/loss"):
        super().__init__()
        self.body, self.adapter = nn.Linear(2, width).requires_grad_(False), nn.Linear(width, 1)
        self.body.weights_from = "published.ckpt"
        self.wait, self.scale, self.monitor, self.seen = wait, scale, monitor, []

    def loss(self, batch):
        return (self.adapter(self.body(batch)) - self.scale * torch.randn(len(batch), 1)).square().mean()

    def training_step(self, batch, batch_idx):
        time.sleep(self.wait)
        loss = self.loss(batch)
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val/loss", self.loss(batch), sync_dist=True)

    def configure_optimizers(self):
        return torch.optim.AdamW(self.adapter.parameters(), self.learning_rate)

    def log_images(self, batch, n):
        return {"inputs": torch.zeros(n, 3, 8, 8)}

    def on_save_checkpoint(self, checkpoint):
        checkpoint["state_dict"] = {f"adapter.{key}": value for key, value in self.adapter.state_dict().items()}
        checkpoint["config"] = self.config


CONFIG = {
    "model": {"base_learning_rate": 0.01, "target": "test_trainer.Toy", "params": {"width": 3}},
    "data": {
        "target": "scripts.datamodule.DataModuleFromConfig",
        "params": {
            "batch_size": 2,
            "num_workers": 0,
            "train": {"target": "test_trainer.Points"},
            "validation": {"target": "test_trainer.Points"},
        },
    },
    "lightning": {
        "callbacks": {"image_logger": {"target": "trainer.ImageLogger", "params": {"batch_frequency": 4}}},
        "trainer": {"benchmark": True, "progress_bar_refresh_rate": 0, "num_sanity_val_steps": 0},
    },
}


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "toy.yaml"
    path.write_text(yaml.safe_dump(CONFIG))
    return path


@pytest.fixture
def train(config, tmp_path, capsys):
    """train(*flags) -> (exit code, its log folder or None, what it printed)"""

    def train(*flags, base=True):
        before = set((tmp_path / "logs").glob("*"))
        words = ["--base", str(config)] if base else []
        code = trainer.main(["--gpus", "cpu", "--logdir", str(tmp_path / "logs"), *words, *map(str, flags)])
        new = set((tmp_path / "logs").glob("*")) - before
        return code, new.pop() if new else None, capsys.readouterr()

    return train


def weights(folder, name="last.ckpt"):
    return torch.load(folder / "checkpoints" / name, weights_only=True)


def start(*flags, **kwargs):
    return subprocess.Popen(
        [sys.executable, "trainer.py", *map(str, flags)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT / "tests"), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **kwargs,
    )


def together(*names):
    """The config that these files of configs/ make, each on top of those before it."""
    return configure(*trainer.parse(["--base", *(str(ROOT / "configs" / name) for name in names)]))


def weightless(config):
    """The same with random weights in the place of those in files."""
    if not isinstance(config, dict):
        return config
    files = config.keys() & {"ckpt_path", "pretrained"}
    return {key: weightless(value) for key, value in config.items() if key not in files} | (
        {"init": "random"} if files else {}
    )


def test_a_run_leaves_the_log_folder_of_latent_diffusion(train):
    code, folder, printed = train("-t", "--max_epochs", 2, "--name", "first")
    assert code == 0
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d_first", folder.name)
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert {"checkpoints/last.ckpt", "checkpoints/epoch=000000.ckpt", "checkpoints/epoch=000001.ckpt"} <= files
    assert {"images/train/inputs_gs-000001_e-000000_b-000000.png"} <= files
    assert any(re.fullmatch(r"tensorboard/events.*", name) for name in files)
    assert any(re.fullmatch(r"configs/.*-project.yaml", name) for name in files)
    assert any(re.fullmatch(r"configs/.*-lightning.yaml", name) for name in files)
    assert f"trained to step 8; {folder}/checkpoints/last.ckpt" in printed.out


def test_a_checkpoint_loads_as_plain_data_and_holds_the_config(train):
    _, folder, _ = train("-t", "--max_epochs", 1, "model.params.width=5")
    saved = weights(folder)
    assert set(saved["state_dict"]) == {"adapter.weight", "adapter.bias"}
    assert saved["config"]["model"]["params"] == {"width": 5} and saved["config"]["data"] == CONFIG["data"]


def test_without_t_the_table_is_printed_and_nothing_is_trained(train):
    code, folder, printed = train()
    assert code == 0 and folder is None
    lines = [line.split() for line in printed.out.splitlines()]
    assert ["body", "9", "frozen", "published.ckpt"] in lines  # 2 * 3 + 3
    assert ["adapter", "4", "4", "new"] in lines
    assert ["all", "13", "4"] in lines


def test_later_files_win_and_overrides_and_flags_win_over_those(config, tmp_path, train):
    more = tmp_path / "more.yaml"
    more.write_text("model: {params: {width: 4, scale: 2.0}}\nlightning: {trainer: {max_epochs: 7}}\n")
    _, folder, _ = train(more, "-t", "--max_epochs", 1, "model.params.scale=3.0")
    project, settings = (
        yaml.safe_load(next(folder.glob(f"configs/*-{name}.yaml")).read_text()) for name in ("project", "lightning")
    )
    assert project["model"]["params"] == {"width": 4, "scale": 3.0}
    assert settings["lightning"]["trainer"] | {"max_epochs": 1, "gpus": "cpu"} == settings["lightning"]["trainer"]
    assert settings["lightning"]["seed"] == 23


@pytest.mark.parametrize("flags, rate", [([], 1e-2), (["--scale_lr"], 1e-2 * 3 * 2), (["--scale_lr", "False"], 1e-2)])
def test_the_learning_rate_is_scaled_only_on_request(train, flags, rate):
    _, folder, printed = train("-t", "--accumulate_grad_batches", 3, "--max_epochs", 1, *flags)
    assert f"learning rate {rate:.2e}" in printed.out
    assert weights(folder)["optimizer_states"][0]["param_groups"][0]["lr"] == rate


def test_a_seed_gives_the_same_run_twice_and_another_seed_another(train):
    first, second, third = (
        weights(train("-t", "--max_epochs", 1, "--seed", seed, "-n", name)[1])["state_dict"]["adapter.weight"]
        for seed, name in ((1, "a"), (1, "b"), (2, "c"))
    )
    assert torch.equal(first, second) and not torch.equal(first, third)


@pytest.mark.parametrize("stop", [["--max_steps", 6], ["--max_epochs", 2]])
def test_a_resumed_run_ends_where_the_uninterrupted_one_does(config, train, stop):
    end = ["--max_steps", 16] if "--max_steps" in stop else ["--max_epochs", 4]
    _, straight, _ = train("-t", *end, "-n", "straight")
    _, parts, _ = train("-t", *stop, "-n", "parts")
    code, nowhere_else, printed = train("-t", "--resume", parts, *end)
    assert code == 0 and nowhere_else is None and f"going on in: {parts}" in printed.out
    a, b = weights(straight), weights(parts)
    assert a["global_step"] == b["global_step"] == 16
    assert all(torch.equal(a["state_dict"][key], b["state_dict"][key]) for key in a["state_dict"])
    moments = [c["optimizer_states"][0]["state"][0]["exp_avg"] for c in (a, b)]
    assert torch.equal(*moments)
    assert sorted(path.name for path in (parts / "checkpoints").glob("last*")) == ["last.ckpt"]


def test_resuming_takes_config_seed_and_scaling_from_the_run(config, train):
    _, folder, _ = train("-t", "--max_epochs", 1, "--seed", 5, "--scale_lr", "model.params.width=4")
    config.write_text(yaml.safe_dump({"model": {"target": "test_trainer.Toy"}, "data": CONFIG["data"]}))
    code, _, printed = train("--resume", folder / "checkpoints" / "last.ckpt", "-t", "--max_epochs", 2)
    assert code == 0 and "learning rate 2.00e-02 (scaled)" in printed.out
    assert ["all", "17", "5"] in [line.split() for line in printed.out.splitlines()]
    settings = yaml.safe_load(sorted(folder.glob("configs/*-lightning.yaml"))[-1].read_text())
    assert settings["lightning"]["seed"] == 5


def test_a_run_folder_may_not_name_foreign_code(train):
    _, folder, _ = train("-t", "--max_epochs", 1)
    code, _, printed = train("--resume", folder, "-t", base=False)
    assert code == 2 and re.search(r"names 'test_trainer.\w+', which is not a class of this project", printed.err)


@pytest.mark.parametrize(
    "flags, sentence",
    [
        (["--resume", "nowhere"], "--resume nowhere: there is no nowhere"),
        (["--resume", __file__], "not a checkpoint of trainer.py"),
        (["--resume", "nowhere", "--name", "x"], "do not go together"),
        (["nowhere.yaml"], "nowhere.yaml: No such file"),
        (["BROKEN"], "broken.yaml, line 3: not YAML"),
        (["LIST"], "list.yaml: not a config"),
        (["modle.params.width=4"], "modle: there is no such key in a config; did you mean 'model'"),
        (["model.parms.width=4"], "model.parms: there is no such key in a config; did you mean 'params'"),
        (["model.params.widht=4"], "test_trainer.Toy takes no parameter 'widht'; did you mean 'width'"),
        (["lightning.trainer.max_step=4"], "lightning.trainer takes no parameter 'max_step'; did you mean 'max_steps'"),
        (["lightning.trainer.resume_from_checkpoint=x"], "lightning.trainer.resume_from_checkpoint: use --resume"),
        (["model.params.width=${nothing}"], "does not come together: Interpolation key 'nothing' not found"),
        (["model.target=test_trainer.Nothing"], "'test_trainer' has no class 'Nothing'"),
        (["data.params.train.params.length=0"], "data.params.train: test_trainer.Points found no image"),
        (["--precision", "31"], "precision '31' is not supported"),
        (["--compile"], "lightning.compile: Toy has no U-Net; leave it out"),
        (["lightning.trainer.strategy=ddp_spawn"], "strategy ddp_spawn: not supported; choose ddp or fsdp"),
        (["--strategy", "fsdp", "--gpus", "cpu:2"], "strategy fsdp: divides a frozen U-Net, and Toy has none here; take ddp"),
        (["--gpus", "cpu:0"], "--gpus cpu:0: give '0,' for one GPU"),
        (["model.base_learning_rate=null"], "the config has no 'model.base_learning_rate'"),
    ],
)
def test_a_mistake_is_answered_by_one_sentence(train, tmp_path, flags, sentence):
    broken, listed = tmp_path / "broken.yaml", tmp_path / "list.yaml"
    broken.write_text("model:\n  a: [1, 2\n")
    listed.write_text("- 1\n")
    flags = [{"BROKEN": broken, "LIST": listed}.get(flag, flag) for flag in flags]
    code, folder, printed = train(*flags)
    assert code == 2 and folder is None
    assert printed.err.startswith("trainer.py: ") and sentence in printed.err and printed.err.count("\n") == 1


@pytest.mark.parametrize("flags", [["--max_step", "3"], ["--seed", "one"], ["-t", "perhaps"]])
def test_a_mistake_in_a_flag_is_answered_by_one_sentence(capsys, flags):
    with pytest.raises(SystemExit) as exit:
        trainer.main(flags)
    printed = capsys.readouterr().err
    assert exit.value.code == 2 and printed.startswith("trainer.py: ") and printed.count("\n") == 1


def test_a_loss_that_is_no_number_ends_the_run_with_a_sentence(train):
    code, _, printed = train("-t", "model.params.scale=.nan")
    assert code == 1 and "the loss is nan at step 0" in printed.err


def test_a_callback_can_be_taken_away(train):
    code, folder, _ = train("-t", "--max_epochs", 1, "lightning.callbacks.image_logger=null")
    assert code == 0 and not (folder / "images").exists()


def test_gpus_mean_devices(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert devices("0,") == {"accelerator": "gpu", "devices": [0]}
    assert devices("1,3") == {"accelerator": "gpu", "devices": [1, 3]}
    assert devices(2) == {"accelerator": "gpu", "devices": [0, 1]}
    assert devices("-1") == {"accelerator": "gpu", "devices": [0, 1, 2, 3]}
    assert devices(None) == {"accelerator": "gpu", "devices": [0]}
    assert devices("cpu:2") == {"accelerator": "cpu", "devices": 2}
    with pytest.raises(ValueError, match="--gpus 4,: there are 4 GPUs here"):
        devices("4,")


@pytest.mark.parametrize("gpus", [None, "0,", "0,1"])
def test_without_a_gpu_it_says_how_to_train_on_the_cpu(monkeypatch, gpus):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(ValueError, match="to train on the CPU: --gpus cpu"):
        devices(gpus)


def test_help_comes_at_once_and_does_not_load_torch():
    slow = "import sys, trainer; assert not {'torch', 'pytorch_lightning', 'omegaconf'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", slow], cwd=ROOT, check=True)
    began = time.monotonic()
    out, _ = start("--help").communicate(timeout=20)
    assert time.monotonic() - began < 1 and "--gpus" in out and "--resume" in out


def test_a_signal_ends_with_a_checkpoint_that_can_be_gone_on_from(config, tmp_path, train):
    flags = ("--base", config, "--gpus", "cpu", "--logdir", tmp_path / "logs", "--max_epochs", "500")
    process = start(*flags, "-t", "model.params.wait=0.02")
    while not list(tmp_path.glob("logs/*/checkpoints/last.ckpt")):  # the first epoch has ended
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 128 + 15
    step = int(re.search(r"trainer.py: SIGTERM after step (\d+); to go on: --resume", err)[1])
    folder = next((tmp_path / "logs").iterdir())
    assert weights(folder)["global_step"] == step
    assert train("-t", "--resume", folder, "--max_epochs", "-1", "--max_steps", step + 3, "model.params.wait=0")[0] == 0
    assert weights(folder)["global_step"] == step + 3


def test_two_processes_train_one_model(config, tmp_path, train):
    """Two processes with one image each, or one process with both: the gradients' mean is the same."""
    flags = ("--base", config, "--logdir", tmp_path / "logs", "-t", "--max_epochs", "1", "model.params.scale=0.0")
    process = start(*flags, "-n", "two", "--gpus", "cpu:2", "data.params.batch_size=1")
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    (two,) = (tmp_path / "logs").glob("*_two")
    _, one, _ = train("-t", "--max_epochs", 1, "model.params.scale=0.0", "-n", "one")
    a, b = weights(one), weights(two)
    assert a["global_step"] == b["global_step"] == 4
    torch.testing.assert_close(a["state_dict"], b["state_dict"])
    assert len(list((tmp_path / "logs").iterdir())) == 2


def test_accumulated_batches_step_as_one_large_batch_does(train):
    flags = "-t", "--max_epochs", 2, "model.params.scale=0.0"
    large = weights(train(*flags, "-n", "large", "data.params.batch_size=4")[1])
    small = weights(train(*flags, "-n", "small", "--accumulate_grad_batches", 2)[1])
    assert large["global_step"] == small["global_step"] == 4
    torch.testing.assert_close(small["state_dict"], large["state_dict"])


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_the_configs_that_ship_come_together(path):
    overlays = {"tiny.yaml": "vg.yaml", "sgdiff_coco.yaml": "sgdiff_vg.yaml", "pretrain_coco.yaml": "pretrain_vg.yaml"}
    base = [overlays[path.name]] if path.name in overlays else []
    assert together(*base, path.name).model.base_learning_rate > 0


@pytest.mark.parametrize("names", DEMO, ids="+".join)
def test_the_demos_configs_build_a_model_for_the_words_of_their_data(names):
    config = together(*names)
    model, data = instantiate_from_config(weightless(plain(config.model))), instantiate_from_config(config.data)
    data.setup()
    model.vocab = data.vocab
    model.setup("fit")


@pytest.mark.parametrize("hard", [False, True])
def test_the_demos_adapters_go_on_its_backbone_and_autoencoder(hard):
    def configs(names, more):
        return plain(together(*names, *(more if hard else [])))

    first_stage = instantiate_from_config(weightless(configs(["demo/vq.yaml"], ["demo/hard_vq.yaml"])["model"]))
    backbone = configs(["demo.yaml", "demo/backbone.yaml"], ["demo/hard.yaml", "demo/hard_backbone.yaml"])["model"]
    backbone = instantiate_from_config(weightless(backbone), scale_factor=0.5)
    config = configs(["demo.yaml"], ["demo/hard.yaml"])
    parts = weightless(config["model"])
    parts["params"]["first_stage_config"]["params"] |= {"ckpt_path": first_stage.state_dict(), "init": None}
    model = instantiate_from_config(parts, ckpt_path=backbone.state_dict(), init=None)
    image = instantiate_from_config(config["data"]["params"]["validation"])[0][0]
    assert model.encode(image[None]).shape[1:] == (model.channels, model.latent_size, model.latent_size)
    assert model.scale_factor == 0.5
    assert torch.equal(model.schedule.alphas_cumprod, backbone.schedule.alphas_cumprod)


@pytest.mark.parametrize("devices, count", [(1, 1), (2, 2), ([0], 1), ([0, 1], 2), ("2", 2), ("0,", 1), ("0,1", 2)])
def test_processes_are_counted_in_each_of_lightnings_ways_to_say_devices(devices, count):
    assert config.process_count(devices) == count
