"""PatchGAN, a discriminator of overlapping patches (Isola et al. 2017, arXiv 1611.07004), and its hinge loss."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

GROUPS = 8
SLOPE = 0.2  # of the leaky ReLU
INITIAL_STD = 0.02  # of the kernels


class PatchDiscriminator(nn.Module):
    """Judges each patch of an image with one number, positive for a real image.

    The layers are those of pix2pix and taming-transformers, with group norm in place of batch norm: the result for an
    image does not depend on the rest of the batch, and there are no running averages that could differ between processes.

    Args:
        channels: number of channels of the first layer, a multiple of 8; later layers have up to 8 times as many.
        layers: number of layers that halve the resolution; a patch has 16, 34 or 70 px for 1, 2 or 3 of them.
    """

    def __init__(self, channels: int = 64, layers: int = 3):
        super().__init__()
        widths = [channels * min(2**level, 8) for level in range(layers + 1)]
        blocks: list[nn.Module] = [nn.Conv2d(3, channels, 4, 2, 1), nn.LeakyReLU(SLOPE)]
        for level in range(1, layers + 1):
            stride = 2 if level < layers else 1
            convolution = nn.Conv2d(widths[level - 1], widths[level], 4, stride, 1, bias=False)
            blocks += [convolution, nn.GroupNorm(GROUPS, widths[level]), nn.LeakyReLU(SLOPE)]
        self.main = nn.Sequential(*blocks, nn.Conv2d(widths[-1], 1, 4, 1, 1))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, 0.0, INITIAL_STD)

    def forward(self, image: Tensor) -> Tensor:  # (B,3,H,W) in [-1,1] -> (B,1,h,w)
        return self.main(image)


def discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:  # (B,1,h,w), (B,1,h,w) -> ()
    """Hinge loss (Lim and Ye 2017, arXiv 1705.02894), halved as in taming-transformers."""
    return (F.relu(1 - real.float()).mean() + F.relu(1 + fake.float()).mean()) / 2


def generator_loss(fake: Tensor) -> Tensor:  # (B,1,h,w) -> ()
    """What the generator minimises against a discriminator with hinge loss."""
    return -fake.float().mean()
