"""What watches a training run: seeds for each step, pictures, checks that stop it, and a clean end on a signal."""

from __future__ import annotations

import math
import os
import random
import signal
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torchvision.utils import make_grid, save_image

from ldm.graph.batch import Batch, decode
from ldm.graph.vocab import Vocab
from ldm.plots import draw_boxes, draw_graph, grid
from ldm.util.images import to_image, to_tensor


class TrainingStopped(RuntimeError):
    """Training cannot usefully go on; the message says why and what to do."""


class Interrupted(Exception):
    """The user, or the machine, asked for an end; the state is in `checkpoint`."""

    def __init__(self, signum: int, step: int, checkpoint: str | Path):
        super().__init__(f"{signal.Signals(signum).name} after step {step}; to go on: --resume {checkpoint}")
        self.signum = signum


class StepSeed(pl.Callback):
    """Random numbers of a training step depend on (seed, step, process) alone, so a resumed run draws what the
    uninterrupted one would; those of validation are the same in every epoch, so that its losses compare."""

    def __init__(self, seed: int):
        self.seed = seed

    def on_train_batch_start(self, trainer, model, batch, batch_idx):
        # batch_idx too: accumulated batches share a step
        self._set(0, trainer.global_step, batch_idx, trainer.global_rank)

    def on_validation_batch_start(self, trainer, model, batch, batch_idx, dataloader_idx=0):
        self._set(1, dataloader_idx, batch_idx, trainer.global_rank)

    def _set(self, *key: int):
        words = np.random.SeedSequence(self.seed, spawn_key=key).generate_state(2, np.uint64)
        torch.manual_seed(int(words[0] >> 1))
        np.random.seed(int(words[1] >> 32))
        random.seed(int(words[1]))


class Checks(pl.Callback):
    """Stops, with TrainingStopped, on what would otherwise be found out after days.

    - a loss that is NaN or infinite, before it reaches a weight
    - a trainable parameter that no gradient has reached by step 2
    - a trainable part whose gradient is all zeros until step `patience`, which leaves time for layers that begin at
      zero: what is behind one gets its first number a step later
    - a frozen part that changed: looked at before each checkpoint, at the end, and between a run and its resumption
    """

    def __init__(self, patience: int = 6):
        self.patience = patience
        self.checksums = {}

    def state_dict(self) -> dict:
        return {"checksums": self.checksums}

    def load_state_dict(self, state: dict):
        self.checksums = state["checksums"]

    def on_train_start(self, trainer, model):
        self.steps, self.losses = 0, []
        self.unreached = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.only_zeros = {name: part for name, part in parts(model).items() if _is_trainable(part)}
        self._refuse_changed(model, "are not those that this run was trained with; give it the same files")
        self.checksums = dict(frozen_checksums(model))

    def on_before_backward(self, trainer, model, loss):
        self.losses.append(loss.detach())  # to look at it now would make a GPU wait

    def on_before_optimizer_step(self, trainer, model, optimizer):
        self._refuse_infinite(trainer)
        self.steps += 1
        self.unreached = {name: p for name, p in self.unreached.items() if p.grad is None}
        if self.unreached and self.steps >= 2:
            raise TrainingStopped(
                f"{_names(self.unreached)}: trainable, but without a gradient after {self.steps} steps, so nothing in "
                "the loss depends on it; connect it or freeze it"
            )
        self.only_zeros = {name: part for name, part in self.only_zeros.items() if not _has_gradient(part)}
        if self.only_zeros and self.steps >= self.patience:
            raise TrainingStopped(
                f"{_names(self.only_zeros)}: trainable, but its gradient was zero for {self.steps} steps; something "
                "between it and the loss is zero and stays so"
            )

    def on_save_checkpoint(self, trainer, model, checkpoint):
        self._refuse_changed(model)

    def on_train_end(self, trainer, model):
        self._refuse_changed(model)

    def _refuse_infinite(self, trainer):
        losses, self.losses = torch.stack(self.losses).tolist(), []
        finite = all(map(math.isfinite, losses))
        if trainer.world_size > 1:  # all stop, or others would wait; here, where the gradients' sum has just joined them
            finite = trainer.strategy.reduce_boolean_decision(finite, all=True)
        if not finite:
            loss = next((loss for loss in losses if not math.isfinite(loss)), "not finite in another process")
            raise TrainingStopped(
                f"the loss is {loss} at step {trainer.global_step} (epoch {trainer.current_epoch}); no weight "
                "has seen it. Go on from the last checkpoint with a lower model.base_learning_rate, gradient clipping "
                "(lightning.trainer.gradient_clip_val=1.0) or --precision 32"
            )

    def _refuse_changed(
        self, model, how="changed during training; look for in-place updates and for layers left in training mode"
    ):
        now = frozen_checksums(model)
        changed = [name for name, checksum in now if self.checksums.get(name, checksum) != checksum]
        if changed:
            raise TrainingStopped(f"{_names(changed)}: frozen, but its weights or buffers {how}")


class LastCheckpoint(pl.callbacks.Checkpoint):
    """Keeps the run's newest state at `path`: after each epoch, and when a signal asks for it.

    (ModelCheckpoint's save_last writes only when the monitored value is among the best.) Ctrl-C or SIGTERM end the run
    after the step at hand, SIGUSR1 goes on, a second Ctrl-C ends it at once. Under SLURM's requeueing, SIGTERM and
    SIGUSR1 are left to Lightning.
    """

    def __init__(self, path: str | Path):
        self.path = path
        self.received = 0
        self.previous = {}

    def on_train_start(self, trainer, model):
        requeueing = signal.getsignal(signal.SIGUSR1) is not signal.SIG_DFL
        for signum in [signal.SIGINT] if requeueing else [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1]:
            self.previous[signum] = signal.signal(signum, self._note)

    def _note(self, signum, frame):
        self.received = signum
        if signum != signal.SIGUSR1:
            name = signal.Signals(signum).name
            # not print(), which must not be entered twice
            os.write(2, f"\n{name}: stopping after this step; once more to stop at once\n".encode())
            self._restore()

    def on_train_epoch_end(self, trainer, model):
        if not trainer.fast_dev_run:
            trainer.save_checkpoint(self.path)

    def on_train_batch_end(self, trainer, model, outputs, batch, batch_idx):
        # not while gradients are half summed
        if trainer.is_last_batch or (batch_idx + 1) % trainer.accumulate_grad_batches == 0:
            self._act(trainer)

    def on_validation_batch_end(self, trainer, *_):
        if not trainer.sanity_checking:
            self._act(trainer)

    def _act(self, trainer):
        signum = self.received
        if trainer.world_size > 1:  # processes hear of it at different times and have to stop at the same step
            received = torch.tensor(signum, device=trainer.strategy.root_device)
            signum = int(trainer.strategy.reduce(received, reduce_op="max"))
        if signum:
            self.received = 0
            trainer.save_checkpoint(self.path)
            if signum != signal.SIGUSR1:
                raise Interrupted(signum, trainer.global_step, self.path)

    def on_train_end(self, trainer, model):
        self._restore()

    def on_exception(self, trainer, model, exception):
        self._restore()

    def _restore(self):
        for signum, handler in self.previous.items():
            signal.signal(signum, handler)
        self.previous = {}


class ImageLogger(pl.Callback):
    """Pictures of model.log_images(batch, n=max_images) -> {name: (n,3,H,W) in [-1,1]}, one grid to a name.

    They go to <log folder>/images/{train,val}/ and to TensorBoard every `batch_frequency` steps, with
    increase_log_steps also at the steps 1, 2, 4, 8, ... before the first of those, and at the first validation after
    that; with them, where the batch has graphs, these and their boxes. clamp: cut values to [-1,1]. rescale: show [-1,1] as black to white instead of [0,1].
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
        if not (self.max_images and hasattr(model, "log_images")):
            return
        training = {module: module.training for module in model.modules()}
        model.eval()
        cuda = [model.device] if model.device.type == "cuda" else []
        with torch.random.fork_rng(cuda), trainer.precision_plugin.val_step_context(), torch.no_grad():
            torch.manual_seed(0)  # the same noise each time, so that pictures show the weights' progress alone
            images = model.log_images(batch, n=self.max_images, **self.log_images_kwargs)
        for module, mode in training.items():
            module.training = mode
        if not trainer.is_global_zero:  # it has sampled, as what is in shards takes every process
            return

        step, epoch = trainer.global_step, trainer.current_epoch
        folder = Path(trainer.default_root_dir, "images", split)
        folder.mkdir(parents=True, exist_ok=True)
        grids = {name: self._grid(pictures) for name, pictures in images.items()}
        if isinstance(batch, Batch) and getattr(model, "vocab", None):
            shown = images["reconstructions"] if batch.image is None else batch.image
            grids["graphs"] = self._graphs(shown, batch, model.vocab)
        for name, sheet in grids.items():
            save_image(sheet, folder / f"{name}_gs-{step:06}_e-{epoch:06}_b-{batch_idx:06}.png")
            for logger in trainer.loggers:
                if isinstance(logger, pl.loggers.TensorBoardLogger):
                    logger.experiment.add_image(f"{split}/{name}", sheet, step)

    def _graphs(self, shown: Tensor, batch: Batch, vocab: Vocab) -> Tensor:  # (n,3,H,W) -> (3,H',W') in [0,1]
        """Each image with its boxes drawn, beside its graph."""
        pairs = zip(shown[: self.max_images], decode(batch.graph, vocab))
        drawn = [picture for image, graph in pairs for picture in (draw_boxes(to_image(image), graph), draw_graph(graph))]
        return (to_tensor(grid(drawn, columns=4)) + 1) / 2

    def _grid(self, pictures: Tensor) -> Tensor:  # (n,3,H,W) in [-1,1] -> (3,H',W') in [0,1]
        pictures = pictures[: self.max_images].detach().float().cpu()
        if self.clamp:
            pictures = pictures.clamp(-1, 1)
        return make_grid((pictures + 1) / 2 if self.rescale else pictures, nrow=4).clamp(0, 1)


def parts(model: nn.Module) -> dict[str, nn.Module]:
    """What the model calls its parts, or else its children."""
    return model.parts() if hasattr(model, "parts") else dict(model.named_children())


def frozen_checksums(model: nn.Module) -> Iterator[tuple[str, int]]:
    """Of each part that has frozen weights, a number that changes with any bit of them; of a part that is frozen
    throughout, its buffers count too. The name of one that is held in another precision says so: it does not compare."""
    for name, part in parts(model).items():
        frozen = [p for p in part.parameters() if not p.requires_grad]
        if frozen:
            if len(frozen) == len(list(part.parameters())):
                frozen += part.buffers()
            half = {str(tensor.dtype).removeprefix("torch.") for tensor in frozen} & {"bfloat16", "float16"}
            yield " in ".join((name, *half)), sum(_checksum(tensor) for tensor in frozen)


def _checksum(tensor: Tensor) -> int:
    if isinstance(tensor, DTensor):  # in shards
        tensor = tensor.full_tensor()
    bits = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()]
    return int(tensor.detach().contiguous().view(bits).sum(dtype=torch.int64))


def _is_trainable(part: nn.Module) -> bool:
    return any(p.requires_grad for p in part.parameters())


def _has_gradient(part: nn.Module) -> bool:
    return any(p.grad is not None and bool(p.grad.any()) for p in part.parameters())


def _names(names: Iterable[str]) -> str:
    first, *rest = names
    return f"{first} and {len(rest)} more" if rest else first
