"""Mistakes in flags, configs and files are answered in one sentence and exit code 2, before or during training."""

import copy
import os
import shutil
import subprocess
import sys

import pytest
import torch
import yaml
from lightning_fabric.strategies.launchers.subprocess_script import _ChildProcessObserver
from tiny import DATA, MODEL
from toy_run import CONFIG

from ldm.checkpoints.shipped import shipped_adapters
from ldm.training.failures import explained_process_losses


def assert_one_sentence(code, printed, *words):
    assert code == 2, printed
    assert printed.err.startswith("trainer.py: ") and printed.err.count("\n") == 1, printed.err
    assert "Traceback" not in printed.err + printed.out
    for word in words:
        assert word in printed.err, printed.err


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--resume", "nowhere"], ["nowhere"]),
        (["--resume", __file__], ["damaged"]),
        (["--resume", "a\0b"], ["--resume"]),
        (["--resume", "nowhere", "--name", "x"], ["--name"]),
        (["--resume", "nowhere", "--actual_resume", "x"], ["--actual_resume"]),
        (["--actual_resume", "nowhere"], ["--actual_resume", "nowhere"]),
        (["--base", "nowhere.yaml"], ["nowhere.yaml"]),
        (["modle.params.width=4"], ["modle", "'model'"]),
        (["model.parms.width=4"], ["model.parms", "'params'"]),
        (["model.params.widht=4"], ["'widht'", "'width'"]),
        (["model.params=4"], ["model.params"]),
        (["model.target=toy_run.Nothing"], ["'Nothing'"]),
        (["model.target=toy_run..Toy"], ["toy_run..Toy"]),
        (["model.base_learning_rate=null"], ["base_learning_rate"]),
        (["model.base_learning_rate=.nan"], ["base_learning_rate"]),
        (["model.base_learning_rate=fast"], ["base_learning_rate", "'fast'"]),
        (["model.params.width=${nothing}"], ["nothing"]),
        (["model.params.width=${nothing"], ["nothing"]),
        (["model.params.width=[1,2"], ["width"]),
        (["data.params.train.params.length=0"], ["data.params.train"]),
        (["data.params.train=null"], ["data.params.train"]),
        (["lightning=${nothing}"], ["lightning"]),
        (["data.params.batch_size=0"], ["batch_size", "at least 1"]),
        (["data.params.batch_size=1.5"], ["batch_size", "1.5"]),
        (["data.params.batch_size=many"], ["batch_size", "many"]),
        (["data.params.num_workers=-1"], ["num_workers", "-1"]),
        (["data.params.num_workers=-.inf"], ["num_workers"]),
        (["data.params.num_workers=1000000000000"], ["num_workers", "at most"]),
        (["lightning.trainer=4"], ["lightning.trainer"]),
        (["lightning.callbacks=[1]"], ["lightning.callbacks"]),
        (["lightning.callbacks.x=1"], ["lightning.callbacks.x"]),
        (["lightning.logger=yes"], ["lightning.logger"]),
        (["lightning.seed=-1"], ["lightning.seed"]),
        (["lightning.scale_lr=maybe"], ["scale_lr"]),
        (["lightning.trainer.max_step=4"], ["'max_step'", "'max_steps'"]),
        (["lightning.trainer.max_steps=many"], ["max_steps"]),
        (["lightning.trainer.val_check_interval=0"], ["val_check_interval"]),
        (["lightning.trainer.val_check_interval=1.5"], ["val_check_interval"]),
        (["lightning.trainer.val_check_interval=soon"], ["val_check_interval"]),
        (["lightning.trainer.accumulate_grad_batches=0"], ["accumulate_grad_batches"]),
        (["lightning.trainer.terminate_on_nan=true"], ["terminate_on_nan"]),
        (["lightning.trainer.limit_train_batches=-3"], ["limit_train_batches"]),
        (["lightning.modelcheckpoint.params.filename={step:06}"], ["filename", "quotes"]),
        (["lightning.modelcheckpoint.params.every_n_epochs=-1"], ["every_n_epochs"]),
        (["lightning.callbacks.image_logger.params.batch_frequency=0"], ["batch_frequency"]),
        (["lightning.callbacks.image_logger.params.log_images_kwargs={steps: 1}"], ["steps"]),
        (["--precision", "31"], ["31"]),
        (["--compile"], ["compile"]),
        (["--cuda_graphs"], ["cuda_graphs"]),
        (["--accelerator", "abacus"], ["abacus"]),
        (["--accelerator", "ddp_spawn"], ["ddp_spawn"]),
        (["--strategy", "fsdp", "--gpus", "cpu:2"], ["fsdp"]),
        (["--gpus", "cpu:0"], ["--gpus"]),
        (["--gpus", "9" * 30], ["--gpus"]),
        (["--logdir", __file__], ["--logdir"]),
        (["--name", "x" * 300], ["--logdir"]),
    ],
    ids=lambda value: " ".join(value)[:60] if isinstance(value, list) else "",
)
def test_a_mistake_is_answered_in_one_sentence(train, flags, words):
    code, folder, printed = train("-t", "--max_epochs", 1, *flags)
    assert_one_sentence(code, printed, *words)


def train_tiny(train, config, params, *flags):
    model = copy.deepcopy(MODEL)
    for path, value in params.items():
        section, *keys = path.split(".")
        target = model["params"] if section == "model" else model["params"][f"{section}_config"]["params"]
        for key in keys[:-1]:
            target = target[key]
        target[keys[-1]] = value
    config.write_text(yaml.safe_dump({"model": {"base_learning_rate": 1e-3, **model}, "data": DATA, "lightning": {}}))
    return train("-t", "--max_steps", 1, *flags)


@pytest.mark.parametrize(
    "path, value, word",
    [
        ("unet.model_channels", 0, "UNetModel"),
        ("unet.model_channels", "wide", "model_channels"),
        ("unet.num_res_blocks", -1, "UNetModel"),
        ("unet.channel_mult", [], "UNetModel"),
        ("unet.num_heads", 0, "UNetModel"),
        ("first_stage.ddconfig.ch_mult", [], "VQModelInterface"),
        ("first_stage.ddconfig.ch", 0, "VQModelInterface"),
        ("first_stage.n_embed", -5, "VQModelInterface"),
        ("cond_stage.dim", 0, "NSGEncoder"),
        ("cond_stage.depth", "deep", "depth"),
        ("model.timesteps", -5, "timesteps"),
        ("model.timesteps", 0, "timesteps"),
        ("model.linear_start", float("nan"), "linear_start"),
        ("model.warmup_steps", "abc", "warmup_steps"),
        ("model.ema_decay", 2.0, "EMA"),
    ],
)
def test_a_wrong_value_of_the_model_is_answered_in_one_sentence(train, config, path, value, word):
    code, _, printed = train_tiny(train, config, {path: value})
    assert_one_sentence(code, printed, word)


def test_an_error_during_training_is_one_sentence_and_d_prints_its_traceback(train, config):
    failing = {"target": "toy_run.FailAt", "params": {"step": 2, "error": "bad luck"}}
    config.write_text(yaml.safe_dump({**CONFIG, "lightning": {"callbacks": {"fail": failing}}}))
    code, _, printed = train("-t", "--max_epochs", 1)
    assert_one_sentence(code, printed, "bad luck", "step 2")
    _, _, printed = train("-t", "--max_epochs", 1, "-d")
    assert "Traceback" in printed.err


def test_a_full_disk_is_one_sentence(train, monkeypatch):
    """TensorBoard writes in a thread of its own."""

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tensorboard.summary.writer.record_writer.RecordWriter.write", fail)
    code, folder, printed = train("-t", "--max_epochs", 1)
    assert_one_sentence(code, printed, "No space left")


def test_a_training_process_that_ended_is_explained(capsys):
    """Lightning logs it, and then kills the process that would notice."""
    dead = subprocess.Popen([sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"])
    dead.wait()
    observer = _ChildProcessObserver(main_pid=os.getpid(), child_processes=[dead])
    observer._terminate_all = lambda: None
    with explained_process_losses():
        assert observer._run()
    assert capsys.readouterr().err.count("\n") == 1


# Files for --resume --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["pytorch-lightning_version", "state_dict", "optimizer_states", "loops", "global_step"])
def test_a_checkpoint_without_the_state_of_training_is_refused_by_name(train, tmp_path, key):
    _, folder, _ = train("-t", "--max_epochs", 1)
    path = folder / "checkpoints" / "last.ckpt"
    saved = torch.load(path, weights_only=True)
    del saved[key]
    torch.save(saved, path)
    code, _, printed = train("-t", "--resume", folder, "--max_epochs", 2)
    assert_one_sentence(code, printed, key, "--actual_resume")


@pytest.mark.parametrize(
    "key, value",
    [
        ("state_dict", {"adapter.weight": torch.zeros(7, 7)}),
        ("state_dict", {"adapter.weight": "text"}),
        ("optimizer_states", []),
        ("optimizer_states", [{"state": {}, "param_groups": [{"params": [0, 1, 2]}]}]),
        ("loops", {"fit_loop": 3}),
        ("callbacks", {"Checks": {}}),
        ("lr_schedulers", 5),
        ("pytorch-lightning_version", "not a version"),
        ("epoch", -3),
    ],
)
def test_a_checkpoint_with_a_damaged_state_is_answered_in_one_sentence(train, key, value):
    _, folder, _ = train("-t", "--max_epochs", 1)
    path = folder / "checkpoints" / "last.ckpt"
    torch.save({**torch.load(path, weights_only=True), key: value}, path)
    code, _, printed = train("-t", "--resume", folder, "--max_epochs", 2)
    if code:  # Lightning may not need it
        assert_one_sentence(code, printed)


def test_weights_alone_cannot_be_resumed(train):
    code, _, printed = train("-t", "--resume", shipped_adapters("flat"))
    assert_one_sentence(code, printed, "--actual_resume")


def test_a_checkpoint_outside_a_log_folder_is_refused_before_anything_is_written(train, tmp_path):
    _, folder, _ = train("-t", "--max_epochs", 1)
    moved = tmp_path / "elsewhere" / "y.ckpt"
    moved.parent.mkdir()
    (folder / "checkpoints" / "last.ckpt").rename(moved)
    code, _, printed = train("-t", "--resume", moved)
    assert_one_sentence(code, printed, "checkpoints/")
    assert [path.name for path in tmp_path.iterdir() if path.name not in ("logs", "toy.yaml")] == ["elsewhere"]
    assert list(moved.parent.iterdir()) == [moved]


def test_a_checkpoint_whose_optimizer_state_does_not_fit_leaves_the_log_folder_as_it_was(train):
    _, folder, _ = train("-t", "--max_epochs", 1)
    path = folder / "checkpoints" / "last.ckpt"
    torch.save({**torch.load(path, weights_only=True), "optimizer_states": [{"state": {}, "param_groups": []}]}, path)
    shutil.rmtree(folder / "tensorboard")
    before = set(folder.rglob("*"))
    code, _, printed = train("-t", "--resume", folder, "--max_epochs", 2)
    assert_one_sentence(code, printed)
    assert set(folder.rglob("*")) == before
