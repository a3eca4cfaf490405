"""A training run: builds data, model and Lightning's Trainer from a config, trains, and prints a summary."""

from __future__ import annotations

import signal
import sys
import time
import traceback
from argparse import Namespace
from pathlib import Path

import pytorch_lightning as pl
from lightning_fabric.utilities.rank_zero import rank_zero_only
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.utilities.model_helpers import is_overridden

from ldm.data.datamodule import DataModuleFromConfig
from ldm.graph.vocab import Vocab
from ldm.models.runtime import (
    keep_freed_memory,
    prepare_encoders_for_training,
    prepare_for_training,
    warn_of_slow_half_precision,
)
from ldm.modules.diffusionmodules.openaimodel import UNetModel
from ldm.training import failures
from ldm.training.callbacks import TrainingStopped
from ldm.training.checkpointing import Interrupted
from ldm.training.config import read_training_config
from ldm.training.log_folder import ConfigSaver, find_checkpoint, folder_name, new_log_folder, removed_if_unused
from ldm.training.progress import Summary, parts_table, print_line, silence_libraries, trained_lines
from ldm.training.protocols import HasVocab, dataset_splits
from ldm.training.strategies import Sharded, refuse_to_shard
from ldm.training.trainer_factory import make_trainer
from ldm.training.weights import load_initial_weights
from ldm.util.config import instantiate_from_config, plain
from ldm.util.errors import ConfigError, UserError
from ldm.util.files import writable_folder
from ldm.util.processes import launching

WAIT_FOR_REPORT = 10  # seconds in which the first process ends if it has failed too


def run(arguments: Namespace, overrides: list[str]) -> int:
    """Runs what trainer.py's flags and overrides describe.

    Returns:
        The exit code: 0, 1 for a run that had to stop, 128 + n for one that signal n ended.

    Raises:
        UserError: a flag, a config or a file is wrong.
    """
    silence_libraries()
    try:
        return _run(arguments, overrides)
    except TrainingStopped as stop:
        _let_first_process_report()
        return _report(f"{stop}", 1)
    except Interrupted as stop:
        # The other processes exit with 0, or Lightning would kill this one for their sake.
        return _report(f"{stop}", 128 + stop.signum) if is_first_process() else 0
    except SystemExit:  # Lightning's, for a signal between two steps: a second Ctrl-C, or SIGTERM before the first step
        return _report("stopped at once", 128 + signal.SIGINT)
    except UserError:
        _let_first_process_report()
        if arguments.debug:
            traceback.print_exc()
        raise


def _run(arguments: Namespace, overrides: list[str]) -> int:
    if not arguments.resume and not arguments.base:
        raise UserError("nothing to train: name a config, such as --base configs/vg.yaml")
    if arguments.resume and (arguments.name or arguments.postfix):
        raise UserError("--name, --postfix and --resume do not go together: a resumed run stays in its log folder")
    if arguments.resume and arguments.actual_resume:
        raise UserError("--resume continues a run, --actual_resume starts one with given weights; choose one of them")
    checkpoint = find_checkpoint(arguments.resume) if arguments.resume else None
    resumed = checkpoint.parent.parent if checkpoint else None
    config = read_training_config(arguments, overrides, resumed)
    pl.seed_everything(config.lightning.seed, verbose=False)
    with failures.of_setup():
        data = instantiate_from_config(config.data)
        if OmegaConf.select(config, "data.params.seed") is None:
            data.seed = config.lightning.seed
        data.setup("check" if arguments.check else None)
        if arguments.check:
            from ldm.data import doctor

            return doctor.examine(data.datasets)
        if "train" not in dataset_splits(data) and isinstance(data, DataModuleFromConfig):
            raise ConfigError("data.params.train: missing; name the training set there")
        vocab = data.vocab if isinstance(data, HasVocab) else None
        model = build_model(config, arguments.actual_resume, vocab)
        model.vocab = vocab  # pyright: ignore[reportAttributeAccessIssue]
        if not arguments.train:
            folder = resumed or Path(arguments.logdir, folder_name(arguments))
            build_trainer(config, folder, model, data)
            print_model(model, config)
            print_line("nothing trained: add -t to train")
            return 0
    return train(arguments, config, model, data, checkpoint)


def build_model(config: DictConfig, initial_weights: str | None, vocab: Vocab | None = None) -> pl.LightningModule:
    """Builds the model of a config.

    Args:
        initial_weights: file of weights to start from, or None.
        vocab: of the data, by which rows of known names are taken from weights with fewer names.
    """
    if initial_weights:
        return load_initial_weights(config, initial_weights, vocab)
    return instantiate_from_config(config.model)


def build_trainer(
    config: DictConfig, folder: Path, model: pl.LightningModule, data: pl.LightningDataModule
) -> pl.Trainer:
    """Builds the Trainer, and prepares the model for training by it."""
    trainer = make_trainer(config, folder, model, validates="validation" in dataset_splits(data))
    set_learning_rate(model, trainer, config)
    prepare_model(model, trainer, config)
    values = plain(config)
    model.config = {section: values[section] for section in ("model", "data")}  # pyright: ignore[reportAttributeAccessIssue]
    return trainer


def train(
    arguments: Namespace,
    config: DictConfig,
    model: pl.LightningModule,
    data: pl.LightningDataModule,
    checkpoint: Path | None,
) -> int:
    """Trains in a new log folder, or in that of the checkpoint, and prints a summary."""
    if checkpoint:
        folder = checkpoint.parent.parent
        writable_folder(folder, "--resume")
    elif is_first_process():
        folder = new_log_folder(arguments.logdir, folder_name(arguments))
    else:  # only the first process writes
        folder = Path(arguments.logdir, folder_name(arguments))
    with removed_if_unused(folder), failures.of_setup():
        trainer = build_trainer(config, folder, model, data)
    print_model(model, config)
    print_line(f"{'resuming in' if checkpoint else 'log folder'}: {folder}")
    summary = Summary()
    saver = ConfigSaver(config, folder)
    trainer.callbacks += [summary, saver]  # pyright: ignore[reportAttributeAccessIssue]
    with removed_if_unused(folder, lambda: saver.training_began), launching(), failures.of_training(trainer, folder):
        trainer.fit(model, data, ckpt_path=checkpoint, weights_only=True)
        for line in summary.lines(trainer, f"{folder}/checkpoints/last.ckpt"):
            print_line(line)
        if not arguments.no_test and "test" in dataset_splits(data) and is_overridden("test_step", model):
            trainer.test(model, data)
    return 0


def set_learning_rate(model: pl.LightningModule, trainer: pl.Trainer, config: DictConfig) -> None:
    """Sets model.learning_rate, which its configure_optimizers reads; lightning.scale_lr scales it by the batch size."""
    rate = float(config.model.base_learning_rate)
    if config.lightning.scale_lr:
        rate *= trainer.accumulate_grad_batches * trainer.world_size * config.data.params.batch_size
    model.learning_rate = rate  # pyright: ignore[reportAttributeAccessIssue]


def prepare_model(model: pl.LightningModule, trainer: pl.Trainer, config: DictConfig) -> None:
    """Applies what makes training faster or smaller and changes its numbers by rounding only.

    Raises:
        ConfigError: there is nothing to compile, to record or to shard, or these do not go together.
    """
    device = trainer.strategy.root_device.type
    compiled, graphs = config.lightning.compile, config.lightning.cuda_graphs
    if isinstance(trainer.strategy, Sharded):
        refuse_to_shard(model, compiled, graphs)
    if graphs and trainer.accumulate_grad_batches > 1:
        raise ConfigError(
            "lightning.cuda_graphs: a replayed pass overwrites the gradients of the one before, so they cannot be accumulated; "
            "leave it or lightning.trainer.accumulate_grad_batches out"
        )
    if device == "cpu":
        keep_freed_memory()
        if is_first_process():
            warn_of_slow_half_precision(str(trainer.precision), device)
    unet = getattr(model, "unet", None)
    if isinstance(unet, UNetModel):
        prepare_for_training(unet, device, trainer.precision, compiled, lean=trainer.world_size > 1, graphs=graphs)
    elif compiled or graphs:
        key = "compile" if compiled else "cuda_graphs"
        raise ConfigError(f"lightning.{key}: {type(model).__name__} has no U-Net; leave it out")
    prepare_encoders_for_training(model, device)


def print_model(model: pl.LightningModule, config: DictConfig) -> None:
    """Prints the table of parts, what trains and how large it is, and the learning rate."""
    for line in (parts_table(model), *trained_lines(model)):
        print_line(line)
    scaled = " (scaled)" if config.lightning.scale_lr else ""
    print_line(f"learning rate {model.learning_rate:.2e}{scaled}")


def is_first_process() -> bool:
    """Whether this is the first of several training processes, or the only one."""
    return rank_zero_only.rank == 0


def _let_first_process_report() -> None:
    """Waits a moment in all processes but the first.

    What stops one process usually stops all. The first one then reports it and ends, and its children end with it.
    """
    if not is_first_process():
        time.sleep(WAIT_FOR_REPORT)


def _report(sentence: str, exit_code: int) -> int:
    print(f"trainer.py: {sentence}", file=sys.stderr, flush=True)
    return exit_code
