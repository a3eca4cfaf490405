"""Sets of images for evaluation: folders and data set splits, the graph of each sample, and its real counterpart."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from omegaconf import OmegaConf
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from ldm.util.config import instantiate_from_config
from ldm.util.config_merging import ConfigPaths, config_name, read_configs
from ldm.util.errors import UserError
from ldm.util.files import read_text
from ldm.util.images import read_image, resize_square, to_image

INDEX = "index.jsonl"  # of scripts/sample.py: a JSON object per line, with the keys `file` and `graph_index`


class ImageSetError(UserError):
    """A set of images that is missing, empty or broken, or two sets that do not match."""


class Folder(Dataset):
    """The images of a folder, in the order of their file names: folder[i] -> uint8 (3,size,size), upright.

    With an index.jsonl, only the files that it lists count; other images beside them do not.

    Args:
        size: to which images are resized, whatever their shape.
        n: how many images are used; None for all.

    Attributes:
        files: paths relative to the folder.
        graphs: the graph of each image: its `graph_index` in index.jsonl, else the subfolder that it lies in; None for
            files at the top of a folder without index.jsonl.

    Raises:
        ImageSetError: there is no such folder, it holds no images, or sampling into it is not finished.
    """

    def __init__(self, folder: str | Path, size: int, n: int | None = None):
        self.folder, self.size = Path(folder), size
        if not self.folder.is_dir():
            raise ImageSetError(f"{folder}: no such folder")
        self.indexed = (self.folder / INDEX).is_file()
        if not self.indexed and all((self.folder / part).is_dir() for part in ("images", "graphs")):
            raise ImageSetError(
                f"{folder}: sampling is not finished, since {INDEX} is missing; run sample.py again to continue"
            )
        graphs = _read_index(self.folder / INDEX) if self.indexed else _subfolders(self.folder)
        if not graphs:
            raise ImageSetError(f"{folder}: holds no image; name a folder with images")
        self.files = sorted(graphs)[:n]
        self.graphs = [graphs[file] for file in self.files]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Tensor:
        image = read_image(self.folder / self.files[index], upright=True)
        return _pixels(image if image.size == (self.size, self.size) else resize_square(image, self.size))

    def __str__(self) -> str:
        return str(self.folder)


class Split(Dataset):
    """The images of a config's data.params.<split>: split[i] -> uint8 (3,size,size), of graph i.

    Raises:
        ConfigError: the config cannot be read.
        ImageSetError: it has no such split, or the data set cannot be built.
    """

    def __init__(self, config: ConfigPaths, split: str, size: int):
        self.name = f"{config_name(config)}, data.params.{split}"
        splits = OmegaConf.select(read_configs(config), "data.params") or {}
        known = [name for name in ("train", "validation", "test") if splits.get(name)]
        if split not in known:
            splits = ", ".join(known) or "none"
            raise ImageSetError(f"{config_name(config)}: has no data.params.{split}; its splits are {splits}")
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
    """Pairs of images: pairs[k] -> (first[i], second[j]) with (i, j) = indices[k]."""

    def __init__(self, first: Dataset, second: Dataset, indices: Sequence[tuple[int, int]]):
        self.first, self.second, self.indices = first, second, indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        i, j = self.indices[index]
        return self.first[i], self.second[j]


def match(samples: Folder, reference: Folder | Split) -> list[tuple[int, int]]:
    """Finds the real image of each sample: by file name (without extension) in a folder, by graph_index in a split.

    Returns:
        Indices (sample, real image).

    Raises:
        ImageSetError: a sample has no real image, or it is ambiguous.
    """
    if isinstance(reference, Split):
        if not samples.indexed:
            raise ImageSetError(
                f"{samples}: has no {INDEX}, which tells the graph of each sample; compare with a folder (--reference)"
            )
        names: Sequence = samples.graphs
        partners: dict = {index: index for index in range(len(reference))}
    else:
        names = [file.with_suffix("") for file in samples.files]
        partners = {file.with_suffix(""): index for index, file in enumerate(reference.files)}
        if len(partners) < len(reference):
            raise ImageSetError(f"{reference}: some file names differ in their extension only; rename one of each")
    unmatched = [file for file, name in zip(samples.files, names) if name not in partners]
    if unmatched:
        raise ImageSetError(
            f"{samples}: {len(unmatched)} of {len(names)} samples have no partner in {reference}, first {unmatched[0]}"
        )
    return [(index, partners[name]) for index, name in enumerate(names)]


def pairs_by_graph(samples: Folder) -> list[list[tuple[int, int]]]:
    """For each graph with several samples, the indices of all pairs of them."""
    members = defaultdict(list)
    for index, graph in enumerate(samples.graphs):
        if graph is not None:
            members[graph].append(index)
    return [list(combinations(group, 2)) for group in members.values() if len(group) > 1]


def _read_index(path: Path) -> dict[Path, int]:
    graphs = {}
    for number, line in enumerate(read_text(path).rstrip("\n").split("\n"), 1):
        try:
            entry = json.loads(line)
            graphs[Path(entry["file"])] = int(entry["graph_index"])
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
            raise ImageSetError(f"{path}, line {number}: is no JSON object with `file` and `graph_index`") from None
    missing = [file for file in graphs if not _is_file(path.parent / file)]
    if missing:
        raise ImageSetError(f"{path}: {len(missing)} of its {len(graphs)} files are missing, first {missing[0]}")
    return graphs


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that no file can have
        return False


def _subfolders(folder: Path) -> dict[Path, str | None]:
    extensions = Image.registered_extensions()
    files = (path.relative_to(folder) for path in folder.rglob("*") if path.suffix.lower() in extensions)
    visible = (file for file in files if not any(part.startswith(".") for part in file.parts))
    return {file: str(file.parent) if len(file.parts) > 1 else None for file in visible}


def _pixels(image: Image.Image) -> Tensor:  # RGB -> uint8 (3,H,W)
    return torch.from_numpy(np.asarray(image).transpose(2, 0, 1).copy())
