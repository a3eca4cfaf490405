"""Latent cache: the frozen encoders' outputs for a data set's images, stored so that training need not compute them.

A cache folder has a subfolder per split, which holds

    index.json               checksums of the encoders, and the images in the order of their records
    00000.npy, 00001.npy ... shards of `shard_size` records (the last one has fewer); each record has the fields
                             size   (2,) int32            width and height of the image file, which graphs may need
                             z      (1 or 2,4,h,w) half   unscaled latent of the image, and of the flipped image
                             style  (1 or 2,E) half       image embeddings, if the model has an image encoder
                             text   (1 or 2,M,D) half     captions of the graph and of its mirror image, if the model has a
                             text_vector (1 or 2,A) half  text encoder; graphs that are drawn anew in each epoch keep the
                                                          caption of the first

Shards are structured arrays in the .npy format, which numpy maps into memory: a sample reads 10 to 20 kB of one file, and
processes share the pages. A shard is renamed to its final name when it is complete, so an interrupted run leaves no
partial shards. Values are float16, since numpy has no bfloat16: latents stay far below its maximum of 65504 (checked when
writing), and its 11 bit significand is more precise than the 8 bits of bfloat16 mixed precision.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ldm.data.protocols import DrawnDataset, GraphDataset, HasStyleReferences, ImageFileDataset
from ldm.data.values import composed
from ldm.data.wrapping import DatasetWrapper
from ldm.graph.batch import Latents
from ldm.graph.scene_graph import SceneGraph
from ldm.util.errors import UserError

FORMAT = 2  # to be raised when the records or the preprocessing of images change
INDEX = "index.json"
IN_RECORD = Latents._fields
IMAGE_ENCODER = "image encoder"  # its name in the index, if the records hold styles
TEXT_ENCODER = "text encoder"  # its name in the index, if the records hold captions
REMEDY = "resume with the scripts/cache_latents.py command that began this cache"


class CacheError(UserError):
    """A cache that is missing, stale or incomplete, or a data set that cannot be cached."""


@dataclass(frozen=True)
class CacheIndex:
    """Contents of index.json, which describes the shards of one split.

    Args:
        encoders: checksum of each encoder, by its name.
        image_size: side length of the encoded images, in pixels.
        shard_size: records per shard.
        row: numpy's description of a record: a list of [field, type, shape].
        names: paths of the images relative to the image folder, in the order of the records.
        format: version of the file format.
    """

    encoders: Mapping[str, str]
    image_size: int
    shard_size: int
    row: list
    names: list[str]
    format: int = FORMAT

    def require(self, folder: Path, **expected: Any) -> None:
        """Raises CacheError if a field or property differs from its expected value, since the cache is then stale."""
        for field, new in expected.items():
            old: Any = getattr(self, field)
            if isinstance(new, Mapping) and old != new:
                field = next(name for name in (*new, *old) if old.get(name) != new.get(name))
                old, new = (f"checksum {sums[field]}" if field in sums else "absent" for sums in (old, new))
            elif field == "names" and old != new:
                old, new = (f"{len(names)} images from {names[:1]} to {names[-1:]}" for names in (old, new))
            if old != new:
                raise CacheError(
                    f"{folder}: this cache is stale ({field.replace('_', ' ')}: {old} when it was written, {new} now); "
                    "write a new one to another folder with scripts/cache_latents.py, or restore the old settings"
                )

    @cached_property
    def record_type(self) -> np.dtype:
        """The structured type of the records."""
        return np.dtype([(name, kind, tuple(shape)) for name, kind, shape in self.row])

    @property
    def fields(self) -> tuple[str, ...]:
        """The names of a record's fields."""
        return self.record_type.names or ()

    @property
    def mirror_images(self) -> bool:
        """Whether the records also hold the flipped images."""
        return self.record_type["z"].shape[0] == 2

    @property
    def shards(self) -> range:
        """The numbers of all shards."""
        return range(-(-len(self.names) // self.shard_size))

    def rows(self, shard: int) -> range:
        """The indices of a shard's images within `names`."""
        return range(len(self.names))[shard * self.shard_size : (shard + 1) * self.shard_size]

    def is_complete(self, folder: Path, shard: int) -> bool:
        """Whether the file of a shard exists and holds all its records."""
        try:
            self.open_shard(folder, shard)
        except CacheError:
            return False
        return True

    def open_shard(self, folder: Path, shard: int) -> np.ndarray:
        """Maps the records of a shard into memory. Raises CacheError if the file is missing, damaged or of another cache."""
        path = shard_path(folder, shard)
        try:
            records = np.load(path, mmap_mode="r", allow_pickle=False)
        except Exception as error:  # numpy raises OSError, ValueError, EOFError, SyntaxError, MemoryError, ...
            raise CacheError(f"{path}: missing or damaged ({str(error)[:200]}); {REMEDY}") from None
        if not isinstance(records, np.ndarray):  # a zip archive of arrays
            raise CacheError(f"{path}: damaged; {REMEDY}")
        if records.dtype != self.record_type or records.shape != (len(self.rows(shard)),):
            raise CacheError(f"{path}: does not hold the records that {INDEX} describes; {REMEDY}")
        return records

    def validate(self) -> None:
        """Raises ValueError for a field that `write_cache` would not write."""
        if not isinstance(self.encoders, dict) or not all(isinstance(sum_, str) for sum_ in self.encoders.values()):
            raise ValueError(f"encoders: {str(self.encoders)[:80]}")
        for field in ("image_size", "shard_size"):
            value = getattr(self, field)
            if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 1 << 31:
                raise ValueError(f"{field}: {str(value)[:80]}")
        if not isinstance(self.names, list) or not all(isinstance(name, str) for name in self.names):
            raise ValueError(f"names: {str(self.names)[:80]}")
        record = self.record_type
        if record.names is None or record.names[:2] != ("size", "z") or record["size"] != np.dtype(("<i4", 2)):
            raise ValueError(f"row: {str(self.row)[:80]}")
        if record.hasobject or len(record["z"].shape) != 4 or not 1 <= record["z"].shape[0] <= 2:
            raise ValueError(f"row: {str(self.row)[:80]}")

    def to_json(self) -> str:
        """The contents of index.json."""
        return json.dumps(asdict(self))


def read_index(folder: Path) -> CacheIndex:
    """Reads index.json of one split's folder. Raises CacheError if it is missing, broken or of another format."""
    try:
        data = json.loads((folder / INDEX).read_bytes().decode("utf-8-sig"))
        version = data["format"]
        index = CacheIndex(**data) if version == FORMAT else None
        if index is not None:
            index.validate()
    except FileNotFoundError:
        raise CacheError(
            f"{folder}: there is no cache; write one with scripts/cache_latents.py --split {folder.name}"
        ) from None
    except (OSError, ValueError, TypeError, KeyError, SyntaxError, RecursionError, OverflowError) as error:
        reason = " ".join(str(error)[:200].split())
        raise CacheError(f"{folder / INDEX}: broken ({reason}); delete {folder} and write the cache again") from None
    if index is None:
        raise CacheError(
            f"{folder}: this cache is stale (format {str(version)[:40]}, not {FORMAT}); write a new one to another folder with "
            "scripts/cache_latents.py"
        )
    return index


def shard_path(folder: Path, shard: int) -> Path:
    """The file of a shard."""
    return folder / f"{shard:05}.npy"


def require_image_files(dataset: object) -> ImageFileDataset | DrawnDataset:
    """Returns `dataset`. Raises CacheError unless it is one of image files, or of pictures that are the same in every epoch."""
    if isinstance(dataset, DrawnDataset):
        dataset.prepare()
    elif not isinstance(dataset, ImageFileDataset):
        raise CacheError(
            f"{type(dataset).__name__} has no image files, so its images cannot be cached; leave data.params.cache out"
        )
    return dataset


class CachedDataset(DatasetWrapper):
    """The latents and graphs of a data set, read from a cache; no image file is opened.

    cached[i] is (Latents of image i: z (4,h,w) and style (E,), both float16; SceneGraph). The style is that of another
    image if `dataset` has style references. Records are found by the image's name, so `dataset` may have fewer images than
    the cache, or another order.

    Args:
        dataset: the data set that the cache was written for.
        folder: the split's folder in the cache.

    Raises:
        CacheError: the cache is missing, stale or incomplete, or `dataset` cannot be cached.
    """

    dataset: ImageFileDataset | DrawnDataset

    def __init__(self, dataset: GraphDataset, folder: str | Path):
        super().__init__(require_image_files(dataset))
        names, self.folder = self.dataset.image_names(), Path(folder)
        self.index = read_index(self.folder)
        self.index.require(self.folder, image_size=self.dataset.image_size)
        row_of = {composed(name): row for row, name in enumerate(self.index.names)}
        row_of |= {name: row for row, name in enumerate(self.index.names)}  # where two names differ in their form only
        absent = [name for name in names if name not in row_of and composed(name) not in row_of]
        if absent:
            raise CacheError(
                f"{folder}: this cache is stale ({len(absent)} of {len(names)} images are not in it, such as {absent[0]}); "
                "write a new one to another folder with scripts/cache_latents.py"
            )
        self.rows = np.array([row_of[name if name in row_of else composed(name)] for name in names], dtype=np.int64)
        shards = np.unique(self.rows // self.index.shard_size).tolist()
        missing = [shard for shard in shards if not self.index.is_complete(self.folder, shard)]
        if missing:
            raise CacheError(f"{folder}: {len(missing)} of {len(shards)} shards are missing or damaged; {REMEDY}")
        self._open_shards: dict[int, np.ndarray] = {}

    def __getitem__(self, index: int) -> tuple[Latents, SceneGraph]:
        width, height = self._record(index)["size"].tolist()
        return self._latents(index, 0), self.dataset.graph(index, (width, height))

    def flipped_image(self, index: int) -> Latents:
        """The latents of the horizontally flipped image."""
        return self._latents(index, 1)

    def _latents(self, index: int, side: int) -> Latents:
        record = self._record(index)
        latents = Latents(**{name: _to_tensor(record[name][side]) for name in self.index.fields if name in IN_RECORD})
        if latents.style is None or not isinstance(self.dataset, HasStyleReferences):
            return latents
        return latents._replace(style=_to_tensor(self._record(self.dataset.style_reference(index))["style"][side]))

    def _record(self, index: int) -> np.void:
        shard, row = divmod(int(self.rows[index]), self.index.shard_size)
        if shard not in self._open_shards:
            self._open_shards[shard] = self.index.open_shard(self.folder, shard)
        return self._open_shards[shard][row]

    def __getstate__(self) -> dict:  # pickling a memory map would copy the whole file
        return self.__dict__ | {"_open_shards": {}}


def _to_tensor(mapped: np.ndarray) -> Tensor:
    return torch.from_numpy(np.array(mapped))
