"""Scaled dot-product attention in the precision that was measured to be the fastest (scripts/benchmark.py --only attention)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """Computes softmax(q k^T / sqrt(d) + bias) v.

    Args:
        q: (B,heads,M,d).
        k, v: (B,heads,N,d).
        bias: Broadcasts to (B,heads,M,N).

    Returns:
        (B,heads,M,d), in q's precision.
    """
    if in_full_precision(q):
        with torch.autocast("cpu", enabled=False):  # it would cast back to half precision
            bias = None if bias is None else bias.float()
            return F.scaled_dot_product_attention(q.float(), k.float(), v.float(), bias).to(q.dtype)
    return F.scaled_dot_product_attention(q, k, v, None if bias is None else bias.to(q.dtype))


def in_full_precision(q: Tensor) -> bool:
    """Whether `attend` computes in float32: for half precision with a gradient on a CPU.

    There the backward pass of torch's fused kernel takes four to five times as long in half precision as in float32, and the
    casts take next to no time.
    """
    return (
        q.device.type == "cpu"
        and q.dtype in (torch.bfloat16, torch.float16)
        and torch.is_grad_enabled()
        and q.requires_grad
    )
