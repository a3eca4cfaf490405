"""The U-Net of latent diffusion, under its published keys, told by a Conditioning and open to adapters."""

from __future__ import annotations

import difflib
import inspect
import math
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ldm.modules.attention import Context, SpatialTransformer
from ldm.modules.attention_control import Control
from ldm.modules.conditioning import Conditioning
from ldm.modules.global_film import FiLMGenerator, modulate
from ldm.modules.kernels.frozen import skip_saving_inputs
from ldm.modules.lora import LoRALinear

# Published options with one value in every scene-graph and SD-1.x configuration: that value is all there is.
FIXED = {
    "dims": 2,
    "num_classes": None,
    "use_fp16": False,
    "num_heads_upsample": -1,
    "use_scale_shift_norm": False,
    "resblock_updown": False,
    "use_new_attention_order": False,
    "use_spatial_transformer": True,
    "n_embed": None,
}

# Parts of a key that no published U-Net's body has.
NEW = {"film", "lora_A", "lora_B", "box_bias", "context_local_mlp", "context_global_mlp"}


def timestep_embedding(t: Tensor, dim: int) -> Tensor:  # (B,) -> (B,dim)
    """cos and sin of t at dim/2 frequencies from 1 down to 1/10000, in float32."""
    half = dim // 2
    frequencies = torch.exp(-math.log(10000) * torch.arange(half, dtype=torch.float32, device=t.device) / half)
    angles = t[:, None].float() * frequencies
    return F.pad(torch.cat([angles.cos(), angles.sin()], dim=1), (0, dim % 2))


class ResBlock(nn.Module):
    """Two convolutions with the time embedding added between them, and a skip connection."""

    def __init__(self, c_in: int, c_out: int, time_dim: int, dropout: float):
        super().__init__()
        self.in_layers = nn.Sequential(nn.GroupNorm(32, c_in), nn.SiLU(), nn.Conv2d(c_in, c_out, 3, padding=1))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(time_dim, c_out))
        self.out_layers = nn.Sequential(
            nn.GroupNorm(32, c_out), nn.SiLU(), nn.Dropout(dropout), nn.Conv2d(c_out, c_out, 3, padding=1)
        )
        self.skip_connection = nn.Identity() if c_in == c_out else nn.Conv2d(c_in, c_out, 1)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:  # (B,c_in,h,w), (B,time_dim) -> (B,c_out,h,w)
        h = self.in_layers(x) + self.emb_layers(time)[:, :, None, None]
        return self.skip_connection(x) + self.out_layers(h)


class Downsample(nn.Module):
    def __init__(self, channels: int, learned: bool):
        super().__init__()
        self.op = nn.Conv2d(channels, channels, 3, stride=2, padding=1) if learned else nn.AvgPool2d(2)

    def forward(self, x: Tensor) -> Tensor:  # (B,C,h,w) -> (B,C,h/2,w/2)
        return self.op(x)


class Upsample(nn.Module):
    def __init__(self, channels: int, learned: bool):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1) if learned else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:  # (B,C,h,w) -> (B,C,2h,2w)
        return self.conv(F.interpolate(x, scale_factor=2, mode="nearest"))


class Block(nn.Sequential):
    """Layers in a row, each given what it takes besides x: the time, the context and its control, or nothing."""

    def forward(self, x: Tensor, time: Tensor, context: Context, control: Control | None = None) -> Tensor:
        for layer in self:
            if isinstance(layer, ResBlock):
                x = layer(x, time)
            elif isinstance(layer, SpatialTransformer):
                x = layer(x, context, control)
            else:
                x = layer(x)
        return x


class Prepared(NamedTuple):
    """All that a U-Net makes of a conditioning alone, whatever x and t: the same for every step of a sampler.

    context  with the keys and values of its tokens in every layer
    films    gamma and beta (B,C) behind each block, or None where there is no style or no FiLM
    """

    context: Context
    films: list[tuple[Tensor, Tensor]] | None


class UNetModel(nn.Module):
    """eps(x, t, cond), with the published constructor arguments and keys of LDM, SGDiff and Stable Diffusion 1.x.

    num_heads or num_head_channels (which wins) divide the attention's channels; `legacy` only matters where
    num_head_channels does not divide them. `image_size` is recorded, not enforced. `context_local_dim` is the width
    of tokens that a `context_local_mlp` brings to `context_dim`; without it tokens come at that width.
    New: `film_embedding_dim` adds FiLM by the style, `lora_rank` (and `lora_alpha`, the rank unless given) adapters
    on the cross-attention, `box_bias` attention towards a token's box. All begin as the identity. For training from scratch,
    `coordinates` tells the first layer where each place lies, by sines and cosines of so many frequencies.
    `use_checkpoint` recomputes each block's activations in the backward pass instead of keeping them.
    Raises ValueError for an option out of the family that is built here, by name.
    """

    def __init__(
        self,
        image_size: int,
        in_channels: int,
        model_channels: int,
        out_channels: int,
        num_res_blocks: int,
        attention_resolutions: Sequence[int],
        dropout: float = 0.0,
        channel_mult: Sequence[int] = (1, 2, 4, 8),
        conv_resample: bool = True,
        use_checkpoint: bool = False,
        num_heads: int = -1,
        num_head_channels: int = -1,
        transformer_depth: int = 1,
        context_dim: int | None = None,
        context_local_dim: int | None = None,
        legacy: bool = True,
        film_embedding_dim: int | None = None,
        lora_rank: int | None = None,
        lora_alpha: float | None = None,
        box_bias: bool = False,
        coordinates: int = 0,
        **fixed,
    ):
        super().__init__()
        refuse_unsupported(fixed)
        if context_dim is None:
            raise ValueError("UNetModel needs context_dim, the width of the tokens that cross-attention reads")
        if num_heads == -1 and num_head_channels == -1:
            raise ValueError("UNetModel needs num_heads or num_head_channels")
        self.image_size, self.in_channels, self.out_channels = image_size, in_channels, out_channels
        self.model_channels, self.context_dim = model_channels, context_dim
        self.use_checkpoint = use_checkpoint
        self.box_bias = box_bias
        self.coordinates = coordinates
        self.levels = len(channel_mult)

        time_dim = 4 * model_channels
        self.time_embed = nn.Sequential(
            nn.Linear(model_channels, time_dim), nn.SiLU(), nn.Linear(time_dim, time_dim)
        )
        if context_local_dim is not None:
            self.context_local_mlp = nn.Sequential(nn.Linear(context_local_dim, context_dim))
        else:
            self.context_local_mlp = nn.Identity()
        if film_embedding_dim in (None, context_dim):
            self.context_global_mlp = nn.Identity()
        else:
            self.context_global_mlp = nn.Linear(film_embedding_dim, context_dim)

        linear = partial(LoRALinear, rank=lora_rank, alpha=lora_alpha) if lora_rank else nn.Linear

        def transformer(channels: int) -> SpatialTransformer:
            if num_head_channels == -1:
                heads, dim_head = num_heads, channels // num_heads
            else:
                heads = channels // num_head_channels
                dim_head = channels // heads if legacy else num_head_channels
            return SpatialTransformer(channels, context_dim, heads, dim_head, transformer_depth, linear, box_bias)

        def stage(c_in: int, c_out: int, level: int) -> list[nn.Module]:
            attends = 2**level in attention_resolutions
            return [ResBlock(c_in, c_out, time_dim, dropout), *([transformer(c_out)] if attends else [])]

        # The first layer of all and every block below it is seen again on the way up: `skips` are their channels.
        c = model_channels
        widths = [model_channels * m for m in channel_mult]
        self.input_blocks = nn.ModuleList([Block(nn.Conv2d(in_channels + 4 * coordinates, c, 3, padding=1))])
        skips = [c]
        for level, width in enumerate(widths):
            for _ in range(num_res_blocks):
                self.input_blocks.append(Block(*stage(c, width, level)))
                c = width
                skips.append(c)
            if level < self.levels - 1:
                self.input_blocks.append(Block(Downsample(c, conv_resample)))
                skips.append(c)
        channels = [*skips, c]

        self.middle_block = Block(ResBlock(c, c, time_dim, dropout), transformer(c), ResBlock(c, c, time_dim, dropout))

        self.output_blocks = nn.ModuleList()
        for level, width in reversed(list(enumerate(widths))):
            for i in range(num_res_blocks + 1):
                layers = stage(c + skips.pop(), width, level)
                c = width
                if level > 0 and i == num_res_blocks:
                    layers.append(Upsample(c, conv_resample))
                self.output_blocks.append(Block(*layers))
                channels.append(c)

        attention = (layer for layer in self.modules() if isinstance(layer, SpatialTransformer))
        for number, layer in enumerate(attention):
            layer.layer = number

        # Not zero at start as published: behind a zero layer that is also frozen, no adapter would ever get a gradient.
        self.out = nn.Sequential(nn.GroupNorm(32, c), nn.SiLU(), nn.Conv2d(c, out_channels, 3, padding=1))
        self.film = None if film_embedding_dim is None else FiLMGenerator(film_embedding_dim, channels)

    def forward(
        self, x: Tensor, t: Tensor, cond: Conditioning | Prepared | None = None, control: Control | None = None
    ) -> Tensor:
        """x (B,C,h,w), t (B,) -> eps (B,C,h,w). Without `cond` there is nothing to attend to and no style; what `prepare`
        made of it for latents of this size may stand in its place. `control` lets rows of the batch see one another.

        h and w must be whole multiples of 2^(levels - 1), else ValueError."""
        h, w = x.shape[-2:]
        step = 2 ** (self.levels - 1)
        if h % step or w % step:
            raise ValueError(f"a latent of {h} x {w} cannot be halved {self.levels - 1} times and come back; "
                             f"pad or crop it to multiples of {step}")
        dtype = self.time_embed[0].weight.dtype
        time = self.time_embed(timestep_embedding(t, self.model_channels).to(dtype))
        context, films = cond if isinstance(cond, Prepared) else (self.context(x, cond), self.films(cond))
        films = None if films is None else iter(films)

        def run(block: Block, h: Tensor) -> Tensor:
            recompute = self.use_checkpoint and torch.is_grad_enabled()
            given = time, context, control
            h = checkpoint(block, h, *given, use_reentrant=False) if recompute else block(h, *given)
            return h if films is None else modulate(h, *next(films))

        places = coordinates_of(x, self.coordinates)
        h, skips = torch.cat([x, places], dim=1).to(dtype), []
        for block in self.input_blocks:
            h = run(block, h)
            skips.append(h)
        h = run(self.middle_block, h)
        for block in self.output_blocks:
            h = run(block, torch.cat([h, skips.pop()], dim=1))
        return self.out(h).to(x.dtype)

    def prepare(self, x: Tensor, cond: Conditioning | None) -> Prepared:
        """For `forward` in the place of `cond`, to compute once what does not depend on x but by its size, nor on t. It
        is of these weights: after they change, of those that were."""
        context = self.context(x, cond)
        layers = (layer for layer in self.modules() if isinstance(layer, SpatialTransformer))  # as they are numbered
        return Prepared(context._replace(keys=tuple(layer.keys(context) for layer in layers)), self.films(cond))

    def films(self, cond: Conditioning | None) -> list[tuple[Tensor, Tensor]] | None:
        if self.film is None or cond is None or cond.style is None:
            return None
        return self.film(cond.style.to(self.time_embed[0].weight.dtype))

    def context(self, x: Tensor, cond: Conditioning | None) -> Context:
        """The tokens at the width of cross-attention, the style as one more after them."""
        dtype = self.time_embed[0].weight.dtype
        if cond is None:
            return Context.of(x.new_zeros(len(x), 1, self.context_dim, dtype=dtype), x.new_zeros(len(x), 1).bool())
        tokens, mask, boxes = self.context_local_mlp(cond.tokens.to(dtype)), cond.mask, cond.boxes
        if cond.style is not None:
            style = self.context_global_mlp(cond.style.to(dtype))
            tokens = torch.cat([tokens, style[:, None].to(tokens.dtype)], dim=1)
            mask = F.pad(mask, (0, 1), value=True)
            boxes = F.pad(boxes, (0, 0, 0, 1), value=-1.0)
        if not self.box_bias:
            return Context.of(tokens, mask)
        h, w = x.shape[-2:]
        return Context.of(tokens, mask, boxes, [(h >> level, w >> level) for level in range(self.levels)])

    def freeze_body(self) -> None:
        """Leave only what is new to the published U-Net trainable: FiLM, LoRA, box bias, context projections."""
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(any(part in NEW for part in name.split(".")))
        skip_saving_inputs(self)


def coordinates_of(x: Tensor, frequencies: int) -> Tensor:  # (B,C,h,w) -> (B,4F,h,w)
    """Sines and cosines of each place's x and y in [0,1], from half a wave over the picture on (NeRF eq. 4)."""
    rows, columns = ((torch.arange(n, device=x.device, dtype=x.dtype) + 0.5) / n for n in x.shape[-2:])
    places = torch.stack(torch.meshgrid(rows, columns, indexing="ij"))  # (2,h,w)
    angles = (places * (math.pi * 2.0 ** torch.arange(frequencies, device=x.device))[:, None, None, None]).flatten(0, 1)
    return torch.cat([angles.sin(), angles.cos()]).expand(len(x), -1, -1, -1)


def refuse_unsupported(options: dict) -> None:
    """ValueError for an option outside FIXED, or inside with another value, by name."""
    for name, value in options.items():
        if name not in FIXED:
            close = difflib.get_close_matches(name, inspect.signature(UNetModel).parameters, n=1)
            raise ValueError(f"UNetModel has no option {name!r}" + (f"; did you mean {close[0]!r}?" if close else ""))
        if value != FIXED[name]:
            raise ValueError(f"UNetModel: {name}={value!r} is not built here, because no published scene-graph or "
                             f"SD-1.x model uses it; leave it at {FIXED[name]!r}")
