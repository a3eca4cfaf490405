"""Two sets of images to compare: which graph each sample shows, and which real image belongs to it."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from yaml import YAMLError

from ldm.util.config import instantiate_from_config
from ldm.util.errors import UserError
from ldm.util.images import read_image, square, to_image

INDEX = "index.jsonl"  # scripts/sample.py's: an object per line, with `file` and `graph_index` among its keys


class ImageSetError(UserError):
    """Sets that are missing, empty, or do not belong together."""


class Folder(Dataset):
    """folder[i] -> uint8 (3,size,size), upright, in the order of the files' names, the first n of them.

    graphs[i] is the graph that image i shows: the `graph_index` of its line in the folder's index.jsonl (whose files
    are then all that counts, so that drawings beside the samples do not), or else the subfolder that it lies in. None
    for a file at the top of a folder without index.
    """

    def __init__(self, folder: str | Path, size: int, n: int | None = None):
        self.folder, self.size = Path(folder), size
        if not self.folder.is_dir():
            raise ImageSetError(f"{folder}: there is no such folder")
        self.indexed = (self.folder / INDEX).is_file()
        if not self.indexed and all((self.folder / part).is_dir() for part in ("images", "graphs")):
            raise ImageSetError(f"{folder}: sampling is not done, or it had {INDEX}; run sample.py again to go on")
        graphs = _read_index(self.folder / INDEX) if self.indexed else _subfolders(self.folder)
        if not graphs:
            raise ImageSetError(f"{folder}: holds no image")
        self.files = sorted(graphs)[:n]
        self.graphs = [graphs[file] for file in self.files]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Tensor:
        image = read_image(self.folder / self.files[index], upright=True)
        return _pixels(image if image.size == (self.size, self.size) else square(image, self.size))

    def __str__(self) -> str:
        return str(self.folder)


class Split(Dataset):
    """split[i] -> uint8 (3,size,size): the image of graph i in a config's data.params.<split>."""

    def __init__(self, config: str | Path, split: str, size: int):
        self.name = f"{config}, data.params.{split}"
        try:
            splits = OmegaConf.select(OmegaConf.load(config), "data.params", default={})
        except (OSError, YAMLError, OmegaConfBaseException) as error:
            raise ImageSetError(f"{config}: cannot be read ({' '.join(str(error).split())})") from None
        known = [name for name in ("train", "validation", "test") if name in splits]
        if split not in known:
            raise ImageSetError(f"{config}: has no data.params.{split}; its splits are {', '.join(known) or 'none'}")
        try:
            self.dataset = instantiate_from_config(splits[split], image_size=size)
        except (OSError, ValueError) as error:
            raise ImageSetError(f"{self.name}: {error}") from None

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Tensor:
        return _pixels(to_image(self.dataset[index][0]))

    def __str__(self) -> str:
        return self.name


class Pairs(Dataset):
    """pairs[k] -> (first[i], second[j]) for the k-th (i, j)."""

    def __init__(self, first: Dataset, second: Dataset, indices: Sequence[tuple[int, int]]):
        self.first, self.second, self.indices = first, second, indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        i, j = self.indices[index]
        return self.first[i], self.second[j]


def match(samples: Folder, reference: Folder | Split) -> list[tuple[int, int]]:
    """(sample, its real image) for every sample: in a folder the one of the same file name, endings apart; in a split
    the one whose graph was sampled, as the index says. Raises ImageSetError where a sample has none."""
    if isinstance(reference, Split):
        if not samples.indexed:
            raise ImageSetError(f"{samples}: has no {INDEX}, which would say whose graph each sample shows")
        names, partners = samples.graphs, {index: index for index in range(len(reference))}
    else:
        names = [file.with_suffix("") for file in samples.files]
        partners = {file.with_suffix(""): index for index, file in enumerate(reference.files)}
        if len(partners) < len(reference):
            raise ImageSetError(f"{reference}: some files differ in their ending alone, so names do not tell pairs")
    alone = [file for file, name in zip(samples.files, names) if name not in partners]
    if alone:
        raise ImageSetError(
            f"{samples}: {len(alone)} of {len(names)} samples, {alone[0]} the first, have no partner in {reference}"
        )
    return [(index, partners[name]) for index, name in enumerate(names)]


def of_one_graph(samples: Folder) -> list[list[tuple[int, int]]]:
    """For every graph with several samples, all pairs of them."""
    members = defaultdict(list)
    for index, graph in enumerate(samples.graphs):
        if graph is not None:
            members[graph].append(index)
    return [list(combinations(group, 2)) for group in members.values() if len(group) > 1]


def _read_index(path: Path) -> dict[Path, int]:
    graphs = {}
    for number, line in enumerate(path.read_text().splitlines(), 1):
        try:
            entry = json.loads(line)
            graphs[Path(entry["file"])] = int(entry["graph_index"])
        except (ValueError, TypeError, KeyError):
            raise ImageSetError(f"{path}, line {number}: not an object with `file` and `graph_index`") from None
    missing = [file for file in graphs if not (path.parent / file).is_file()]
    if missing:
        raise ImageSetError(f"{path}: {len(missing)} of its {len(graphs)} files are not there, {missing[0]} the first")
    return graphs


def _subfolders(folder: Path) -> dict[Path, str | None]:
    endings = Image.registered_extensions()
    files = (path.relative_to(folder) for path in folder.rglob("*") if path.suffix.lower() in endings)
    shown = (file for file in files if not any(part.startswith(".") for part in file.parts))
    return {file: str(file.parent) if len(file.parts) > 1 else None for file in shown}


def _pixels(image: Image.Image) -> Tensor:  # RGB -> uint8 (3,H,W)
    return torch.from_numpy(np.asarray(image).transpose(2, 0, 1).copy())
