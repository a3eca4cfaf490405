"""What a checkpoint of trainer.py, or a file of exported adapters, says of its config and vocabulary, without its weights."""

from __future__ import annotations

import json
from pathlib import Path

import safetensors
import torch

from ldm.checkpoints.errors import CheckpointError
from ldm.graph.vocab import Vocab

METADATA = "ldm"  # key of the JSON in the metadata of an adapters file: {"config": {...}, "vocab": {...}}


def read_own(path: Path) -> dict | None:
    """The entries config and vocab; None of any other file."""
    try:
        try:
            with safetensors.safe_open(path, "pt") as file:
                return json.loads((file.metadata() or {}).get(METADATA, "null"))
        except safetensors.SafetensorError:  # another format
            saved = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            return saved if isinstance(saved, dict) and {"state_dict", "config", "vocab"} <= saved.keys() else None
    except Exception:  # a damaged file can raise any exception; load_model says what is wrong with it
        return None


def read_own_vocab(path: str | Path) -> Vocab:
    """The vocabulary in such a file.

    Raises:
        CheckpointError: it is another file, or holds none.
    """
    if not Path(path).is_file():
        raise CheckpointError(f"{path}: there is no such file; name a checkpoint of a run, or exported adapters")
    saved = (read_own(Path(path)) or {}).get("vocab")
    if not saved:
        raise CheckpointError(f"{path}: holds no vocabulary; name a checkpoint of a run, or exported adapters")
    return Vocab.from_json(saved, f"{path}: vocabulary")
