"""The constructor options of the U-Net: those that have one value everywhere, and what the others mean."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence

# Constructor options that have one value in all published configs; only this value is supported.
FIXED_OPTIONS = {
    "dims": 2,
    "num_heads_upsample": -1,
    "use_scale_shift_norm": False,
    "resblock_updown": False,
    "use_new_attention_order": False,
    "use_spatial_transformer": True,
    "n_embed": None,
}
# Published options that say how to compute, not what: precision and attention kernels are chosen at run time here.
IGNORED_OPTIONS = {
    "use_fp16": (False, True),
    "spatial_transformer_attn_type": ("softmax", "softmax-xformers"),
}


def head_size(num_heads: int, num_head_channels: int, legacy: bool, channels: int) -> tuple[int, int]:
    """Returns the number of heads and the width of a head, as LDM computes them for a level's channels."""
    if num_head_channels == -1:
        return num_heads, channels // num_heads
    heads = channels // num_head_channels
    return heads, channels // heads if legacy else num_head_channels


def default_heads(defaults: Mapping[str, int]) -> tuple[int, int]:
    """Returns num_heads and num_head_channels of `defaults`. Raises ValueError if it has neither, or anything else."""
    if unknown := defaults.keys() - {"num_heads", "num_head_channels"}:
        raise ValueError(
            f"UNetModel: defaults has {sorted(unknown)[0]!r}, but may have num_heads or num_head_channels only"
        )
    if not any(type(value) is int and value > 0 for value in defaults.values()):
        raise ValueError("UNetModel needs num_heads or num_head_channels")
    return defaults.get("num_heads", -1), defaults.get("num_head_channels", -1)


def depth_of_levels(
    depth: int | Sequence[int], middle: int | None, levels: int, attended: Sequence[int]
) -> tuple[list[int], int]:
    """Returns the number of transformer blocks of each level, and of the middle block (by default the last level's).

    Raises:
        ValueError: a level with attention, or the middle block, has none.
    """
    depths = [depth] * levels if isinstance(depth, int) else list(depth)
    middle = depths[-1] if middle is None and depths else middle
    if len(depths) != levels or not middle or any(depths[level] < 1 for level in attended):
        raise ValueError(
            f"UNetModel: transformer_depth={depth!r} does not fit {levels} levels with attention at {list(attended)}; give a "
            "number for each level, at least 1 where there is attention"
        )
    return depths, middle


def vector_width(num_classes: str | int | None, adm_in_channels: int | None) -> int | None:
    """Returns the width of the vector that the label embedding reads; None without one. Raises ValueError."""
    if num_classes not in (None, "sequential"):
        raise ValueError(
            f"UNetModel: num_classes={num_classes!r} is not supported; set it to 'sequential' with adm_in_channels, as for "
            "SDXL, or remove it"
        )
    if (num_classes is None) != (adm_in_channels is None):
        raise ValueError(
            "UNetModel: num_classes: sequential and adm_in_channels belong together; give both, or none of them"
        )
    return adm_in_channels


def check_fixed_options(options: Mapping[str, object], known: Iterable[str]) -> None:
    """Raises a ValueError for an option that is not in FIXED_OPTIONS or IGNORED_OPTIONS, or has another value there.

    Args:
        options: those that are no parameters of the U-Net.
        known: the names of its parameters, for the message.
    """
    for name, value in options.items():
        if name not in FIXED_OPTIONS | IGNORED_OPTIONS:
            close = difflib.get_close_matches(name, known, n=1)
            raise ValueError(f"UNetModel has no option {name!r}" + (f"; did you mean {close[0]!r}?" if close else ""))
        supported = IGNORED_OPTIONS.get(name, (FIXED_OPTIONS.get(name),))
        if value not in supported:
            raise ValueError(
                f"UNetModel: {name}={value!r} is not supported, since no published scene-graph or Stable Diffusion model uses "
                f"it; set it to {supported[0]!r}"
            )
