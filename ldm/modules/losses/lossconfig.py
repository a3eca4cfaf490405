"""The losses of a first stage: the one that a config names, and that of the largest errors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import Tensor

from ldm.util.config import instantiate_from_config

if TYPE_CHECKING:  # imports open_clip
    from ldm.modules.losses.perceptual_adversarial import PerceptualAdversarialLoss

LOSS = "ldm.modules.losses.perceptual_adversarial.PerceptualAdversarialLoss"


def build_loss(lossconfig: Mapping | None) -> PerceptualAdversarialLoss | None:
    """Builds the loss of a config, or returns None for a first stage without one; see Autoencoder."""
    if lossconfig is None or lossconfig["target"] == "torch.nn.Identity":
        return None
    if lossconfig["target"] != LOSS:
        raise ValueError(
            f"lossconfig: {lossconfig['target']} is not available: remove lossconfig, which leaves L1, L2 and the loss of the "
            f"latent, or add features and a discriminator with `target: {LOSS}`"
        )
    return instantiate_from_config(lossconfig)


def hardest_l1(a: Tensor, b: Tensor, share: float) -> Tensor:  # (B,C,H,W), (B,C,H,W) -> ()
    """Returns the mean absolute difference over that share of each image's pixels where it is largest."""
    errors = (a - b).abs().mean(1).flatten(1)
    return errors.topk(math.ceil(share * errors.shape[1]), dim=1).values.mean()
