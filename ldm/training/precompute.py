"""The data sets of a config and its frozen encoders made into a cache (ldm/data/cache.py), split by split."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn
from torch.utils.data import Dataset

from ldm.data.cache import image_names
from ldm.data.cache_writing import estimate, fill
from ldm.data.datamodule import build
from ldm.graph.batch import Latents
from ldm.models.encoders import checksums, make_encode_function
from ldm.util.config import coming_together, plain, read_config
from ldm.util.errors import UserError

SPLITS = ("train", "validation", "test")


def configured(path: str | Path, overrides: Sequence[str]) -> DictConfig:
    """The config that training will use. Raises ConfigError."""
    with coming_together():
        config = OmegaConf.merge(read_config(path), OmegaConf.from_dotlist(list(overrides)))
        plain(config)  # whatever cannot be resolved shows now
    return config


def choose(config: DictConfig, split: str, source: str) -> dict[str, Dataset]:
    """The data sets of that split, or of all. source: the config's name, for complaints. Raises UserError for what is not in
    the config and for what no cache can hold."""
    configs = OmegaConf.select(config, "data.params") or {}
    chosen = {name: configs[name] for name in SPLITS if configs.get(name) is not None and split in (name, "all")}
    if not chosen or OmegaConf.select(config, "model.params.first_stage_config") is None:
        wanted = "data.params.train" if split == "all" else f"data.params.{split}"
        raise UserError(f"{source}: has no {wanted} or no model.params.first_stage_config; name another")
    try:
        datasets = build(chosen)
    except (OSError, ValueError, TypeError) as error:
        raise error if isinstance(error, UserError) else UserError(f"{source}: {error}") from error
    for dataset in datasets.values():
        image_names(dataset)
    return datasets


def estimates(
    datasets: Mapping[str, Dataset], encode: Callable[[Tensor], Latents], mirrored: bool, batch_size: int
) -> Iterator[str]:
    """A sentence per split: how large and how long."""
    for split, dataset in datasets.items():
        whole = estimate(dataset, encode, mirrored, batch_size)
        hours = f"{whole.seconds / 3600:,.2f} hours of one process at the pace of {batch_size} images"
        yield f"{split}: {whole.images} images, {whole.size / 1e6:,.2f} MB, {hours}"


def fill_all(
    datasets: Mapping[str, Dataset],
    folder: Path,
    encoders: tuple[nn.Module, nn.Module | None],
    rank: int = 0,
    world: int = 1,
    **options: int | bool,
) -> Iterator[str]:
    """A sentence per split that this process has done its share of, where it is the first one or the last. options: of
    `fill`."""
    encode, names = make_encode_function(*encoders), checksums(*encoders)
    for split, dataset in datasets.items():
        filled = fill(dataset, folder / split, encode, names, rank=rank, world=world, **options)
        done = f"{filled.images} images in {folder / split}, {filled.size / 1e6:,.1f} MB"
        if filled.missing:
            done += f"; {filled.missing} shards are missing: other processes write them, or the same command later"
        if rank == 0 or not filled.missing:
            pace = f"{filled.written / filled.seconds:.2f} images per second in {filled.seconds / 60:.1f} minutes"
            yield f"{done}; {filled.written} of them by this process now, {pace}"
