"""Finds the weights in a folder of diffusers or transformers: variants, and shards that an index lists."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable
from pathlib import Path

from torch import Tensor

from ldm.checkpoints.errors import CheckpointError, list_names
from ldm.util.files import read_json

logger = logging.getLogger(__name__)

# Names of files of weights, without variant and suffix: diffusers', transformers' and open_clip's.
STEMS = ("diffusion_pytorch_model", "model", "pytorch_model", "open_clip_model", "open_clip_pytorch_model")
SUFFIXES = ("safetensors", "bin")
# Variants in the order of preference: no variant, averages, any precision, weights without averaging.
EMA, NON_EMA = "ema", "non_ema"
SHARD = re.compile(r"(?P<stem>.+?)(?P<before>\.\w+)?-\d{5}-of-\d{5}(?P<after>\.\w+)?\.(?P<suffix>safetensors|bin)")


def find_weights(folder: Path, subfolders: Iterable[str] = ()) -> Path:
    """The file of weights, or the index of its shards, in a folder of diffusers or transformers.

    Args:
        folder: the folder of a pipeline, or of one model.
        subfolders: names of the model's folder in a pipeline's folder.

    Raises:
        CheckpointError: there is no file of weights.
    """
    places = [*(folder / name for name in subfolders), folder]
    for place in places:
        if found := list_weights(place):
            variant, path = found[0]
            if variant:
                kind = {EMA: "moving averages", NON_EMA: "weights without averaging"}.get(variant, "variant")
                logger.info("%s: reading the %s %r", folder, kind, path.name)
            return path
    shown = [place for place in places if not place.name.endswith("_ema")]
    expected = " or ".join(f"{place}/diffusion_pytorch_model.safetensors" for place in shown)
    files = sorted(file.name for file in folder.iterdir() if file.suffix in (".safetensors", ".ckpt", ".pt", ".bin"))
    remedy = f"; name a file in it: {list_names(files)}" if files else ""
    raise CheckpointError(
        f"{folder}: not a folder in diffusers' layout; it should contain {expected} (or .bin){remedy}"
    )


def list_weights(folder: Path) -> list[tuple[str, Path]]:
    """The files and indices of complete weights in a folder with their variants ("" for none), the preferred one first."""
    if not folder.is_dir():
        return []
    stems, suffixes = "|".join(STEMS), "|".join(SUFFIXES)
    pattern = re.compile(rf"({stems})(?:\.(\w+))?\.({suffixes})(\.index(?:\.(\w+))?\.json)?")
    found = []
    for path in folder.iterdir():
        if (match := pattern.fullmatch(path.name)) and path.is_file():
            stem, before, suffix, index, after = match.groups()
            variant = before or after or ""
            order = {"": 0, EMA: 1, NON_EMA: 3}.get(variant, 2)
            found.append(((order, STEMS.index(stem), SUFFIXES.index(suffix), bool(index), variant), path))
    return [(key[-1], path) for key, path in sorted(found)]


def find_index(path: Path) -> Path:
    """The index of the shards that `path` is one of; `path` itself for any other file. Raises CheckpointError."""
    match = SHARD.fullmatch(path.name)
    if not match:
        return path
    variant = (match["before"] or match["after"] or "")[1:]
    for name in (
        f"{match['stem']}.{match['suffix']}.index{variant and '.'}{variant}.json",
        f"{match['stem']}{variant and '.'}{variant}.{match['suffix']}.index.json",
    ):
        if (index := path.with_name(name)).is_file():
            logger.info("%s: one of several shards, all in %s are read", path, index.name)
            return index
    raise CheckpointError(f"{path}: one shard of several, and their index is missing; download the whole folder")


def read_shards(index: Path, read: Callable[[Path], dict[str, Tensor]]) -> dict[str, Tensor]:
    """Reads the weights that an index lists.

    Args:
        index: a *.index.json, whose weight_map names the file of each tensor.
        read: reads the tensors of one file.

    Raises:
        CheckpointError: the index is damaged, or a shard is missing or lacks tensors.
    """
    weight_map = read_json_object(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        raise CheckpointError(f"{index}: not an index of weights (no weight_map of names to files); download it again")
    tensors: dict[str, Tensor] = {}
    for name in sorted(set(weight_map.values())):
        if Path(name).name != name:
            raise CheckpointError(f"{index}: names the shard {name!r} outside its folder; download it again")
        if not (shard := index.with_name(name)).is_file():
            raise CheckpointError(f"{shard}: this shard is missing; download it beside {index.name}")
        tensors |= read(shard)
    if missing := [key for key in weight_map if key not in tensors]:
        raise CheckpointError(f"{index}: its shards lack {list_names(missing)}; download them again")
    return tensors


def read_json_object(path: Path) -> dict:
    """A JSON file with an object. Raises CheckpointError."""
    content = read_json(path, CheckpointError, "download it again")
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: holds no JSON object; download it again")
    return content
