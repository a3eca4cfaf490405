"""Checkpoints of a run: written atomically, after every epoch and when a signal ends the run."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins import TorchCheckpointIO
from lightning_fabric.utilities.rank_zero import rank_zero_only
from pytorch_lightning.callbacks import Checkpoint

from ldm.util.errors import UserError
from ldm.util.files import atomic_write, remove_leftovers

SAVE_AND_END = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
SAVE_AND_CONTINUE = (signal.SIGUSR2,)


class Interrupted(Exception):
    """A signal ended the run after its current step.

    Attributes:
        signum: the signal.
        checkpoint: where the state was saved.
    """

    def __init__(self, signum: int, step: int, checkpoint: str | Path):
        super().__init__(f"{signal.Signals(signum).name} after step {step}; to continue: --resume {checkpoint}")
        self.signum, self.checkpoint = signum, checkpoint


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint to a temporary file beside its place, syncs it to disk, and renames it.

    After a kill, or on a full disk, the previous file of that name is as it was. (Lightning's own writer assembles the
    file in $TMPDIR; from another file system it is then copied over the previous one.)

    Args:
        folder: the folder outside of which no checkpoint is removed. ModelCheckpoint takes the paths of outdated
            checkpoints from the checkpoint that a run is resumed from.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        path = Path(path)
        try:
            with atomic_write(path) as temporary, temporary.open("wb") as file:
                torch.save(checkpoint, file)
            _sync_folder(path.parent)
        except (OSError, RuntimeError) as error:  # torch reports a full disk as a RuntimeError
            reason = _write_error(error)
            raise UserError(
                f"{path}: the checkpoint could not be written ({reason}), earlier ones are intact; free disk space or "
                "mend the folder, then continue with --resume"
            ) from error

    def remove_checkpoint(self, path: Any) -> None:
        resolved = Path(path).resolve()
        if resolved.is_relative_to(self.folder.resolve()) and resolved.is_file():
            resolved.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Makes a rename in the folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_error(error: BaseException) -> str:
    """The operating system's reason, which torch may hide in the context of its own error."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        cause = cause.__cause__ or cause.__context__
    return str(error).splitlines()[0]


class LastCheckpoint(Checkpoint):
    """Saves the newest state to `path` after each epoch and when a signal asks for it.

    (ModelCheckpoint's save_last saves only when the monitored value is among the best.) SIGINT (Ctrl-C), SIGTERM and
    SIGUSR1 save after the current step and end the run; a second one of the first two ends it at once. SIGUSR2 saves and
    continues. Under SLURM's automatic requeueing, SIGTERM and SIGUSR1 are left to Lightning.
    """

    def __init__(self, path: str | Path):
        self.path = path
        self.received = 0
        self.previous_handlers: dict[int, Any] = {}

    def setup(self, trainer, model, stage):
        if trainer.is_global_zero and Path(self.path).parent.is_dir():
            remove_leftovers(Path(self.path).parent)

    def on_sanity_check_start(self, trainer, model):
        self._install_handlers()

    def on_train_start(self, trainer, model):
        self._install_handlers()

    def _install_handlers(self):
        if self.previous_handlers:
            return
        requeueing = signal.getsignal(signal.SIGUSR1) not in (signal.SIG_DFL, signal.SIG_IGN)  # Lightning's handler
        for signum in (*SAVE_AND_END, *SAVE_AND_CONTINUE):
            if not (requeueing and signum in (signal.SIGTERM, signal.SIGUSR1)):
                self.previous_handlers[signum] = signal.signal(signum, self._note)

    def _note(self, signum, frame):
        self.received = signum
        if signum in SAVE_AND_END:
            name = signal.Signals(signum).name
            if rank_zero_only.rank == 0:  # os.write, since print() must not be entered twice
                os.write(2, f"\n{name}: stopping after this step; send it again to stop at once\n".encode())
            self._restore_handlers()

    def on_train_epoch_end(self, trainer, model):
        if not trainer.fast_dev_run:
            trainer.save_checkpoint(self.path)

    def on_train_batch_end(self, trainer, model, outputs, batch, batch_idx):
        # not while gradients are being accumulated
        if trainer.is_last_batch or (batch_idx + 1) % trainer.accumulate_grad_batches == 0:
            self._handle_signal(trainer)

    def on_validation_batch_end(self, trainer, *_):
        if not trainer.sanity_checking:
            self._handle_signal(trainer)

    def _handle_signal(self, trainer):
        signum = self.received
        if trainer.world_size > 1:  # Processes receive it at different times, and have to stop at the same step.
            received = torch.tensor(signum, device=trainer.strategy.root_device)
            signum = int(trainer.strategy.reduce(received, reduce_op="max"))
        if signum:
            self.received = 0
            trainer.save_checkpoint(self.path)
            if signum in SAVE_AND_END:
                raise Interrupted(signum, trainer.global_step, self.path)

    def on_train_end(self, trainer, model):
        self._restore_handlers()

    def on_exception(self, trainer, model, exception):
        self._restore_handlers()

    def _restore_handlers(self):
        for signum, handler in self.previous_handlers.items():
            signal.signal(signum, handler)
        self.previous_handlers = {}
