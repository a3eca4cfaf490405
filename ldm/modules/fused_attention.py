"""The attention of taming-transformers' autoencoders, with less memory."""

from __future__ import annotations

from einops import rearrange
from taming.modules.diffusionmodules.model import AttnBlock
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention


class FusedAttnBlock(nn.Module):
    """taming's single-head attention without its (HW)^2 matrix, which takes a gigabyte at 1024 px.

    It takes over the layers of an AttnBlock, and with them their weights and state-dict keys.
    """

    def __init__(self, block: AttnBlock):
        super().__init__()
        self.norm, self.q, self.k, self.v, self.proj_out = block.norm, block.q, block.k, block.v, block.proj_out

    def forward(self, x: Tensor) -> Tensor:  # (B,C,H,W) -> (B,C,H,W)
        h = self.norm(x)
        q, k, v = (rearrange(conv(h), "b c h w -> b 1 (h w) c") for conv in (self.q, self.k, self.v))
        h = rearrange(scaled_dot_product_attention(q, k, v), "b 1 (h w) c -> b c h w", h=x.shape[2])
        return x + self.proj_out(h)


def fuse_attention(module: nn.Module) -> None:
    """Replaces every AttnBlock of a module by a FusedAttnBlock, in place."""
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is AttnBlock:
                setattr(parent, name, FusedAttnBlock(child))
