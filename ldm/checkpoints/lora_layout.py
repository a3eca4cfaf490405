"""Reads LoRA files of kohya, diffusers and peft: pairs of low-rank matrices and their scales, by the layer's name."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from ldm.checkpoints.errors import CheckpointError, list_names
from ldm.checkpoints.folders import read_json_object
from ldm.checkpoints.reading import read_file, read_metadata, read_state_dict

FILES = (
    "pytorch_lora_weights.safetensors",
    "adapter_model.safetensors",
    "pytorch_lora_weights.bin",
    "adapter_model.bin",
)
# Patterns of the keys: layer, side of the pair. The last is of diffusers' attention processors.
KEYS = (
    re.compile(r"(?P<layer>.+)\.lora_(?P<side>down|up)\.weight"),
    re.compile(r"(?P<layer>.+)\.lora_(?P<side>A|B)(\.\w+)?\.weight"),
    re.compile(r"(?P<layer>.+)\.lora\.(?P<side>down|up)\.weight"),
    re.compile(r"(?P<layer>.+)\.lora_linear_layer\.(?P<side>down|up)\.weight"),
    re.compile(r"(?P<layer>.+)\.processor\.(?P<name>to_\w+)_lora\.(?P<side>down|up)\.weight"),
)
# Parts of the keys of other methods than LoRA.
OTHER_METHODS = {
    "hada_w": "LoHa",
    "lokr_w": "LoKr",
    "oft_": "OFT",
    "dora_scale": "DoRA",
    "lora_magnitude_vector": "DoRA",
    "lora_mid": "LoCon with a middle matrix",
    "glora": "GLoRA",
}
WRAPPERS = re.compile(r"^(base_model\.model\.|module\.|_orig_mod\.|unet\.|model\.diffusion_model\.|diffusion_model\.)+")
METADATA = "lora_adapter_metadata"  # where diffusers stores peft's config in a .safetensors file


@dataclass
class LowRank:
    """The two matrices of a layer; their product, times alpha over rank, is added to its weight.

    Attributes:
        down: (rank, in), or (rank, in, 1, 1) of a convolution.
        up: (out, rank), or (out, rank, 1, 1).
        alpha: the rank if the file states none.
        by_root: whether alpha is divided by the square root of the rank (rank-stabilised LoRA, Kalajdzievski 2312.03732).
    """

    down: Tensor | None = None
    up: Tensor | None = None
    alpha: float | None = None
    by_root: bool = False


@dataclass
class LoRAFile:
    """The content of a LoRA file.

    Attributes:
        source: its path.
        layers: the layer's name in the file, without wrappers, -> its matrices.
        other: keys that belong to no pair.
        unnamed: pairs of a file without names (lists of cloneofsimo's lora), in the order of the model's modules.
    """

    source: str
    layers: dict[str, LowRank] = field(default_factory=dict)
    other: list[str] = field(default_factory=list)
    unnamed: list[LowRank] = field(default_factory=list)


def read_lora(path: str | Path) -> LoRAFile:
    """Reads a LoRA file, or a folder that diffusers or peft wrote.

    Raises:
        CheckpointError: the file is missing, damaged, of another method, or holds no pair of matrices.
    """
    path = find_lora(Path(path).expanduser())
    if matrices := read_list(path):
        return LoRAFile(str(path), unnamed=pairs_of(matrices, str(path)))
    state = read_state_dict(path)
    for part, method in OTHER_METHODS.items():
        if keys := [key for key in state if part in key]:
            raise CheckpointError(f"{path}: adapters of {method} (such as {keys[0]}), not of LoRA; use a LoRA file")
    file = LoRAFile(str(path))
    for key, value in state.items():
        match = next((found for pattern in KEYS if (found := pattern.fullmatch(key))), None)
        if match:
            groups = match.groupdict()
            pair = file.layers.setdefault(layer_name(groups["layer"], groups.get("name")), LowRank())
            if groups["side"] in ("down", "A"):
                pair.down = value
            else:
                pair.up = value
        elif key.endswith(".alpha") and value.numel() == 1 and not value.is_complex():
            file.layers.setdefault(layer_name(key.removesuffix(".alpha")), LowRank()).alpha = float(value)
        else:
            file.other.append(key)
    if not file.layers:
        hint = "; adapters of scripts/export.py are given as --ckpt" if any("lora_A" in key for key in state) else ""
        raise CheckpointError(f"{path}: holds no LoRA (its keys are {list_names(state)}); name a LoRA file{hint}")
    apply_settings(file, read_settings(path))
    check_pairs(file)
    return file


def read_list(path: Path) -> list[Tensor]:
    """The tensors of a file that is a list of them; empty for any other file, damaged ones included."""
    if not path.is_file() or path.suffix == ".json":
        return []
    try:
        content = read_file(path)
    except Exception:  # read_state_dict says what is wrong with it
        return []
    tensors = [each for each in content if isinstance(each, Tensor)] if isinstance(content, list) else []
    return tensors if isinstance(content, list) and len(tensors) == len(content) else []


def pairs_of(matrices: list[Tensor], source: str) -> list[LowRank]:
    """The pairs of a list of matrices, of which cloneofsimo's files hold each layer's `up` before its `down`."""
    pairs = [LowRank(down, up) for up, down in zip(matrices[::2], matrices[1::2])]
    if len(matrices) % 2 or not all(
        pair.down is not None
        and pair.up is not None
        and pair.down.ndim == pair.up.ndim >= 2
        and len(pair.down) == pair.up.shape[1]
        for pair in pairs
    ):
        raise CheckpointError(f"{source}: a list of tensors that are no pairs of matrices; name a LoRA file")
    return pairs


def find_lora(path: Path) -> Path:
    if not path.is_dir():
        return path
    found = next((path / name for name in FILES if (path / name).is_file()), None)
    if found is None:
        raise CheckpointError(
            f"{path}: has no {' or '.join(FILES[:2])}; name a LoRA file, or a folder with one of these"
        )
    return found


def layer_name(name: str, projection: str | None = None) -> str:
    """A layer's name without wrappers; `projection` is that of diffusers' attention processors, whose to_out is to_out.0."""
    name = WRAPPERS.sub("", name)
    if projection:
        name += "." + ("to_out.0" if projection == "to_out" else projection)
    return name


def read_settings(path: Path) -> Mapping[str, Any]:
    """peft's settings of a LoRA: from adapter_config.json beside the file, or from the metadata that diffusers writes."""
    if path.stem == "adapter_model" and (config := path.with_name("adapter_config.json")).is_file():
        return read_json_object(config)
    text = read_metadata(path).get(METADATA)
    try:
        values = json.loads(text) if text else {}
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: its metadata {METADATA} is damaged ({error}); download it again") from error
    return values if isinstance(values, dict) else {}


def settings_of(name: str, settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """The settings of the model to which a layer belongs; diffusers stores those of several with the prefixes of their keys."""
    text = next((prefix for prefix in ("text_encoder_2.", "text_encoder.") if name.startswith(prefix)), "unet.")
    own = {key.removeprefix(text): value for key, value in settings.items() if key.startswith(text)}
    return own or {key: value for key, value in settings.items() if "." not in key}


def apply_settings(file: LoRAFile, settings: Mapping[str, Any]) -> None:
    """Sets alpha where the tensors do not state it."""
    for name, pair in file.layers.items():
        own = settings_of(name, settings)
        if own.get("use_dora"):
            raise CheckpointError(f"{file.source}: adapters of DoRA, not of LoRA; use a LoRA file")
        patterns = own.get("alpha_pattern")
        patterns = patterns if isinstance(patterns, dict) else {}
        alpha = next((value for key, value in patterns.items() if matches(key, name)), own.get("lora_alpha"))
        if pair.alpha is None and type(alpha) in (int, float):
            pair.alpha = float(alpha)
        pair.by_root = bool(own.get("use_rslora"))


def matches(pattern: str, name: str) -> bool:
    """Whether a key of peft's alpha_pattern, read as a name and not as a regular expression, ends a layer's name."""
    pattern = WRAPPERS.sub("", pattern.lstrip("^"))
    return name == pattern or name.endswith(f".{pattern}")


def check_pairs(file: LoRAFile) -> None:
    """Raises CheckpointError for a layer with one matrix only, or with two that do not fit."""
    for name, pair in file.layers.items():
        if pair.down is None or pair.up is None:
            raise CheckpointError(
                f"{file.source}: the layer {name} has only one of its two matrices; the file is damaged"
            )
        if pair.down.is_complex() or pair.up.is_complex():
            raise CheckpointError(f"{file.source}: the layer {name} holds complex numbers; the file is damaged")
        if not (pair.down.ndim == pair.up.ndim >= 2 and pair.up.shape[1] == pair.down.shape[0] > 0):
            raise CheckpointError(
                f"{file.source}: the matrices {tuple(pair.up.shape)} and {tuple(pair.down.shape)} of the layer {name} do not "
                "fit each other; the file is damaged"
            )
