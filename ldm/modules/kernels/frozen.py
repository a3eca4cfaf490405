"""Training with frozen weights at less memory: no saved convolution inputs, weights held in half precision."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.grad import conv2d_input


class FrozenConvolution(torch.autograd.Function):
    """conv2d with a frozen weight, which saves only the weight for the backward pass.

    torch's own convolution always saves its input, although only the gradient of the weight needs it. `apply` takes x
    (B,C,h,w), weight (O,C,k,k), bias (O,) or None, stride, padding and dilation; only x gets a gradient.
    """

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor | None, *geometry) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.shape, ctx.geometry = x.shape, geometry
        return F.conv2d(x, weight, bias, *geometry)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple:
        (weight,) = ctx.saved_tensors
        return conv2d_input(ctx.shape, weight, gradient, *ctx.geometry), None, None, None, None, None


def cast_frozen_weights(dtype: torch.dtype, module: nn.Module) -> None:
    """Casts the frozen weights of linear layers and convolutions to a half precision, in place.

    The outputs are bit-equal to autocast's, which casts these weights in each step. This halves their memory and avoids the
    casted copies that autocast keeps for the backward pass. Norms, which autocast computes in float32, and trainable
    parameters keep their precision.
    """
    for layer in module.modules():
        if isinstance(layer, (nn.Linear, nn.Conv2d)):
            for name, parameter in layer.named_parameters(recurse=False):
                if name in ("weight", "bias") and not parameter.requires_grad:
                    parameter.data = parameter.data.to(dtype)
