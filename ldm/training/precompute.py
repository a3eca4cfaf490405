"""Writes or estimates the latent cache (ldm/data/cache.py) of a training config's data sets and frozen encoders."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from ldm.data.cache import require_image_files
from ldm.data.cache_writing import Describer, estimate_cache, write_cache
from ldm.data.datamodule import build_datasets
from ldm.data.protocols import DrawnDataset, ImageFileDataset
from ldm.models.encoders import Encoders, checksums, make_describe_function, make_encode_function
from ldm.training.config import SECTIONS
from ldm.util.config import as_config_error, parameter_names, plain, resolve
from ldm.util.config_merging import ConfigPaths, merge_configs, read_configs
from ldm.util.errors import ConfigError, UserError, did_you_mean

SPLITS = ("train", "validation", "test")


def read_training_config(paths: ConfigPaths, overrides: Sequence[str]) -> DictConfig:
    """Reads the config that training will use.

    Args:
        paths: YAML files, of which later ones override earlier ones.
        overrides: changes such as "data.params.batch_size=8".

    Raises:
        ConfigError: the config cannot be read or resolved, or it has a key that nothing reads.
    """
    for override in overrides:
        if "=" not in override:
            raise ConfigError(f"{override!r} is not section.key=value; name a further config with --config")
    with as_config_error("the config cannot be changed"):
        changes = OmegaConf.from_dotlist(list(overrides))
    config = merge_configs(read_configs(paths), changes)
    plain(config)  # raises an error for anything that cannot be resolved
    for section, known in SECTIONS.items():
        _require_known(section, OmegaConf.select(config, section) if section else config, known)
    _require_known_params("", config)
    return config


def _require_known(section: str, keys: Any, known: Collection[str]) -> None:
    """Raises ConfigError for keys that a section cannot have."""
    if isinstance(keys, DictConfig):
        for key in map(str, keys):
            if key not in known:
                place = f"{section}.{key}" if section else key
                raise ConfigError(f"{place}: there is no such key in a config{did_you_mean(key, known)}")


def _require_known_params(section: str, config: Any) -> None:
    """Raises ConfigError for parameters that a class does not take, also of classes that are not built here."""
    if not isinstance(config, DictConfig):
        return
    target = config.get("target")
    if isinstance(target, str) and isinstance(config.get("params"), DictConfig):
        try:
            parameters = parameter_names(resolve(target))
        except (ConfigError, ValueError):  # reported if the class is built
            parameters = None
        if parameters:
            _require_known(f"{section}.params" if section else "params", config.params, parameters)
    for key, value in config.items():
        _require_known_params(f"{section}.{key}" if section else str(key), value)


def build_split_datasets(config: DictConfig, split: str, source: str) -> dict[str, ImageFileDataset | DrawnDataset]:
    """Builds the data sets of a config.

    Args:
        config: with data.params and model.params.
        split: train, validation, test or all.
        source: the config's name for error messages.

    Returns:
        The data sets by the name of their split.

    Raises:
        UserError: the config has no such split or no first stage, or a data set cannot be built or cached.
    """
    sections = OmegaConf.select(config, "data.params") or {}
    selected = {name: sections[name] for name in SPLITS if sections.get(name) is not None and split in (name, "all")}
    parts = OmegaConf.select(config, "model.params") or {}
    if not selected or not (parts.get("first_stage_config") or parts.get("image_model")):
        required = "data.params.train" if split == "all" else f"data.params.{split}"
        raise UserError(f"{source}: has no {required} or no model.params.first_stage_config; name another config")
    try:
        datasets = build_datasets(selected)
    except UserError as error:
        raise UserError(f"{source}: {error}") from error
    return {name: require_image_files(dataset) for name, dataset in datasets.items()}


def estimate_caches(
    datasets: Mapping[str, ImageFileDataset | DrawnDataset], encoders: Encoders, mirrored: bool, batch_size: int
) -> Iterator[str]:
    """Yields a sentence per split: the size of its cache, and how long encoding takes (see `estimate_cache`)."""
    encode = make_encode_function(*encoders[:2])
    for split, dataset in datasets.items():
        cost = estimate_cache(dataset, encode, mirrored, batch_size, describe_function(encoders, dataset))
        hours = f"{cost.seconds / 3600:,.2f} hours with one process and batches of {batch_size} images"
        yield f"{split}: {cost.images} images, {cost.size / 1e6:,.2f} MB, {hours}"


def describe_function(encoders: Encoders, dataset: ImageFileDataset | DrawnDataset) -> Describer | None:
    """Encodes captions of a data set's graphs; None without a text encoder."""
    return encoders.text_encoder and make_describe_function(encoders.text_encoder, dataset.image_size)


def write_caches(
    datasets: Mapping[str, ImageFileDataset | DrawnDataset],
    folder: Path,
    encoders: Encoders,
    mirrored: bool = True,
    shard_size: int = 512,
    batch_size: int = 16,
    num_workers: int = 0,
    rank: int = 0,
    world: int = 1,
) -> Iterator[str]:
    """Writes this process's share of each split's cache to a subfolder of `folder` (see `write_cache`).

    Args:
        encoders: those of the model. With a text encoder, captions are cached too.

    Yields:
        A sentence per split, in the first process and in the one that completes the split.
    """
    encode, names = make_encode_function(*encoders[:2]), checksums(*encoders)
    for split, dataset in datasets.items():
        options = mirrored, shard_size, batch_size, num_workers, rank, world
        result = write_cache(dataset, folder / split, encode, names, *options, describe_function(encoders, dataset))
        summary = f"{result.images} images in {folder / split}, {result.size / 1e6:,.1f} MB"
        if result.missing:
            summary += f"; {result.missing} shards are missing: other processes, or the same command later, write them"
        if rank == 0 or not result.missing:
            pace = f"{result.written / result.seconds:.2f} images per second in {result.seconds / 60:.1f} minutes"
            yield f"{summary}; this process encoded {result.written} of them now, {pace}"
