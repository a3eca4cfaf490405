"""diffusers' names for a U-Net's and a first stage's parameters, turned into LDM's.

diffusers counts blocks per level (down_blocks.1.resnets.0), LDM counts them through (input_blocks.4.0), so the
number of residual blocks per level, read off the keys, gives one from the other.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from torch import Tensor

UNET_LAYERS = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0", "conv2": "out_layers.3", "conv_shortcut": "skip_connection",
}  # fmt: skip
UNET_ENDS = {
    "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2",
}  # fmt: skip
# Attention in a first stage is called by one of two sets of names, the second before diffusers 0.17.
VAE_ATTENTION = {
    "group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out",
    "query": "q", "key": "k", "value": "v", "proj_attn": "proj_out",
}  # fmt: skip


def is_diffusers(state: Mapping[str, Tensor]) -> bool:
    return any(re.match(r"(encoder\.|decoder\.)?(down|up|mid)_block", key) for key in state)


def levels(state: Mapping[str, Tensor], pattern: str) -> int:
    """One more than the greatest number that `pattern`'s group finds at the beginning of a key."""
    return 1 + max((int(found[1]) for found in (re.match(pattern, key) for key in state) if found), default=0)


def renamed(state: Mapping[str, Tensor], rename: Callable[[str], str]) -> dict[str, Tensor]:
    """The same tensors, each layer's name through `rename`, its `weight` and `bias` as they are.

    A name that no rule knows stays as it is, for whoever loads it to complain about.
    """
    names = {key: key.rpartition(".") for key in state}
    return {f"{rename(layer)}.{kind}": state[key] for key, (layer, _, kind) in names.items()}


def to_ldm_unet(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A UNet2DConditionModel's parameters (Stable Diffusion 1.x) under the names of LDM's UNetModel."""
    blocks = levels(state, r"down_blocks\.0\.resnets\.(\d+)\.")

    def rename(name: str) -> str:
        if name in UNET_ENDS:
            return UNET_ENDS[name]
        if found := re.fullmatch(r"mid_block\.(resnets|attentions)\.(\d+)\.(.+)", name):
            kind, number, layer = found[1], int(found[2]), found[3]
            return inner(f"middle_block.{2 * number if kind == 'resnets' else 1}", kind, layer)
        if found := re.fullmatch(r"(down|up)_blocks\.(\d+)\.(resnets|attentions)\.(\d+)\.(.+)", name):
            side, level, kind, number, layer = found[1], int(found[2]), found[3], int(found[4]), found[5]
            # a level is `blocks` residual blocks and a downsampler; upwards it has one block more instead
            first = "input_blocks.{}" if side == "down" else "output_blocks.{}"
            block = first.format(level * (blocks + 1) + number + (side == "down"))
            return inner(f"{block}.{int(kind == 'attentions')}", kind, layer)
        if found := re.fullmatch(r"down_blocks\.(\d+)\.downsamplers\.0\.conv", name):
            return f"input_blocks.{(int(found[1]) + 1) * (blocks + 1)}.0.op"
        if found := re.fullmatch(r"up_blocks\.(\d+)\.upsamplers\.0\.conv", name):
            level = int(found[1])
            attends = f"up_blocks.{level}.attentions.0.norm.weight" in state
            return f"output_blocks.{level * (blocks + 1) + blocks}.{1 + attends}.conv"
        return name

    def inner(block: str, kind: str, layer: str) -> str:  # attention has the same names on both sides
        return f"{block}.{UNET_LAYERS.get(layer, layer) if kind == 'resnets' else layer}"

    return renamed(state, rename)


def to_ldm_vae(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """An AutoencoderKL's (or VQModel's) parameters under the names of LDM's, attention as 1 x 1 convolutions."""
    top = levels(state, r"decoder\.up_blocks\.(\d+)\.") - 1

    def rename(name: str) -> str:
        name = re.sub(r"conv_norm_out$", "norm_out", name)
        name = re.sub(r"conv_shortcut$", "nin_shortcut", name)
        name = re.sub(r"mid_block\.resnets\.(\d+)", lambda found: f"mid.block_{int(found[1]) + 1}", name)
        name = re.sub(r"down_blocks\.(\d+)", r"down.\1", name)
        name = re.sub(r"up_blocks\.(\d+)", lambda found: f"up.{top - int(found[1])}", name)  # LDM counts from the image
        name = re.sub(r"\.resnets\.", ".block.", name)
        name = re.sub(r"\.(down|up)samplers\.0", r".\1sample", name)
        if found := re.fullmatch(r"(.+)\.attentions\.(\d+)\.(.+)", name):
            block = "mid.attn_1" if found[1].endswith("mid_block") else f"attn.{found[2]}"
            name = f"{found[1].removesuffix('mid_block').rstrip('.')}.{block}.{VAE_ATTENTION.get(found[3], found[3])}"
        return name

    linear = re.compile(r"\.attn(_1|\.\d+)\.(q|k|v|proj_out)\.weight$")
    return {
        key: value[:, :, None, None] if linear.search(key) and value.ndim == 2 else value
        for key, value in renamed(state, rename).items()
    }
