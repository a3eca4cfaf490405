"""3 x 3 convolutions with frozen weights by Winograd's minimal filtering, F(4x4, 3x3) and F(2x2, 3x3).

The algorithm needs fewer multiplications than a direct convolution and is written as matrix products (Lavin & Gray 2015, arXiv
1509.09308, section 4 and the appendix on larger tiles). The transformed weight takes 4 times (4 x 4) or 1.8 times (2 x 2) the
memory of the weight. The rounding error in float32 is that of torch's convolution for 2 x 2, and up to four times that for
4 x 4; in bfloat16 it is twice that for 2 x 2, and too large for 4 x 4.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


class Transform(NamedTuple):
    """The matrices of Y = A'((G g G') * (B' d B))A for kernels g (3,3), tiles d (n,n) and results Y (m,m), n = m + 2.

    Neighbouring tiles overlap by 2. Each matrix is stored as its Kronecker square, which transforms rows and columns at once.

    Attributes:
        tile: B' (n²,n²).
        kernel: G (n²,9).
        result: A' (m²,n²).
    """

    tile: Tensor
    kernel: Tensor
    result: Tensor


def _kronecker_squares(*matrices: list[list[float]]) -> Transform:
    tile, kernel, result = (torch.tensor(matrix, dtype=torch.float64) for matrix in matrices)
    return Transform(torch.kron(tile, tile), torch.kron(kernel, kernel), torch.kron(result, result))


TRANSFORMS = {
    2: _kronecker_squares(
        [[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]],
        [[1, 0, 0], [1 / 2, 1 / 2, 1 / 2], [1 / 2, -1 / 2, 1 / 2], [0, 0, 1]],
        [[1, 1, 1, 0], [0, 1, -1, -1]],
    ),
    4: _kronecker_squares(
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


def transform_weight(weight: Tensor, m: int) -> Tensor:
    """Transforms the weight (O,C,3,3) of a convolution for tiles of m x m, to (n²,O,C) with n = m + 2."""
    precise = torch.promote_types(weight.dtype, torch.float32)
    kernels = TRANSFORMS[m].kernel.to(precise) @ weight.permute(2, 3, 0, 1).reshape(9, -1).to(precise)
    return kernels.view(-1, *weight.shape[:2]).to(weight.dtype)


class WinogradConvolution(torch.autograd.Function):
    """conv2d with padding 1 and a frozen weight; saves nothing but the transformed weight for the backward pass.

    `apply` takes x (B,C,h,w), kernels (n²,O,C) from `transform_weight`, bias (O,) or None, and m, and returns (B,O,h,w),
    channels last. Only x gets a gradient, once differentiable: the transpose of each step, in reverse order.
    """

    @staticmethod
    def forward(ctx, x: Tensor, kernels: Tensor, bias: Tensor | None, m: int) -> Tensor:
        ctx.save_for_backward(kernels)
        ctx.shape, ctx.m = x.shape, m
        tile, _, result = (matrix.to(x.dtype) for matrix in TRANSFORMS[m])
        batch, channels, height, width = x.shape
        down, across = -(-height // m), -(-width // m)
        padded = F.pad(x.permute(0, 2, 3, 1), (0, 0, 1, across * m + 1 - width, 1, down * m + 1 - height))
        tiles = padded.unfold(1, m + 2, m).unfold(2, m + 2, m).permute(4, 5, 0, 1, 2, 3)  # (n,n,B,down,across,C)
        tiles = (tile @ tiles.reshape(len(kernels), -1)).view(len(kernels), -1, channels)
        products = torch.bmm(tiles, kernels.transpose(1, 2))
        if bias is not None:
            products[m + 3] += bias  # row 1, column 1 of a tile, which A' adds to every result
        y = (result @ products.view(len(kernels), -1)).view(m, m, batch, down, across, -1).permute(2, 3, 0, 4, 1, 5)
        return y.reshape(batch, down * m, across * m, -1)[:, :height, :width].permute(0, 3, 1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple:
        (kernels,) = ctx.saved_tensors
        m, (batch, channels, height, width) = ctx.m, ctx.shape
        tile, _, result = (matrix.to(gradient.dtype) for matrix in TRANSFORMS[m])
        down, across = -(-height // m), -(-width // m)
        y = F.pad(gradient.permute(0, 2, 3, 1), (0, 0, 0, across * m - width, 0, down * m - height))
        y = y.reshape(batch, down, m, across, m, -1).permute(2, 4, 0, 1, 3, 5)
        products = (result.T @ y.reshape(m * m, -1)).view(len(kernels), -1, gradient.shape[1])
        tiles = tile.T @ torch.bmm(products, kernels).view(len(kernels), -1)
        tiles = tiles.view(m + 2, m + 2, batch, down, across, channels).permute(2, 3, 0, 4, 1, 5)
        x = tiles.new_zeros(batch, down + 1, m, across + 1, m, channels)
        for i, rows in enumerate((slice(0, m), slice(m, m + 2))):  # the tile itself, and its overlap with the next ones
            for j, columns in enumerate((slice(0, m), slice(m, m + 2))):
                part = tiles[:, :, rows, :, columns]
                x[:, i : i + down, : part.shape[2], j : j + across, : part.shape[4]] += part
        x = x.view(batch, (down + 1) * m, (across + 1) * m, channels)[:, 1 : height + 1, 1 : width + 1]
        return x.permute(0, 3, 1, 2), None, None, None
