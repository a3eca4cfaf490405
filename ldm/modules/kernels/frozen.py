"""Frozen layers that cost training no more than they must: nothing kept, or held in full precision, for their own sake."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.grad import conv2d_input


class FrozenConv2d(nn.Conv2d):
    """A convolution whose weight has no gradient, so that its input is not kept for one. (torch keeps it for every
    convolution, whereas its linear layers know.)"""

    def forward(self, x: Tensor) -> Tensor:  # (B,C,h,w) -> (B,C',h',w')
        forgets = x.requires_grad and torch.is_grad_enabled() and not self.weight.requires_grad
        if not forgets or self.groups != 1 or self.padding_mode != "zeros":
            return super().forward(x)
        weight, bias = self.weight, self.bias
        if torch.is_autocast_enabled(x.device.type):  # which does not look into the function below on the way back
            dtype = torch.get_autocast_dtype(x.device.type)
            x, weight, bias = x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
        return _Convolution.apply(x, weight, bias, self.stride, self.padding, self.dilation)


class _Convolution(torch.autograd.Function):
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


def skip_saving_inputs(module: nn.Module) -> None:
    """Make its convolutions FrozenConv2d, under the same keys."""
    for layer in module.modules():
        if type(layer) is nn.Conv2d:
            layer.__class__ = FrozenConv2d


def cast_frozen_weights(dtype: torch.dtype, module: nn.Module) -> None:
    """Hold the frozen weights of its linear layers and convolutions in a half precision: bit for bit what autocast makes of
    them in each step, at half the memory, and without the copies that autocast keeps for the way back. Norms, which
    autocast computes in full precision, and whatever is trained stay as they are."""
    for layer in module.modules():
        if isinstance(layer, (nn.Linear, nn.Conv2d)):
            for name, parameter in layer.named_parameters(recurse=False):
                if name in ("weight", "bias") and not parameter.requires_grad:
                    parameter.data = parameter.data.to(dtype)
