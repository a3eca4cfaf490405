"""Images of a training run: inputs, reconstructions and samples of a batch."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ldm.graph.batch import Batch
from ldm.models.diffusion.ddim import sample

if TYPE_CHECKING:
    from ldm.models.diffusion.latent_diffusion import LatentDiffusion


@torch.no_grad()
def images_to_log(model: LatentDiffusion, batch: Batch, n: int, steps: int, guidance: float) -> dict[str, Tensor]:
    """Reconstructs and samples the first n images of a batch with the EMA weights, if there are any.

    Args:
        model: the diffusion model.
        batch: images or cached latents, with their graphs and references.
        n: number of images.
        steps: number of DDIM steps.
        guidance: scale of graph and style; 1 is used if the model was trained without dropped conditions.

    Returns:
        (n,3,H,W) in about [-1,1] under the names "reconstructions", "samples" and, unless the batch holds cached
        latents, "inputs".
    """
    batch = Batch.of(batch)
    guidance = guidance if model.graph_drop and model.style_drop else 1.0
    inputs = {} if batch.latents else {"inputs": batch.image[:n]}
    z = model.batch_latents(batch if batch.latents else Batch(batch.image[:n], batch.graph))[:n]
    with model.model_ema.applied(model) if model.model_ema else nullcontext():
        cond = model.batch_conditioning(batch).rows(slice(n))
        denoiser = model.denoiser(cond, guidance, guidance)
        samples = sample(denoiser, model.schedule.ddim(steps), torch.randn_like(z))
    return {**inputs, "reconstructions": model.decode(z), "samples": model.decode(samples)}
