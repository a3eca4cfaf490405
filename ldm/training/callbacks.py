"""Lightning callbacks: a seed for every step, checks that stop a broken run, and logged images."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import TensorBoardLogger
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torchvision.utils import make_grid, save_image

from ldm.graph.batch import Batch, decode
from ldm.graph.vocab import Vocab
from ldm.plots import draw_boxes, draw_graph, grid
from ldm.training.protocols import HasVocab, HasWaitingParts, LogsImages, model_parts
from ldm.util.errors import ConfigError
from ldm.util.images import to_image, to_tensor

FROZEN_CHANGED = "changed during training; look for in-place updates and for layers left in training mode"
FROZEN_DIFFERS = "differ from those that this run was trained with; resume it with the same files"


class TrainingStopped(RuntimeError):
    """Training cannot continue usefully; the message says why and what to do."""


class StepSeed(pl.Callback):
    """Seeds torch, numpy and random before every batch.

    In training the seed depends on (seed, step, batch, process) only, so a resumed run draws the same numbers as an
    uninterrupted one. In validation it is the same in every epoch, so that losses are comparable.
    """

    def __init__(self, seed: int):
        self.seed = seed

    def on_train_batch_start(self, trainer, model, batch, batch_idx):
        # The batch index too, since accumulated batches share a step.
        self._seed_all(0, trainer.global_step, batch_idx, trainer.global_rank)

    def on_validation_batch_start(self, trainer, model, batch, batch_idx, dataloader_idx=0):
        self._seed_all(1, dataloader_idx, batch_idx, trainer.global_rank)

    def _seed_all(self, *key: int):
        words = np.random.SeedSequence(self.seed, spawn_key=key).generate_state(2, np.uint64)
        torch.manual_seed(int(words[0] >> 1))
        np.random.seed(int(words[1] >> 32))
        random.seed(int(words[1]))


class Arriving:
    """A number on its way from a device, which goes on working meanwhile.

    To read a number of a GPU is to wait for all that it was told to do. This copies it at once, so that `value` waits only for
    what came before.
    """

    def __init__(self, number: Tensor):
        self.copy = number.to("cpu", non_blocking=True)
        self.arrived = torch.cuda.Event() if number.is_cuda else None
        if self.arrived is not None:
            self.arrived.record(torch.cuda.current_stream(number.device))

    def value(self) -> float:
        if self.arrived is not None:
            self.arrived.synchronize()
        return self.copy.item()


class Checks(pl.Callback):
    """Stops the run, with TrainingStopped, if

    - the loss is NaN or infinite, before it reaches a weight;
    - a trainable parameter has no gradient at step 2;
    - the gradient of a trainable part is zero in each of the first `patience` steps (a layer behind one that begins at
      zero gets its first gradient a step later), unless the model says that its training starts later;
    - a frozen part has changed. This is checked before every checkpoint, at the end, and when a run is resumed.
    """

    def __init__(self, patience: int = 6):
        self.patience = patience
        self.checksums: dict[str, int] = {}

    def state_dict(self) -> dict:
        return {"checksums": self.checksums}

    def load_state_dict(self, state: dict):
        self.checksums = state["checksums"]

    def on_train_start(self, trainer, model):
        self.steps, self.losses = 0, []
        self.without_gradient = {name: p for name, p in model.named_parameters() if p.requires_grad}
        waiting = model.waiting_parts() if isinstance(model, HasWaitingParts) else ()
        checked = {name: part for name, part in model_parts(model).items() if name not in waiting}
        self.zero_gradient = {name: part for name, part in checked.items() if _is_trainable(part)}
        self._refuse_changed(model, FROZEN_DIFFERS)
        self.checksums = dict(frozen_checksums(model))

    def on_before_backward(self, trainer, model, loss):
        self.losses.append(Arriving(loss.detach()))

    def on_before_optimizer_step(self, trainer, model, optimizer):
        self._refuse_infinite(trainer)
        self.steps += 1
        self.without_gradient = {name: p for name, p in self.without_gradient.items() if p.grad is None}
        if self.without_gradient and self.steps >= 2:
            raise TrainingStopped(
                f"{_first_of(self.without_gradient)}: trainable, but without a gradient after {self.steps} steps, so "
                "the loss does not depend on it; connect it or freeze it"
            )
        self.zero_gradient = {name: part for name, part in self.zero_gradient.items() if not _has_gradient(part)}
        if self.zero_gradient and self.steps >= self.patience:
            raise TrainingStopped(
                f"{_first_of(self.zero_gradient)}: trainable, but its gradient was zero for {self.steps} steps; look "
                "for a factor between it and the loss that stays zero"
            )

    def on_save_checkpoint(self, trainer, model, checkpoint):
        self._refuse_changed(model, FROZEN_CHANGED)

    def on_train_end(self, trainer, model):
        self._refuse_changed(model, FROZEN_CHANGED)

    def _refuse_infinite(self, trainer):
        losses, self.losses = [loss.value() for loss in self.losses], []
        finite = all(map(math.isfinite, losses))
        if trainer.world_size > 1:  # All stop, or the others would wait; gradients have just been synchronised anyway.
            finite = trainer.strategy.reduce_boolean_decision(finite, all=True)
        if not finite:
            loss = next((loss for loss in losses if not math.isfinite(loss)), "not finite in another process")
            raise TrainingStopped(
                f"the loss is {loss} at step {trainer.global_step} (epoch {trainer.current_epoch}), and no weight was "
                "changed by it; resume from the last checkpoint with a lower model.base_learning_rate, gradient clipping "
                "(lightning.trainer.gradient_clip_val=1.0) or --precision 32"
            )

    def _refuse_changed(self, model, problem: str):
        changed = [name for name, value in frozen_checksums(model) if self.checksums.get(name, value) != value]
        if changed:
            raise TrainingStopped(f"{_first_of(changed)}: frozen, but its weights or buffers {problem}")


class ImageLogger(pl.Callback):
    """Logs the images that model.log_images(batch, n=max_images) returns, {name: (n,3,H,W) in [-1,1]}, as grids.

    They are written to images/train/ and images/val/ in the log folder and to TensorBoard: every `batch_frequency` steps,
    and from the first validation after that. A batch of graphs adds a grid of its graphs and boxes.

    Args:
        batch_frequency: interval in optimizer steps.
        max_images: number of images per grid.
        clamp: clamp values to [-1,1].
        increase_log_steps: also log at the steps 1, 2, 4, 8, ... below `batch_frequency`.
        rescale: map [-1,1], instead of [0,1], to black and white.
        disabled: log nothing.
        log_images_kwargs: keyword arguments of model.log_images.
    """

    def __init__(
        self,
        batch_frequency: int = 750,
        max_images: int = 4,
        clamp: bool = True,
        increase_log_steps: bool = True,
        rescale: bool = True,
        disabled: bool = False,
        log_images_kwargs: dict | None = None,
    ):
        if batch_frequency < 1:
            raise ConfigError(f"image_logger: batch_frequency is {batch_frequency}; give a number of steps, at least 1")
        self.batch_frequency, self.max_images = batch_frequency, 0 if disabled else max_images
        self.clamp, self.increase_log_steps, self.rescale = clamp, increase_log_steps, rescale
        self.log_images_kwargs = log_images_kwargs or {}
        self.logged_step = 0
        self.validation_is_due = True

    def on_train_batch_end(self, trainer, model, outputs, batch, batch_idx):
        step = trainer.global_step
        if step != self.logged_step and self._is_due(step):
            self.logged_step, self.validation_is_due = step, True
            self._log(trainer, model, batch, batch_idx, "train")

    def on_validation_batch_end(self, trainer, model, outputs, batch, batch_idx, dataloader_idx=0):
        if self.validation_is_due and not trainer.sanity_checking:
            self.validation_is_due = False
            self._log(trainer, model, batch, batch_idx, "val")

    def _is_due(self, step: int) -> bool:
        early = self.increase_log_steps and step < self.batch_frequency and step & (step - 1) == 0
        return step > 0 and (early or step % self.batch_frequency == 0)

    def _log(self, trainer, model, batch, batch_idx: int, split: str):
        if not (self.max_images and isinstance(model, LogsImages)):
            return
        images = self._images(trainer, model, batch)
        if not trainer.is_global_zero:  # It has sampled too, since sharded weights need every process.
            return
        step, epoch = trainer.global_step, trainer.current_epoch
        folder = Path(trainer.default_root_dir, "images", split)
        folder.mkdir(parents=True, exist_ok=True)
        grids = {name: self._grid(batch_of_images) for name, batch_of_images in images.items()}
        if isinstance(batch, Batch) and isinstance(model, HasVocab) and model.vocab:
            described = images["reconstructions"] if batch.image is None else batch.image
            grids["graphs"] = self._graphs(described, batch, model.vocab)
        for name, image in grids.items():
            save_image(image, folder / f"{name}_gs-{step:06}_e-{epoch:06}_b-{batch_idx:06}.png")
            for logger in trainer.loggers:
                if isinstance(logger, TensorBoardLogger):
                    logger.experiment.add_image(f"{split}/{name}", image, step)

    def _images(self, trainer, model, batch) -> dict[str, Tensor]:
        """Calls model.log_images in evaluation mode, always with the same noise, and restores modes and random state."""
        training = {module: module.training for module in model.modules()}
        model.eval()
        cuda = [model.device] if model.device.type == "cuda" else []
        with torch.random.fork_rng(cuda), trainer.precision_plugin.val_step_context(), torch.no_grad():
            torch.manual_seed(0)
            images = model.log_images(batch, n=self.max_images, **self.log_images_kwargs)
        for module, mode in training.items():
            module.training = mode
        return images

    def _graphs(self, images: Tensor, batch: Batch, vocab: Vocab) -> Tensor:  # (n,3,H,W) -> (3,H',W') in [0,1]
        """Images with their boxes, each beside its graph."""
        pairs = zip(images[: self.max_images], decode(batch.graph, vocab))
        drawn = [plot for image, graph in pairs for plot in (draw_boxes(to_image(image), graph), draw_graph(graph))]
        return (to_tensor(grid(drawn, columns=4)) + 1) / 2

    def _grid(self, images: Tensor) -> Tensor:  # (n,3,H,W) in [-1,1] -> (3,H',W') in [0,1]
        images = images[: self.max_images].detach().float().cpu()
        if self.clamp:
            images = images.clamp(-1, 1)
        return make_grid((images + 1) / 2 if self.rescale else images, nrow=4).clamp(0, 1)


def frozen_checksums(model: nn.Module) -> Iterator[tuple[str, int]]:
    """Yields (name, checksum) of each part with frozen weights; the checksum changes with any bit of these weights.

    The buffers of an entirely frozen part count too. Weights in half precision have it in their name, since their
    checksum is not comparable to that of the same weights in float32.
    """
    for name, part in model_parts(model).items():
        frozen: list[Tensor] = [p for p in part.parameters() if not p.requires_grad]
        if frozen:
            if len(frozen) == len(list(part.parameters())):
                frozen += part.buffers()
            half = {str(tensor.dtype).removeprefix("torch.") for tensor in frozen} & {"bfloat16", "float16"}
            yield " in ".join((name, *half)), sum(_checksum(tensor) for tensor in frozen)


def _checksum(tensor: Any) -> int:
    if isinstance(tensor, DTensor):  # sharded
        tensor = tensor.full_tensor()
    bits = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()]
    return int(tensor.detach().contiguous().view(bits).sum(dtype=torch.int64))


def _is_trainable(part: nn.Module) -> bool:
    return any(p.requires_grad for p in part.parameters())


def _has_gradient(part: nn.Module) -> bool:
    return any(p.grad is not None and bool(p.grad.any()) for p in part.parameters())


def _first_of(names: Iterable[str]) -> str:
    first, *rest = names
    return f"{first} and {len(rest)} more" if rest else first
