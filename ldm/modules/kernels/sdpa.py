"""Attention by the kernel that was the fastest where it was measured (scripts/benchmark.py --only attention)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """softmax(q k^T / sqrt(d) + bias) v: (B,h,M,d), (B,h,N,d), (B,h,N,d), bias to (B,h,M,N) -> (B,h,M,d)."""
    if in_full_precision(q):
        with torch.autocast("cpu", enabled=False):  # which would cast back
            bias = None if bias is None else bias.float()
            return F.scaled_dot_product_attention(q.float(), k.float(), v.float(), bias).to(q.dtype)
    return F.scaled_dot_product_attention(q, k, v, None if bias is None else bias.to(q.dtype))


def in_full_precision(q: Tensor) -> bool:
    """Half precision on its way to a gradient on a CPU: there the fused kernel's way back takes four to five times as long
    as float32's, while the casts take next to nothing. Everywhere else torch's own choice stands."""
    return (
        q.device.type == "cpu"
        and q.dtype in (torch.bfloat16, torch.float16)
        and torch.is_grad_enabled()
        and q.requires_grad
    )
