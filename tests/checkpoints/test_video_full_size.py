"""The published video models at full size on the meta device: every key and shape, without the memory."""

import pytest
import torch
from published_unets import SD1

from ldm.checkpoints.architecture import unet_params
from ldm.checkpoints.diffusers_layout import to_ldm_unet, to_ldm_vae
from ldm.checkpoints.loading import load_part
from ldm.checkpoints.video_architecture import motion_architecture, temporal_first_stage_params, to_motion_keys
from ldm.models.temporal_autoencoder import AutoencoderKLTemporalDecoder
from ldm.modules.diffusionmodules.openaimodel import UNetModel
from ldm.modules.diffusionmodules.video_unet import VideoUNetModel
from ldm.modules.temporal_animatediff import MotionModules, load_motion, places

diffusers = pytest.importorskip("diffusers")
BLOCKS = {"down_block_types": ("DownEncoderBlock2D",) * 4, "block_out_channels": (128, 256, 512, 512)}
SVD = {  # scripts/sampling/configs/svd.yaml of generative-models
    "adm_in_channels": 768,
    "num_classes": "sequential",
    "in_channels": 8,
    "out_channels": 4,
    "model_channels": 320,
    "attention_resolutions": [4, 2, 1],
    "num_res_blocks": 2,
    "channel_mult": [1, 2, 4, 4],
    "num_head_channels": 64,
    "use_linear_in_transformer": True,
    "context_dim": 1024,
}


@pytest.fixture(autouse=True)
def meta():
    with torch.device("meta"):
        yield


def sizes(module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_svds_u_net_has_diffusers_keys_and_shapes():
    theirs = diffusers.UNetSpatioTemporalConditionModel()
    ours = VideoUNetModel(32, **SVD)
    report = load_part(ours, theirs.state_dict(), "unet")
    assert not report.not_loaded and not report.unused and len(report.loaded) == len(theirs.state_dict())
    assert sizes(ours) == sizes(theirs) == 1_524_623_082


def test_svds_architecture_follows_from_keys_and_shapes():
    found = unet_params(to_ldm_unet(diffusers.UNetSpatioTemporalConditionModel().state_dict()))
    for name, value in SVD.items():
        if name == "num_head_channels":
            assert found["defaults"] == {name: value}
        elif name == "attention_resolutions":
            assert sorted(found[name]) == sorted(value)
        else:
            assert found[name] == value, name


def test_svds_first_stage_has_diffusers_keys_and_shapes():
    theirs = diffusers.AutoencoderKLTemporalDecoder(layers_per_block=2, **BLOCKS)
    state = to_ldm_vae(theirs.state_dict())
    ours = AutoencoderKLTemporalDecoder(**temporal_first_stage_params(state))
    expected = {key: value.shape for key, value in state.items()}
    assert {key: value.shape for key, value in ours.state_dict().items()} == expected
    assert sizes(ours) == sizes(theirs)


@pytest.mark.parametrize(
    "version, frames, middle, size",
    [("v1", 24, False, 417), ("v2", 32, True, 453), ("v3", 32, False, 417)],  # in millions, as AnimateDiff states them
)
def test_animatediffs_modules_have_diffusers_keys_and_shapes(version, frames, middle, size):
    theirs = diffusers.MotionAdapter(use_motion_mid_block=middle, motion_max_seq_length=frames)
    found = motion_architecture(to_motion_keys(theirs.state_dict()))
    assert found == motion_architecture(MotionModules(middle=middle, frames=frames).state_dict())
    assert (found.channels, found.modules, found.middle, found.frames) == ((320, 640, 1280, 1280), 2, middle, frames)
    motion = load_motion(theirs.state_dict())
    assert sizes(motion) == sizes(theirs) and round(sizes(motion) / 1e6) == size
    assert len(motion.transformers()) == 20 + middle  # the published modules number 20, and one in the middle block


def test_each_module_follows_a_layer_of_its_width_in_stable_diffusion_1():
    layers = places(UNetModel(**SD1))
    for place, transformer in MotionModules(middle=True).transformers().items():
        layer = layers[place]
        width = layer.norm.num_channels if hasattr(layer, "proj_out") else layer.out_layers[0].num_channels
        assert width == transformer.norm.num_channels, place
