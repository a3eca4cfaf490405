"""Filling a cache (ldm/data/cache.py): shard by shard, by any number of processes, and again after a kill."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from ldm.data.cache import INDEX, CacheError, Index, image_names, read_index, shard_path
from ldm.data.datamodule import leave_signals_to_the_main_process
from ldm.data.wrapping import Wrapping
from ldm.graph.batch import Latents

LOOKED_AT = 8  # images, so that flips of half of them go unseen in 1 of 4 ** 8 sets


class Filled(NamedTuple):
    """images: of the split. written: of them, by this process now. missing: shards that other processes have yet to
    write. size: bytes on disk."""

    images: int
    written: int
    seconds: float
    missing: int
    size: int


class Pictures(Wrapping):
    """pictures[i] -> image (3,S,S) and the (width, height) of its file."""

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image = self.dataset[index][0]
        with Image.open(self.dataset.image_path(index)) as file:
            return image, torch.tensor(file.size)


def fill(
    dataset: Dataset,
    folder: str | Path,
    encode: Callable[[Tensor], Latents],
    encoders: Mapping[str, str],
    mirrored: bool = True,
    shard_size: int = 512,
    batch_size: int = 16,
    num_workers: int = 0,
    rank: int = 0,
    world: int = 1,
) -> Filled:
    """Write what is missing of this process's share, every `world`-th shard from `rank` on.

    encode: images (B,3,S,S) in [-1,1] -> Latents. encoders: their checksums by name. mirrored: mirror images
    too. Raises CacheError for data that no cache can hold, for a folder that holds another cache, and for latents that
    half precision cannot hold.
    """
    folder, start = Path(folder), time.monotonic()
    names = image_names(dataset)
    _refuse_drawn(dataset)
    example = _rows(torch.zeros(1, 3, dataset.image_size, dataset.image_size), torch.zeros(1, 2), encode, mirrored)
    row = [[name, example.dtype[name].base.str, list(example.dtype[name].shape)] for name in example.dtype.names]
    index = Index(dict(encoders), dataset.image_size, shard_size, row, names)
    if (folder / INDEX).is_file():
        fields = ("encoders", "image_size", "mirror_images", "shard_size", "row", "names")
        read_index(folder).refuse_other(folder, **{field: getattr(index, field) for field in fields})
    else:
        _put(folder / INDEX, lambda beside: beside.write_text(index.to_json()))

    share = index.shards[rank::world]
    missing = [shard for shard in share if not index.is_whole(folder, shard)]
    batches = [index.rows(s)[i : i + batch_size] for s in missing for i in range(0, len(index.rows(s)), batch_size)]
    loader = iter(
        DataLoader(
            Pictures(dataset),
            batch_sampler=batches,
            num_workers=num_workers,
            worker_init_fn=leave_signals_to_the_main_process,
        )
    )
    written, total = sum(map(len, batches)), sum(len(index.rows(shard)) for shard in share)
    with tqdm(total=total, initial=total - written, desc=folder.name, unit="image", disable=rank > 0) as bar:
        for shard in missing:
            shard_rows, parts = index.rows(shard), []
            while sum(map(len, parts)) < len(shard_rows):
                images, sizes = next(loader)
                parts.append(_rows(images, sizes, encode, mirrored))
                bar.update(len(images))
            rows = np.concatenate(parts)
            _refuse_too_large(rows, [names[i] for i in shard_rows])
            _put(shard_path(folder, shard), partial(_save, rows))
    paths = [shard_path(folder, shard) for shard in index.shards if index.is_whole(folder, shard)]
    if len(paths) == len(index.shards):  # nobody writes any more
        for left in folder.glob(".*.part"):  # of killed processes
            left.unlink(missing_ok=True)
    size = sum(path.stat().st_size for path in (folder / INDEX, *paths))
    return Filled(len(names), written, time.monotonic() - start, len(index.shards) - len(paths), size)


class Estimate(NamedTuple):
    """images: of the split. size: bytes on disk when it is whole. seconds: of one process that encodes all of them."""

    images: int
    size: int
    seconds: float


def estimate(
    dataset: Dataset, encode: Callable[[Tensor], Latents], mirrored: bool = True, batch_size: int = 16
) -> Estimate:
    """From the pace of one batch, after another that is not timed; nothing is written. Raises CacheError for data that no
    cache can hold."""
    count = min(batch_size, len(image_names(dataset)))
    pictures = Pictures(dataset)
    for _ in range(2):
        start = time.monotonic()
        images, sizes = (torch.stack(each) for each in zip(*(pictures[index] for index in range(count))))
        rows = _rows(images, sizes, encode, mirrored)
        seconds = time.monotonic() - start
    return Estimate(len(dataset), len(dataset) * rows.dtype.itemsize, len(dataset) * seconds / count)


def _rows(images: Tensor, sizes: Tensor, encode: Callable[[Tensor], Latents], mirrored: bool) -> np.ndarray:
    """(B,) records."""
    sides = [images, images.flip(-1)] if mirrored else [images]
    latents = encode(torch.cat(sides))
    fields = {name: x for name, x in latents._asdict().items() if x is not None}
    arrays = {name: x.unflatten(0, (len(sides), -1)).transpose(0, 1).half().cpu().numpy() for name, x in fields.items()}
    arrays = {"size": sizes.numpy().astype("<i4"), **arrays}
    row = [(name, array.dtype.newbyteorder("<"), array.shape[1:]) for name, array in arrays.items()]
    rows = np.empty(len(images), row)
    for name, array in arrays.items():
        rows[name] = array
    return rows


def _refuse_drawn(dataset: Dataset) -> None:
    """Its class cannot say whether it crops, flips or draws at random; a look at some images in three epochs can."""
    before, looks = getattr(dataset, "epoch", 0), []
    for dataset.epoch in (0, 1, 2):
        looks.append(torch.stack([dataset[index][0] for index in range(min(LOOKED_AT, len(dataset)))]))
    dataset.epoch = before
    if not all(torch.equal(look, looks[0]) for look in looks):
        raise CacheError(
            f"{type(dataset).__name__} shows other pixels of an image in every epoch, which no cache can hold: "
            "leave data.params.cache out, or its random crops"
        )


def _refuse_too_large(rows: np.ndarray, names: list[str]) -> None:
    for field in rows.dtype.names[1:]:
        finite = np.isfinite(rows[field]).reshape(len(rows), -1).all(1)
        if not finite.all():
            raise CacheError(
                f"{names[int(np.argmin(finite))]}: its {field} goes beyond half precision's 65504, or is no number; "
                "look at the encoders' weights"
            )


def _save(rows: np.ndarray, path: Path) -> None:
    with path.open("wb") as file:  # np.save itself would add to the name
        np.save(file, rows)


def _put(path: Path, write: Callable[[Path], object]) -> None:
    """Whole or not at all. Each process has a name of its own for what is not yet whole. Raises CacheError."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            write(beside)
            os.replace(beside, path)
        finally:
            beside.unlink(missing_ok=True)
    except OSError as error:
        raise CacheError(
            f"{path}: cannot be written ({error.strerror or error}); make room for it, and the same command goes on"
        ) from error
