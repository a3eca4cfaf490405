"""What a training run prints: the table of parts, its progress, and a summary."""

from __future__ import annotations

import logging
import math
import sys
import time
import warnings
from collections.abc import Mapping
from datetime import timedelta

import pytorch_lightning as pl
from lightning_fabric.utilities.rank_zero import rank_zero_only
from pytorch_lightning.callbacks import ModelCheckpoint, TQDMProgressBar
from torch import Tensor, nn

from ldm.training.protocols import HasWeightsFrom, ShowsTraining, model_parts

# Beginnings of warnings about what is intended here.
INTENDED = (
    ".*does not have many workers",  # configs say how many workers a loader has
    "This DataLoader will create .* worker processes",
    "Found .* in eval mode",  # frozen parts
    "Checkpoint directory .* is not empty",  # a resumed run
    ".*models that have no learning rate schedulers",  # LearningRateMonitor, and users' own models
    "Total length of `list` across ranks is zero",  # a run without validation set
    ".*smaller than the logging interval",  # short epochs
    ".*LeafSpec",  # Lightning's own use of torch
    ".*Grad strides do not match bucket view strides",  # convolutions in channels-last layout
    ".*`broadcast_buffers` is deprecated",  # buffers are the same in all processes, see ldm/training/strategies.py
    ".*sync_dist=True",  # metrics that are averaged over all processes already
    ".*could not find the monitored key",  # a checkpoint before the first validation
    ".*The dirpath has changed from",  # a log folder that was moved
    ".*profiler_start",
    ".*all_gather",
    "You're resuming from a checkpoint that ended before the epoch ended",  # our loaders continue at the right batch
    ".*Be aware that when using `ckpt_path`, callbacks used to create the checkpoint",  # a callback that was taken out
)
# Components of the names of a U-Net's trained parameters -> the adapters that they belong to.
ADAPTERS = {
    "lora_A": "LoRA",
    "lora_B": "LoRA",
    "film": "FiLM",
    "to_k_graph": "attention to graphs beside the text",
    "to_v_graph": "attention to graphs beside the text",
    "box_bias": "box bias",
    "context_local_mlp": "projection of graph tokens",
    "context_global_mlp": "projection of styles",
}
LIBRARY_LOGGERS = ("pytorch_lightning", "lightning_fabric", "lightning.pytorch", "lightning.fabric")


def silence_libraries() -> None:
    """Hides the log messages of Lightning below warnings, and its and torch's warnings about what is intended."""
    for name in LIBRARY_LOGGERS:
        logging.getLogger(name).setLevel(logging.WARNING)
    for pattern in INTENDED:
        warnings.filterwarnings("ignore", pattern)


@rank_zero_only
def print_line(text: str) -> None:
    """Prints in the first of several training processes."""
    print(text, flush=True)


def parts_table(model: nn.Module) -> str:
    """A table of the model's parts: number of parameters, how many are trained, and the file the weights came from."""
    rows = [("part", "parameters", "trained", "weights from")]
    for name, part in {**model_parts(model), "all": model}.items():
        count = sum(p.numel() for p in part.parameters())
        trained = sum(p.numel() for p in part.parameters() if p.requires_grad)
        source = part.weights_from if isinstance(part, HasWeightsFrom) else None
        rows.append(
            (name, f"{count:,}", f"{trained:,}" if trained else "frozen", source or ("" if part is model else "new"))
        )
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return "\n".join(f"{a:{widths[0]}}  {b:>{widths[1]}}  {c:>{widths[2]}}  {d}".rstrip() for a, b, c, d in rows)


def trained_lines(model: nn.Module) -> list[str]:
    """What trains, by kind of adapter, and the memory that it takes; nothing for a model of which nothing trains."""
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    sizes: dict[str, int] = {}
    for name, parameter in named:
        for kind in dict.fromkeys(ADAPTERS[part] for part in name.split(".") if part in ADAPTERS):
            sizes[kind] = sizes.get(kind, 0) + parameter.numel()
    lines = ["adapters: " + ", ".join(f"{kind} {size:,}" for kind, size in sizes.items())] if sizes else []
    count = sum(parameter.numel() for _, parameter in named)
    size = sum(parameter.numel() * parameter.element_size() for _, parameter in named)
    if count:
        lines.append(
            f"{count:,} parameters train: {in_bytes(size)}, with gradients and AdamW's two averages {in_bytes(4 * size)}"
        )
    return lines


def in_bytes(size: int) -> str:
    """Such as '1.5 MB' or '2.1 GB'."""
    return f"{size / 1e9:,.1f} GB" if size >= 1e9 else f"{size / 1e6:,.1f} MB"


def make_progress(refresh_rate: int | None) -> pl.Callback:
    """A progress bar on a terminal, and lines elsewhere.

    Args:
        refresh_rate: interval in batches; by default 1 on a terminal and 100 elsewhere.
    """
    if sys.stdout.isatty():
        return ProgressBar(refresh_rate or 1)
    return ProgressLines(refresh_rate or 100)


def shown_metrics(trainer: pl.Trainer) -> dict[str, Tensor | float]:
    """The metrics that are shown as progress: those of training that the model names, and those logged with `prog_bar`."""
    model = trainer.lightning_module
    names = model.shown_in_training if isinstance(model, ShowsTraining) else ()
    logged = trainer.callback_metrics
    return {**{name: logged[name] for name in names if name in logged}, **trainer.progress_bar_metrics}


class ProgressBar(TQDMProgressBar):
    """Lightning's bar, which reads the metrics at most once a second, since a GPU waits for that."""

    read_at = -math.inf

    def get_metrics(self, trainer, model):
        if time.monotonic() >= self.read_at + 1:
            self.read_at = time.monotonic()
            shown = {name: float(f"{float(value):.3g}") for name, value in shown_metrics(trainer).items()}
            self.metrics = super().get_metrics(trainer, model) | shown
        return self.metrics


class ProgressLines(pl.Callback):
    """Prints a line with the step, the losses and the speed after every `interval` optimizer steps."""

    def __init__(self, interval: int = 100):
        self.interval = interval

    def on_train_start(self, trainer, model):
        self.first_step = self.printed_step = trainer.global_step
        self.started = time.monotonic()

    def on_train_batch_end(self, trainer, model, outputs, batch, batch_idx):
        step = trainer.global_step
        if step >= self.printed_step + self.interval:
            self.printed_step = step
            pace = (step - self.first_step) / (time.monotonic() - self.started)
            total = f" of {trainer.max_steps}" if trainer.max_steps > 0 else f", epoch {trainer.current_epoch}"
            print_line(f"step {step}{total}: {describe_metrics(shown_metrics(trainer))}, {pace:.2f} steps/s")


class Summary(pl.Callback):
    """Prints how long the run took, its final losses and its checkpoints when it ends."""

    def __init__(self):
        self.first_step: int | None = None  # None until training starts
        self.started = time.monotonic()

    def on_train_start(self, trainer, model):
        self.first_step, self.started = trainer.global_step, time.monotonic()

    def lines(self, trainer: pl.Trainer, last_checkpoint: str) -> list[str]:
        """The summary.

        Args:
            last_checkpoint: path of the newest state, for the message.
        """
        if self.first_step is None or trainer.global_step == self.first_step:
            return [
                f"nothing left to train: the run ended at step {trainer.global_step} (epoch {trainer.current_epoch}); to "
                "train longer, give a larger --max_steps or --max_epochs"
            ]
        seconds = timedelta(seconds=round(time.monotonic() - self.started))
        count = trainer.global_step - self.first_step
        metrics = shown_metrics(trainer) or trainer.callback_metrics
        losses = {name: value for name, value in metrics.items() if "loss" in name}
        lines = [
            f"trained to step {trainer.global_step} ({count} steps in {seconds})",
            f"final losses: {describe_metrics(losses)}",
            f"last checkpoint: {last_checkpoint}",
        ]
        best = trainer.checkpoint_callback
        if isinstance(best, ModelCheckpoint) and best.monitor and best.best_model_path:
            lines.append(f"best checkpoint: {best.best_model_path} ({best.monitor} {float(best.best_model_score):.4g})")
        return lines


def describe_metrics(metrics: Mapping[str, Tensor | float]) -> str:
    """Such as 'train/loss 0.125, val/loss 0.113'."""
    return ", ".join(f"{name} {float(value):.4g}" for name, value in metrics.items()) or "none logged"
