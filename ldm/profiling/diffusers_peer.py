"""diffusers' U-Net with the shape and the weights of ours, to be measured next to it."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ldm.checkpoints.diffusers_layout import to_ldm_unet
from ldm.models.diffusion.ddpm import LatentDiffusion
from ldm.modules.conditioning import Conditioning
from ldm.modules.diffusionmodules.openaimodel import UNetModel
from ldm.profiling.workload import PRECISIONS, Workload
from ldm.util.errors import UserError

NOT_INSTALLED = "diffusers is not installed, so that its rows are missing: pip install diffusers"


def available() -> bool:
    """Whether diffusers is installed."""
    return importlib.util.find_spec("diffusers") is not None


def diffusers_config(params: Mapping) -> dict:
    """Arguments of UNet2DConditionModel for the parameters of a UNetModel without adapters.

    Raises:
        UserError: diffusers has no such U-Net.
    """
    if params.get("coordinates"):
        raise UserError("diffusers' U-Net has no coordinate channels; choose a config without `coordinates`")
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
def to_diffusers_unet(unet: UNetModel, params: Mapping) -> nn.Module:
    """A frozen UNet2DConditionModel with the weights of a UNetModel, whose parameters are `params`."""
    from diffusers import UNet2DConditionModel  # pyright: ignore[reportPrivateImportUsage]  (imported lazily there)

    with torch.device(next(unet.parameters()).device):  # its random weights, replaced below, are drawn fastest there
        diffusers_unet = UNet2DConditionModel(**diffusers_config(params))
    weights = unet.state_dict()
    for name, parameter in to_ldm_unet(dict(diffusers_unet.named_parameters())).items():
        parameter.copy_(weights[name])
    return diffusers_unet.requires_grad_(False)


def replace_unet(model: LatentDiffusion, workload: Workload, precision: str) -> None:
    """Puts diffusers' U-Net into a model, in place, with the model's own projections of tokens and style."""
    diffusers_unet = to_diffusers_unet(workload.make_unet(), workload.unet_params)
    diffusers_unet.to(workload.device, PRECISIONS[precision])
    projections = model.unet.context_local_mlp, model.unet.context_global_mlp
    model.model["diffusion_model"] = DiffusersUNet(diffusers_unet, *projections)


class DiffusersUNet(nn.Module):
    """diffusers' U-Net with the call signature of ours: the style becomes one more token after those of the graph.

    Args:
        unet: a UNet2DConditionModel.
        tokens: projection of the graph's tokens; None for none.
        style: projection of the style; None for none.
    """

    def __init__(self, unet: nn.Module, tokens: nn.Module | None = None, style: nn.Module | None = None):
        super().__init__()
        self.unet = unet
        self.context_local_mlp, self.context_global_mlp = tokens or nn.Identity(), style or nn.Identity()

    def forward(self, x: Tensor, t: Tensor, cond: Conditioning) -> Tensor:
        dtype = self.unet.dtype
        tokens, mask = self.context_local_mlp(cond.tokens).to(dtype), cond.mask
        if cond.style is not None:
            tokens = torch.cat([tokens, self.context_global_mlp(cond.style)[:, None].to(dtype)], dim=1)
            mask = nn.functional.pad(mask, (0, 1), value=True)
        return self.unet(x.to(dtype), t, tokens, encoder_attention_mask=mask).sample.to(x.dtype)
