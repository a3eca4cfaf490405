"""Checkpoints are written atomically, and when a signal asks for it."""

import multiprocessing
import os
import signal
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from linear_model import LinearModel, fit, make_data

from ldm.data.datamodule import EpochLoader, EpochSampler, ignore_signals
from ldm.training.checkpointing import AtomicCheckpointIO, Interrupted, LastCheckpoint
from ldm.util.errors import UserError


def send(signum):
    """Sends the signal at step 2 to the data loader's workers, and then to this process."""

    def disturb(model, step):
        if step == 2:
            for process in (*multiprocessing.active_children(), multiprocessing.current_process()):
                os.kill(process.pid, signum)

    return disturb


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_signal_saves_a_checkpoint_and_ends_the_run(tmp_path, signum, workers):
    before, path, points = signal.getsignal(signum), tmp_path / "last.ckpt", list(make_data(40))
    loader = EpochLoader(
        points,
        batch_size=2,
        sampler=EpochSampler(points, shuffle=False),
        num_workers=workers,
        worker_init_fn=ignore_signals,
    )
    with pytest.raises(Interrupted, match=f"{signum.name} after step 3") as interruption:
        fit(LinearModel(send(signum)), tmp_path, LastCheckpoint(path), data=loader)
    assert interruption.value.signum == signum
    assert torch.load(path, weights_only=True)["global_step"] == 3
    assert signal.getsignal(signum) is before


def test_sigusr2_saves_a_checkpoint_and_continues(tmp_path):
    path, saved_steps = tmp_path / "last.ckpt", []

    class RecordSteps(pl.Callback):
        def on_save_checkpoint(self, trainer, *_):
            saved_steps.append(trainer.global_step)

    model = LinearModel(send(signal.SIGUSR2))
    assert fit(model, tmp_path, LastCheckpoint(path), RecordSteps()).global_step == 8
    assert saved_steps == [3, 4, 8]  # at the signal, and after each epoch of four steps
    assert torch.load(path, weights_only=True)["global_step"] == 8
    assert signal.getsignal(signal.SIGUSR2) is signal.SIG_DFL


def test_a_signal_waits_for_accumulated_gradients(tmp_path):
    path = tmp_path / "last.ckpt"
    model = LinearModel(lambda model, step: os.kill(os.getpid(), signal.SIGINT) if len(model.draws) == 5 else None)
    with pytest.raises(Interrupted, match="after step 2"):
        fit(model, tmp_path, LastCheckpoint(path), accumulate_grad_batches=4)
    assert len(model.draws) == 8


# Atomic writing ------------------------------------------------------------------------------------------------------


class Unsavable:
    """Fails in the middle of a file, as a full disk does."""

    def __init__(self, error):
        self.error = error

    def __reduce__(self):
        raise self.error


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), RuntimeError("file write failed")])
def test_the_previous_checkpoint_survives_a_failed_write(tmp_path, error):
    writer, path = AtomicCheckpointIO(tmp_path), tmp_path / "checkpoints" / "last.ckpt"
    writer.save_checkpoint({"step": 1}, path)
    with pytest.raises(UserError, match="could not be written"):
        writer.save_checkpoint({"weights": torch.zeros(1000), "step": Unsavable(error)}, path)
    assert torch.load(path, weights_only=True) == {"step": 1}
    assert os.listdir(path.parent) == ["last.ckpt"]


def test_a_checkpoint_is_renamed_from_a_synced_file_beside_it(tmp_path, monkeypatch):
    calls, path = [], tmp_path / "last.ckpt"
    replace, fsync = Path.replace, os.fsync
    monkeypatch.setattr(Path, "replace", lambda file, to: calls.append((file.parent, to)) or replace(file, to))
    monkeypatch.setattr(os, "fsync", lambda descriptor: calls.append("sync") or fsync(descriptor))
    monkeypatch.setenv("TMPDIR", "/proc")  # where nothing can be written
    AtomicCheckpointIO(tmp_path).save_checkpoint({"step": 1}, path)
    assert calls == ["sync", (tmp_path, path), "sync"]  # the file, and then the folder


def test_leftovers_of_killed_runs_are_removed_at_the_next_start(tmp_path):
    path = tmp_path / "checkpoints" / "last.ckpt"
    writer = multiprocessing.get_context("fork").Process(target=write_and_die, args=(path,))
    writer.start()
    writer.join()
    assert len(list(path.parent.iterdir())) == 1 and not path.exists()
    fit(LinearModel(), tmp_path, LastCheckpoint(path))
    assert os.listdir(path.parent) == ["last.ckpt"]


def write_and_die(path):
    torch.save = lambda *_: os._exit(1)
    AtomicCheckpointIO(path.parent).save_checkpoint({}, path)


def test_only_checkpoints_in_the_log_folder_are_removed(tmp_path):
    """A checkpoint that a run is resumed from states which outdated checkpoints ModelCheckpoint removes."""
    run = tmp_path / "run"
    inside, outside = run / "checkpoints" / "a.ckpt", tmp_path / "precious.txt"
    for file in (inside, outside):
        file.parent.mkdir(exist_ok=True, parents=True)
        file.touch()
    AtomicCheckpointIO(run).remove_checkpoint(run / "checkpoints" / ".." / ".." / "precious.txt")
    AtomicCheckpointIO(run).remove_checkpoint(inside)
    assert outside.exists() and not inside.exists()
