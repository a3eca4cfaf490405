"""The U-Net of latent diffusion with its published keys, conditioned on a scene graph and extended by adapters."""

from __future__ import annotations

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
    context_projections,
    coordinate_features,
    output_layers,
    time_mlp,
    timestep_embedding,
)
from ldm.modules.diffusionmodules.unet_options import (
    FIXED_OPTIONS,
    IGNORED_OPTIONS,
    check_fixed_options,
    default_heads,
    depth_of_levels,
    head_size,
    vector_width,
)
from ldm.modules.global_film import FiLMGenerator, modulate
from ldm.modules.kernels.conv import skip_saving_inputs
from ldm.modules.lora import LoRALinear

# Components of the parameter names that no published U-Net has; `freeze_body` keeps these parameters trainable.
ADAPTER_KEYS = {"film", "lora_A", "lora_B", "box_bias", "context_local_mlp", "context_global_mlp"}
ADAPTER_KEYS |= {"to_k_graph", "to_v_graph"}  # of the attention to graphs beside the text

FiLM = tuple[Tensor, Tensor]  # gamma and beta, (B,C) each


class PreparedConditioning(NamedTuple):
    """What a U-Net computes from a conditioning independently of x and t, to be reused in every step of a sampler.

    Attributes:
        context: Cross-attention context with the keys and values of all layers.
        film: gamma and beta (B,C) after each block; None without a style or without FiLM.
        label: (B,4M) added to the time embedding; None for a U-Net without label embedding.
    """

    context: Context
    film: list[FiLM] | None
    label: Tensor | None = None


class UNetModel(nn.Module):
    """The denoiser eps(x, t, cond), with the constructor arguments and keys of LDM, SGDiff and Stable Diffusion 1, 2 and XL.

    All adapters (FiLM, LoRA, box bias) are the identity at initialisation.

    Args:
        image_size: Latent size in training; recorded, not enforced.
        in_channels: C, channels of the latent, and of what an inpainting model reads beside it.
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
        transformer_depth: Transformer blocks per SpatialTransformer, one number or one per level (of levels without attention it
            is not used).
        transformer_depth_middle: The same of the middle block; by default the last level's.
        use_linear_in_transformer: Whether the projections around the transformer blocks are linear layers (SD 2 and XL).
        num_classes: 'sequential' for a label embedding of the vector beside the text (SDXL: pooled text, sizes and crop).
        adm_in_channels: A, width of that vector.
        context_dim: D, width of the tokens in cross-attention.
        context_local_dim: Width of the conditioning's tokens, if `context_local_mlp` is to project them to context_dim.
        legacy: Whether to widen heads evenly if num_head_channels does not divide a level's channels.
        film_embedding_dim: E, width of the style; adds FiLM after every block and the style as one more token.
        lora_rank: Rank of LoRA on the cross-attention projections; None or 0 for none.
        lora_alpha: Scale of LoRA, applied as alpha / rank; by default the rank.
        box_bias: Whether cross-attention learns a preference for tokens whose box covers a location.
        graph_attention: For a U-Net that reads text: whether it also attends to the graph's tokens and the style, by keys and
            values of their own (IP-Adapter, Ye et al. 2308.06721). Without it, they are left out beside a text.
        coordinates: Number of frequencies of each location's x and y, appended to the input. For training from
            scratch, since published weights have none.
        defaults: num_heads or num_head_channels to use if neither is given. A LatentDiffusion prefers what the config.json
            beside published weights states.
        fixed: Published options that must have the value in FIXED_OPTIONS, or change nothing here (IGNORED_OPTIONS).

    Raises:
        ValueError: for missing or unknown options, and for values that are not supported.
    """

    published_params = FIXED_OPTIONS | IGNORED_OPTIONS
    block_builder = BlockBuilder

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
        transformer_depth: int | Sequence[int] = 1,
        transformer_depth_middle: int | None = None,
        use_linear_in_transformer: bool = False,
        num_classes: str | None = None,
        adm_in_channels: int | None = None,
        context_dim: int | None = None,
        context_local_dim: int | None = None,
        legacy: bool = True,
        film_embedding_dim: int | None = None,
        lora_rank: int | None = None,
        lora_alpha: float | None = None,
        box_bias: bool = False,
        graph_attention: bool = False,
        coordinates: int = 0,
        defaults: Mapping[str, int] | None = None,
        **fixed,
    ):
        super().__init__()
        check_fixed_options(fixed, inspect.signature(UNetModel).parameters)
        if context_dim is None:
            raise ValueError("UNetModel needs context_dim, the width of the tokens in cross-attention")
        if num_heads == -1 and num_head_channels == -1:
            num_heads, num_head_channels = default_heads(defaults or {})
        self.image_size, self.in_channels, self.out_channels = image_size, in_channels, out_channels
        self.model_channels, self.context_dim = model_channels, context_dim
        self.use_checkpoint, self.box_bias, self.coordinates = use_checkpoint, box_bias, coordinates
        self.graph_attention = graph_attention
        self.levels, self.num_res_blocks = len(channel_mult), num_res_blocks
        self.attended = [level for level in range(self.levels) if 2**level in attention_resolutions]
        self.depths, middle_depth = depth_of_levels(
            transformer_depth, transformer_depth_middle, self.levels, self.attended
        )
        self.vector_dim = vector_width(num_classes, adm_in_channels)

        blocks = self.block_builder(
            model_channels=model_channels,
            widths=[model_channels * factor for factor in channel_mult],
            num_res_blocks=num_res_blocks,
            attention_resolutions=attention_resolutions,
            time_dim=4 * model_channels,
            dropout=dropout,
            learned_resampling=conv_resample,
            head_size=partial(head_size, num_heads, num_head_channels, legacy),
            context_dim=context_dim,
            transformer_depth=self.depths,
            middle_depth=middle_depth,
            linear=partial(LoRALinear, rank=lora_rank, alpha=lora_alpha) if lora_rank else nn.Linear,
            box_bias=box_bias,
            linear_projections=use_linear_in_transformer,
            graph_attention=graph_attention,
        )
        self.widths = blocks.widths
        attending = sorted({*self.attended, self.levels - 1})
        self.heads = {level: blocks.head_size(self.widths[level])[0] for level in attending}
        self.linear_projections = use_linear_in_transformer
        # The order of construction determines the random initial weights for a seed.
        self.time_embed = time_mlp(model_channels, blocks.time_dim)
        self.label_emb = None
        if self.vector_dim:  # the published module is a sequence of one sequence
            self.label_emb = nn.Sequential(time_mlp(self.vector_dim, blocks.time_dim))
        self.context_local_mlp, self.context_global_mlp = context_projections(
            context_dim, context_local_dim, film_embedding_dim
        )
        self.input_blocks, input_channels = blocks.input_blocks(in_channels + 4 * coordinates)
        self.middle_block = blocks.middle_block()
        self.output_blocks, output_channels = blocks.output_blocks(input_channels)
        for number, transformer in enumerate(self._transformers()):
            transformer.layer = number
        self.out = output_layers(output_channels[-1], out_channels)
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
            x: (B,C,h,w) noisy latents, followed by what an inpainting model reads beside them; h and w must be multiples of
                2^(levels - 1).
            t: (B,) timesteps.
            cond: Conditioning, or the result of `prepare` for latents of this size; None for no tokens and no style.
            control: Modifies the attention, e.g. between rows of the batch.

        Returns:
            (B,C,h,w), in x's precision.

        Raises:
            ValueError: for a latent size that the levels do not divide, and for a missing vector.
        """
        self._check_size(x)
        dtype = self._dtype
        time = self.time_embed(timestep_embedding(t, self.model_channels).to(dtype))
        if not isinstance(cond, PreparedConditioning):
            cond = PreparedConditioning(self.context(x, cond), self.film_of(cond), self.label_of(x, cond))
        context, film, label = cond
        time = time if label is None else time + label
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
        return PreparedConditioning(context._replace(keys=keys), self.film_of(cond), self.label_of(x, cond))

    def film_of(self, cond: Conditioning | None) -> list[FiLM] | None:
        """Returns gamma and beta (B,C) after each block; None without a style or without FiLM."""
        if self.film is None or cond is None or cond.style is None:
            return None
        return self.film(cond.style.to(self._dtype))

    def label_of(self, x: Tensor, cond: Conditioning | None) -> Tensor | None:  # -> (B,4M)
        """Returns what the vector beside the text adds to the time embedding; None for a U-Net without label embedding.

        Raises:
            ValueError: there is no vector, or one of another width.
        """
        if self.label_emb is None:
            return None
        if cond is None:
            vector = x.new_zeros(len(x), self.vector_dim)
        else:
            vector = None if cond.text is None else cond.text.vector
        if vector is None or vector.shape[1] != self.vector_dim:
            given = "no vector" if vector is None else f"a vector of width {vector.shape[1]}"
            raise ValueError(
                f"this U-Net reads a vector of width {self.vector_dim} beside the text (adm_in_channels), but there is {given}; "
                "use the text encoders that it was trained with"
            )
        return self.label_emb(vector.to(self._dtype))

    def context(self, x: Tensor, cond: Conditioning | None) -> Context:
        """Returns the cross-attention context: the text, the graph's tokens and style, or the latter beside the text."""
        if cond is None:
            no_token = x.new_zeros(len(x), 1, dtype=torch.bool)
            return Context.from_tokens(x.new_zeros(len(x), 1, self.context_dim, dtype=self._dtype), no_token)
        if cond.text is None:
            return self._graph_context(x, cond)
        context = Context.from_tokens(cond.text.tokens.to(self._dtype), cond.text.mask)
        if not self.graph_attention or (cond.tokens.shape[1] == 0 and cond.style is None):
            return context
        return context._replace(graph=self._graph_context(x, cond))

    def _graph_context(self, x: Tensor, cond: Conditioning) -> Context:
        """The projected tokens of the graph, followed by the projected style as one more token."""
        dtype = self._dtype
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
            "use_linear_projection": self.linear_projections,
            "addition_embed_type": "text_time" if self.vector_dim else None,
            "projection_class_embeddings_input_dim": self.vector_dim,
            "heads": self.heads,
            "depths": {level: self.depths[level] for level in self.attended},
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
