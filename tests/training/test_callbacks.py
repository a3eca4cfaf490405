import os
import signal

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader

from ldm.training.callbacks import (
    Checks,
    ImageLogger,
    Interrupted,
    LastCheckpoint,
    StepSeed,
    TrainingStopped,
    frozen_checksums,
)


class Toy(pl.LightningModule):
    """y = w x with a frozen part before it; `spoil` is called with (module, step) ahead of every loss."""

    def __init__(self, spoil=lambda model, step: None):
        super().__init__()
        self.frozen = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)).eval().requires_grad_(False)
        self.trained = nn.Linear(2, 1)
        self.spoil, self.draws, self.validation_draws = spoil, [], []

    def training_step(self, batch, batch_idx):
        self.draws.append((torch.rand(()).item(), np.random.rand()))
        factor = self.spoil(self, self.global_step)
        return self.trained(self.frozen(batch)).square().mean() * (1.0 if factor is None else factor)

    def validation_step(self, batch, batch_idx):
        self.validation_draws.append(torch.rand(()).item())

    def configure_optimizers(self):
        return torch.optim.SGD(self.trained.parameters(), 1e-2)


def fit(model, tmp_path, *callbacks, ckpt_path=None, **kwargs):
    data = DataLoader(torch.randn(8, 2, generator=torch.Generator().manual_seed(0)), batch_size=2)
    settings = {"max_epochs": 2, "logger": False, "num_sanity_val_steps": 0, **kwargs}
    settings["enable_checkpointing"] = any(isinstance(callback, pl.callbacks.Checkpoint) for callback in callbacks)
    trainer = pl.Trainer(
        accelerator="cpu",
        default_root_dir=tmp_path,
        callbacks=list(callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        **settings,
    )
    trainer.fit(model, data, data, ckpt_path=ckpt_path, weights_only=True)
    return trainer


def test_a_run_that_is_sound_passes_every_check(tmp_path):
    assert fit(Toy(), tmp_path, Checks()).global_step == 8


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_stops_the_run_before_a_weight_sees_it(tmp_path, value):
    model = Toy(lambda model, step: value if step == 3 else 1.0)
    with pytest.raises(TrainingStopped, match=f"loss is {value} at step 3"):
        fit(model, tmp_path, Checks())
    assert all(p.isfinite().all() for p in model.parameters())


def test_a_trainable_part_without_a_gradient_is_named_by_step_2(tmp_path):
    model = Toy()
    model.forgotten = nn.Linear(2, 2)
    with pytest.raises(TrainingStopped, match=r"forgotten.weight and 1 more: .* after 2 steps"):
        fit(model, tmp_path, Checks())


def test_a_trainable_part_whose_gradient_stays_zero_is_named(tmp_path):
    model = Toy()
    model.silenced = nn.Linear(2, 2)
    model.spoil = lambda model, step: 1.0 + 0.0 * model.silenced(torch.ones(1, 2)).sum()
    with pytest.raises(TrainingStopped, match="silenced: .* zero for 6 steps"):
        fit(model, tmp_path, Checks())


def test_a_part_behind_a_layer_that_begins_at_zero_is_given_time(tmp_path):
    model = Toy()
    model.behind, model.gate = nn.Linear(1, 1), nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.gate.weight)
    model.spoil = lambda model, step: 1.0 + model.gate(model.behind(torch.ones(1, 1))).sum()
    model.configure_optimizers = lambda: torch.optim.SGD(model.parameters(), 1e-2)
    assert fit(model, tmp_path, Checks()).global_step == 8


def shift_weight(model):
    model.frozen[0].weight.data[0, 0] += 1e-6


def train_norm(model):
    model.frozen[1].train()


@pytest.mark.parametrize("change", [shift_weight, train_norm])
def test_a_frozen_part_that_changed_is_named_and_not_saved(tmp_path, change):
    model = Toy(lambda model, step: change(model) if step == 1 else None)
    path = tmp_path / "checkpoints" / "last.ckpt"

    class Save(pl.Callback):
        def on_train_batch_end(self, trainer, *_):
            trainer.save_checkpoint(path) if trainer.global_step == 3 else None

    with pytest.raises(TrainingStopped, match="frozen: frozen, but its weights or buffers changed"):
        fit(model, tmp_path, Checks(), Save())
    assert not path.exists()


def test_frozen_weights_that_are_held_in_another_precision_are_not_compared():
    def held_in(dtype):
        model = Toy()
        model.frozen[0].to(dtype)
        return set(dict(frozen_checksums(model)))

    assert held_in(torch.float32) == {"frozen"} and held_in(torch.bfloat16) == {"frozen in bfloat16"}


def test_a_run_does_not_go_on_with_other_frozen_weights(tmp_path):
    path, model = tmp_path / "last.ckpt", Toy()
    fit(model, tmp_path, Checks(), LastCheckpoint(path))
    model.strict_loading = False
    saved = torch.load(path, weights_only=True)
    saved["state_dict"] = {key: value for key, value in saved["state_dict"].items() if key.startswith("trained")}
    torch.save(saved, path)
    assert fit(model, tmp_path, Checks(), ckpt_path=path, max_epochs=3).global_step == 12
    shift_weight(model)
    with pytest.raises(TrainingStopped, match="frozen: .* not those that this run was trained with"):
        fit(model, tmp_path, Checks(), ckpt_path=path, max_epochs=3)


def test_random_draws_depend_on_seed_and_step_alone(tmp_path):
    def draw_more(model, step):
        torch.rand(step), np.random.rand(step)

    straight, disturbed, other = Toy(), Toy(draw_more), Toy()
    fit(straight, tmp_path, StepSeed(1))
    fit(disturbed, tmp_path, StepSeed(1))
    fit(other, tmp_path, StepSeed(2))
    assert straight.draws == disturbed.draws
    assert len({draw for draws in straight.draws + other.draws for draw in draws}) == 32  # no draw comes twice


def test_batches_that_share_a_step_draw_differently(tmp_path):
    model = Toy()
    fit(model, tmp_path, StepSeed(1), accumulate_grad_batches=4)
    assert len(set(model.draws)) == 8


def test_validation_draws_the_same_in_every_epoch(tmp_path):
    model = Toy()
    fit(model, tmp_path, StepSeed(1))
    first, second = model.validation_draws[:4], model.validation_draws[4:]
    assert first == second and len(set(first)) == 4


def pictures(model, batch, n, value=0.5):
    assert not model.training
    torch.rand(3)
    return {"inputs": torch.full((len(batch), 3, 4, 4), value)[:n], "samples": torch.full((n, 3, 4, 4), -7.0)}


def test_pictures_go_to_the_log_folder_and_to_tensorboard(tmp_path):
    model = Toy()
    model.log_images = lambda batch, n: pictures(model, batch, n)
    logger = pl.loggers.TensorBoardLogger(tmp_path, name="tensorboard", version="")
    fit(model, tmp_path, ImageLogger(batch_frequency=4, max_images=2), logger=logger, log_every_n_steps=1)

    names = {path.relative_to(tmp_path / "images").as_posix() for path in (tmp_path / "images").rglob("*.png")}
    train = {
        f"train/{key}_gs-{step:06}_e-{epoch:06}_b-{batch:06}.png"
        for step, epoch, batch in [(1, 0, 0), (2, 0, 1), (4, 0, 3), (8, 1, 3)]
        for key in ("inputs", "samples")
    }
    val = {
        f"val/{key}_gs-{step:06}_e-{epoch:06}_b-000000.png"
        for step, epoch in [(4, 0), (8, 1)]
        for key in ("inputs", "samples")
    }
    assert names == train | val

    inputs = np.asarray(Image.open(tmp_path / "images/train/inputs_gs-000001_e-000000_b-000000.png"))
    assert inputs.shape == (4 + 2 * 2, 2 * 4 + 3 * 2, 3)  # two pictures beside each other, 2 pixels around each
    assert inputs[4, 4].tolist() == [191] * 3  # 0.5 in [-1,1] is 3/4 of the way to white
    samples = np.asarray(Image.open(tmp_path / "images/train/samples_gs-000001_e-000000_b-000000.png"))
    assert samples[4, 4].tolist() == [0] * 3  # clamped

    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert set(events.Tags()["images"]) == {f"{s}/{k}" for s in ("train", "val") for k in ("inputs", "samples")}


def test_pictures_disturb_neither_the_random_state_nor_the_modes(tmp_path):
    plain, logged = Toy(), Toy()
    logged.log_images = lambda batch, n: pictures(logged, batch, n)
    for model, callbacks in ((plain, []), (logged, [ImageLogger(batch_frequency=1)])):
        torch.manual_seed(0)
        fit(model, tmp_path, *callbacks)
    assert [draw for draw, _ in plain.draws] == [draw for draw, _ in logged.draws]
    assert logged.training and not logged.frozen.training


def test_without_early_steps_pictures_come_at_the_frequency_alone():
    due = ImageLogger(batch_frequency=5, increase_log_steps=False)._is_due
    assert [step for step in range(16) if due(step)] == [5, 10, 15]


def send(signum):
    return lambda model, step: os.kill(os.getpid(), signum) if step == 2 else None


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_after_its_step_with_a_checkpoint(tmp_path, signum):
    before = signal.getsignal(signum)
    path = tmp_path / "last.ckpt"
    with pytest.raises(Interrupted, match=f"{signum.name} after step 3") as caught:
        fit(Toy(send(signum)), tmp_path, LastCheckpoint(path))
    assert caught.value.signum == signum
    assert torch.load(path, weights_only=True)["global_step"] == 3
    assert signal.getsignal(signum) is before


def test_sigusr1_writes_a_checkpoint_and_goes_on(tmp_path):
    path, saved = tmp_path / "last.ckpt", []

    class Watch(pl.Callback):
        def on_save_checkpoint(self, trainer, *_):
            saved.append(trainer.global_step)

    assert fit(Toy(send(signal.SIGUSR1)), tmp_path, LastCheckpoint(path), Watch()).global_step == 8
    assert saved == [3, 4, 8]  # at the signal, and after each epoch of four steps
    assert torch.load(path, weights_only=True)["global_step"] == 8
    assert signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL


def test_a_signal_waits_for_accumulated_gradients(tmp_path):
    path = tmp_path / "last.ckpt"
    model = Toy(lambda model, step: os.kill(os.getpid(), signal.SIGINT) if len(model.draws) == 5 else None)
    with pytest.raises(Interrupted, match="after step 2"):
        fit(model, tmp_path, LastCheckpoint(path), accumulate_grad_batches=4)
    assert len(model.draws) == 8
