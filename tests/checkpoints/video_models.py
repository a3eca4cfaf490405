"""Tiny video models of the installed diffusers, with random weights, and this project's counterparts."""

import pytest
import torch

UNET = {
    "sample_size": 8,
    "in_channels": 8,
    "out_channels": 4,
    "down_block_types": ("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
    "up_block_types": ("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
    "block_out_channels": (64, 128),
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 24,
    "layers_per_block": 2,
    "cross_attention_dim": 24,
    "num_attention_heads": (1, 2),
    "num_frames": 3,
}
PARAMS = {  # of this project's U-Net of the same architecture
    "image_size": 8,
    "in_channels": 8,
    "out_channels": 4,
    "model_channels": 64,
    "channel_mult": [1, 2],
    "num_res_blocks": 2,
    "attention_resolutions": [1],
    "num_head_channels": 64,
    "use_linear_in_transformer": True,
    "num_classes": "sequential",
    "adm_in_channels": 24,
    "context_dim": 24,
    "num_frames": 3,
}
KL = {
    "block_out_channels": (32, 64),
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "layers_per_block": 2,
    "latent_channels": 4,
    "sample_size": 16,
}
DDCONFIG = {
    "double_z": True,
    "z_channels": 4,
    "resolution": 16,
    "in_channels": 3,
    "out_ch": 3,
    "ch": 32,
    "ch_mult": [1, 2],
    "num_res_blocks": 2,
    "attn_resolutions": [],
    "dropout": 0.0,
}
MOTION_UNET = {
    "sample_size": 8,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": (32, 64),
    "down_block_types": ("CrossAttnDownBlockMotion", "DownBlockMotion"),
    "up_block_types": ("UpBlockMotion", "CrossAttnUpBlockMotion"),
    "layers_per_block": 2,
    "cross_attention_dim": 24,
    "num_attention_heads": 4,
    "motion_num_attention_heads": 8,
    "motion_max_seq_length": 24,
    "use_motion_mid_block": False,
}


@torch.no_grad()
def randomised(network: torch.nn.Module) -> torch.nn.Module:
    """The network with every parameter away from its start, so that none is zero, one or equal to another."""
    generator = torch.Generator().manual_seed(0)
    for name, parameter in network.named_parameters():
        scale = 1.0 if name.endswith("mix_factor") else 0.1
        parameter.add_(scale * torch.randn(parameter.shape, generator=generator))
    return network.eval()


def make(kind: str, settings: dict) -> torch.nn.Module:
    """A network of diffusers by its class, or skips."""
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    return randomised(getattr(diffusers, kind)(**settings))


def to_sgm_unet(state: dict) -> dict:
    """The keys of SVD's own files for those of diffusers, written down here block by block."""
    inner = {"norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "norm2": "out_layers.0"}
    inner |= {"conv2": "out_layers.3", "conv_shortcut": "skip_connection"}
    ends = {"conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2"}
    ends |= {f"time_embedding.linear_{n}": f"time_embed.{2 * n - 2}" for n in (1, 2)}
    ends |= {f"add_embedding.linear_{n}": f"label_emb.0.{2 * n - 2}" for n in (1, 2)}
    blocks = {"mid_block.resnets.0": "middle_block.0", "mid_block.resnets.1": "middle_block.2"}
    blocks |= {"mid_block.attentions.0": "middle_block.1"}
    for name, number in {"down_blocks.0.%s.0": 1, "down_blocks.0.%s.1": 2, "down_blocks.1.%s.0": 4}.items():
        blocks |= {name % "resnets": f"input_blocks.{number}.0", name % "attentions": f"input_blocks.{number}.1"}
    blocks |= {
        "down_blocks.1.resnets.1": "input_blocks.5.0",
        "down_blocks.0.downsamplers.0.conv": "input_blocks.3.0.op",
    }
    for number in range(6):
        name = f"up_blocks.{number // 3}.%s.{number % 3}"
        blocks |= {name % "resnets": f"output_blocks.{number}.0", name % "attentions": f"output_blocks.{number}.1"}
    blocks["up_blocks.0.upsamplers.0.conv"] = "output_blocks.2.1.conv"
    renamed = {}
    for key, value in state.items():
        layer, _, suffix = key.rpartition(".")
        if layer in ends:
            renamed[f"{ends[layer]}.{suffix}"] = value
            continue
        block = next(name for name in blocks if key.startswith(name + "."))
        rest = key.removeprefix(block + ".")
        for old, new in (("spatial_res_block.", ""), ("temporal_res_block.", "time_stack.")):
            if rest.startswith(old):
                name, _, suffix = rest.removeprefix(old).rpartition(".")
                rest = f"{new}{inner[name]}.{suffix}"
        rest = rest.replace("temporal_transformer_blocks.", "time_stack.")
        rest = rest.replace("time_pos_embed.linear_1", "time_pos_embed.0").replace("linear_2", "2")
        renamed[f"{blocks[block]}.{rest}"] = value
    return renamed
