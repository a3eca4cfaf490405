"""What the training of a first stage adds to L1 and L2: a feature distance and an adversarial loss.

The adversarial loss is that of VQGAN (Esser et al. 2021, arXiv 2012.09841, section 3.1) and LDM. First stage and
discriminator are trained in the same step, by one optimizer with two groups of parameters: each loss reaches only its own.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ldm.modules.losses.discriminator import PatchDiscriminator, discriminator_loss, generator_loss
from ldm.modules.losses.feature_distance import FeatureDistance
from ldm.util.config import instantiate_from_config

LARGEST_WEIGHT, EPSILON = 1e4, 1e-4  # of the adaptive weight, as published


class PerceptualAdversarialLoss(nn.Module):
    """Feature distance and adversarial loss of reconstructions; a `lossconfig` of a first stage.

    Args:
        tower: `{target, params}` of a CLIPGlobalEncoder, whose features are compared; without it, they are not.
        feature_weight: weight of the feature distance.
        adversarial_weight: weight of the adversarial loss; 0 leaves the discriminator out.
        adaptive: multiplies that weight by the ratio of the gradients' norms of all other losses and of the adversarial
            loss in the decoder's last layer (VQGAN, equation 7).
        discriminator_start: optimizer step from which on the discriminator is trained.
        adversarial_start: step from which on its judgement counts in the loss (default: `discriminator_start`); a later
            step lets it learn first.
        discriminator_rate: learning rate of the discriminator as a multiple of the first stage's.
        channels: channels of the discriminator's first layer, a multiple of 8.
        layers: layers of the discriminator that halve the resolution; 3 judge patches of 70 px, 2 of 34 px.

    Raises:
        ConfigError: the tower cannot be built, or is no ViT.
        ValueError: a weight or step is negative.
    """

    def __init__(
        self,
        tower: Mapping | None = None,
        feature_weight: float = 1.0,
        adversarial_weight: float = 0.5,
        adaptive: bool = True,
        discriminator_start: int = 0,
        adversarial_start: int | None = None,
        discriminator_rate: float = 1.0,
        channels: int = 64,
        layers: int = 3,
    ):
        super().__init__()
        for name, value in (
            ("feature_weight", feature_weight),
            ("adversarial_weight", adversarial_weight),
            ("discriminator_rate", discriminator_rate),
            ("discriminator_start", discriminator_start),
            ("adversarial_start", adversarial_start or 0),
        ):
            if value < 0:
                raise ValueError(f"lossconfig: {name} is {value}; choose 0 or more")
        self.feature_distance = None if tower is None else FeatureDistance(instantiate_from_config(tower))
        self.discriminator = PatchDiscriminator(channels, layers) if adversarial_weight else None
        self.feature_weight, self.adversarial_weight, self.adaptive = feature_weight, adversarial_weight, adaptive
        self.discriminator_start = discriminator_start
        self.adversarial_start = max(discriminator_start, adversarial_start or 0)
        self.discriminator_rate = discriminator_rate

    def parts(self) -> dict[str, nn.Module]:
        """The parts by the names that messages use."""
        parts: dict[str, nn.Module] = {}
        if self.discriminator is not None:
            parts["discriminator"] = self.discriminator
        if self.feature_distance is not None:
            parts["image tower"] = self.feature_distance.tower
        return parts

    def forward(
        self, image: Tensor, reconstruction: Tensor, pixel_loss: Tensor, last_layer: Tensor, step: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Returns what is added to the loss, and the parts of it by name.

        In evaluation mode, that is the feature distance alone.

        Args:
            image: (B,3,H,W) in [-1,1].
            reconstruction: (B,3,H,W).
            pixel_loss: the other losses of the reconstruction.
            last_layer: the decoder's last kernel, for the adaptive weight.
            step: number of optimizer steps done.
        """
        added, values = torch.zeros_like(pixel_loss), {}
        if self.feature_distance is not None:
            values["feature_loss"] = self.feature_distance(reconstruction, image)
            added = self.feature_weight * values["feature_loss"]
        if self.discriminator is None or not self.training:
            return added, values
        if step < self.discriminator_start:  # zero gradients, since data-parallel processes wait for each of them
            return added + 0 * sum(parameter.sum() for parameter in self.discriminator.parameters()), values
        if step >= self.adversarial_start:
            values["generator_loss"] = generator_loss(self._judge(reconstruction))
            weight = reconstruction.new_full((), self.adversarial_weight)
            if self.adaptive:
                weight = weight * adaptive_weight(pixel_loss + added, values["generator_loss"], last_layer)
            values["adversarial_weight"] = weight
            added = added + weight * values["generator_loss"]
        real, fake = self.discriminator(torch.cat([image, reconstruction.detach().to(image.dtype)])).chunk(2)
        values["discriminator_loss"] = discriminator_loss(real, fake)
        return added + values["discriminator_loss"], values

    def _judge(self, reconstruction: Tensor) -> Tensor:
        """The discriminator's output, whose gradient does not reach the discriminator."""
        assert self.discriminator is not None
        weights = {name: parameter.detach() for name, parameter in self.discriminator.named_parameters()}
        return functional_call(self.discriminator, weights, (reconstruction,))


def adaptive_weight(loss: Tensor, adversarial: Tensor, last_layer: Tensor) -> Tensor:  # (), (), parameter -> ()
    """Ratio of the norms of two losses' gradients in a layer (VQGAN, equation 7)."""
    norms = [torch.autograd.grad(value, last_layer, retain_graph=True)[0].norm() for value in (loss, adversarial)]
    return (norms[0] / (norms[1] + EPSILON)).clamp(0, LARGEST_WEIGHT).detach()
