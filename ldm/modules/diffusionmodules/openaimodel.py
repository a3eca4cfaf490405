"""The U-Net of latent diffusion with its published keys, conditioned on a scene graph and extended by adapters."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ldm.checkpoints.sidecars import UNET_CONSTANTS
from ldm.modules.attention import AttentionControl, Context, SpatialTransformer
from ldm.modules.conditioning import Conditioning
from ldm.modules.diffusionmodules.unet_blocks import (
    BlockBuilder,
    coordinate_features,
    timestep_embedding,
)
from ldm.modules.global_film import FiLMGenerator, modulate
from ldm.modules.kernels.conv import Conv2d, skip_saving_inputs
from ldm.modules.lora import LoRALinear

# Constructor options that have one value in all published scene-graph and SD-1.x configs; only this value is supported.
FIXED_OPTIONS = {
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

# Components of the parameter names that no published U-Net has; `freeze_body` keeps these parameters trainable.
ADAPTER_KEYS = {"film", "lora_A", "lora_B", "box_bias", "context_local_mlp", "context_global_mlp"}

FiLM = tuple[Tensor, Tensor]  # gamma and beta, (B,C) each


class PreparedConditioning(NamedTuple):
    """What a U-Net computes from a conditioning independently of x and t, to be reused in every step of a sampler.

    Attributes:
        context: Cross-attention context with the keys and values of all layers.
        film: gamma and beta (B,C) after each block; None without a style or without FiLM.
    """

    context: Context
    film: list[FiLM] | None


class UNetModel(nn.Module):
    """The denoiser eps(x, t, cond), with the constructor arguments and keys of LDM, SGDiff and Stable Diffusion 1.x.

    All adapters (FiLM, LoRA, box bias) are the identity at initialisation.

    Args:
        image_size: Latent size in training; recorded, not enforced.
        in_channels: C, channels of the latent.
        model_channels: Channels of the first convolution.
        out_channels: Channels of the output.
        num_res_blocks: ResBlocks per level.
        attention_resolutions: Downsampling factors with attention.
        dropout: Dropout in ResBlocks.
        channel_mult: Channels of each level as multiples of model_channels.
        conv_resample: Whether up- and downsampling include a convolution.
        use_checkpoint: Recompute each block's activations in the backward pass (gradient checkpointing).
        num_heads: Attention heads; used only without num_head_channels.
        num_head_channels: Channels per attention head.
        transformer_depth: Transformer blocks per SpatialTransformer.
        context_dim: D, width of the tokens in cross-attention.
        context_local_dim: Width of the conditioning's tokens, if `context_local_mlp` is to project them to context_dim.
        legacy: Whether to widen heads evenly if num_head_channels does not divide a level's channels.
        film_embedding_dim: E, width of the style; adds FiLM after every block and the style as one more token.
        lora_rank: Rank of LoRA on the cross-attention projections; None or 0 for none.
        lora_alpha: Scale of LoRA, applied as alpha / rank; by default the rank.
        box_bias: Whether cross-attention learns a preference for tokens whose box covers a location.
        coordinates: Number of frequencies of each location's x and y, appended to the input. For training from
            scratch, since published weights have none.
        defaults: num_heads or num_head_channels to use if neither is given. A LatentDiffusion prefers what the config.json
            beside published weights states.
        fixed: Published options that must have the value in FIXED_OPTIONS.

    Raises:
        ValueError: for missing or unknown options, and for values that are not supported.
    """

    published_params = FIXED_OPTIONS

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
        defaults: Mapping[str, int] | None = None,
        **fixed,
    ):
        super().__init__()
        check_fixed_options(fixed)
        if context_dim is None:
            raise ValueError("UNetModel needs context_dim, the width of the tokens in cross-attention")
        if num_heads == -1 and num_head_channels == -1:
            num_heads, num_head_channels = default_heads(defaults or {})
        self.image_size, self.in_channels, self.out_channels = image_size, in_channels, out_channels
        self.model_channels, self.context_dim = model_channels, context_dim
        self.use_checkpoint, self.box_bias, self.coordinates = use_checkpoint, box_bias, coordinates
        self.levels, self.num_res_blocks = len(channel_mult), num_res_blocks

        blocks = BlockBuilder(
            model_channels=model_channels,
            widths=[model_channels * factor for factor in channel_mult],
            num_res_blocks=num_res_blocks,
            attention_resolutions=attention_resolutions,
            time_dim=4 * model_channels,
            dropout=dropout,
            learned_resampling=conv_resample,
            head_size=partial(head_size, num_heads, num_head_channels, legacy),
            context_dim=context_dim,
            transformer_depth=transformer_depth,
            linear=partial(LoRALinear, rank=lora_rank, alpha=lora_alpha) if lora_rank else nn.Linear,
            box_bias=box_bias,
        )
        self.widths = blocks.widths
        attending = {level for level in range(self.levels) if 2**level in attention_resolutions} | {self.levels - 1}
        self.heads = {level: blocks.head_size(self.widths[level])[0] for level in sorted(attending)}
        # The order of construction determines the random initial weights for a seed.
        self.time_embed = _time_embedding(model_channels, blocks.time_dim)
        self.context_local_mlp, self.context_global_mlp = _context_projections(
            context_dim, context_local_dim, film_embedding_dim
        )
        self.input_blocks, input_channels = blocks.input_blocks(in_channels + 4 * coordinates)
        self.middle_block = blocks.middle_block()
        self.output_blocks, output_channels = blocks.output_blocks(input_channels)
        for number, transformer in enumerate(self._transformers()):
            transformer.layer = number
        self.out = _output_layers(output_channels[-1], out_channels)
        self.film = None
        if film_embedding_dim is not None:
            middle_channels = input_channels[-1]
            self.film = FiLMGenerator(film_embedding_dim, [*input_channels, middle_channels, *output_channels])

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        cond: Conditioning | PreparedConditioning | None = None,
        control: AttentionControl | None = None,
    ) -> Tensor:
        """Predicts the noise (or v, for a model trained to predict v).

        Args:
            x: (B,C,h,w) noisy latents; h and w must be multiples of 2^(levels - 1).
            t: (B,) timesteps.
            cond: Conditioning, or the result of `prepare` for latents of this size; None for no tokens and no style.
            control: Modifies the attention, e.g. between rows of the batch.

        Returns:
            (B,C,h,w), in x's precision.

        Raises:
            ValueError: for a latent size that the levels do not divide.
        """
        self._check_size(x)
        dtype = self._dtype
        time = self.time_embed(timestep_embedding(t, self.model_channels).to(dtype))
        context, film = cond if isinstance(cond, PreparedConditioning) else (self.context(x, cond), self.film_of(cond))
        count = len(self.input_blocks)
        films = film or [None] * (count + 1 + len(self.output_blocks))

        h, skips = torch.cat([x, coordinate_features(x, self.coordinates)], dim=1).to(dtype), []
        for block, block_film in zip(self.input_blocks, films[:count]):
            h = self._run_block(block, h, block_film, time, context, control)
            skips.append(h)
        h = self._run_block(self.middle_block, h, films[count], time, context, control)
        for block, block_film in zip(self.output_blocks, films[count + 1 :]):
            h = self._run_block(block, torch.cat([h, skips.pop()], dim=1), block_film, time, context, control)
        return self.out(h).to(x.dtype)

    def prepare(self, x: Tensor, cond: Conditioning | None) -> PreparedConditioning:
        """Computes what depends only on the conditioning and the size of x, for reuse in `forward` instead of `cond`.

        The result holds for the present weights; compute it again after a change of weights.
        """
        context = self.context(x, cond)
        keys = tuple(transformer.keys(context) for transformer in self._transformers())
        return PreparedConditioning(context._replace(keys=keys), self.film_of(cond))

    def film_of(self, cond: Conditioning | None) -> list[FiLM] | None:
        """Returns gamma and beta (B,C) after each block; None without a style or without FiLM."""
        if self.film is None or cond is None or cond.style is None:
            return None
        return self.film(cond.style.to(self._dtype))

    def context(self, x: Tensor, cond: Conditioning | None) -> Context:
        """Returns the cross-attention context: the projected tokens, followed by the projected style as one more token."""
        dtype = self._dtype
        if cond is None:
            no_token = x.new_zeros(len(x), 1, dtype=torch.bool)
            return Context.from_tokens(x.new_zeros(len(x), 1, self.context_dim, dtype=dtype), no_token)
        tokens, mask, boxes = self.context_local_mlp(cond.tokens.to(dtype)), cond.mask, cond.boxes
        if cond.style is not None:
            style = self.context_global_mlp(cond.style.to(dtype))
            tokens = torch.cat([tokens, style[:, None].to(tokens.dtype)], dim=1)
            mask = F.pad(mask, (0, 1), value=True)
            boxes = F.pad(boxes, (0, 0, 0, 1), value=-1.0)
        if not self.box_bias:
            return Context.from_tokens(tokens, mask)
        h, w = x.shape[-2:]
        return Context.from_tokens(tokens, mask, boxes, [(h >> level, w >> level) for level in range(self.levels)])

    def freeze_body(self) -> None:
        """Freezes all parameters of the published U-Net: FiLM, LoRA, box bias and context projections stay trainable."""
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(any(part in ADAPTER_KEYS for part in name.split(".")))
        skip_saving_inputs(self)

    def diffusers_config(self) -> dict:
        """The settings under diffusers' names, to be compared with the config.json beside published weights."""
        return {
            **UNET_CONSTANTS,
            "in_channels": self.in_channels,
            "out_channels": self.out_channels,
            "block_out_channels": list(self.widths),
            "layers_per_block": self.num_res_blocks,
            "cross_attention_dim": self.context_dim,
            "heads": self.heads,
        }

    @property
    def _dtype(self) -> torch.dtype:
        return cast(nn.Linear, self.time_embed[0]).weight.dtype

    def _transformers(self) -> list[SpatialTransformer]:
        return [layer for layer in self.modules() if isinstance(layer, SpatialTransformer)]

    def _check_size(self, x: Tensor) -> None:
        h, w = x.shape[-2:]
        step = 2 ** (self.levels - 1)
        if h % step or w % step:
            raise ValueError(
                f"a latent of {h} x {w} cannot be downsampled {self.levels - 1} times; pad or crop it to multiples of {step}"
            )

    def _run_block(
        self,
        block: nn.Module,
        h: Tensor,
        film: FiLM | None,
        time: Tensor,
        context: Context,
        control: AttentionControl | None,
    ) -> Tensor:
        if self.use_checkpoint and torch.is_grad_enabled():
            h = checkpoint(block, h, time, context, control, use_reentrant=False)
        else:
            h = block(h, time, context, control)
        return h if film is None else modulate(h, *film)


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


def check_fixed_options(options: Mapping[str, object]) -> None:
    """Raises a ValueError for an option that is not in FIXED_OPTIONS, or has another value there."""
    for name, value in options.items():
        if name not in FIXED_OPTIONS:
            close = difflib.get_close_matches(name, inspect.signature(UNetModel).parameters, n=1)
            raise ValueError(f"UNetModel has no option {name!r}" + (f"; did you mean {close[0]!r}?" if close else ""))
        if value != FIXED_OPTIONS[name]:
            raise ValueError(
                f"UNetModel: {name}={value!r} is not supported, since no published scene-graph or SD-1.x model uses it; "
                f"set it to {FIXED_OPTIONS[name]!r}"
            )


def _time_embedding(channels: int, time_dim: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(channels, time_dim), nn.SiLU(), nn.Linear(time_dim, time_dim))


def _context_projections(context_dim: int, token_dim: int | None, style_dim: int | None) -> tuple[nn.Module, nn.Module]:
    """The projections of tokens (`context_local_mlp`) and of the style (`context_global_mlp`) to context_dim."""
    tokens = nn.Identity() if token_dim is None else nn.Sequential(nn.Linear(token_dim, context_dim))
    style = nn.Identity() if style_dim in (None, context_dim) else nn.Linear(style_dim, context_dim)
    return tokens, style


def _output_layers(channels: int, out_channels: int) -> nn.Sequential:
    # Not initialised with zeros as in the published code: behind a zero layer that is frozen, no adapter gets a gradient.
    return nn.Sequential(nn.GroupNorm(32, channels), nn.SiLU(), Conv2d(channels, out_channels, 3, padding=1))
