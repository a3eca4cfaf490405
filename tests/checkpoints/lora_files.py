"""LoRA files of every layout for the tiny U-Net of diffusers, and what diffusers makes of them."""

import copy

import torch
from diffusers_models import UNET
from torch import nn

from ldm.checkpoints.loading import load_part
from ldm.modules.conditioning import Conditioning
from ldm.modules.diffusionmodules.openaimodel import UNetModel
from ldm.modules.lora import lora_layers

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")


@torch.no_grad()
def outputs(ours: nn.Module, theirs: nn.Module) -> tuple:
    torch.manual_seed(1)
    x, t, tokens = torch.randn(2, 4, 8, 8), torch.tensor([3, 700]), torch.randn(2, 5, 24)
    return ours(x, t, Conditioning.from_tokens(tokens)), theirs(x, t, tokens).sample


def random_lora(theirs, rank: int = 3) -> dict:
    """Matrices for every projection of diffusers' attention: layer -> (down, up)."""
    torch.manual_seed(2)
    layers = {name: layer for name, layer in theirs.named_modules() if name.endswith(ATTENTION)}
    assert any(".attn1." in name for name in layers) and any(".attn2." in name for name in layers)
    return {
        name: (torch.randn(rank, layer.in_features) * 0.1, torch.randn(layer.out_features, rank) * 0.1)
        for name, layer in layers.items()
    }


def kohya(lora, alpha=None) -> dict:
    state = {}
    for name, (down, up) in lora.items():
        key = "lora_unet_" + name.replace(".", "_")
        state |= {f"{key}.lora_down.weight": down, f"{key}.lora_up.weight": up}
        if alpha is not None:
            state[f"{key}.alpha"] = torch.tensor(float(alpha))
    return state


def diffusers_keys(lora, template="unet.{}.lora_{}.weight", sides=("A", "B")) -> dict:
    return {template.format(name, side): value for name, pair in lora.items() for side, value in zip(sides, pair)}


def with_diffusers_lora(theirs, path):
    """A copy of diffusers' U-Net with a LoRA that diffusers loaded."""
    from diffusers.loaders import StableDiffusionLoraLoaderMixin as Loader

    unet = copy.deepcopy(theirs)
    state, alphas, *metadata = Loader.lora_state_dict(str(path), unet_config=unet.config, return_lora_metadata=True)
    Loader.load_lora_into_unet(state, alphas, unet, metadata=metadata[0] if metadata else None)
    return unet


FORMS = {
    "kohya": kohya,
    "kohya with alpha": lambda lora: kohya(lora, alpha=2),
    "diffusers": diffusers_keys,
    "diffusers before peft": lambda lora: diffusers_keys(lora, "unet.{}.lora.{}.weight", ("down", "up")),
}


def pair(name, down, up):
    return {f"{name}.lora_down.weight": torch.zeros(down), f"{name}.lora_up.weight": torch.zeros(up)}


def trained_unet(theirs) -> UNetModel:
    """This project's U-Net on diffusers' weights, with trained LoRA layers whose alpha is not their rank."""
    channels = UNET["block_out_channels"]
    unet = UNetModel(
        image_size=8,
        in_channels=4,
        out_channels=4,
        model_channels=channels[0],
        channel_mult=[1, 2],
        num_res_blocks=2,
        attention_resolutions=[1],
        num_heads=4,
        context_dim=24,
        legacy=False,
        lora_rank=2,
        lora_alpha=6,
    ).eval()
    load_part(unet, theirs.state_dict(), "unet")
    torch.manual_seed(4)
    for layer in lora_layers(unet).values():
        nn.init.normal_(layer.lora_B, std=0.1)
    return unet
