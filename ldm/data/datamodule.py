"""Data loaders whose order depends on (seed, epoch) only, so that training can be resumed at any batch."""

from __future__ import annotations

import math
import signal
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, Sampler, default_collate

from ldm.data.cache import IMAGE_ENCODER, TEXT_ENCODER, CachedDataset, read_index
from ldm.data.captions import CaptionedDataset, collate_captioned, require_forms
from ldm.data.flips import RandomFlipDataset
from ldm.data.protocols import ClipDataset, CollatesItself, GraphDataset, SeededDataset
from ldm.data.values import require_count, require_share
from ldm.graph.batch import collate
from ldm.graph.vocab import Vocab
from ldm.util.config import instantiate_from_config
from ldm.util.errors import ConfigError

END_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


@runtime_checkable
class TrainsOnLatents(Protocol):
    """Model that can be trained on cached latents, because the encoders that compute them are frozen."""

    def encoder_checksums(self) -> Mapping[str, str]:
        """The checksum of each frozen encoder, by its name."""
        ...


class DataModuleFromConfig(pl.LightningDataModule):
    """The `data:` section of published configs.

    Args:
        batch_size: images per device and step.
        train: `{target, params}` of the training data, a map-style data set.
        validation, test: the same for the other splits.
        num_workers: worker processes of each loader; their number does not change the samples or their order.
        wrap: ignored; published configs contain it.
        seed: of the sample order, and of the training set's random sampling if its params have no `seed`; trainer.py
            sets it.
        cache: folder that scripts/cache_latents.py wrote for these data sets and the model's frozen encoders. Batches
            then hold latents and style embeddings from it, and no image is read.
        flip: probability that a training image is flipped horizontally, together with its graph.
        captions: forms of captions, `long` or `short`, of which each sample gets one by chance, for models with a text encoder.
            By default, such a model writes a long caption of each graph itself, which takes its process more time.

    Raises:
        ConfigError: `flip` is not a probability, there is no such form of captions, or `batch_size` or `num_workers` is no such number.
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
        captions: list[str] | None = None,
    ):
        super().__init__()
        self.captions = require_forms("data.params.captions", captions)
        self.cache, self.flip = cache, require_share("data.params.flip", flip)
        self.batch_size = require_count("data.params.batch_size", batch_size)
        self.num_workers = require_count("data.params.num_workers", num_workers, 0)
        self.seed = seed
        splits = {"train": train, "validation": validation, "test": test}
        self.configs = {split: config for split, config in splits.items() if config is not None}
        self.datasets: dict[str, Any] = {}  # as the config describes them
        self.loader_datasets: dict[str, Any] = {}  # with cached latents and random flips

    def setup(self, stage: str | None = None) -> None:
        """Builds the data sets, in the first call.

        Args:
            stage: "check" builds only the data sets themselves, so that no cache need exist.

        Raises:
            ConfigError: a data set is empty, vocabularies differ, or `flip` or `cache` does not suit the data or model.
            CacheError: the cache is missing, or was written for other data or other encoders.
        """
        if not self.datasets:
            self.datasets = self._build()
        if stage == "check":
            return
        if not self.loader_datasets:
            self.loader_datasets = {split: self._wrap(split, dataset) for split, dataset in self.datasets.items()}
        if self.cache and self.trainer:
            self._require_same_encoders(Path(self.cache), self.trainer.lightning_module)

    def _build(self) -> dict[str, Any]:
        datasets = build_datasets(self.configs)
        vocabs = {split: dataset.vocab for split, dataset in datasets.items() if isinstance(dataset, GraphDataset)}
        if any(vocab != next(iter(vocabs.values())) for vocab in vocabs.values()):
            raise ConfigError(
                f"data.params: {', '.join(vocabs)} have different vocabularies; take them from one data set"
            )
        train = datasets.get("train")
        if isinstance(train, SeededDataset) and "seed" not in (self.configs["train"].get("params") or {}):
            train.seed = self.seed
        return datasets

    def _wrap(self, split: str, dataset: Any) -> Any:
        flip = self.flip if split == "train" else 0
        if self.captions and not isinstance(dataset, GraphDataset):
            raise ConfigError(
                f"data.params.captions: {self.configs[split]['target']} has no graphs to describe; leave captions out"
            )
        if flip and isinstance(dataset, ClipDataset):
            raise ConfigError("data.params.flip: the frames of a clip cannot be flipped one by one; leave flip out")
        if flip and not isinstance(dataset, GraphDataset):
            raise ConfigError(
                f"data.params.flip: {self.configs[split]['target']} has no graphs to mirror; leave flip out"
            )
        if self.cache:
            dataset = CachedDataset(dataset, Path(self.cache, split))
            if flip and not dataset.index.mirror_images:
                raise ConfigError(
                    f"data.params.flip: the cache {self.cache} was written with --no-mirror; leave flip out, or write "
                    "another cache"
                )
        dataset = RandomFlipDataset(dataset, flip, self.seed) if flip else dataset
        return CaptionedDataset(dataset, self.captions, self.seed) if self.captions else dataset

    def _require_same_encoders(self, cache: Path, model: pl.LightningModule) -> None:
        if not isinstance(model, TrainsOnLatents):
            raise ConfigError(f"data.params.cache: {type(model).__name__} trains on images; leave cache out")
        encoders = model.encoder_checksums()
        for split in self.loader_datasets:
            index = read_index(cache / split)
            # A cache without captions does, as the model then encodes them. What a model has no encoder for is not read.
            expected = {name: sums for name, sums in encoders.items() if name != TEXT_ENCODER or name in index.encoders}
            unread = {name: index.encoders[name] for name in (IMAGE_ENCODER, TEXT_ENCODER) if name in index.encoders}
            index.require(cache / split, encoders={**unread, **expected})

    @property
    def vocab(self) -> Vocab | None:
        """The vocabulary of the graphs, or None if the data sets have no graphs."""
        return next((dataset.vocab for dataset in self.datasets.values() if isinstance(dataset, GraphDataset)), None)

    def train_dataloader(self) -> EpochLoader | list:
        return self._loader("train", shuffle=True, position=self._position)

    def val_dataloader(self) -> EpochLoader | list:
        return self._loader("validation")

    def test_dataloader(self) -> EpochLoader | list:
        return self._loader("test")

    def _loader(self, split: str, shuffle: bool = False, position: Callable = lambda: (0, 0)) -> EpochLoader | list:
        if split not in self.loader_datasets:
            return []
        dataset = self.loader_datasets[split]
        clip = frames_per_clip(self.datasets[split])
        if self.batch_size % clip:
            raise ConfigError(
                f"data.params.batch_size is {self.batch_size}; set it to a multiple of the {clip} frames of a clip"
            )
        rank, world = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        return EpochLoader(
            dataset,
            batch_size=self.batch_size,
            sampler=EpochSampler(dataset, self.seed, rank, world, shuffle, clip),
            position=position,
            num_workers=self.num_workers,
            collate_fn=self._collate_function(dataset),
            pin_memory=torch.cuda.is_available(),
            worker_init_fn=ignore_signals,
        )

    def _collate_function(self, dataset: Any) -> Callable:
        if isinstance(dataset, CollatesItself):
            return dataset.collate
        if not isinstance(dataset, GraphDataset):
            return default_collate
        return partial(collate_captioned if self.captions else collate, vocab=dataset.vocab)

    def _position(self) -> tuple[int, int]:
        """The epoch, and the number of its batches that Lightning counts as done.

        No other count is stored, so a checkpoint agrees with the data that follows it, whenever it was written.
        """
        if not self.trainer:
            return 0, 0
        return self.trainer.current_epoch, self.trainer.fit_loop.epoch_loop.batch_progress.current.ready


def build_datasets(configs: Mapping[str, Any]) -> dict[str, Any]:
    """Builds the data sets of `data.params`.

    Args:
        configs: `{target, params}` of each split, by the split's name.

    Raises:
        ConfigError: a data set is empty.
    """
    datasets = {split: instantiate_from_config(config) for split, config in configs.items()}
    for split, dataset in datasets.items():
        if not len(dataset):
            raise ConfigError(
                f"data.params.{split}: {configs[split]['target']} found no image; check its paths and limits"
            )
    return datasets


def frames_per_clip(dataset: Any) -> int:
    """The number of samples in a row that a loader keeps together; 1 for data sets of images."""
    return dataset.frames if isinstance(dataset, ClipDataset) else 1


class EpochLoader(DataLoader):
    """DataLoader that starts at the (epoch, batch) that `position` returns.

    It calls `position`, and starts its workers, when the first batch is requested instead of in iter(): Lightning calls
    iter() before it has restored the epoch, and a worker's copy of the data set keeps the epoch it was started with.
    Lightning also calls set_epoch, with an epoch that is one too high after resuming from the end of an epoch; the call
    below comes later and so decides.
    """

    sampler: EpochSampler
    batch_size: int

    def __init__(self, *args, position: Callable[[], tuple[int, int]] = lambda: (0, 0), **kwargs):
        super().__init__(*args, **kwargs)
        self.position = position

    def __iter__(self) -> Iterator:
        epoch, batch = self.position()
        self.sampler.set_epoch(epoch)
        self.sampler.start = batch * self.batch_size
        with blocked(END_SIGNALS):  # a worker inherits it, so that no signal ends one before it has begun
            batches = super().__iter__()
        yield from batches

    def state_dict(self) -> dict:
        """Empty; its existence tells Lightning that this loader can resume in the middle of an epoch."""
        return {}

    def load_state_dict(self, state: dict) -> None:
        pass


class EpochSampler(Sampler[int]):
    """Sample order that depends on (seed, epoch) only; process `rank` of `world` takes every `world`-th index.

    All processes get the same number of indices: the first ones are repeated if the length is not divisible by `world`.

    Args:
        dataset: whose `epoch` is set too, if `shuffle`.
        seed: of the order.
        rank: number of this process.
        world: number of processes.
        shuffle: False for the data set's own order in every epoch.
        clip: number of samples in a row that stay together, in their order.

    Attributes:
        start: number of indices to skip at the beginning of this process's share.
    """

    def __init__(self, dataset: Any, seed: int = 0, rank: int = 0, world: int = 1, shuffle: bool = True, clip: int = 1):
        self.dataset, self.seed, self.rank, self.world, self.shuffle = dataset, seed, rank, world, shuffle
        self.clip = clip
        self.epoch = self.start = 0

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch of the order and of the data set's random sampling; without `shuffle`, it does nothing."""
        if self.shuffle:
            self.epoch = self.dataset.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        order = np.arange(len(self.dataset) // self.clip)
        if self.shuffle:
            order = np.random.default_rng([self.seed, self.epoch]).permutation(order)
        clips = np.resize(order, len(self) // self.clip * self.world)[self.rank :: self.world]
        share = (clips[:, None] * self.clip + np.arange(self.clip)).ravel()
        return iter(share[self.start :].tolist())

    def __len__(self) -> int:
        return math.ceil(len(self.dataset) // self.clip / self.world) * self.clip


def ignore_signals(worker: int) -> None:
    """Lets a loader's worker survive the signals that end a run.

    A job scheduler sends them to all processes at once, and the main process, which saves a checkpoint, needs the
    workers' batches to finish its step. Workers end with it.
    """
    for signum in END_SIGNALS:
        signal.signal(signum, signal.SIG_IGN)


@contextmanager
def blocked(signals: Collection[signal.Signals]) -> Iterator[None]:
    """Delays signals to this thread, and to processes and threads that it starts, until the block ends."""
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)
