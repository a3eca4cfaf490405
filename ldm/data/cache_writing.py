"""Writes a latent cache (ldm/data/cache.py) shard by shard: several processes can share the work, and it can be resumed."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from ldm.data.cache import INDEX, CacheError, CacheIndex, read_index, require_image_files, shard_path
from ldm.data.datamodule import ignore_signals
from ldm.data.flips import mirror_words
from ldm.data.protocols import DrawnDataset, GraphDataset, ImageFileDataset
from ldm.data.wrapping import DatasetWrapper
from ldm.graph.batch import Latents
from ldm.graph.scene_graph import SceneGraph
from ldm.util.errors import UserError
from ldm.util.files import atomic_write, remove_leftovers
from ldm.util.images import ImageError

CHECKED_IMAGES = 8  # by `_require_fixed_images`; flips of half of the images escape it with a probability of 1 / 4**8

Encoder = Callable[[Tensor], Latents]  # images (B,3,S,S) in [-1,1]
Describer = Callable[[Sequence[SceneGraph]], Mapping[str, Tensor]]  # fields of `Latents` for captions of B graphs
Samples = tuple[Tensor, Tensor, Sequence[SceneGraph]]  # images (B,3,S,S), sizes (B,2) of their files, graphs


class WriteResult(NamedTuple):
    """Outcome of `write_cache`.

    Args:
        images: number of images in the split.
        written: number of images that this process encoded, in this call.
        seconds: duration of this call.
        missing: number of shards that other processes have yet to write.
        size: bytes on disk.
    """

    images: int
    written: int
    seconds: float
    missing: int
    size: int


class CacheEstimate(NamedTuple):
    """Cost of a complete cache: images of the split, bytes on disk, and seconds that one process takes."""

    images: int
    size: int
    seconds: float


class ImagesWithSizes(DatasetWrapper):
    """Samples are (image (3,S,S), (width, height) of its file, graph)."""

    dataset: ImageFileDataset | DrawnDataset

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, SceneGraph]:
        image, graph = self.dataset[index][:2]
        if isinstance(self.dataset, DrawnDataset):
            return image, torch.tensor(self.dataset.drawn_size(index)), graph
        path = self.dataset.image_path(index)
        try:
            with Image.open(path) as file:
                return image, torch.tensor(file.size), graph
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise ImageError(path, f"its size cannot be read ({error})") from None


def write_cache(
    dataset: GraphDataset,
    folder: str | Path,
    encode: Encoder,
    encoders: Mapping[str, str],
    mirrored: bool = True,
    shard_size: int = 512,
    batch_size: int = 16,
    num_workers: int = 0,
    rank: int = 0,
    world: int = 1,
    describe: Describer | None = None,
) -> WriteResult:
    """Encodes the images of this process's missing shards, which are among every `world`-th shard from `rank` on.

    Args:
        dataset: the data set of one split.
        folder: the split's folder in the cache.
        encode: maps images (B,3,S,S) in [-1,1] to latents.
        encoders: checksum of each encoder, by its name.
        mirrored: encode the flipped images too.
        shard_size: images per shard.
        batch_size: images that are encoded at once (twice as many if `mirrored`).
        num_workers: processes that read images.
        rank: number of this process.
        world: number of processes.
        describe: encodes captions of graphs, if these are to be cached: those of the images' graphs as they are in epoch 0
            and, if `mirrored`, of their mirror images.

    Raises:
        CacheError: the data set cannot be cached, `folder` holds another cache or cannot be written to, or a latent
            exceeds the range of float16.
    """
    folder, start = Path(folder), time.monotonic()
    images = require_image_files(dataset)
    _require_fixed_images(images)
    index = _make_index(images, encode, encoders, mirrored, shard_size, describe)
    with _explain_errors(folder):
        remove_leftovers(folder)
        _write_index(folder, index)

    share = index.shards[rank::world]
    missing = [shard for shard in share if not index.is_complete(folder, shard)]
    written, total = (sum(len(index.rows(shard)) for shard in shards) for shards in (missing, share))
    batches = _read_batches(images, index, missing, batch_size, num_workers)
    with tqdm(total=total, initial=total - written, desc=folder.name, unit="image", disable=rank > 0) as progress:
        for shard in missing:
            records: list[np.ndarray] = []
            while sum(map(len, records)) < len(index.rows(shard)):
                records.append(_encode_records(next(batches), encode, mirrored, describe))
                progress.update(len(records[-1]))
            _write_shard(folder, shard, index, np.concatenate(records))

    paths = [shard_path(folder, shard) for shard in index.shards if index.is_complete(folder, shard)]
    try:
        if len(paths) == len(index.shards):  # no process is writing any more, so that other hosts' files can go too
            for temporary in folder.glob(".*.part*"):
                temporary.unlink(missing_ok=True)
        size = sum(path.stat().st_size for path in (folder / INDEX, *paths))
    except OSError as error:
        raise CacheError(f"{error.filename}: vanished ({error.strerror}); resume with the same command") from None
    return WriteResult(len(index.names), written, time.monotonic() - start, len(index.shards) - len(paths), size)


def estimate_cache(
    dataset: GraphDataset,
    encode: Encoder,
    mirrored: bool = True,
    batch_size: int = 16,
    describe: Describer | None = None,
) -> CacheEstimate:
    """Estimates the cost of `write_cache` from one batch, after a warm-up batch, without writing anything.

    Raises:
        CacheError: the data set cannot be cached.
    """
    images = ImagesWithSizes(require_image_files(dataset))
    count = min(batch_size, len(images))
    for _timed in (False, True):
        start = time.monotonic()
        samples = _stack([images[index] for index in range(count)])
        records = _encode_records(samples, encode, mirrored, describe)
        seconds = time.monotonic() - start
    return CacheEstimate(len(images), len(images) * records.dtype.itemsize, len(images) * seconds / count)


def _make_index(
    images: ImageFileDataset | DrawnDataset,
    encode: Encoder,
    encoders: Mapping[str, str],
    mirrored: bool,
    shard_size: int,
    describe: Describer | None,
) -> CacheIndex:
    """The index of the cache; one image is encoded to find the shapes of its records."""
    image = torch.zeros(1, 3, images.image_size, images.image_size)
    example = _encode_records((image, torch.zeros(1, 2), [SceneGraph(("image",))]), encode, mirrored, describe).dtype
    row = [[name, example[name].base.str, list(example[name].shape)] for name in example.names or ()]
    return CacheIndex(dict(encoders), images.image_size, shard_size, row, images.image_names())


def _write_index(folder: Path, index: CacheIndex) -> None:
    """Writes index.json, or checks that the existing one describes the same cache."""
    if not (folder / INDEX).is_file():
        with atomic_write(folder / INDEX) as temporary:
            temporary.write_text(index.to_json(), encoding="utf-8")
        return
    read_index(folder).require(
        folder,
        encoders=index.encoders,
        image_size=index.image_size,
        mirror_images=index.mirror_images,
        shard_size=index.shard_size,
        row=index.row,
        names=index.names,
    )


def _read_batches(
    images: ImageFileDataset | DrawnDataset, index: CacheIndex, shards: list[int], batch_size: int, num_workers: int
) -> Iterator[Samples]:
    """The samples of the shards, one shard after the other; no batch spans two shards."""
    rows = [index.rows(shard) for shard in shards]
    return iter(
        DataLoader(
            ImagesWithSizes(images),
            batch_sampler=[list(each[i : i + batch_size]) for each in rows for i in range(0, len(each), batch_size)],
            num_workers=num_workers,
            collate_fn=_stack,
            worker_init_fn=ignore_signals,
        )
    )


def _stack(samples: Sequence[tuple[Tensor, Tensor, SceneGraph]]) -> Samples:
    images, sizes, graphs = zip(*samples)
    return torch.stack(images), torch.stack(sizes), graphs


def _encode_records(samples: Samples, encode: Encoder, mirrored: bool, describe: Describer | None) -> np.ndarray:
    """The records (B,) of samples."""
    images, sizes, graphs = samples
    sides = [images, images.flip(-1)] if mirrored else [images]
    latents = encode(torch.cat(sides))
    if describe is not None:
        latents = latents._replace(**describe([*graphs, *map(mirror_words, graphs)] if mirrored else graphs))
    fields = {name: x for name, x in latents._asdict().items() if x is not None}
    arrays = {name: x.unflatten(0, (len(sides), -1)).transpose(0, 1).half().cpu().numpy() for name, x in fields.items()}
    arrays = {"size": sizes.numpy().astype("<i4"), **arrays}
    record_type = [(name, array.dtype.newbyteorder("<"), array.shape[1:]) for name, array in arrays.items()]
    records = np.empty(len(images), record_type)
    for name, array in arrays.items():
        records[name] = array
    return records


def _write_shard(folder: Path, shard: int, index: CacheIndex, records: np.ndarray) -> None:
    """Writes a shard, unless float16 cannot represent one of its values."""
    for field in (records.dtype.names or ())[1:]:
        finite = np.isfinite(records[field]).reshape(len(records), -1).all(1)
        if not finite.all():
            name = index.names[index.rows(shard)[int(np.argmin(finite))]]
            raise CacheError(f"{name}: its {field} is not finite in float16; check the encoders' weights")
    path = shard_path(folder, shard)
    with _explain_errors(path), atomic_write(path) as temporary:
        np.save(temporary, records)


def _require_fixed_images(images: ImageFileDataset | DrawnDataset) -> None:
    """Raises CacheError if the images depend on the epoch, as random crops do; some images in three epochs show that."""
    sample: Any = copy.copy(images)  # so that the data set keeps its epoch
    epochs = []
    for sample.epoch in range(3):
        epochs.append(torch.stack([sample[index][0] for index in range(min(CHECKED_IMAGES, len(images)))]))
    if not all(torch.equal(pixels, epochs[0]) for pixels in epochs):
        raise CacheError(
            f"{type(images).__name__} returns different pixels in every epoch, so they cannot be cached; leave "
            "data.params.cache out, or the random crops or flips"
        )


@contextmanager
def _explain_errors(path: Path) -> Iterator[None]:
    """Turns the exceptions of writing to `path` into a CacheError."""
    try:
        yield
    except UserError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a path that no file can have
        raise CacheError(
            f"{path}: cannot be written ({getattr(error, 'strerror', None) or error}); make room, then resume with the same "
            "command"
        ) from error
