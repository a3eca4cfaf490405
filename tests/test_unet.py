"""UNetModel: the published numbers and keys, and new parts that begin as the identity."""

import pytest
import torch

from conftest import assert_close_to_published
from ldm.conditioning import Conditioning
from ldm.modules.diffusionmodules.openaimodel import FIXED, UNetModel, timestep_embedding

SGDIFF_VG = dict(
    image_size=32, in_channels=4, out_channels=4, model_channels=256, attention_resolutions=[4, 2, 1],
    num_res_blocks=2, channel_mult=[1, 2, 4], num_head_channels=32, use_spatial_transformer=True,
    transformer_depth=1, context_local_dim=1536, context_dim=512,
)
SD1 = dict(
    image_size=32, in_channels=4, out_channels=4, model_channels=320, attention_resolutions=[4, 2, 1],
    num_res_blocks=2, channel_mult=[1, 2, 4, 4], num_heads=8, use_spatial_transformer=True,
    transformer_depth=1, context_dim=768, use_checkpoint=True, legacy=False,
)


def test_sgdiffs_unet_gives_the_published_numbers(parity):
    published = parity("sgdiff_unet_small")
    unet = UNetModel(**published.params).eval()
    unet.load_state_dict(published.weights)
    given = published.inputs
    cond = Conditioning.of(given["c_local"], style=given["c_global"][:, 0])
    with torch.no_grad():
        assert_close_to_published(unet(given["x"], given["t"], cond), published.outputs["eps"])


def test_stable_diffusions_unet_gives_the_published_numbers(parity):
    published = parity("ldm_unet_small")
    unet = UNetModel(**published.params).eval()
    unet.load_state_dict(published.weights)
    given = published.inputs
    with torch.no_grad():
        eps = unet(given["x"], given["t"], Conditioning.of(given["context"]))
    assert_close_to_published(eps, published.outputs["eps"])


@pytest.mark.parametrize("name, config", [("sgdiff_vg", SGDIFF_VG), ("sd1_ldm", SD1)])
def test_a_full_size_checkpoint_has_exactly_our_keys_and_shapes(manifest, name, config):
    prefix = "model.diffusion_model."
    published = {key.removeprefix(prefix): shape for key, shape in manifest(name).items() if key.startswith(prefix)}
    with torch.device("meta"):
        unet = UNetModel(**config)
    assert {key: list(value.shape) for key, value in unet.state_dict().items()} == published
