"""Renames the parameters of Hugging Face's CLIP image towers to open_clip's, and reads the settings beside them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ldm.checkpoints.errors import CheckpointError
from ldm.checkpoints.folders import read_json_object

ENDS = {
    "embeddings.class_embedding": "class_embedding",
    "embeddings.patch_embedding.weight": "conv1.weight",
    "embeddings.position_embedding.weight": "positional_embedding",
    "pre_layrnorm.weight": "ln_pre.weight",  # sic
    "pre_layrnorm.bias": "ln_pre.bias",
    "post_layernorm.weight": "ln_post.weight",
    "post_layernorm.bias": "ln_post.bias",
}
LAYERS = {
    "self_attn.out_proj": "attn.out_proj",
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}
VISION = "vision_model."
PROJECTION = "visual_projection.weight"
BUFFER = "embeddings.position_ids"  # of files from before transformers 4.31
QUICK_GELU, GELU = "quick_gelu", "gelu"
DEFAULT_ACTIVATION = QUICK_GELU  # of transformers' CLIPVisionConfig, whose config.json may leave it out


def is_hugging_face(state: Mapping[str, Tensor]) -> bool:
    """Whether a state dict has the keys of transformers' CLIP."""
    return any(key.endswith("pre_layrnorm.weight") for key in state)


def to_open_clip(state: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """The image tower of transformers' CLIPModel or CLIPVisionModelWithProjection with open_clip's keys.

    Query, key and value, which are three layers there, are one here. Unknown names stay unchanged, so that loading reports them.

    Raises:
        CheckpointError: the projection to the embedding is missing.
    """
    if PROJECTION not in state:
        raise CheckpointError(
            f"{source}: an image tower without {PROJECTION}; name a CLIPModel or a CLIPVisionModelWithProjection"
        )
    vision = {key.removeprefix(VISION): value for key, value in state.items() if key.startswith(VISION)}
    vision.pop(BUFFER, None)
    renamed = {ENDS.get(key, key): value for key, value in merge_layers(vision).items()}
    return {"proj": state[PROJECTION].T.contiguous(), **renamed}


def merge_layers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Renames the transformer blocks of a tower of transformers to open_clip's, and merges query, key and value."""
    tower = {}
    for key, value in state.items():
        found = re.fullmatch(r"encoder\.layers\.(\d+)\.(.+)\.(weight|bias)", key)
        if not found:
            tower[key] = value
            continue
        block, layer, kind = f"transformer.resblocks.{found[1]}", found[2], found[3]
        if layer == "self_attn.q_proj":
            names = [f"encoder.layers.{found[1]}.self_attn.{which}_proj.{kind}" for which in "qkv"]
            if all(name in state for name in names):
                tower[f"{block}.attn.in_proj_{kind}"] = torch.cat([state[name] for name in names])
        elif layer not in ("self_attn.k_proj", "self_attn.v_proj"):
            tower[f"{block}.{LAYERS.get(layer, layer)}.{kind}"] = value
    return tower


@dataclass(frozen=True)
class TowerSettings:
    """Settings of an image tower that change its output but no shape.

    Attributes:
        source: the file that states them.
        activation: "quick_gelu", "gelu" or another.
        heads: attention heads; None if it is not stated.
        eps: of the norms.
    """

    source: Path
    activation: str
    heads: int | None = None
    eps: float = 1e-5


def read_tower_settings(weights: Path) -> TowerSettings | None:
    """The settings beside weights of CLIP: transformers' config.json or open_clip's open_clip_config.json; None without.

    Args:
        weights: the folder, or the file in it.

    Raises:
        CheckpointError: the file is damaged.
    """
    folder = weights if weights.is_dir() else weights.parent
    if (path := folder / "open_clip_config.json").is_file() and not (folder / "config.json").is_file():
        model = read_json_object(path).get("model_cfg")
        if not isinstance(model, dict):
            raise CheckpointError(f"{path}: has no model_cfg; download it again")
        return TowerSettings(path, QUICK_GELU if model.get("quick_gelu") else GELU)
    if not (path := folder / "config.json").is_file():
        return None
    config = read_json_object(path)
    vision: Any = config.get("vision_config", config)
    if not isinstance(vision, dict) or not str(config.get("model_type")).startswith("clip"):
        return None  # of another model in the same folder
    heads = vision.get("num_attention_heads")
    return TowerSettings(
        path,
        str(vision.get("hidden_act", DEFAULT_ACTIVATION)),
        heads if type(heads) is int else None,
        vision.get("layer_norm_eps", 1e-5),
    )
