"""trainer.py as a program: what a run leaves, resuming, signals, several processes."""

import argparse
import inspect
import os
import re
import signal
import subprocess
import sys
import time

import pytest
import pytorch_lightning as pl
import torch
import yaml
from paths import ROOT
from toy_run import CONFIG, read_checkpoint, start

import trainer
from ldm.training.run import WAIT_FOR_REPORT


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
    assert not any(".part" in name for name in files)


def test_a_run_ends_with_a_summary_and_prints_no_warning(train, recwarn):
    code, folder, printed = train("-t", "--max_epochs", 2)
    last_lines = printed.out.splitlines()[-4:]
    assert code == 0 and printed.err == "" and not recwarn
    assert "step 8" in last_lines[0] and "val/loss" in last_lines[1]
    assert f"{folder}/checkpoints/last.ckpt" in last_lines[2] and f"{folder}/checkpoints/epoch=" in last_lines[3]


def test_a_checkpoint_loads_as_plain_data_and_holds_the_config(train):
    _, folder, _ = train("-t", "--max_epochs", 1, "model.params.width=5")
    saved = read_checkpoint(folder)
    assert set(saved["state_dict"]) == {"adapter.weight", "adapter.bias"}
    assert saved["config"]["model"]["params"] == {"width": 5} and saved["config"]["data"] == CONFIG["data"]


def test_without_t_the_table_of_parts_is_printed_and_nothing_is_trained(train):
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
    assert f"{rate:.2e}" in printed.out
    assert read_checkpoint(folder)["optimizer_states"][0]["param_groups"][0]["lr"] == rate


def test_a_seed_gives_the_same_run_twice_and_another_seed_another(train):
    first, second, third = (
        read_checkpoint(train("-t", "--max_epochs", 1, "--seed", seed, "-n", name)[1])["state_dict"]["adapter.weight"]
        for seed, name in ((1, "a"), (1, "b"), (2, "c"))
    )
    assert torch.equal(first, second) and not torch.equal(first, third)


def test_accumulated_batches_step_as_one_large_batch_does(train):
    flags = "-t", "--max_epochs", 2, "model.params.scale=0.0"
    large = read_checkpoint(train(*flags, "-n", "large", "data.params.batch_size=4")[1])
    small = read_checkpoint(train(*flags, "-n", "small", "--accumulate_grad_batches", 2)[1])
    assert large["global_step"] == small["global_step"] == 4
    torch.testing.assert_close(small["state_dict"], large["state_dict"])


def test_a_callback_can_be_removed(train):
    code, folder, _ = train("-t", "--max_epochs", 1, "lightning.callbacks.image_logger=null")
    assert code == 0 and not (folder / "images").exists()


def test_a_loss_that_is_not_finite_ends_the_run_with_exit_code_1(train):
    code, _, printed = train("-t", "model.params.scale=.nan")
    assert code == 1 and "step 0" in printed.err and printed.err.count("\n") == 1


# Resuming ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stop", [["--max_steps", 6], ["--max_epochs", 2]])
def test_a_resumed_run_ends_where_the_uninterrupted_one_does(train, stop, recwarn):
    end = ["--max_steps", 16] if "--max_steps" in stop else ["--max_epochs", 4]
    _, straight, _ = train("-t", *end, "-n", "straight")
    _, parts, _ = train("-t", *stop, "-n", "parts")
    code, new_folder, printed = train("-t", "--resume", parts, *end)
    assert code == 0 and new_folder is None and f"{parts}" in printed.out and not recwarn
    a, b = read_checkpoint(straight), read_checkpoint(parts)
    assert a["global_step"] == b["global_step"] == 16
    assert all(torch.equal(a["state_dict"][key], b["state_dict"][key]) for key in a["state_dict"])
    moments = [c["optimizer_states"][0]["state"][0]["exp_avg"] for c in (a, b)]
    assert torch.equal(*moments)
    assert sorted(path.name for path in (parts / "checkpoints").glob("last*")) == ["last.ckpt"]


def test_resuming_takes_config_seed_and_scaling_from_the_run(config, train):
    _, folder, _ = train("-t", "--max_epochs", 1, "--seed", 5, "--scale_lr", "model.params.width=4")
    config.write_text(yaml.safe_dump({"model": {"target": "toy_run.Toy"}, "data": CONFIG["data"]}))
    code, _, printed = train("--resume", folder / "checkpoints" / "last.ckpt", "-t", "--max_epochs", 2)
    assert code == 0 and "2.00e-02 (scaled)" in printed.out
    assert ["all", "17", "5"] in [line.split() for line in printed.out.splitlines()]
    settings = yaml.safe_load(sorted(folder.glob("configs/*-lightning.yaml"))[-1].read_text())
    assert settings["lightning"]["seed"] == 5


def test_resuming_a_finished_run_says_so(train):
    _, folder, _ = train("-t", "--max_epochs", 1)
    code, _, printed = train("-t", "--resume", folder)
    assert code == 0 and "nothing left to train" in printed.out


def test_actual_resume_starts_a_new_run_with_given_weights(train):
    _, first, _ = train("-t", "--max_epochs", 1)
    trained = read_checkpoint(first)["state_dict"]["adapter.weight"]
    # the rate is too small to change a weight
    flags = "-t", "--max_epochs", 1, "model.base_learning_rate=1e-30", "-n", "second"
    code, second, _ = train(*flags, "--actual_resume", first / "checkpoints" / "last.ckpt")
    saved = read_checkpoint(second)
    assert code == 0 and saved["global_step"] == 4
    assert torch.equal(saved["state_dict"]["adapter.weight"], trained)


# Flags ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words, override",
    [
        (["--data.params.batch_size=4"], "data.params.batch_size=4"),
        (["--data.params.batch_size", "4"], "data.params.batch_size=4"),
        (["--val_check_interval", "500"], "lightning.trainer.val_check_interval=500"),
        (["--gradient_clip_val=1.0"], "lightning.trainer.gradient_clip_val=1.0"),
        (["--accelerator", "ddp"], "lightning.trainer.accelerator=ddp"),
        (["--benchmark", "--gpus", "0,"], "lightning.trainer.benchmark=true"),
    ],
)
def test_flags_of_lightning_and_of_latent_diffusion_change_the_config(words, override):
    assert trainer.parse(["--base", "a.yaml", *words, "-t"])[1] == [override]


def test_flags_of_latent_diffusion_have_their_meaning():
    arguments, _ = trainer.parse(["--resume_from_checkpoint", "x.ckpt", "--no_test", "-f", "_tuned"])
    assert (arguments.resume, arguments.no_test, arguments.postfix) == ("x.ckpt", True, "_tuned")


def test_every_parameter_of_lightnings_trainer_is_a_flag():
    reserved = {
        "self",
        "plugins",
        "logger",
        "callbacks",
        "default_root_dir",
        "enable_autolog_hparams",
        "model_registry",
    }
    flags = {*trainer.TRAINER_FLAGS, *trainer.LIGHTNING_KEYS}
    assert set(inspect.signature(pl.Trainer.__init__).parameters) - reserved <= flags


@pytest.mark.parametrize(
    "flags, word",
    [
        (["--max_step", "3"], "'--max_steps'"),
        (["--resum", "x"], "'--resume'"),
        (["--lr", "1"], "base_learning_rate"),
        (["--seed", "one"], "--seed"),
        (["-t", "perhaps"], "perhaps"),
        (["configs/vg.yaml"], "configs/vg.yaml"),
    ],
)
def test_a_wrong_flag_is_explained_in_one_line(capsys, flags, word):
    with pytest.raises(SystemExit) as end:
        trainer.main(flags)
    printed = capsys.readouterr().err
    assert end.value.code == 2 and word in printed and printed.count("\n") == 1


def test_booleans_of_the_command_line_are_words():
    assert trainer.boolean("True") and trainer.boolean("y") and not trainer.boolean("0")
    with pytest.raises(argparse.ArgumentTypeError, match="perhaps"):
        trainer.boolean("perhaps")


def test_help_is_quick_since_it_loads_neither_torch_nor_lightning():
    slow = "import sys, trainer; assert not {'torch', 'pytorch_lightning', 'omegaconf'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", slow], cwd=ROOT, check=True)
    out, _ = start("--help").communicate(timeout=20)
    assert "--gpus" in out and "--resume" in out


# Signals and several processes ---------------------------------------------------------------------------------------


def test_a_signal_to_the_process_group_saves_a_checkpoint_that_can_be_resumed(config, tmp_path, train):
    longer = "data.params.train.params.length=100", "model.params.wait=0.005", "data.params.num_workers=2"
    flags = "--base", config, "--gpus", "cpu", "--logdir", tmp_path / "logs", "--max_epochs", "500", "-t"
    process = start(*flags, *longer, start_new_session=True)
    while not list(tmp_path.glob("logs/*/checkpoints/last.ckpt")):  # the first epoch has ended
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 143, err
    step = int(re.search(r"SIGTERM after step (\d+)", err)[1])
    (folder,) = (tmp_path / "logs").iterdir()
    assert read_checkpoint(folder)["global_step"] == step
    flags = "--max_epochs", "-1", "--max_steps", step + 3, "model.params.wait=0", "data.params.num_workers=0"
    assert train("-t", "--resume", folder, *flags)[0] == 0
    assert read_checkpoint(folder)["global_step"] == step + 3


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    """(exit code, stderr, log folder) of two processes, of which the second dies in the second epoch."""
    folder = tmp_path_factory.mktemp("two")
    failing = {"target": "toy_run.FailAt", "params": {"step": 6, "rank": 1, "code": 9}}
    lightning = {**CONFIG["lightning"], "callbacks": {"fail": failing}}
    (folder / "config.yaml").write_text(yaml.safe_dump({**CONFIG, "lightning": lightning}))
    flags = "--gpus", "cpu:2", "--max_epochs", "2", "data.params.batch_size=1", "model.params.scale=0.0"
    process = start("--base", folder / "config.yaml", "--logdir", folder / "logs", "-t", *flags)
    _, err = process.communicate(timeout=240)
    (log_folder,) = (folder / "logs").iterdir()
    return process.returncode, err, log_folder


def test_two_processes_train_one_model(two_processes, train):
    """Two processes with one image each, or one process with both: the gradients' mean is the same."""
    _, one, _ = train("-t", "--max_epochs", 1, "model.params.scale=0.0")
    a, b = read_checkpoint(one), read_checkpoint(two_processes[2])
    assert a["global_step"] == b["global_step"] == 4
    torch.testing.assert_close(a["state_dict"], b["state_dict"])


def test_a_process_that_was_launched_ends_when_its_launcher_was_killed_before_they_connected(config, tmp_path):
    """The second process starts after the first one was killed, so that it would wait for its connection."""
    environment = {"LDM_LAUNCHER_PID": "1234567", "LOCAL_RANK": "1", "NODE_RANK": "0", "WORLD_SIZE": "2"}
    environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29999"}
    flags = "--base", config, "--logdir", tmp_path / "logs", "-t", "--gpus", "cpu:2"
    process = start(*flags, environment=environment)
    assert process.communicate(timeout=60) == ("", "") and process.returncode == 1


@pytest.mark.parametrize("is_first", [True, False])
def test_other_processes_wait_before_they_report_what_the_first_one_reports_too(train, monkeypatch, is_first):
    waits = []
    monkeypatch.setattr("ldm.training.run.is_first_process", lambda: is_first)
    monkeypatch.setattr("ldm.training.run.time.sleep", waits.append)
    code, _, printed = train("-t", "--precision", "7")
    assert code == 2 and "precision" in printed.err
    assert waits == ([] if is_first else [WAIT_FOR_REPORT])


def test_a_lost_process_is_explained_in_sentences_and_nothing_else_is_printed_on_stderr(two_processes):
    code, err, _ = two_processes
    assert code != 0 and "process" in err
    assert all(line.startswith("trainer.py: ") for line in err.splitlines()), err
