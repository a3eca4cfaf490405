"""The log folder of a run: its name, the checkpoint to resume, and the config that it keeps."""

from __future__ import annotations

import shutil
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

import pytorch_lightning as pl
import torch
from lightning_fabric.utilities.rank_zero import rank_zero_only
from omegaconf import DictConfig, OmegaConf

from ldm.util.config import plain
from ldm.util.errors import UserError
from ldm.util.files import atomic_write, writable_folder

TIME_FORMAT = "%Y-%m-%dT%H-%M-%S"
# What Lightning needs to resume, besides callbacks and schedulers.
RESUMABLE = {
    "state_dict": dict,
    "optimizer_states": list,
    "loops": dict,
    "epoch": int,
    "global_step": int,
    "pytorch-lightning_version": str,
}


def find_checkpoint(resume: str) -> Path:
    """The checkpoint that --resume selects.

    Args:
        resume: a log folder, or a checkpoint in its subfolder checkpoints/.

    Raises:
        UserError: there is none, it is damaged, or it lacks the state that training needs to continue.
    """
    path = Path(resume)
    try:
        checkpoint = path / "checkpoints" / "last.ckpt" if path.is_dir() else path
        if not checkpoint.is_file():
            raise UserError(f"--resume {resume}: there is no {checkpoint}; name a log folder, or a checkpoint in one")
        checkpoint = checkpoint.resolve()
    except (OSError, ValueError) as error:  # a name that no file can have
        raise UserError(f"--resume {resume!r}: cannot be read ({error}); name a log folder") from error
    _require_resumable(checkpoint, resume)
    if checkpoint.parent.name != "checkpoints":
        raise UserError(
            f"--resume {resume}: lies in no log folder's checkpoints/; resume from one that does, or start a new run with "
            f"these weights: --actual_resume {resume}"
        )
    return checkpoint


def _require_resumable(checkpoint: Path, resume: str) -> None:
    start_anew = f"to start a new run with its weights: --actual_resume {resume}"
    try:
        saved = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # a damaged file can raise any exception
        if checkpoint.suffix == ".safetensors":
            raise UserError(f"--resume {resume}: holds weights only, no state of a training; {start_anew}") from error
        raise UserError(
            f"--resume {checkpoint}: damaged, or not a checkpoint of trainer.py; name another one in checkpoints/"
        ) from error
    for key, kind in RESUMABLE.items():
        if not (isinstance(saved, Mapping) and isinstance(saved.get(key), kind)):
            raise UserError(f"--resume {resume}: has no {key!r}, so it is no checkpoint of trainer.py; {start_anew}")


def folder_name(arguments: Namespace) -> str:
    """<time>_<name><postfix>, where the name is by default the first config's."""
    name = arguments.name or Path(arguments.base[0]).stem
    return f"{datetime.now():{TIME_FORMAT}}_{name}{arguments.postfix}"


def new_log_folder(logdir: str, name: str) -> Path:
    """Makes a log folder that no other run has: `name` in `logdir`, or with a suffix -2, -3, ...

    Raises:
        UserError: the folder cannot be made.
    """
    writable_folder(logdir, "--logdir")
    for suffix in ("", *(f"-{number}" for number in range(2, 1000))):
        folder = Path(logdir, name + suffix)
        try:
            folder.mkdir(parents=True)  # fails if it exists, so that one process gets each name
            return folder
        except FileExistsError:
            continue
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise UserError(f"--logdir {folder}: cannot be made ({reason}); name another folder") from error
    raise UserError(f"--logdir {logdir}: has a thousand folders {name}; choose another --name")


@contextmanager
def removed_if_unused(folder: Path, is_used: Callable[[], bool] = lambda: False) -> Iterator[None]:
    """Removes what the block has added to a log folder, and then the folder if it is empty, when an exception ends the block.

    Checkpoints stay.

    Args:
        is_used: whether a training has begun, so that everything is kept.
    """
    before = set(folder.glob("*"))
    try:
        yield
    except BaseException:
        if rank_zero_only.rank == 0 and not is_used():
            for added in set(folder.glob("*")) - before:
                if not any(added.rglob("*.ckpt")):
                    shutil.rmtree(added, ignore_errors=True)
            with suppress(OSError):
                folder.rmdir()
        raise


class ConfigSaver(pl.Callback):
    """Saves the config once the checkpoint is loaded: one that does not fit the checkpoint must not be kept.

    Attributes:
        training_began: whether that was.
    """

    def __init__(self, config: DictConfig, folder: Path):
        self.config, self.folder, self.training_began = config, folder, False

    def on_train_start(self, trainer, model):
        self.training_began = True
        save_config(self.config, self.folder)


@rank_zero_only
def save_config(config: DictConfig, folder: Path) -> None:
    """Writes the config to configs/<time>-project.yaml and configs/<time>-lightning.yaml, all interpolations resolved."""
    values = plain(config)
    for name, sections in (("project", ("model", "data")), ("lightning", ("lightning",))):
        content = OmegaConf.create({section: values[section] for section in sections if section in values})
        with atomic_write(folder / "configs" / f"{datetime.now():{TIME_FORMAT}}-{name}.yaml") as temporary:
            OmegaConf.save(content, temporary)
