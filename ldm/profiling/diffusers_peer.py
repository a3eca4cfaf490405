"""diffusers' U-Net in the shape of ours and with its weights, to be measured beside it."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ldm.checkpoints.diffusers_layout import to_ldm_unet
from ldm.models.diffusion.ddpm import LatentDiffusion
from ldm.modules.conditioning import Conditioning
from ldm.modules.diffusionmodules.openaimodel import UNetModel
from ldm.profiling.setting import PRECISIONS, Setting
from ldm.util.errors import UserError

INSTALL = "diffusers is not installed, so its columns are left out: pip install diffusers"


def available() -> bool:
    return importlib.util.find_spec("diffusers") is not None


def config_of(params: Mapping) -> dict:
    """UNet2DConditionModel's arguments for the body that UNetModel's `params` describe. Raises UserError for a body that it
    has no arguments for."""
    if params.get("coordinates"):
        raise UserError("diffusers' U-Net does not tell its first layer the coordinates; measure a config without them")
    widths = [params["model_channels"] * factor for factor in params["channel_mult"]]
    attends = [2**level in params["attention_resolutions"] for level in range(len(widths))]
    head = params.get("num_head_channels", -1)
    heads = [params["num_heads"] if head == -1 else width // head for width in widths]
    return {
        "sample_size": params["image_size"],
        "in_channels": params["in_channels"],
        "out_channels": params["out_channels"],
        "block_out_channels": tuple(widths),
        "layers_per_block": params["num_res_blocks"],
        "down_block_types": tuple("CrossAttnDownBlock2D" if a else "DownBlock2D" for a in attends),
        "up_block_types": tuple("CrossAttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attends)),
        "cross_attention_dim": params["context_dim"],
        "transformer_layers_per_block": params.get("transformer_depth", 1),
        "attention_head_dim": tuple(heads),  # diffusers' name for the number of heads
    }


@torch.no_grad()
def like(unet: UNetModel, params: Mapping) -> nn.Module:
    """The UNet2DConditionModel with the weights of our U-Net's body."""
    from diffusers import UNet2DConditionModel

    theirs = UNet2DConditionModel(**config_of(params))
    ours = unet.state_dict()
    for name, parameter in to_ldm_unet(dict(theirs.named_parameters())).items():
        parameter.copy_(ours[name])
    return theirs.requires_grad_(False)


def take_over(model: LatentDiffusion, setting: Setting, precision: str) -> None:
    """Put it, without adapters, in the place of the model's U-Net, whose projections of tokens and style it keeps."""
    body = like(setting.unet(), setting.body).to(setting.device, PRECISIONS[precision])
    model.model["diffusion_model"] = Told(body, model.unet.context_local_mlp, model.unet.context_global_mlp)


class Told(nn.Module):
    """diffusers' U-Net told by a Conditioning as ours is: the style is one more token after the graph's."""

    def __init__(self, theirs: nn.Module, tokens: nn.Module | None = None, style: nn.Module | None = None):
        super().__init__()
        self.theirs = theirs
        self.context_local_mlp, self.context_global_mlp = tokens or nn.Identity(), style or nn.Identity()

    def forward(self, x: Tensor, t: Tensor, cond: Conditioning) -> Tensor:
        dtype = self.theirs.dtype
        tokens, mask = self.context_local_mlp(cond.tokens).to(dtype), cond.mask
        if cond.style is not None:
            tokens = torch.cat([tokens, self.context_global_mlp(cond.style)[:, None].to(dtype)], dim=1)
            mask = nn.functional.pad(mask, (0, 1), value=True)
        return self.theirs(x.to(dtype), t, tokens, encoder_attention_mask=mask).sample.to(x.dtype)
