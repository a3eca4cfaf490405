"""Renames the parameters of diffusers' U-Nets and autoencoders to LDM's layout.

diffusers numbers blocks within each level (down_blocks.1.resnets.0), LDM numbers them across levels (input_blocks.4.0).
The number of residual blocks per level, taken from the keys, converts one into the other.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping

from torch import Tensor

UNET_LAYERS = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
UNET_ENDS = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
# Of the transformers over time in UNetSpatioTemporalConditionModel.
TEMPORAL_TRANSFORMER = {
    "temporal_transformer_blocks": "time_stack",
    "time_pos_embed.linear_1": "time_pos_embed.0",
    "time_pos_embed.linear_2": "time_pos_embed.2",
}
# Two sets of names for the attention layers of an autoencoder, the second from before diffusers 0.17.
VAE_ATTENTION = {
    "group_norm": "norm",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "proj_out",
    "query": "q",
    "key": "k",
    "value": "v",
    "proj_attn": "proj_out",
}


def is_diffusers(state: Mapping[str, Tensor]) -> bool:
    """Whether the keys of a U-Net or an autoencoder are in diffusers' layout."""
    return any(re.match(r"(encoder\.|decoder\.)?(down|up|mid)_block", key) for key in state)


def count_blocks(state: Mapping[str, Tensor], pattern: str) -> int:
    """One more than the largest index that the group of `pattern` matches at the start of a key."""
    return 1 + max((int(found[1]) for found in (re.match(pattern, key) for key in state) if found), default=0)


def rename_layers(state: Mapping[str, Tensor], rename: Callable[[str], str]) -> dict[str, Tensor]:
    """Applies `rename` to each layer's name and keeps the suffix `weight` or `bias`.

    Unknown names stay unchanged, so that `load_part` reports them as unexpected.
    """
    names = {key: key.rpartition(".") for key in state}
    return {f"{rename(layer)}.{kind}": state[key] for key, (layer, _, kind) in names.items()}


def to_ldm_unet(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Renames the parameters of diffusers' U-Nets to those of LDM's UNetModel and SVD's VideoUNetModel.

    They are UNet2DConditionModel (Stable Diffusion 1, 2, XL) and UNetSpatioTemporalConditionModel (Stable Video Diffusion).
    """
    blocks = count_blocks(state, r"down_blocks\.0\.resnets\.(\d+)\.")

    def rename(name: str) -> str:
        if name in UNET_ENDS:
            return UNET_ENDS[name]
        if found := re.fullmatch(r"mid_block\.(resnets|attentions)\.(\d+)\.(.+)", name):
            kind, number, layer = found[1], int(found[2]), found[3]
            return rename_inner(f"middle_block.{2 * number if kind == 'resnets' else 1}", kind, layer)
        if found := re.fullmatch(r"(down|up)_blocks\.(\d+)\.(resnets|attentions)\.(\d+)\.(.+)", name):
            side, level, kind, number, layer = found[1], int(found[2]), found[3], int(found[4]), found[5]
            # a level has `blocks` residual blocks and a downsampler; on the way up, one more block instead of that
            first = "input_blocks.{}" if side == "down" else "output_blocks.{}"
            block = first.format(level * (blocks + 1) + number + (side == "down"))
            return rename_inner(f"{block}.{int(kind == 'attentions')}", kind, layer)
        if found := re.fullmatch(r"down_blocks\.(\d+)\.downsamplers\.0\.conv", name):
            return f"input_blocks.{(int(found[1]) + 1) * (blocks + 1)}.0.op"
        if found := re.fullmatch(r"up_blocks\.(\d+)\.upsamplers\.0\.conv", name):
            level = int(found[1])
            attends = f"up_blocks.{level}.attentions.0.norm.weight" in state
            return f"output_blocks.{level * (blocks + 1) + blocks}.{1 + attends}.conv"
        return name

    def rename_inner(block: str, kind: str, layer: str) -> str:  # attention layers have the same names in both layouts
        return f"{block}.{rename_res_block(layer) if kind == 'resnets' else rename_temporal_transformer(layer)}"

    return rename_layers(state, rename)


def rename_res_block(layer: str) -> str:
    """LDM's name of a layer of a residual block, or of one of a spatial and a temporal block (Stable Video Diffusion)."""
    if layer.startswith("temporal_res_block."):
        inner = layer.removeprefix("temporal_res_block.")
        return f"time_stack.{UNET_LAYERS.get(inner, inner)}"
    layer = layer.removeprefix("spatial_res_block.")
    return UNET_LAYERS.get(layer, layer)


def rename_temporal_transformer(layer: str) -> str:
    """SVD's name of a layer of a transformer; those of one without blocks over time stay as they are."""
    for name, renamed in TEMPORAL_TRANSFORMER.items():
        if layer == name or layer.startswith(f"{name}."):
            return renamed + layer.removeprefix(name)
    return layer


def to_diffusers_names(layers: Iterable[str]) -> dict[str, str]:
    """The inverse of `to_ldm_unet` for names: maps the layers of LDM's U-Net (without .weight) to diffusers' names."""
    layers = list(layers)
    numbers = [int(found[1]) for name in layers if (found := re.match(r"input_blocks\.(\d+)\.0\.op$", name))]
    last = max((int(found[1]) for name in layers if (found := re.match(r"input_blocks\.(\d+)\.", name))), default=0)
    period = min(numbers, default=last + 1)  # residual blocks of a level, and its downsampler
    return {name: to_diffusers_name(name, period) for name in layers}


def to_diffusers_name(name: str, period: int) -> str:
    """The name of one layer; unknown names stay unchanged."""
    ends = {ldm: diffusers for diffusers, ldm in UNET_ENDS.items()}
    inner = {ldm: diffusers for diffusers, ldm in UNET_LAYERS.items()}
    if name in ends:
        return ends[name]
    if found := re.fullmatch(r"middle_block\.(\d)\.(.+)", name):
        number, layer = int(found[1]), found[2]
        return (
            f"mid_block.attentions.0.{layer}"
            if number == 1
            else f"mid_block.resnets.{number // 2}.{inner.get(layer, layer)}"
        )
    if not (found := re.fullmatch(r"(input|output)_blocks\.(\d+)\.(\d)\.(.+)", name)):
        return name
    side, number, kind, layer = found[1], int(found[2]), int(found[3]), found[4]
    if layer == "op":
        return f"down_blocks.{number // period - 1}.downsamplers.0.conv"
    level, number = divmod(number - (side == "input"), period)
    block = f"{'down' if side == 'input' else 'up'}_blocks.{level}"
    if layer == "conv":
        return f"{block}.upsamplers.0.conv"
    return f"{block}.attentions.{number}.{layer}" if kind else f"{block}.resnets.{number}.{inner.get(layer, layer)}"


def to_ldm_vae(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Renames the parameters of diffusers' AutoencoderKL, VQModel or AutoencoderKLTemporalDecoder to LDM's (or SVD's).

    The linear layers of its attention (out, in) become LDM's 1 x 1 convolutions (out, in, 1, 1).
    """
    top = count_blocks(state, r"decoder\.up_blocks\.(\d+)\.") - 1

    def rename(name: str) -> str:
        name = name.removesuffix(".time_mixer").replace(".spatial_res_block.", ".")
        name = re.sub(
            r"\.temporal_res_block\.(\w+)", lambda found: f".time_stack.{UNET_LAYERS.get(found[1], found[1])}", name
        )
        name = re.sub(r"^decoder\.time_conv_out$", "decoder.conv_out.time_mix_conv", name)
        name = re.sub(r"conv_norm_out$", "norm_out", name)
        name = re.sub(r"conv_shortcut$", "nin_shortcut", name)
        name = re.sub(r"mid_block\.resnets\.(\d+)", lambda found: f"mid.block_{int(found[1]) + 1}", name)
        name = re.sub(r"down_blocks\.(\d+)", r"down.\1", name)
        # LDM numbers the levels of the decoder from the image, diffusers from the latent
        name = re.sub(r"up_blocks\.(\d+)", lambda found: f"up.{top - int(found[1])}", name)
        name = re.sub(r"\.resnets\.", ".block.", name)
        name = re.sub(r"\.(down|up)samplers\.0", r".\1sample", name)
        if found := re.fullmatch(r"(.+)\.attentions\.(\d+)\.(.+)", name):
            block = "mid.attn_1" if found[1].endswith("mid_block") else f"attn.{found[2]}"
            name = f"{found[1].removesuffix('mid_block').rstrip('.')}.{block}.{VAE_ATTENTION.get(found[3], found[3])}"
        return name

    linear = re.compile(r"\.attn(_1|\.\d+)\.(q|k|v|proj_out)\.weight$")
    return {
        key: value[:, :, None, None] if linear.search(key) and value.ndim == 2 else value
        for key, value in rename_layers(state, rename).items()
    }
