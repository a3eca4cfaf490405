"""Scaled dot-product attention by the kernel that was measured to be the fastest (scripts/benchmark.py --only attention)."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

# bfloat16: as many heads at once as have this many logits, which stay in the processor's cache. A head with more than
# LARGEST_HEAD takes torch's kernel in float32, which never holds them all.
CHUNK, LARGEST_HEAD = 2**20, 2**21


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """Computes softmax(q k^T / sqrt(d) + bias) v.

    Args:
        q: (B,heads,M,d).
        k, v: (B,heads,N,d).
        bias: Broadcasts to (B,heads,M,N).

    Returns:
        (B,heads,M,d), in q's precision.
    """
    if not _trains_in_half_precision_on_cpu(q):
        return F.scaled_dot_product_attention(q, k, v, None if bias is None else bias.to(q.dtype))
    with torch.autocast("cpu", enabled=False):  # it would change the precision of single steps
        if q.dtype == torch.float16 or q.shape[-2] * k.shape[-2] > LARGEST_HEAD:
            bias = None if bias is None else bias.float()
            return F.scaled_dot_product_attention(q.float(), k.float(), v.float(), bias).to(q.dtype)
        if bias is None:
            return ProductAttention.apply(q, k.to(q.dtype), v.to(q.dtype))
        logits = _scaled(q) @ k.to(q.dtype).transpose(-2, -1)
        return (logits.float() + bias).softmax(-1).to(q.dtype) @ v.to(q.dtype)


class ProductAttention(torch.autograd.Function):
    """Attention by matrix products, for bfloat16 on a CPU; `apply` takes and returns tensors as `attend` does, without bias.

    Forward and backward, torch's fused kernel takes one and a half times as long, and twice as long in float32. As there,
    weights are computed again in the backward pass (Dao et al. 2022, arXiv 2205.14135, section 3.1), so that only q, k and v
    are saved. Products and the softmax accumulate in float32; logits and weights are rounded to bfloat16.
    """

    @staticmethod
    def forward(ctx, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        ctx.save_for_backward(q, k, v)
        shape = q.shape
        q, k, v = _scaled(q).flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1)
        y = torch.empty_like(q)
        for heads in _chunks(q, k):
            torch.bmm(_weights(q[heads], k[heads]), v[heads], out=y[heads])
        return y.view(shape)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, ...]:
        saved = ctx.saved_tensors  # asked for once, since recomputed activations are given only once
        shapes = [each.shape for each in saved]
        q, k, v = (each.flatten(0, 1) for each in saved)
        q, gradient = _scaled(q), gradient.flatten(0, 1)
        gradients = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
        for heads in _chunks(q, k):
            weights = _weights(q[heads], k[heads])
            of_weights = gradient[heads] @ v[heads].transpose(1, 2)
            of_logits = torch.ops.aten._softmax_backward_data(of_weights, weights, -1, weights.dtype)
            torch.bmm(of_logits, k[heads], out=gradients[0][heads])
            torch.bmm(of_logits.transpose(1, 2), q[heads], out=gradients[1][heads])
            torch.bmm(weights.transpose(1, 2), gradient[heads], out=gradients[2][heads])
        of_q, of_k, of_v = (each.view(shape) for each, shape in zip(gradients, shapes))
        return _scaled(of_q), of_k, of_v


def _scaled(q: Tensor) -> Tensor:
    return q * q.shape[-1] ** -0.5


def _weights(q: Tensor, k: Tensor) -> Tensor:  # (G,M,d), (G,N,d) -> (G,M,N)
    return torch.softmax(q @ k.transpose(1, 2), -1)


def _chunks(q: Tensor, k: Tensor) -> Iterator[slice]:
    """Slices of the heads of all images."""
    count = max(1, CHUNK // (q.shape[1] * k.shape[1]))
    return (slice(start, start + count) for start in range(0, len(q), count))


def _trains_in_half_precision_on_cpu(q: Tensor) -> bool:
    half = q.dtype in (torch.bfloat16, torch.float16)
    return q.device.type == "cpu" and half and torch.is_grad_enabled() and q.requires_grad
