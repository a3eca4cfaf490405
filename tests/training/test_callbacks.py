"""StepSeed, Checks and ImageLogger, in runs of a linear model."""

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from linear_model import LinearModel, fit
from PIL import Image
from torch import nn

from ldm.training.callbacks import Checks, ImageLogger, StepSeed, TrainingStopped, frozen_checksums
from ldm.training.checkpointing import LastCheckpoint


def test_a_sound_run_passes_every_check(tmp_path):
    assert fit(LinearModel(), tmp_path, Checks()).global_step == 8


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_the_run_before_it_reaches_a_weight(tmp_path, value):
    model = LinearModel(lambda model, step: value if step == 3 else 1.0)
    with pytest.raises(TrainingStopped, match=f"{value} at step 3"):
        fit(model, tmp_path, Checks())
    assert all(p.isfinite().all() for p in model.parameters())


def test_a_trainable_part_without_a_gradient_is_named_by_step_2(tmp_path):
    model = LinearModel()
    model.forgotten = nn.Linear(2, 2)
    with pytest.raises(TrainingStopped, match="forgotten.weight"):
        fit(model, tmp_path, Checks())


def test_a_trainable_part_whose_gradient_stays_zero_is_named(tmp_path):
    model = LinearModel()
    model.silenced = nn.Linear(2, 2)
    model.disturb = lambda model, step: 1.0 + 0.0 * model.silenced(torch.ones(1, 2)).sum()
    with pytest.raises(TrainingStopped, match="silenced"):
        fit(model, tmp_path, Checks())


def test_a_part_behind_a_layer_that_begins_at_zero_is_given_time(tmp_path):
    model = LinearModel()
    model.behind, model.gate = nn.Linear(1, 1), nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.gate.weight)
    model.disturb = lambda model, step: 1.0 + model.gate(model.behind(torch.ones(1, 1))).sum()
    model.configure_optimizers = lambda: torch.optim.SGD(model.parameters(), 1e-2)
    assert fit(model, tmp_path, Checks()).global_step == 8


def shift_weight(model):
    model.frozen[0].weight.data[0, 0] += 1e-6


def train_norm(model):
    model.frozen[1].train()


@pytest.mark.parametrize("change", [shift_weight, train_norm])
def test_a_changed_frozen_part_stops_the_run_and_is_not_saved(tmp_path, change):
    model = LinearModel(lambda model, step: change(model) if step == 1 else None)
    path = tmp_path / "checkpoints" / "last.ckpt"

    class Save(pl.Callback):
        def on_train_batch_end(self, trainer, *_):
            trainer.save_checkpoint(path) if trainer.global_step == 3 else None

    with pytest.raises(TrainingStopped, match="changed"):
        fit(model, tmp_path, Checks(), Save())
    assert not path.exists()


def test_checksums_of_frozen_weights_in_different_precisions_are_not_compared():
    def checksum_names(dtype):
        model = LinearModel()
        model.frozen[0].to(dtype)
        return set(dict(frozen_checksums(model)))

    assert checksum_names(torch.float32) == {"frozen"} and checksum_names(torch.bfloat16) == {"frozen in bfloat16"}


def test_a_run_is_not_resumed_with_other_frozen_weights(tmp_path):
    path, model = tmp_path / "last.ckpt", LinearModel()
    fit(model, tmp_path, Checks(), LastCheckpoint(path))
    model.strict_loading = False
    saved = torch.load(path, weights_only=True)
    saved["state_dict"] = {key: value for key, value in saved["state_dict"].items() if key.startswith("trained")}
    torch.save(saved, path)
    assert fit(model, tmp_path, Checks(), ckpt_path=path, max_epochs=3).global_step == 12
    shift_weight(model)
    with pytest.raises(TrainingStopped, match="differ"):
        fit(model, tmp_path, Checks(), ckpt_path=path, max_epochs=3)


def test_random_numbers_depend_on_seed_and_step_only(tmp_path):
    def draw_more(model, step):
        torch.rand(step), np.random.rand(step)

    straight, disturbed, other = LinearModel(), LinearModel(draw_more), LinearModel()
    fit(straight, tmp_path, StepSeed(1))
    fit(disturbed, tmp_path, StepSeed(1))
    fit(other, tmp_path, StepSeed(2))
    assert straight.draws == disturbed.draws
    assert len({draw for draws in straight.draws + other.draws for draw in draws}) == 32  # no draw comes twice


def test_accumulated_batches_draw_different_random_numbers(tmp_path):
    model = LinearModel()
    fit(model, tmp_path, StepSeed(1), accumulate_grad_batches=4)
    assert len(set(model.draws)) == 8


def test_validation_draws_the_same_random_numbers_in_every_epoch(tmp_path):
    model = LinearModel()
    fit(model, tmp_path, StepSeed(1))
    first, second = model.validation_draws[:4], model.validation_draws[4:]
    assert first == second and len(set(first)) == 4


def make_images(model, batch, n, value=0.5):
    assert not model.training
    torch.rand(3)
    return {"inputs": torch.full((len(batch), 3, 4, 4), value)[:n], "samples": torch.full((n, 3, 4, 4), -7.0)}


def test_images_go_to_the_log_folder_and_to_tensorboard(tmp_path):
    model = LinearModel()
    model.log_images = lambda batch, n: make_images(model, batch, n)
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
    assert inputs.shape == (4 + 2 * 2, 2 * 4 + 3 * 2, 3)  # two images beside each other, 2 pixels around each
    assert inputs[4, 4].tolist() == [191] * 3  # 0.5 in [-1,1] is 3/4 of the way to white
    samples = np.asarray(Image.open(tmp_path / "images/train/samples_gs-000001_e-000000_b-000000.png"))
    assert samples[4, 4].tolist() == [0] * 3  # clamped

    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert set(events.Tags()["images"]) == {f"{s}/{k}" for s in ("train", "val") for k in ("inputs", "samples")}


def test_logging_images_changes_neither_the_random_state_nor_training_modes(tmp_path):
    plain, logged = LinearModel(), LinearModel()
    logged.log_images = lambda batch, n: make_images(logged, batch, n)
    for model, callbacks in ((plain, []), (logged, [ImageLogger(batch_frequency=1)])):
        torch.manual_seed(0)
        fit(model, tmp_path, *callbacks)
    assert [draw for draw, _ in plain.draws] == [draw for draw, _ in logged.draws]
    assert logged.training and not logged.frozen.training


def test_without_early_steps_images_are_logged_at_the_frequency_only():
    due = ImageLogger(batch_frequency=5, increase_log_steps=False)._is_due
    assert [step for step in range(16) if due(step)] == [5, 10, 15]
