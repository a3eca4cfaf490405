"""Stable Diffusion 1, 2 and XL at full size against diffusers and transformers, with random weights that both implementations share.

The networks of the other side are made on the meta device and filled, which is faster than their own initialisation; SDXL's U-Net
of 10.3 GB is there once.
"""

import pytest
import torch
from test_backbones import FULL
from text_models import PROMPTS

from ldm.checkpoints.diffusers_layout import to_ldm_unet, to_ldm_vae
from ldm.graph.text_tokens import END, tokenize
from ldm.models.autoencoder import AutoencoderKL
from ldm.modules.conditioning import Conditioning, TextTokens
from ldm.modules.diffusionmodules.openaimodel import UNetModel
from ldm.modules.diffusionmodules.unet_blocks import timestep_embedding
from ldm.modules.encoders.modules import FrozenCLIPEmbedder, FrozenOpenCLIPEmbedder
from ldm.profiling.memory import peak_resident_memory

diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.slow

TOLERANCE = 1e-4  # of the largest output
DDCONFIG = {  # of LDM's KL-f8
    "double_z": True,
    "z_channels": 4,
    "resolution": 256,
    "in_channels": 3,
    "out_ch": 3,
    "ch": 128,
    "ch_mult": [1, 2, 4, 4],
    "num_res_blocks": 2,
    "attn_resolutions": [],
    "dropout": 0.0,
}


@torch.no_grad()
def filled(make):
    """A network with random weights that keep the variance of activations; norms and biases differ from their start."""
    with torch.device("meta"):
        network = make()
    network = network.to_empty(device="cpu").eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    for name, parameter in network.named_parameters():
        if parameter.ndim > 1:
            parameter.normal_(0, parameter[0].numel() ** -0.5, generator=generator)
        else:
            parameter.normal_(float("norm" in name and name.endswith("weight")), 0.1, generator=generator)
    return network


def sharing(make, state: dict):
    """This project's network on the same tensors."""
    with torch.device("meta"):
        network = make()
    network.load_state_dict(state, assign=True)
    return network.eval().requires_grad_(False)


def error(ours, theirs) -> float:
    return float((ours - theirs).abs().max() / theirs.abs().max())


@torch.no_grad()
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", FULL)
def test_a_full_size_u_net_computes_what_diffusers_computes_within_20_gib(name):
    params, settings, _ = FULL[name]
    theirs = filled(lambda: diffusers.UNet2DConditionModel(**settings))
    state = to_ldm_unet(theirs.state_dict())
    generator = torch.Generator().manual_seed(1)
    x, t = torch.randn(1, 4, 32, 32, generator=generator), torch.tensor([500])
    tokens = torch.randn(1, 77, params["context_dim"], generator=generator)
    pooled, sizes = torch.randn(1, 1280, generator=generator), torch.tensor([[1024.0, 1024, 0, 0, 1024, 1024]])
    expected = theirs(x, t, tokens, added_cond_kwargs={"text_embeds": pooled, "time_ids": sizes}).sample
    vector = None
    if name == "SDXL":
        vector = torch.cat([pooled, timestep_embedding(sizes.flatten(), 256).view(1, -1)], dim=1)
    cond = Conditioning.from_text(TextTokens.from_tokens(tokens, vector))
    params = {**params, "use_checkpoint": False}
    assert error(sharing(lambda: UNetModel(**params), state)(x, t, cond), expected) < TOLERANCE
    if name == "SD 1":  # negative control: other heads have the same weights
        others = sharing(lambda: UNetModel(**{**params, "num_heads": 4}), state)
        assert error(others(x, t, cond), expected) > 100 * TOLERANCE
    peak = peak_resident_memory() / 2**30
    print(f"{name}: peak memory {peak:.1f} GiB")
    assert peak < 20


@torch.no_grad()
@pytest.mark.timeout(1200)
def test_the_full_size_first_stage_computes_what_diffusers_computes():
    blocks = {"down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4}
    settings = {**blocks, "block_out_channels": [128, 256, 512, 512], "layers_per_block": 2, "latent_channels": 4}
    theirs = filled(lambda: diffusers.AutoencoderKL(**settings))
    ours = sharing(lambda: AutoencoderKL(embed_dim=4, ddconfig=DDCONFIG), to_ldm_vae(theirs.state_dict()))
    generator = torch.Generator().manual_seed(1)
    image, z = torch.randn(1, 3, 64, 64, generator=generator), torch.randn(1, 4, 8, 8, generator=generator)
    assert error(ours.encode(image), theirs.encode(image).latent_dist.mode()) < TOLERANCE
    assert error(ours.decode(z), theirs.decode(z).sample) < TOLERANCE


@torch.no_grad()
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", ["SD 1", "SD 2"])
def test_a_full_size_text_tower_computes_what_transformers_computes(name):
    sizes = {
        "SD 1": (768, 3072, 12, 12, "quick_gelu", END, FrozenCLIPEmbedder),
        "SD 2": (1024, 4096, 23, 16, "gelu", 0, lambda: FrozenOpenCLIPEmbedder(layer="penultimate")),
    }
    width, hidden, layers, heads, activation, padding, make = sizes[name]
    config = transformers.CLIPTextConfig(
        vocab_size=49408,
        hidden_size=width,
        intermediate_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        hidden_act=activation,
        bos_token_id=49406,
        eos_token_id=END,
    )
    torch.manual_seed(0)
    theirs = transformers.CLIPTextModel(config).eval()
    for parameter in theirs.parameters():
        parameter.add_(0.02 * torch.randn_like(parameter))
    ours = make()
    ours.load_weights(theirs.state_dict())
    ids = torch.cat([tokenize(text).ids(padding) for text in PROMPTS])
    expected = theirs(ids).last_hidden_state
    assert error(ours.encode(PROMPTS), expected) < TOLERANCE
    ours.padding = 0 if padding == END else END  # negative control
    assert error(ours.encode(PROMPTS), expected) > 10 * TOLERANCE
