"""The U-Net of Stable Video Diffusion: image to clip, with the constructor arguments of UNetModel and SVD's keys."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ldm.checkpoints.edm import SIGMAS, c_noise, karras_sigmas
from ldm.modules.attention import AttentionControl, Context
from ldm.modules.conditioning import Conditioning
from ldm.modules.diffusionmodules.openaimodel import FiLM, PreparedConditioning, UNetModel
from ldm.modules.diffusionmodules.unet_blocks import BlockBuilder, timestep_embedding
from ldm.modules.temporal_svd import SpatialVideoTransformer, VideoResBlock

TEMPORAL_KEYS = {"time_stack", "time_mixer", "time_pos_embed"}  # components of the names of parameters over time
EMBEDDED = 256  # width of the embedding of each number beside the time: frame rate, motion and noise


class VideoBlockBuilder(BlockBuilder):
    """Builds blocks whose layers are followed by temporal layers."""

    res_block = VideoResBlock
    transformer = SpatialVideoTransformer


class VideoUNetModel(UNetModel):
    """SVD's U-Net v(x, t, cond) of clips whose frames are consecutive rows of the batch.

    A Conditioning has a row for each frame: `text.tokens` (B T,1,D) is the embedding of the image that the clip begins with,
    `text.vector` (B T,A) are `added_embedding`'s numbers, and graphs enter by attention of their own (`graph_attention`).

    Args:
        num_frames: T, frames of a clip; `set_clip` changes it, since no weight depends on it.
        kwargs: those of UNetModel. SVD has in_channels 8 (noisy latents and the image's), context_dim 1024 and adm_in_channels
            768.
        train_temporal: whether `freeze_body` leaves the temporal layers trainable.
    """

    block_builder = VideoBlockBuilder
    noise_levels: Tensor

    def __init__(self, *args, num_frames: int = 14, train_temporal: bool = False, **kwargs):
        super().__init__(*args, **kwargs)
        self.train_temporal = train_temporal
        self.set_clip(num_frames)
        self.register_buffer("noise_levels", c_noise(karras_sigmas(**SIGMAS)).float(), persistent=False)

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        cond: Conditioning | PreparedConditioning | None = None,
        control: AttentionControl | None = None,
    ) -> Tensor:
        """Predicts v.

        Args:
            x: (B T,8,h,w), noisy latents of unit variance and the image's latents beside them.
            t: (B T,) timesteps of `NoiseSchedule.edm` (long), or the noise levels log(sigma) / 4 themselves (floating point).
            cond: Conditioning, or the result of `prepare` for latents of this size.
            control: As in UNetModel.

        Returns:
            (B T,4,h,w).

        Raises:
            ValueError: the rows are not whole clips, or as in UNetModel.
        """
        if len(x) % self.frames:
            raise ValueError(
                f"{len(x)} frames are not whole clips of {self.frames}; give a multiple, or set their number (`set_clip`)"
            )
        if not t.is_floating_point():
            t = self.noise_levels.to(t.device)[t]
        return super().forward(x, t, cond, control)

    def set_clip(self, frames: int) -> None:
        """Sets the number of frames of the clips that come next. Raises ValueError if it is not 1 or more."""
        if frames < 1:
            raise ValueError(f"a clip of {frames} frames; give 1 or more")
        self.frames = frames

    def context(self, x: Tensor, cond: Conditioning | None) -> Context:
        return super().context(x, cond)._replace(frames=self.frames)

    def freeze_body(self) -> None:
        super().freeze_body()
        for name, parameter in self.named_parameters():
            if self.train_temporal and TEMPORAL_KEYS & set(name.split(".")):
                parameter.requires_grad_(True)

    def diffusers_config(self) -> dict:
        """The settings under diffusers' names; UNetSpatioTemporalConditionModel has no others."""
        config = super().diffusers_config()
        names = ("in_channels", "out_channels", "block_out_channels", "layers_per_block", "cross_attention_dim")
        return {name: config[name] for name in (*names, "projection_class_embeddings_input_dim", "heads", "depths")}

    def _run_block(
        self,
        block: nn.Module,
        h: Tensor,
        film: FiLM | None,
        time: Tensor,
        context: Context,
        control: AttentionControl | None,
    ) -> Tensor:
        return super()._run_block(block, h, film, time.unflatten(0, (-1, context.frames)), context, control)


def added_embedding(fps: Tensor, motion: Tensor, noise: Tensor) -> Tensor:  # (B,), (B,), (B,) -> (B,768)
    """The vector that SVD's label embedding reads.

    Args:
        fps: frames per second, minus 1 as in SVD's training.
        motion: motion bucket, 0 to 255; 127 is SVD's usual choice.
        noise: standard deviation of the noise added to the image before it was encoded; 0.02 is SVD's usual choice.
    """
    numbers = torch.stack([fps, motion, noise], dim=1)
    return timestep_embedding(numbers.flatten(), EMBEDDED).view(len(numbers), -1)
