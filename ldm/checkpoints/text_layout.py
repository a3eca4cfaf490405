"""Finds CLIP's text towers in checkpoints, with open_clip's keys: those of LDM, of Stability's SDXL, and of Hugging Face."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from ldm.checkpoints.clip_layout import DEFAULT_ACTIVATION, LAYERS, merge_layers
from ldm.checkpoints.errors import CheckpointError
from ldm.checkpoints.folders import read_json_object
from ldm.checkpoints.reading import PARTS
from ldm.checkpoints.wrappers import unwrap_keys

# Of the first and of the second tower: prefixes in a file of the whole model (LDM's and Stability's).
PREFIXES = (("cond_stage_model.", "conditioner.embedders.0."), ("conditioner.embedders.1.",))
TEXT_PARTS = ("text_encoder", "text_encoder_2")  # keys of PARTS
TEXT_MODEL = "text_model."
ENDS = {
    "embeddings.token_embedding.weight": "token_embedding.weight",
    "embeddings.position_embedding.weight": "positional_embedding",
    "final_layer_norm.weight": "ln_final.weight",
    "final_layer_norm.bias": "ln_final.bias",
}
BUFFER = "embeddings.position_ids"  # of files from before transformers 4.31
TOKENIZERS = ("tokenizer", "tokenizer_2")
PADDING_TOKENS = {"!": 0, "<|endoftext|>": 49407}


def tower_state(state: Mapping[str, Tensor], number: int) -> dict[str, Tensor]:
    """The keys of text tower `number` (0 or 1) of a file, in open_clip's layout; empty if the file has none.

    Args:
        state: of a whole model, of one tower, or of a whole CLIP. Of a whole model, only the tower's own keys are returned.
        number: which tower; a file of one tower is any.
    """
    part = PARTS[TEXT_PARTS[number]]
    state = unwrap_keys(state, part.prefix, part.folders)
    for prefix in PREFIXES[number]:
        if own := {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}:
            return to_open_clip_text(_without_wrapper(own))
    if any(key.startswith(prefix) for key in state for prefixes in PREFIXES for prefix in prefixes):
        return {}  # a whole model that lacks this tower
    own = _without_wrapper(state)
    return to_open_clip_text(own) if is_text_tower(own) else {}


def is_text_tower(state: Mapping[str, Tensor]) -> bool:
    """Whether a state dict holds a text tower, alone or in a whole CLIP."""
    return any(key.endswith("token_embedding.weight") for key in state)


def to_open_clip_text(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A text tower of transformers with open_clip's keys; a state dict of open_clip unchanged.

    Query, key and value, which are three layers there, are one here, and the projection is transposed. Unknown names stay
    unchanged, so that loading reports them.
    """
    if not any(key.removeprefix(TEXT_MODEL).startswith("encoder.layers.") for key in state):
        return {
            key.removeprefix("text."): value for key, value in state.items()
        }  # open_clip's CustomTextCLIP has text.
    whole_clip = any(key.startswith("vision_model.") for key in state)
    text = {
        key.removeprefix(TEXT_MODEL): value
        for key, value in state.items()
        if not whole_clip or key.startswith((TEXT_MODEL, "text_projection"))
    }
    text.pop(BUFFER, None)
    projection = text.pop("text_projection.weight", None)
    tower = {ENDS.get(key, key): value for key, value in merge_layers(text).items()}
    return tower if projection is None else {**tower, "text_projection": projection.T.contiguous()}


def to_hugging_face_layer(name: str) -> str:
    """The name of a layer of a tower (without .weight) in transformers; query, key and value are its attention's q_proj, ..."""
    name = name.replace("transformer.resblocks.", f"{TEXT_MODEL}encoder.layers.")
    for theirs, ours in LAYERS.items():
        name = name.replace(f".{ours}", f".{theirs}")
    return re.sub(r"\.attn\.([qkv]_proj)$", r".self_attn.\1", name)


def _without_wrapper(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Removes LDM's attribute names `transformer` (of transformers' towers) and `model` (of open_clip's)."""
    hugging_face = any(key.startswith("transformer.text_model.") for key in state)
    prefix = "transformer." if hugging_face else "model."
    return {key.removeprefix(prefix): value for key, value in state.items()}


@dataclass(frozen=True)
class TextSettings:
    """Settings beside a text tower that change its output, but no shape.

    Attributes:
        source: the file that states them.
        activation: "quick_gelu", "gelu" or another.
        heads: attention heads; None if it is not stated.
        eps: of the norms.
        padding: id behind the end token, by the tokenizer's files; None if they state none.
    """

    source: Path
    activation: str
    heads: int | None
    eps: float
    padding: int | None = None


def read_text_settings(source: str | Path, number: int) -> TextSettings | None:
    """The settings beside a text tower of Hugging Face; None if there are none.

    Args:
        source: a pipeline's folder, the tower's folder in it, or the file in that.
        number: which tower of a pipeline, 0 or 1.

    Raises:
        CheckpointError: a file is damaged.
    """
    path = Path(source).expanduser()
    folder = path if path.is_dir() else path.parent
    places = [*(folder / name for name in PARTS[TEXT_PARTS[number]].folders if path.is_dir()), folder]
    for place in places:
        if not (config := place / "config.json").is_file():
            continue
        values = read_json_object(config)
        if not str(values.get("model_type")).startswith("clip"):
            continue
        text = values.get("text_config", values)
        if not isinstance(text, dict):
            raise CheckpointError(f"{config}: its text_config is no object; download it again")
        heads = text.get("num_attention_heads")
        return TextSettings(
            config,
            str(text.get("hidden_act", DEFAULT_ACTIVATION)),
            heads if type(heads) is int else None,
            text.get("layer_norm_eps", 1e-5),
            _padding(place.parent / TOKENIZERS[number]) if place.parent != place else None,
        )
    return None


def _padding(tokenizer: Path) -> int | None:
    """The id of the padding token that a tokenizer's folder states, if it is one of the two that published models use."""
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        if (path := tokenizer / name).is_file():
            token = read_json_object(path).get("pad_token")
            token = token.get("content") if isinstance(token, dict) else token
            if token in PADDING_TOKENS:
                return PADDING_TOKENS[token]
    return None
