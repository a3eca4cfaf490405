"""Image to clip with Stable Video Diffusion: what its U-Net reads beside the noisy latents, its guidance, and its denoiser."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ldm.models.diffusion.ddim import Denoiser
from ldm.models.diffusion.prediction import predict_noise
from ldm.models.diffusion.schedule import NoiseSchedule
from ldm.modules.conditioning import Conditioning, TextTokens, cat
from ldm.modules.diffusionmodules.video_unet import VideoUNetModel, added_embedding
from ldm.util.errors import UserError

FPS, MOTION, NOISE = 7, 127, 0.02  # SVD's usual choices
GUIDANCE = (1.0, 3.0)  # of the first and of the last frame


class ImageCondition(NamedTuple):
    """What SVD's U-Net reads of the image that a clip begins with.

    Attributes:
        tokens: (B,1,D) the image's CLIP embedding (ViT-H-14, before normalisation to unit length).
        latents: (B,4,h,w) the image's latents, in the first stage's own scale, with the noise that `noise` states.
        fps: frames per second of the clip.
        motion: motion bucket, 0 to 255: how much moves.
        noise: standard deviation of the noise that was added to the image before it was encoded.
    """

    tokens: Tensor
    latents: Tensor
    fps: float = FPS
    motion: float = MOTION
    noise: float = NOISE

    def vector(self) -> Tensor:  # -> (B,768)
        """The embedded numbers. SVD was trained with the frame rate minus 1."""
        numbers = (self.fps - 1, self.motion, self.noise)
        return added_embedding(*(self.tokens.new_full((len(self.tokens),), value) for value in numbers))


def clip_conditioning(image: ImageCondition, frames: int, graph: Conditioning | None = None) -> Conditioning:
    """The conditioning of each frame.

    Args:
        image: B images.
        frames: T.
        graph: B T rows of graph tokens, for a U-Net with attention to graphs; None for no graph.

    Returns:
        B T rows, whose text is the image's embedding.
    """
    rows = [part.repeat_interleave(frames, dim=0) for part in (image.tokens, image.vector())]
    text = TextTokens.from_tokens(*rows)
    return Conditioning.from_text(text) if graph is None else graph._replace(text=text)


def without_image(cond: Conditioning) -> Conditioning:
    """The same without the image, which SVD was trained to read as zeros; frame rate, motion, noise and graph stay."""
    if cond.text is None:
        raise ValueError("SVD's conditioning has the image's embedding as its text; make it with clip_conditioning")
    return cond._replace(text=cond.text._replace(tokens=torch.zeros_like(cond.text.tokens)))


def svd_denoiser(
    unet: VideoUNetModel,
    schedule: NoiseSchedule,
    image: ImageCondition,
    frames: int,
    guidance: Sequence[float] = GUIDANCE,
    graph: Conditioning | None = None,
) -> Denoiser:
    """Returns eps(x, t) of clips, x (B T,4,h,w) and t (B T,) timesteps of `NoiseSchedule.edm`.

    A sampler sees a denoiser of noise as any other: EDM's preconditioning is v-prediction (`ldm.checkpoints.edm`).

    Args:
        unet: a VideoUNetModel, whose number of frames is set to T.
        schedule: `NoiseSchedule.edm`.
        image: the B images that the clips begin with.
        frames: T.
        guidance: scale of the image in the first and in the last frame, and linear between them; (1, 1) for none.
        graph: B T rows of graph tokens; none by default.

    Raises:
        UserError: there is not one frame or more, or guidance has not two values.
    """
    if frames < 1 or len(guidance) != 2:
        raise UserError(
            f"a clip of {frames} frames with guidance {list(guidance)}: give one frame or more, and the scales of the first "
            "and the last frame"
        )
    unet.set_clip(frames)
    cond = clip_conditioning(image, frames, graph)
    latents = image.latents.repeat_interleave(frames, dim=0)
    guided = tuple(guidance) != (1, 1)
    conds = cat(without_image(cond), cond) if guided else cond
    inputs = torch.cat([torch.zeros_like(latents), latents]) if guided else latents
    scale = torch.linspace(*guidance, frames, device=latents.device).repeat(len(image.tokens))[:, None, None, None]
    prepared = []  # what depends on the conditioning alone is computed once

    @torch.no_grad()
    def predict(x: Tensor, t: Tensor) -> Tensor:
        branches = 2 if guided else 1
        rows = torch.cat([x.repeat(branches, 1, 1, 1), inputs.to(x)], dim=1)
        if not prepared:
            prepared.append(unet.prepare(rows, conds))
        v = unet(rows, t.repeat(branches), prepared[0])
        if not guided:
            return v
        plain, conditional = v.chunk(2)
        return plain + scale.to(x) * (conditional - plain)

    return predict_noise(predict, schedule)
