"""Reads the settings beside weights in a folder of diffusers: unet/config.json, vae/config.json, scheduler_config.json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from ldm.checkpoints.errors import CheckpointError
from ldm.checkpoints.folders import read_json_object
from ldm.checkpoints.reading import PARTS

# Settings of diffusers' U-Nets that change the output but no key and no shape, with the values of LDM's U-Net.
UNET_CONSTANTS = {
    "act_fn": "silu",
    "norm_num_groups": 32,
    "norm_eps": 1e-5,
    "center_input_sample": False,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "downsample_padding": 1,
    "mid_block_scale_factor": 1,
    "only_cross_attention": False,
    "dual_cross_attention": False,
    "resnet_time_scale_shift": "default",
    "resnet_skip_time_act": False,
    "resnet_out_scale_factor": 1.0,
    "time_embedding_type": "positional",
    "time_embedding_act_fn": None,
    "timestep_post_act": None,
    "cross_attention_norm": None,
    "attention_type": "default",
}
# The same for its autoencoders. A shift or mean of the latents would have to be subtracted before the U-Net.
AUTOENCODER_CONSTANTS = {
    "act_fn": "silu",
    "norm_num_groups": 32,
    "shift_factor": None,
    "latents_mean": None,
    "latents_std": None,
}
DEFAULT_HEADS = 8  # of diffusers' UNet2DConditionModel, whose config.json may leave it out
DEFAULT_SCALE = 0.18215  # the same for the scaling_factor of AutoencoderKL and VQModel


@runtime_checkable
class HasDiffusersConfig(Protocol):
    """A module that can be compared with the config.json beside published weights."""

    def diffusers_config(self) -> Mapping[str, Any]:
        """Its settings under diffusers' names.

        `heads` and `depths` map each level with attention to its number of heads and of transformer blocks.
        """
        ...


@dataclass(frozen=True)
class Sidecar:
    """A JSON file of settings, and where it was read."""

    path: Path
    values: Mapping[str, Any]


@dataclass(frozen=True)
class Sidecars:
    """The settings beside weights; None for a file that does not exist.

    Attributes:
        unet: diffusers' config of the U-Net.
        first_stage: diffusers' config of the autoencoder.
        scheduler: diffusers' config of the sampler, which also describes the noise schedule of the training.
    """

    unet: Sidecar | None = None
    first_stage: Sidecar | None = None
    scheduler: Sidecar | None = None

    def of_part(self, part: str) -> Sidecar | None:
        return {"unet": self.unet, "first_stage": self.first_stage}.get(part)


def read_sidecars(source: str | Path | Mapping | None) -> Sidecars:
    """Reads the settings beside weights.

    Args:
        source: a pipeline's folder, a model's folder in it, or a file of weights in one of these. A state dict, or a path
            that does not exist, has no settings.

    Raises:
        CheckpointError: a file of settings is damaged.
    """
    if source is None or isinstance(source, Mapping):
        return Sidecars()
    path = Path(source).expanduser()
    try:
        return find_sidecars(path) if path.exists() else Sidecars()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error})") from error


def find_sidecars(path: Path) -> Sidecars:
    folder = path if path.is_dir() else path.parent
    own = (
        read_sidecar(folder / "config.json")
        if path.is_dir() or path.stem.startswith("diffusion_pytorch_model")
        else None
    )
    kind = str(own.values.get("_class_name", "")) if own else ""
    root = find_pipeline(folder, path.is_dir())
    return Sidecars(
        own if own and kind.startswith("UNet") else find_part(root, "unet"),
        own if own and kind.startswith(("Autoencoder", "VQModel")) else find_part(root, "first_stage"),
        read_sidecar(root / "scheduler" / "scheduler_config.json") if root else None,
    )


def find_pipeline(folder: Path, has_parts: bool) -> Path | None:
    """The folder of the pipeline that `folder` is, or that it is a model's folder of.

    `has_parts`: whether a folder without model_index.json may be a pipeline because it has subfolders of its parts.
    """
    names = [name for part in PARTS.values() for name in part.folders]
    if (folder / "model_index.json").is_file() or (has_parts and any((folder / name).is_dir() for name in names)):
        return folder
    is_part = folder.name in names
    beside = (folder.parent / "model_index.json").is_file() or (folder.parent / "scheduler").is_dir()
    return folder.parent if is_part and beside else None


def find_part(root: Path | None, part: str) -> Sidecar | None:
    places = (root / name / "config.json" for name in PARTS[part].folders) if root else ()
    return next((found for place in places if (found := read_sidecar(place))), None)


def read_sidecar(path: Path) -> Sidecar | None:
    return Sidecar(path, read_json_object(path)) if path.is_file() else None


def differences(module: object, sidecar: Sidecar | None) -> list[str]:
    """What a module and the settings of its weights disagree on, as text; settings that the file leaves out agree."""
    if sidecar is None or not isinstance(module, HasDiffusersConfig):
        return []
    published, found = sidecar.values, []
    for name, expected in module.diffusers_config().items():
        if name == "heads":
            found += head_differences(expected, published)
        elif name == "depths":
            found += depth_differences(expected, published)
        elif name in published and not is_equal(published[name], expected):
            found.append(f"{name} is {published[name]!r}, not {expected!r}")
    return found


def head_differences(expected: Mapping[int, int], published: Mapping[str, Any]) -> list[str]:
    heads = head_counts(published, 1 + max(expected))
    if heads is not None and all(heads[level] == count for level, count in expected.items()):
        return []
    ours, theirs = sorted(set(expected.values())), sorted(set(heads or ()))
    given = published.get("num_attention_heads") or published.get("attention_head_dim", DEFAULT_HEADS)
    return [f"attention heads are {_one(theirs) or given!r}, not {_one(ours)}"]


def depth_differences(expected: Mapping[int, int], published: Mapping[str, Any]) -> list[str]:
    given = published.get("transformer_layers_per_block", 1)
    per_level = isinstance(given, (list, tuple))
    if all((given[level] if per_level and level < len(given) else given) == count for level, count in expected.items()):
        return []
    ours = [expected[level] for level in sorted(expected)]
    return [f"transformer_layers_per_block is {given!r}, not {ours} at the levels with attention"]


def _one(values: list[int]) -> int | list[int]:
    return values[0] if len(values) == 1 else values


def head_counts(published: Mapping[str, Any], levels: int) -> list[int] | None:
    """The number of attention heads of each level, by a U-Net's config.json; None if its value is no such number.

    diffusers' older name for them, attention_head_dim, says the contrary.
    """
    given = published.get("num_attention_heads") or published.get("attention_head_dim", DEFAULT_HEADS)
    heads = list(given) if isinstance(given, (list, tuple)) else [given] * levels
    return heads if len(heads) == levels and all(type(count) is int and count > 0 for count in heads) else None


def is_equal(published: Any, expected: Any) -> bool:
    """Whether two settings agree; diffusers writes one value or one per level, and null for the plain choice."""
    if isinstance(expected, (list, tuple)):
        return isinstance(published, (list, tuple)) and list(published) == list(expected)
    if isinstance(published, (list, tuple)):
        return all(is_equal(value, expected) for value in published)
    return published == expected or (published is None and expected in (False, "default", 1, 1.0))


def scale_factor_of(sidecar: Sidecar | None) -> float | None:
    """The factor of the latents that an autoencoder's config.json states, or diffusers' default. Raises CheckpointError."""
    if sidecar is None:
        return None
    value = sidecar.values.get("scaling_factor", DEFAULT_SCALE)
    if type(value) not in (int, float) or not 0 < value < float("inf"):
        raise CheckpointError(f"{sidecar.path}: scaling_factor {value!r} is not a positive number; correct it")
    return float(value)
