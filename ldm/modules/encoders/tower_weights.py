"""Loads the weights of a text tower, and holds the settings beside them against the tower's."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from torch import Tensor

from ldm.checkpoints.errors import CheckpointError
from ldm.checkpoints.loading import load_part
from ldm.checkpoints.reading import PARTS, read_state_dict
from ldm.checkpoints.text_layout import TEXT_PARTS, TextSettings, read_text_settings, tower_state
from ldm.modules.text_encoder import TextTower


class HasTower(Protocol):
    """A text encoder of one tower, `ldm.modules.encoders.modules.ClipEmbedder`."""

    model: TextTower
    padding: int
    weights_from: str | None


def load_tower(embedder: HasTower, source: str | Path | Mapping[str, Tensor], number: int, name: str) -> None:
    """Loads text tower `number` (0 or 1) of a checkpoint. Raises CheckpointError if it is missing or does not fit."""
    part = TEXT_PARTS[number]
    state = source if isinstance(source, Mapping) else read_state_dict(source, part)
    own = tower_state(state, number)
    if not own:
        raise CheckpointError(f"{name}: holds no {part.replace('_', ' ')}; name {PARTS[part].source}")
    if not isinstance(source, Mapping) and (settings := read_text_settings(source, number)):
        _refuse_other_settings(embedder, settings)
    load_part(embedder.model, own, part, (), embedder.model.unread_keys(), prefer_ema=False, name=name)
    embedder.weights_from = name


def _refuse_other_settings(embedder: HasTower, settings: TextSettings) -> None:
    tower = embedder.model
    stated = {
        "the activation is": (settings.activation, tower.activation),
        "attention heads are": (settings.heads, tower.shape.heads),
        "layer_norm_eps is": (settings.eps, 1e-5),
        "the padding token is": (settings.padding, embedder.padding),
    }
    found = [f"{what} {theirs}, not {ours}" for what, (theirs, ours) in stated.items() if theirs not in (None, ours)]
    if found:
        raise CheckpointError(
            f"{settings.source}: the settings beside the weights differ from the text encoder of the config "
            f"({'; '.join(found)}); use the config of these weights"
        )
