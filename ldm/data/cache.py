"""What the frozen encoders made of a data set's images, kept on disk, so that training needs neither of them.

A folder has one subfolder per split, and in it

    index.json               what made it and of which images, in the order of their rows
    00000.npy, 00001.npy ... shards of `shard_size` rows, the last one shorter: arrays of a record per image with
                             size   (2,) int32            width and height of the file, which graphs may need
                             z      (1 or 2,4,h,w) half   the latent, not scaled, and that of the mirror image
                             style  (1 or 2,E) half       the image encoder's embeddings, where there is such an encoder

A record is one piece of a plain .npy, which numpy maps into memory: a sample touches one or two dozen kilobytes of one
file, and processes share them. A shard takes its name when it is complete, so only whole ones count after a kill.
Numbers are float16, which numpy has and bfloat16 is not among: latents stay far below its 65504 (writing checks), and
its 11 bits round eight times finer than the 8 in which mixed precision computes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ldm.data.wrapping import Wrapping
from ldm.graph.batch import Latents
from ldm.graph.scene_graph import SceneGraph
from ldm.util.errors import UserError

FORMAT = 2  # another one where records, or the way from file to encoder, change
INDEX = "index.json"


class CacheError(UserError):
    """A cache that is missing, stale or not whole, or data that none can hold."""


@dataclass(frozen=True)
class Index:
    """encoders: checksums by name. row: numpy's description of a record. names: of images, relative to image_dir."""

    encoders: Mapping[str, str]
    image_size: int
    shard_size: int
    row: list
    names: list[str]
    format: int = FORMAT

    def refuse_other(self, folder: Path, **wanted: object) -> None:
        """CacheError where a field is not as wanted: the cache is stale."""
        for field, new in wanted.items():
            old = getattr(self, field)
            if isinstance(new, Mapping) and old != new:
                field = next(name for name in (*new, *old) if old.get(name) != new.get(name))
                old, new = (f"checksum {each[field]}" if field in each else "absent" for each in (old, new))
            elif field == "names" and old != new:
                old, new = (f"{len(each)} images from {each[0]} to {each[-1]}" for each in (old, new))
            if old != new:
                raise CacheError(
                    f"{folder}: this cache is stale ({field.replace('_', ' ')}: {old} then, {new} now); make one anew "
                    "with scripts/cache_latents.py in another folder, or go back to what this one was made with"
                )

    @cached_property
    def row_type(self) -> np.dtype:
        return np.dtype([(name, kind, tuple(shape)) for name, kind, shape in self.row])

    @property
    def mirror_images(self) -> bool:
        return self.row_type["z"].shape[0] == 2

    @property
    def shards(self) -> range:
        return range(-(-len(self.names) // self.shard_size))

    def rows(self, shard: int) -> range:
        return range(len(self.names))[shard * self.shard_size : (shard + 1) * self.shard_size]

    def is_whole(self, folder: Path, shard: int) -> bool:
        try:
            return len(np.load(shard_path(folder, shard), mmap_mode="r")) == len(self.rows(shard))
        except (OSError, ValueError, EOFError):  # not there, or shorter than its header says
            return False

    def to_json(self) -> str:
        return json.dumps(asdict(self))


def read_index(folder: Path) -> Index:
    """Raises CacheError for one that is not there, or not readable here."""
    try:
        data = json.loads((folder / INDEX).read_text())
        version = data["format"]
        index = Index(**data) if version == FORMAT else None
    except FileNotFoundError:
        remedy = f"scripts/cache_latents.py makes one (--split {folder.name})"
        raise CacheError(f"{folder}: there is no cache; {remedy}") from None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise CacheError(f"{folder / INDEX}: broken ({error}); delete {folder} and make it anew") from None
    if index is None:
        raise CacheError(f"{folder}: this cache is stale, of format {version}, not {FORMAT}; make one anew elsewhere")
    return index


def shard_path(folder: Path, shard: int) -> Path:
    return folder / f"{shard:05}.npy"


def image_names(dataset: Dataset) -> list[str]:
    """Of its images, relative to its folder of them. Raises CacheError for a data set that has none, and draws."""
    if not hasattr(dataset, "image_names"):
        name = type(dataset).__name__
        raise CacheError(f"{name} draws its pictures anew, which no cache can hold: leave data.params.cache out")
    return dataset.image_names()


class Cached(Wrapping):
    """ds[i] -> (Latents of image i: z (4,h,w), style (E,), both float16; its graph), and no image is read.

    Which row is image i's, its name says: `dataset` may have fewer images than the cache, or another order.
    """

    def __init__(self, dataset: Dataset, folder: str | Path):
        super().__init__(dataset)
        names, self.folder = image_names(dataset), Path(folder)
        self.index = read_index(self.folder)
        self.index.refuse_other(self.folder, image_size=dataset.image_size)
        places = {name: row for row, name in enumerate(self.index.names)}
        absent = [name for name in names if name not in places]
        if absent:
            raise CacheError(
                f"{folder}: this cache is stale, {len(absent)} of {len(names)} images are not in it, {absent[0]} the "
                "first; make one anew with scripts/cache_latents.py in another folder"
            )
        self.rows = np.array([places[name] for name in names])
        shards = np.unique(self.rows // self.index.shard_size).tolist()
        missing = [shard for shard in shards if not self.index.is_whole(self.folder, shard)]
        if missing:
            raise CacheError(
                f"{folder}: {len(missing)} of {len(shards)} shards are missing; the scripts/cache_latents.py command "
                "that began it goes on where it stopped"
            )
        self._opened: dict[int, np.ndarray] = {}

    def __getitem__(self, index: int) -> tuple[Latents, SceneGraph]:
        size = tuple(self._record(index)["size"].tolist())
        return self._latents(index, 0), self.dataset.graph(index, size)

    def mirrored_image(self, index: int) -> Latents:
        return self._latents(index, 1)

    def _latents(self, index: int, side: int) -> Latents:
        record = self._record(index)
        return Latents(*(_tensor(record[name][side]) for name in ("z", "style") if name in record.dtype.names))

    def _record(self, index: int) -> np.void:
        shard, row = divmod(int(self.rows[index]), self.index.shard_size)
        if shard not in self._opened:
            self._opened[shard] = np.load(shard_path(self.folder, shard), mmap_mode="r")
        return self._opened[shard][row]

    def __getstate__(self) -> dict:  # a map that is pickled would be copied as a whole
        return self.__dict__ | {"_opened": {}}


def _tensor(mapped: np.ndarray) -> Tensor:
    return torch.from_numpy(np.array(mapped))
