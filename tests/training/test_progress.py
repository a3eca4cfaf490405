"""What is shown while a model trains, and how often it is read."""

from linear_model import LinearModel, fit

from ldm.training.progress import ProgressBar, ProgressLines, shown_metrics


class Shown(LinearModel):
    """Logs the number of its step in two ways, and one value that nobody asked to see."""

    shown_in_training = ("train/step",)

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        self.log("train/step", loss * 0 + self.global_step)
        self.log("train/hidden", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val/one", 1.0, prog_bar=True)


def test_lines_show_what_the_model_names_and_what_was_logged_for_the_bar(tmp_path, capsys):
    trainer = fit(Shown(), tmp_path, ProgressLines(interval=6))
    assert {name: float(value) for name, value in shown_metrics(trainer).items()} == {"train/step": 7, "val/one": 1}
    assert "step 6, epoch 1: train/step 5, val/one 1, " in capsys.readouterr().out


def test_the_bar_reads_at_most_once_a_second(tmp_path, monkeypatch):
    model, bar = Shown(), ProgressBar()
    trainer = fit(model, tmp_path)
    clock = iter([10.0, 10.0, 10.9, 11.1, 11.1])
    monkeypatch.setattr("ldm.training.progress.time.monotonic", lambda: next(clock))
    first = bar.get_metrics(trainer, model)
    assert first["train/step"] == 7 and first["val/one"] == 1 and "train/hidden" not in first
    trainer.callback_metrics["train/step"] = 8
    assert bar.get_metrics(trainer, model)["train/step"] == 7
    assert bar.get_metrics(trainer, model)["train/step"] == 8
