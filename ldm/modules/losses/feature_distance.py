"""Distance of images in the features of a frozen image tower, as LPIPS has it (Zhang et al. 2018, arXiv 1801.03924)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from open_clip.transformer import VisionTransformer
from torch import Tensor, nn

from ldm.modules.global_film import CLIPGlobalEncoder
from ldm.util.errors import ConfigError


class FeatureDistance(nn.Module):
    """Mean squared difference of a tower's tokens after each block, each token standardised.

    Images whose sides are multiples of the tower's input size are cut into tiles of that size, since a smaller copy
    would not show their textures; others are resized as CLIP does it.

    Args:
        tower: image encoder with a ViT, which is frozen.

    Raises:
        ConfigError: the tower is another kind of model.
    """

    def __init__(self, tower: CLIPGlobalEncoder):
        super().__init__()
        visual = tower.visual if isinstance(tower, CLIPGlobalEncoder) else tower
        if not isinstance(visual, VisionTransformer):
            raise ConfigError(
                f"lossconfig.params.tower: a {type(visual).__name__} has no patches: name a CLIPGlobalEncoder with a ViT"
            )
        self.tower, self.blocks = tower.requires_grad_(False), visual.transformer.resblocks

    def forward(self, image: Tensor, reference: Tensor) -> Tensor:  # (B,3,H,W), (B,3,H,W) in [-1,1] -> ()
        """Returns the distance, with a gradient for the first image."""
        with torch.autocast(image.device.type, enabled=False):  # half precision would hide small differences
            with torch.no_grad():
                expected = self.features(reference)
            pairs = zip(self.features(image), expected)
            return torch.stack([F.mse_loss(ours, theirs) for ours, theirs in pairs]).mean()

    def features(self, image: Tensor) -> list[Tensor]:
        """Returns the tokens after each block, standardised over their channels."""
        tokens: list[Tensor] = []
        hooks = [
            block.register_forward_hook(lambda block, args, output: tokens.append(output)) for block in self.blocks
        ]
        try:
            self.tower.visual(self.tower.preprocess(tiles(image.float(), self.tower.image_size)))
        finally:
            for hook in hooks:
                hook.remove()
        return [F.layer_norm(token, token.shape[-1:]) for token in tokens]


def tiles(image: Tensor, side: int) -> Tensor:  # (B,3,H,W) -> (B n,3,side,side)
    """Cuts images into squares; returns them as they are if their sides are no multiples of `side`."""
    if image.shape[2] % side or image.shape[3] % side:
        return image
    return rearrange(image, "b c (i h) (j w) -> (b i j) c h w", h=side, w=side)
