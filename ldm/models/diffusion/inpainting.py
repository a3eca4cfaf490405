"""What a U-Net of inpainting reads beside the latents: the mask, and the masked image in latent space."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ldm.checkpoints.kinds import INPUTS


def inpainting_inputs(encode: Callable[[Tensor], Tensor], image: Tensor, mask: Tensor) -> Tensor:  # -> (B,1+C,h,w)
    """The mask, and the encoded image without the masked part.

    Args:
        encode: maps images to latents (B,C,h,w).
        image: (B,3,H,W) in [-1,1].
        mask: (B,1,h,w), 1 where the image is to be painted anew, 0 where it is kept.
    """
    pixels = nn.functional.interpolate(mask.float(), image.shape[-2:], mode="nearest")
    return torch.cat([mask.float(), encode(image * (pixels < 0.5))], dim=1)


def refuse_other_channels(unet: nn.Module, channels: int) -> None:
    """Raises ValueError for a U-Net that reads more than the latents, a mask and masked latents, as InstructPix2Pix does."""
    given = unet.in_channels
    if given not in (channels, 2 * channels + 1):
        kind = f", as of {INPUTS[given]}s," if given in INPUTS else ""
        raise ValueError(
            f"model.params.unet_config.params.in_channels: {given} channels{kind} do not fit latents of {channels} channels "
            f"(model.params.channels); only U-Nets that read the latents alone, or an inpainting mask and masked latents beside "
            "them, are supported"
        )
