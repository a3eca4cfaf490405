"""Loads Stable Video Diffusion from a file or a folder alone, without a config."""

from __future__ import annotations

import dataclasses
import logging
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ldm.checkpoints.edm import c_noise
from ldm.checkpoints.errors import CheckpointError
from ldm.checkpoints.loading import load_part
from ldm.checkpoints.video_architecture import find_video_architecture
from ldm.models.diffusion import samplers
from ldm.models.diffusion.schedule import NoiseSchedule
from ldm.models.diffusion.svd import GUIDANCE, ImageCondition, svd_denoiser
from ldm.models.temporal_autoencoder import CHUNK, AutoencoderKLTemporalDecoder, decode_clip
from ldm.modules.conditioning import Conditioning
from ldm.modules.diffusionmodules.video_unet import VideoUNetModel

logger = logging.getLogger(__name__)


@dataclass
class StableVideoDiffusion:
    """A loaded model.

    Attributes:
        unet: predicts v.
        first_stage: its temporal decoder decodes clips.
        schedule: EDM's process as one of v-prediction.
        scale: factor of the latents.
    """

    unet: VideoUNetModel
    first_stage: AutoencoderKLTemporalDecoder
    schedule: NoiseSchedule
    scale: float

    @torch.no_grad()
    def condition(self, image: Tensor, tokens: Tensor, **numbers: float) -> ImageCondition:
        """What the U-Net reads of an image.

        Args:
            image: (B,3,H,W) in [-1,1].
            tokens: (B,1,D), its CLIP embedding.
            numbers: fps, motion and noise; noise is added to the image here.
        """
        condition = ImageCondition(tokens, image, **numbers)
        noisy = image + condition.noise * torch.randn_like(image)
        return condition._replace(latents=self.first_stage.encode(noisy))

    @torch.no_grad()
    def sample(
        self,
        image: ImageCondition,
        frames: int,
        noise: Tensor,
        steps: int = 25,
        sampler: str = "ddim",
        guidance: tuple[float, float] = GUIDANCE,
        graph: Conditioning | None = None,
        chunk: int = CHUNK,
    ) -> Tensor:
        """Samples clips.

        Args:
            image: B images.
            frames: T.
            noise: (B,T,4,h,w), standard normal.
            steps, sampler: how to sample; DDIM's steps are those of SVD's own Euler sampler.
            guidance: scales of the first and the last frame.
            graph: B T rows of graph tokens.
            chunk: frames that are decoded at a time.

        Returns:
            (B,T,3,H,W) in about [-1,1].
        """
        method = samplers.get_sampler(sampler)
        denoiser = svd_denoiser(self.unet, self.schedule, image, frames, guidance, graph)
        latents = method.sample(denoiser, method.make_schedule(self.schedule, steps), noise.flatten(0, 1))
        return decode_clip(self.first_stage, latents.unflatten(0, (-1, frames)) / self.scale, chunk)


def load_svd(source: str | Path, graph_attention: bool = False) -> StableVideoDiffusion:
    """Loads a file, or a folder of diffusers, of Stable Video Diffusion.

    Args:
        source: svd.safetensors, svd_xt.safetensors, or a folder with unet/ and vae/.
        graph_attention: adds attention to graphs, which is the identity until it is trained.

    Raises:
        CheckpointError: it is something else, or its weights do not fit.
    """
    found = find_video_architecture(source)
    if found is None:
        raise CheckpointError(f"{source}: not Stable Video Diffusion (no blocks over time); name svd.safetensors")
    unet = VideoUNetModel(**found.unet, graph_attention=graph_attention)
    betas = load_part(unet, source, "unet").trained_with.betas
    first_stage = AutoencoderKLTemporalDecoder(**found.first_stage, ckpt_path=source)
    schedule = NoiseSchedule.edm()
    if betas is not None:  # of the scheduler beside the weights
        schedule = dataclasses.replace(schedule, betas=betas, alphas_cumprod=(1 - betas).cumprod(0))
    unet.noise_levels = c_noise(schedule.sigmas()).float()
    for line in found.decided:
        logger.info("%s", line)
    unet.freeze_body()
    return StableVideoDiffusion(unet.eval(), first_stage.eval().requires_grad_(False), schedule, found.scale)
