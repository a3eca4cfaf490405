"""Removes the prefixes that wrappers add to the keys of a state dict: DistributedDataParallel, torch.compile, Lightning."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from ldm.checkpoints.errors import CheckpointError

ANYWHERE = ("module", "_orig_mod")  # DistributedDataParallel (and DeepSpeed), torch.compile
LEADING = "model"  # what a LightningModule calls its network
# LitEma joins the parts of a name without dots, those of wrappers too.
IN_LIT_EMA = re.compile(
    r"_orig_mod|module(?=_orig_mod|diffusion_model|input_blocks|output_blocks|middle_block|time_embed|out\d)"
)


def unwrap_keys(state: Mapping[str, Tensor], prefix: str, folders: tuple[str, ...] = ()) -> dict[str, Tensor]:
    """Renames keys as if no wrapper had been there, in whatever order and number they are.

    Args:
        state: names to tensors.
        prefix: the prefix of the wanted part in a file of the whole model, such as "model.diffusion_model.".
        folders: prefixes of the part in one file of a whole pipeline of diffusers, such as "unet"; removed.

    Raises:
        CheckpointError: two keys become the same.
    """
    if {"decay", "num_updates"} <= state.keys():  # the state dict of a LitEma alone
        state = {f"model_ema.{key}": value for key, value in state.items()}
    renamed: dict[str, str] = {}
    for key in state:
        new = unwrap_key(key, prefix, folders)
        if new in renamed:
            raise CheckpointError(f"the keys {renamed[new]!r} and {key!r} are the same parameter; remove one of them")
        renamed[new] = key
    return {new: state[key] for new, key in renamed.items()}


def unwrap_key(key: str, prefix: str, folders: tuple[str, ...]) -> str:
    names = [name for name in key.split(".") if name not in ANYWHERE] or [key]
    while len(names) > 1 and names[0] == LEADING:
        del names[0]
    if names[0] == "model_ema" and len(names) > 1:
        rest = [IN_LIT_EMA.sub("", name) if "/" not in name else unwrap_path(name) for name in names[1:]]
        return ".".join(["model_ema", *rest])
    if len(names) > 1 and names[0] in folders:
        del names[0]
    whole = ".".join(names)
    return LEADING + "." + whole if prefix == f"{LEADING}.{names[0]}." or names[0] == "diffusion_model" else whole


def unwrap_path(name: str) -> str:
    """The same for the averages of this project's checkpoints, whose names have slashes for dots."""
    return "/".join(part for part in name.split("/") if part not in ANYWHERE)
