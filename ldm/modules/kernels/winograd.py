"""Convolutions of 3 x 3 with frozen weights in fewer multiplications: the minimal filtering of Winograd, F(4x4, 3x3) and
F(2x2, 3x3), as matrix products (Lavin & Gray 1509.09308, section 4 and its appendix on larger tiles).

Where a weight stays as it is, what is made of it is made once; it takes 4 and 1.8 times the weight's own memory. Rounding of
float32 is about that of torch's own convolution, up to four times it in 4 x 4.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ldm.modules.kernels.frozen import FrozenConv2d

NARROWEST = 96  # channels: below, what is saved goes into cutting tiles
# Places, and weights of a convolution: with fewer of those and more of these, tiles of 4 x 4 are too few for the memory that
# their kernels take.
SMALL, HEAVY = 16 * 16, 2**20


class Filtering(NamedTuple):
    """Y = A'((G g G') * (B' d B))A, of tiles d (n,n) that overlap by 2 and their results Y (m,m), n = m + 2. Each matrix is
    held as its Kronecker square, which does rows and columns at once.

    tile  B' (n²,n²)
    kernel  G (n²,9)
    result  A' (m²,n²)
    """

    tile: Tensor
    kernel: Tensor
    result: Tensor


def _squares(*matrices: list[list[float]]) -> Filtering:
    return Filtering(*(torch.kron(it, it) for it in (torch.tensor(matrix, dtype=torch.float64) for matrix in matrices)))


FILTERINGS = {
    2: _squares(
        [[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]],
        [[1, 0, 0], [1 / 2, 1 / 2, 1 / 2], [1 / 2, -1 / 2, 1 / 2], [0, 0, 1]],
        [[1, 1, 1, 0], [0, 1, -1, -1]],
    ),
    4: _squares(
        [
            [4, 0, -5, 0, 1, 0],
            [0, -4, -4, 1, 1, 0],
            [0, 4, -4, -1, 1, 0],
            [0, -2, -1, 2, 1, 0],
            [0, 2, -1, -2, 1, 0],
            [0, 4, 0, -5, 0, 1],
        ],
        [
            [1 / 4, 0, 0],
            [-1 / 6, -1 / 6, -1 / 6],
            [-1 / 6, 1 / 6, -1 / 6],
            [1 / 24, 1 / 12, 1 / 6],
            [1 / 24, -1 / 12, 1 / 6],
            [0, 0, 1],
        ],
        [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]],
    ),
}


def spread(weight: Tensor, m: int) -> Tensor:
    """A convolution's weight (O,C,3,3) as its kernels (n²,O,C), n = m + 2."""
    kernels = FILTERINGS[m].kernel.to(weight.dtype) @ weight.permute(2, 3, 0, 1).reshape(9, -1)
    return kernels.view(-1, *weight.shape[:2])


class Convolution(torch.autograd.Function):
    """x (B,C,h,w), kernels (n²,O,C) from `spread`, bias (O,) or None -> (B,O,h,w), channels last: conv2d with padding 1. It
    keeps nothing of x. The gradient is of x alone, once, each step's transpose in reverse."""

    @staticmethod
    def forward(ctx, x: Tensor, kernels: Tensor, bias: Tensor | None, m: int) -> Tensor:
        ctx.save_for_backward(kernels)
        ctx.shape, ctx.m = x.shape, m
        tile, _, result = (it.to(x.dtype) for it in FILTERINGS[m])
        batch, channels, height, width = x.shape
        down, across = -(-height // m), -(-width // m)
        padded = F.pad(x.permute(0, 2, 3, 1), (0, 0, 1, across * m + 1 - width, 1, down * m + 1 - height))
        tiles = padded.unfold(1, m + 2, m).unfold(2, m + 2, m).permute(4, 5, 0, 1, 2, 3)  # (n,n,B,down,across,C)
        tiles = (tile @ tiles.reshape(len(kernels), -1)).view(len(kernels), -1, channels)
        products = torch.bmm(tiles, kernels.transpose(1, 2))
        if bias is not None:
            products[m + 3] += bias  # in row 1 and column 1, which A adds to all results alike
        y = (result @ products.view(len(kernels), -1)).view(m, m, batch, down, across, -1).permute(2, 3, 0, 4, 1, 5)
        return y.reshape(batch, down * m, across * m, -1)[:, :height, :width].permute(0, 3, 1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple:
        (kernels,) = ctx.saved_tensors
        m, (batch, channels, height, width) = ctx.m, ctx.shape
        tile, _, result = (it.to(gradient.dtype) for it in FILTERINGS[m])
        down, across = -(-height // m), -(-width // m)
        y = F.pad(gradient.permute(0, 2, 3, 1), (0, 0, 0, across * m - width, 0, down * m - height))
        y = y.reshape(batch, down, m, across, m, -1).permute(2, 4, 0, 1, 3, 5)
        products = (result.T @ y.reshape(m * m, -1)).view(len(kernels), -1, gradient.shape[1])
        tiles = tile.T @ torch.bmm(products, kernels).view(len(kernels), -1)
        tiles = tiles.view(m + 2, m + 2, batch, down, across, channels).permute(2, 3, 0, 4, 1, 5)
        x = tiles.new_zeros(batch, down + 1, m, across + 1, m, channels)
        for i, rows in enumerate((slice(0, m), slice(m, m + 2))):  # its own m x m, and what it shares with the next tiles
            for j, columns in enumerate((slice(0, m), slice(m, m + 2))):
                part = tiles[:, :, rows, :, columns]
                x[:, i : i + down, : part.shape[2], j : j + across, : part.shape[4]] += part
        x = x.view(batch, (down + 1) * m, (across + 1) * m, channels)[:, 1 : height + 1, 1 : width + 1]
        return x.permute(0, 3, 1, 2), None, None, None


class WinogradConv2d(FrozenConv2d):
    """As it says on a CPU in float32, where its weight and bias are frozen; else the convolution it was."""

    def forward(self, x: Tensor) -> Tensor:  # (B,C,h,w) -> (B,O,h,w)
        here = x.device.type == "cpu" and not torch.is_autocast_enabled("cpu")
        if not here or not x.dtype == self.weight.dtype == torch.float32 or any(p.requires_grad for p in self.parameters()):
            return super().forward(x)
        m = 2 if x.shape[2] * x.shape[3] < SMALL and self.weight.numel() > HEAVY else 4
        return Convolution.apply(x, self._kernels(m), self.bias, m)

    def _kernels(self, m: int) -> Tensor:
        """Made once, and again where the weight has changed since."""
        made_of = self.weight.data_ptr(), self.weight._version
        held = self.__dict__.setdefault("_held", {})
        if m not in held or held[m][0] != made_of:
            with torch.inference_mode(False), torch.no_grad():  # or a validation's could not be used in training
                held[m] = made_of, spread(self.weight, m)
        return held[m][1]


def use_winograd(module: nn.Module, use: bool = True) -> None:
    """Make its wide convolutions of 3 x 3, stride and padding 1 WinogradConv2d, under the same keys; or none of them."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d) and _fits(layer):
            layer.__class__ = WinogradConv2d if use else FrozenConv2d
            layer.__dict__.pop("_held", None)


def _fits(layer: nn.Conv2d) -> bool:
    geometry = layer.kernel_size, layer.stride, layer.padding, layer.dilation, layer.groups, layer.padding_mode
    square = geometry == ((3, 3), (1, 1), (1, 1), (1, 1), 1, "zeros")
    return square and min(layer.in_channels, layer.out_channels) >= NARROWEST
