"""Loaders whose order depends on the seed and the epoch alone, so that a run can go on from any batch."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from ldm.data.cache import Cached, read_index
from ldm.data.flips import Flipping
from ldm.graph.batch import collate
from ldm.graph.scene_graph import Vocab
from ldm.util.config import instantiate_from_config
from ldm.util.errors import ConfigError


class DataModuleFromConfig(pl.LightningDataModule):
    """The published `data:` section.

    batch_size   images per device and step
    num_workers  processes that read ahead; they do not change what is read
    wrap         accepted for the sake of published files; nothing needs it
    train, validation, test   {target, params} of a map Dataset, each of them optional
    seed         of the order and, where it has a `seed`, of the training set's draws; trainer.py sets it
    cache        folder that scripts/cache_latents.py wrote for these sets and the model's frozen encoders: batches have
                 latents and styles out of it, and images are not read
    flip         share of the training images that are mirrored, with their graphs
    """

    def __init__(
        self,
        batch_size: int,
        train: dict | None = None,
        validation: dict | None = None,
        test: dict | None = None,
        num_workers: int = 4,
        wrap: bool = False,
        seed: int = 0,
        cache: str | None = None,
        flip: float = 0.0,
    ):
        super().__init__()
        if not 0 <= flip <= 1:
            raise ConfigError(f"data.params.flip: {flip} is no share; give a number from 0 to 1")
        self.cache, self.flip = cache, flip
        self.batch_size, self.num_workers, self.seed = batch_size, num_workers, seed
        splits = {"train": train, "validation": validation, "test": test}
        self.configs = {split: config for split, config in splits.items() if config is not None}
        self.datasets: dict[str, Dataset] = {}
        self.served: dict[str, Dataset] = {}  # what batches are made of

    def setup(self, stage: str | None = None) -> None:
        """Build the datasets, once. Raises ConfigError where they are empty or speak of different things, CacheError where
        the cache is not theirs, or not of the model's encoders.

        stage: with "check" the datasets are to be examined alone, so that there need not be a cache yet."""
        if not self.datasets:
            self.datasets = self._build()
        if stage == "check":
            return
        if not self.served:
            self.served = {split: self._serve(split, dataset) for split, dataset in self.datasets.items()}
        if self.cache and self.trainer:
            self._refuse_stale(self.trainer.lightning_module)

    def _build(self) -> dict[str, Dataset]:
        datasets = build(self.configs)
        vocabs = {split: dataset.vocab for split, dataset in datasets.items() if hasattr(dataset, "vocab")}
        if any(vocab != next(iter(vocabs.values())) for vocab in vocabs.values()):
            raise ConfigError(f"data.params: {', '.join(vocabs)} must have the same vocabulary, and they have not")
        train = datasets.get("train")
        if hasattr(train, "seed") and "seed" not in (self.configs["train"].get("params") or {}):
            train.seed = self.seed
        return datasets

    def _serve(self, split: str, dataset: Dataset) -> Dataset:
        flip = self.flip if split == "train" else 0
        if flip and not hasattr(dataset, "vocab"):
            raise ConfigError(f"data.params.flip: {self.configs[split]['target']} has no graphs to mirror; leave it out")
        if self.cache:
            dataset = Cached(dataset, Path(self.cache, split))
            if flip and not dataset.index.mirror_images:
                raise ConfigError(
                    f"data.params.flip: the cache {self.cache} was made with --no-mirror; leave flip out, or make one anew"
                )
        return Flipping(dataset, flip, self.seed) if flip else dataset

    def _refuse_stale(self, model: pl.LightningModule) -> None:
        if not hasattr(model, "encoder_checksums"):
            raise ConfigError(f"data.params.cache: {type(model).__name__} learns from images; leave it out")
        encoders = model.encoder_checksums()
        for split in self.served:
            folder = Path(self.cache, split)
            read_index(folder).refuse_other(folder, encoders=encoders)

    @property
    def vocab(self) -> Vocab | None:
        """The names behind the graphs' numbers, None where the datasets have none."""
        return next((dataset.vocab for dataset in self.datasets.values() if hasattr(dataset, "vocab")), None)

    def train_dataloader(self) -> EpochLoader | list:
        return self._loader("train", shuffle=True, position=self._position)

    def val_dataloader(self) -> EpochLoader | list:
        return self._loader("validation")

    def test_dataloader(self) -> EpochLoader | list:
        return self._loader("test")

    def _loader(self, split: str, shuffle: bool = False, position: Callable = lambda: (0, 0)) -> EpochLoader | list:
        if split not in self.served:
            return []
        dataset = self.served[split]
        rank, world = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        return EpochLoader(
            dataset,
            batch_size=self.batch_size,
            sampler=EpochSampler(dataset, self.seed, rank, world, shuffle),
            position=position,
            num_workers=self.num_workers,
            collate_fn=partial(collate, vocab=dataset.vocab) if hasattr(dataset, "vocab") else default_collate,
            pin_memory=torch.cuda.is_available(),
            worker_init_fn=leave_signals_to_the_main_process,
        )

    def _position(self) -> tuple[int, int]:
        """The epoch, and its batches that Lightning counts as done. Its counts are the only ones, so a checkpoint
        written at any moment and the data after it always agree."""
        if not self.trainer:
            return 0, 0
        return self.trainer.current_epoch, self.trainer.fit_loop.epoch_loop.batch_progress.current.ready


def build(configs: Mapping[str, Mapping]) -> dict[str, Dataset]:
    """The datasets of data.params' splits, by their names. Raises ConfigError where one is empty."""
    datasets = {split: instantiate_from_config(config) for split, config in configs.items()}
    for split, dataset in datasets.items():
        if not len(dataset):
            raise ConfigError(f"data.params.{split}: {configs[split]['target']} found no image")
    return datasets


class EpochLoader(DataLoader):
    """A DataLoader that begins at position() = (epoch, batch).

    It looks there, and starts its workers, when the first batch is asked for and not at iter(): Lightning calls that
    before it knows the epoch, and a worker's copy of the dataset keeps the epoch with which it was born. (Lightning
    also calls set_epoch, which after resuming from the end of an epoch is one too many; ours comes last.)
    """

    def __init__(self, *args, position: Callable[[], tuple[int, int]] = lambda: (0, 0), **kwargs):
        super().__init__(*args, **kwargs)
        self.position = position

    def __iter__(self) -> Iterator:
        epoch, batch = self.position()
        self.sampler.set_epoch(epoch)
        self.sampler.start = batch * self.batch_size
        yield from super().__iter__()

    def state_dict(self) -> dict:
        """Empty: that there is one tells Lightning that this loader can go on from the middle of an epoch."""
        return {}

    def load_state_dict(self, state: dict) -> None:
        pass


class EpochSampler(Sampler[int]):
    """Indices in an order that (seed, epoch) alone decide; process `rank` of `world` takes every world-th.

    Processes get equally many, so the first few indices come twice where the length does not divide by `world`.
    `start` indices are left out, from the beginning of this process's share.
    """

    def __init__(self, dataset: Dataset, seed: int = 0, rank: int = 0, world: int = 1, shuffle: bool = True):
        self.dataset, self.seed, self.rank, self.world, self.shuffle = dataset, seed, rank, world, shuffle
        self.epoch = self.start = 0

    def set_epoch(self, epoch: int) -> None:
        """Sets that are not shuffled stay the same from epoch to epoch."""
        if self.shuffle:
            self.epoch = self.dataset.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        order = np.arange(len(self.dataset))
        if self.shuffle:
            order = np.random.default_rng([self.seed, self.epoch]).permutation(order)
        share = np.resize(order, len(self) * self.world)[self.rank :: self.world]
        return iter(share[self.start :].tolist())

    def __len__(self) -> int:
        return -(-len(self.dataset) // self.world)


def leave_signals_to_the_main_process(worker: int) -> None:
    """Ctrl-C reaches workers too; the main process still wants their batches for its last step."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
