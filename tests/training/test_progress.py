"""What a run prints: the parts that train, and progress, and how often that is read."""

import re

import torch
from linear_model import LinearModel, fit
from tiny import MODEL, tiny_model
from torch import nn

from ldm.training.progress import ProgressBar, ProgressLines, in_bytes, shown_metrics, trained_lines


def test_what_trains_is_printed_by_adapter_with_its_memory():
    torch.manual_seed(0)
    model = tiny_model()
    adapters, total = trained_lines(model)
    named = re.findall(r"([A-Za-z ]+?) ([\d,]+)(?:, |$)", adapters.removeprefix("adapters: "))
    stated = {kind: int(size.replace(",", "")) for kind, size in named}
    lora = sum(p.numel() for name, p in model.unet.named_parameters() if name.endswith(("lora_A", "lora_B")))
    film = sum(p.numel() for p in model.unet.film.parameters())
    assert stated["LoRA"] == lora and stated["FiLM"] == film
    count = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert total.startswith(f"{count:,} parameters train: {4 * count / 1e6:,.1f} MB")
    assert total.endswith(f"averages {16 * count / 1e6:,.1f} MB")


def test_attention_to_graphs_is_named_and_counted():
    torch.manual_seed(0)
    unet = {**MODEL["params"]["unet_config"]["params"], "graph_attention": True}
    model = tiny_model(unet_config={**MODEL["params"]["unet_config"], "params": unet})
    expected = sum(p.numel() for name, p in model.unet.named_parameters() if "_graph." in name)
    assert expected and f"attention to graphs beside the text {expected:,}" in trained_lines(model)[0]


def test_models_of_other_kinds_have_no_adapters_and_frozen_ones_no_lines():
    assert trained_lines(nn.Linear(3, 2)) == [
        "8 parameters train: 0.0 MB, with gradients and AdamW's two averages 0.0 MB"
    ]
    assert trained_lines(nn.Linear(3, 2).requires_grad_(False)) == []


def test_sizes_are_in_megabytes_or_gigabytes():
    assert (in_bytes(1_540_000), in_bytes(2_100_000_000)) == ("1.5 MB", "2.1 GB")


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
