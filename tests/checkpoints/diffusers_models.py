"""Tiny networks of the installed diffusers, this project's counterparts, and folders as diffusers publishes them."""

import copy
import json
from pathlib import Path

import pytest
import torch
from tiny import MODEL

from ldm.models.autoencoder import AutoencoderKL
from ldm.modules.diffusionmodules.openaimodel import UNetModel
from ldm.util.config import instantiate_from_config

UNET = {
    "sample_size": 8,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": [32, 64],
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
    "layers_per_block": 2,
    "cross_attention_dim": 24,
    "attention_head_dim": 4,
}
# The same of Stable Diffusion 2, XL and inpainting, which differ in what is listed.
SD2 = UNET | {"use_linear_projection": True, "attention_head_dim": [2, 4]}
SDXL = UNET | {
    "block_out_channels": [32, 64, 64],
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "layers_per_block": 1,
    "transformer_layers_per_block": [1, 2, 3],
    "use_linear_projection": True,
    "attention_head_dim": [2, 4, 4],
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 16 + 6 * 8,
}
INPAINTING = UNET | {"in_channels": 9}
BACKBONES = {"SD 1": UNET, "SD 2": SD2, "SDXL": SDXL, "inpainting": INPAINTING}
KL = {
    "block_out_channels": [32, 64],
    "down_block_types": ["DownEncoderBlock2D"] * 2,
    "up_block_types": ["UpDecoderBlock2D"] * 2,
    "latent_channels": 4,
    "layers_per_block": 2,
    "sample_size": 16,
}
SCHEDULER = {
    "_class_name": "DDIMScheduler",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "clip_sample": False,
    "steps_offset": 1,
}


def unet_params(params: dict) -> dict:
    """The arguments of this project's U-Net for the architecture of diffusers' with these arguments."""
    channels = params["block_out_channels"]
    default = ["CrossAttnDownBlock2D"] * (len(channels) - 1) + ["DownBlock2D"]
    blocks = params.get("down_block_types", default)
    heads = params["attention_head_dim"]  # diffusers' name for the number of heads
    head_size = {"num_heads": heads} if isinstance(heads, int) else {"num_head_channels": channels[0] // heads[0]}
    width = params.get("projection_class_embeddings_input_dim")
    return {
        "image_size": params["sample_size"],
        "in_channels": params["in_channels"],
        "out_channels": params["out_channels"],
        "model_channels": channels[0],
        "channel_mult": [width // channels[0] for width in channels],
        "num_res_blocks": params["layers_per_block"],
        "attention_resolutions": [2**level for level, block in enumerate(blocks) if block == "CrossAttnDownBlock2D"],
        "use_spatial_transformer": True,
        "transformer_depth": params.get("transformer_layers_per_block", 1),
        "use_linear_in_transformer": params.get("use_linear_projection", False),
        "num_classes": "sequential" if width else None,
        "adm_in_channels": width,
        "context_dim": params["cross_attention_dim"],
        "legacy": False,
        **head_size,
    }


def build_unet(params: dict, **changes) -> UNetModel:
    """This project's U-Net of the same architecture as diffusers' with these arguments."""
    return UNetModel(**{**unet_params(params), **changes}).eval()


def build_kl(params: dict) -> AutoencoderKL:
    return AutoencoderKL(embed_dim=params["latent_channels"], ddconfig=kl_ddconfig(params)).eval()


def kl_ddconfig(params: dict) -> dict:
    channels = params["block_out_channels"]
    return {
        "double_z": True,
        "z_channels": params["latent_channels"],
        "resolution": params["sample_size"],
        "in_channels": 3,
        "out_ch": 3,
        "ch": channels[0],
        "ch_mult": [width // channels[0] for width in channels],
        "num_res_blocks": params["layers_per_block"],
        "attn_resolutions": [],
        "dropout": 0.0,
    }


def unet_and_kl() -> tuple[torch.nn.Module, torch.nn.Module]:
    """A U-Net and an autoencoder of the installed diffusers with random weights, or skips."""
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    return diffusers.UNet2DConditionModel(**UNET).eval(), diffusers.AutoencoderKL(**KL).eval()


def write_json(path: Path, content: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def change_json(path: Path, **changes) -> None:
    """Replaces values of a JSON file; None removes a key."""
    content = json.loads(path.read_text()) | changes
    write_json(path, {key: value for key, value in content.items() if value is not None})


def save_pipeline(folder: Path, networks: tuple, **scheduler) -> Path:
    """A folder with model_index.json, unet/, vae/ and scheduler/."""
    for name, network in zip(("unet", "vae"), networks):
        network.save_pretrained(folder / name)
    write_json(folder / "model_index.json", {"_class_name": "StableDiffusionPipeline"})
    write_json(folder / "scheduler" / "scheduler_config.json", SCHEDULER | scheduler)
    return folder


def config_of(folder, unet: dict | None = None, **params) -> dict:
    """The config of a LatentDiffusion on such a folder; what the folder states is open in it."""
    channels = UNET["block_out_channels"]
    config = copy.deepcopy(MODEL)
    config["params"] |= {"init": None, "ckpt_path": folder and str(folder), "global_stage_config": None}
    config["params"]["unet_config"]["params"] = {
        "image_size": 8,
        "in_channels": 4,
        "out_channels": 4,
        "model_channels": channels[0],
        "channel_mult": [1, 2],
        "num_res_blocks": 2,
        "attention_resolutions": [1],
        "context_dim": 24,
        "context_local_dim": 32,
        "legacy": False,
        "defaults": {"num_heads": 2},
        **(unet or {}),
    }
    config["params"]["first_stage_config"] = {
        "target": "ldm.models.autoencoder.AutoencoderKL",
        "params": {"embed_dim": 4, "ddconfig": kl_ddconfig(KL)},
    }
    config["params"] |= params
    return config


def latent_diffusion(folder, unet: dict | None = None, **params):
    return instantiate_from_config(config_of(folder, unet, **params)).eval()
