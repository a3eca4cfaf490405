"""Stable Diffusion 1, 2, XL and inpainting: diffusers' outputs from either layout, and its keys and shapes at full size."""

import pytest
import torch
from diffusers_models import BACKBONES, SD2, SDXL, UNET, build_unet
from parity import assert_close_to_published
from paths import ROOT
from published_unets import SD1 as LDM_SD1
from safetensors.torch import save_file

from ldm.checkpoints.diffusers_layout import to_diffusers_names, to_ldm_unet, to_ldm_vae
from ldm.checkpoints.loading import load_part
from ldm.checkpoints.reading import CheckpointError
from ldm.checkpoints.sidecars import Sidecar, differences
from ldm.modules.conditioning import Conditioning, TextTokens
from ldm.modules.diffusionmodules.openaimodel import UNetModel
from ldm.modules.diffusionmodules.unet_blocks import timestep_embedding
from ldm.util.config import instantiate_from_config, plain, read_config

diffusers = pytest.importorskip("diffusers")

SIZES = torch.tensor([[512.0, 768, 8, 16, 1024, 1024], [64, 64, 0, 0, 64, 64]])  # original, crop, target


@pytest.fixture(scope="module", params=BACKBONES)
def theirs(request):
    """diffusers' small U-Net of each kind, with random weights."""
    torch.manual_seed(0)
    return diffusers.UNet2DConditionModel(**BACKBONES[request.param]).eval()


@pytest.fixture(scope="module")
def sdxl():
    torch.manual_seed(0)
    return diffusers.UNet2DConditionModel(**SDXL).eval()


def inputs(theirs) -> tuple:
    """x, t, tokens and pooled text."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, theirs.config.in_channels, 8, 8, generator=generator)
    tokens, pooled = torch.randn(2, 5, 24, generator=generator), torch.randn(2, 16, generator=generator)
    return x, torch.tensor([3, 700]), tokens, pooled


@torch.no_grad()
def run_theirs(theirs):
    x, t, tokens, pooled = inputs(theirs)
    return theirs(x, t, tokens, added_cond_kwargs={"text_embeds": pooled, "time_ids": SIZES}).sample


@torch.no_grad()
def run_ours(unet, theirs):
    x, t, tokens, pooled = inputs(theirs)
    if unet.vector_dim is None:
        return unet(x, t, Conditioning.from_tokens(tokens))
    sizes = timestep_embedding(SIZES.flatten(), 8).view(2, -1)
    return unet(x, t, Conditioning.from_text(TextTokens.from_tokens(tokens, torch.cat([pooled, sizes], dim=1))))


def params_of(theirs) -> dict:
    return next(params for params in BACKBONES.values() if all(theirs.config[key] == params[key] for key in params))


@pytest.mark.parametrize("layout", ["diffusers", "LDM"])
def test_a_backbone_computes_what_diffusers_computes(theirs, layout):
    unet, state = build_unet(params_of(theirs)), theirs.state_dict()
    if layout == "LDM":
        state = {f"model.diffusion_model.{key}": value for key, value in to_ldm_unet(state).items()}
        state |= {"conditioner.embedders.0.x": torch.zeros(1), "denoiser.sigmas": torch.zeros(3)}
    report = load_part(unet, state, "unet")
    assert report.layout == layout and not report.not_loaded
    assert_close_to_published(run_ours(unet, theirs), run_theirs(theirs))


def test_a_backbone_is_loaded_from_a_folder_and_from_one_file(theirs, tmp_path):
    theirs.save_pretrained(tmp_path / "unet")
    save_file(
        {f"model.diffusion_model.{key}": value for key, value in to_ldm_unet(theirs.state_dict()).items()},
        tmp_path / "model.safetensors",
    )
    expected = run_theirs(theirs)
    for place in (tmp_path, tmp_path / "unet", tmp_path / "model.safetensors"):
        unet = build_unet(params_of(theirs))
        load_part(unet, place, "unet")
        assert_close_to_published(run_ours(unet, theirs), expected)


def test_diffusers_own_converter_reads_the_state_dict_of_a_backbone(theirs):
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    unet = build_unet(params_of(theirs))
    ldm = {f"model.diffusion_model.{key}": value for key, value in unet.state_dict().items()}
    converted = convert_ldm_unet_checkpoint(ldm, dict(theirs.config))
    other = diffusers.UNet2DConditionModel(**params_of(theirs)).eval()
    other.load_state_dict(converted)
    assert_close_to_published(run_ours(unet, theirs), run_theirs(other))


def test_names_of_layers_in_both_layouts_are_each_others_inverse(theirs):
    layers = {key.rpartition(".")[0] for key in to_ldm_unet(theirs.state_dict())}
    assert set(to_diffusers_names(layers).values()) == {key.rpartition(".")[0] for key in theirs.state_dict()}


# Negative controls


def test_other_heads_give_another_output_and_are_refused_by_the_settings_beside_the_weights(sdxl, tmp_path):
    unet = build_unet(SDXL, num_head_channels=32)
    load_part(unet, sdxl.state_dict(), "unet")
    assert (run_ours(unet, sdxl) - run_theirs(sdxl)).abs().max() > 1e-2
    sdxl.save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=r"attention heads are \[2, 4\], not \[2\]|attention heads are"):
        load_part(unet, tmp_path, "unet")


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"use_linear_in_transformer": False}, "proj_in.weight 64x64 for 64x64x1x1"),
        ({"transformer_depth": [1, 2, 2]}, "unexpected"),
        ({"transformer_depth_middle": 4}, "missing"),
        ({"num_classes": None, "adm_in_channels": None}, "unexpected: label_emb"),
        ({"adm_in_channels": 60}, "label_emb.0.0.weight 128x64 for 128x60"),
    ],
)
def test_an_sdxl_u_net_that_differs_in_one_option_does_not_fit_the_weights(sdxl, changes, words):
    with pytest.raises(CheckpointError, match=words):
        load_part(build_unet(SDXL, **changes), sdxl.state_dict(), "unet")


def test_the_vector_beside_the_text_changes_the_output_and_is_required(sdxl):
    unet = build_unet(SDXL)
    load_part(unet, sdxl.state_dict(), "unet")
    x, t, tokens, _ = inputs(sdxl)
    zeros = Conditioning.from_text(TextTokens.from_tokens(tokens, torch.zeros(2, 64)))
    with torch.no_grad():
        assert (unet(x, t, zeros) - run_theirs(sdxl)).abs().max() > 1e-2
    narrow = Conditioning.from_text(TextTokens.from_tokens(tokens, torch.zeros(2, 60)))
    for cond, words in ((Conditioning.from_tokens(tokens), "no vector"), (narrow, "width 60")):
        with pytest.raises(ValueError, match=f"vector of width 64 beside the text.*{words}"):
            unet(x, t, cond)


def test_what_is_prepared_for_all_steps_holds_the_vector(sdxl):
    unet = build_unet(SDXL)
    x, t, tokens, pooled = inputs(sdxl)
    vector = torch.cat([pooled, torch.ones(2, 48)], dim=1)
    cond = Conditioning.from_text(TextTokens.from_tokens(tokens, vector))
    with torch.no_grad():
        torch.testing.assert_close(unet(x, t, unet.prepare(x, cond)), unet(x, t, cond))


@pytest.mark.parametrize(
    "published, words",
    [
        ({"use_linear_projection": False}, "use_linear_projection is False, not True"),
        ({"transformer_layers_per_block": [1, 2, 10]}, r"transformer_layers_per_block is \[1, 2, 10\], not \[2, 3\]"),
        ({"transformer_layers_per_block": 1}, "transformer_layers_per_block is 1"),
        ({"addition_embed_type": None}, "addition_embed_type is None"),
    ],
)
def test_settings_beside_the_weights_that_differ_are_named(tmp_path, published, words):
    import re

    config = Sidecar(tmp_path, {**SDXL, **published})
    assert any(re.search(words, line) for line in differences(build_unet(SDXL), config))
    assert not differences(build_unet(SDXL), Sidecar(tmp_path, SDXL))


def test_the_refiner_is_refused_by_name_whatever_the_config():
    refiner = UNET | {"cross_attention_dim": 1280}
    torch.manual_seed(0)
    state = diffusers.UNet2DConditionModel(**refiner).state_dict()
    with pytest.raises(CheckpointError, match="this is the refiner of Stable Diffusion XL, which is not supported"):
        load_part(build_unet(refiner), state, "unet")


@pytest.mark.parametrize(
    "options, words",
    [
        ({"num_classes": "continuous"}, "num_classes='continuous'"),
        ({"num_classes": 1000}, "num_classes=1000"),
        ({"num_classes": "sequential"}, "adm_in_channels"),
        ({"adm_in_channels": 64}, "num_classes"),
        ({"transformer_depth": [1]}, "transformer_depth"),
        ({"transformer_depth": [0, 0]}, "transformer_depth"),
        ({"spatial_transformer_attn_type": "linear"}, "spatial_transformer_attn_type"),
    ],
)
def test_an_option_that_does_not_fit_is_refused_by_its_name(options, words):
    with pytest.raises(ValueError, match=words):
        build_unet(UNET, **options)


def test_published_options_of_precision_and_kernels_change_nothing():
    keys = build_unet(SD2, use_fp16=True, spatial_transformer_attn_type="softmax-xformers").state_dict().keys()
    assert keys == build_unet(SD2).state_dict().keys()


# Full size: LDM's published yaml on one side, diffusers' published config.json on the other

LDM_SD2 = {key: value for key, value in LDM_SD1.items() if key != "num_heads"} | {
    "use_fp16": True,
    "num_head_channels": 64,
    "use_linear_in_transformer": True,
    "context_dim": 1024,
}
LDM_SDXL = {
    "image_size": 128,
    "adm_in_channels": 2816,
    "num_classes": "sequential",
    "use_checkpoint": True,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 320,
    "attention_resolutions": [4, 2],
    "num_res_blocks": 2,
    "channel_mult": [1, 2, 4],
    "num_head_channels": 64,
    "use_spatial_transformer": True,
    "use_linear_in_transformer": True,
    "transformer_depth": [1, 2, 10],
    "context_dim": 2048,
    "spatial_transformer_attn_type": "softmax-xformers",
    "legacy": False,
}
DIFFUSERS_SD1 = {"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8}
DIFFUSERS_SD2 = {
    "sample_size": 96,
    "cross_attention_dim": 1024,
    "attention_head_dim": [5, 10, 20, 20],
    "use_linear_projection": True,
}
DIFFUSERS_SDXL = {
    "sample_size": 128,
    "block_out_channels": [320, 640, 1280],
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "cross_attention_dim": 2048,
    "attention_head_dim": [5, 10, 20],
    "transformer_layers_per_block": [1, 2, 10],
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
FULL = {  # parameters as the model cards and papers round them: 0.86, 0.87 and 2.6 billion
    "SD 1": (LDM_SD1, DIFFUSERS_SD1, 859_520_964),
    "SD 2": (LDM_SD2, DIFFUSERS_SD2, 865_910_724),
    "SDXL": (LDM_SDXL, DIFFUSERS_SDXL, 2_567_463_684),
}


@pytest.mark.parametrize("in_channels", [4, 9])
@pytest.mark.parametrize("name", FULL)
def test_a_full_size_backbone_has_exactly_diffusers_keys_shapes_and_settings(name, in_channels, tmp_path):
    ours, theirs, count = FULL[name]
    with torch.device("meta"):
        unet = UNetModel(**{**ours, "in_channels": in_channels})
        other = diffusers.UNet2DConditionModel(**theirs, in_channels=in_channels)
    state = to_ldm_unet(other.state_dict())
    assert {key: value.shape for key, value in unet.state_dict().items()} == {
        key: value.shape for key, value in state.items()
    }
    extra = (in_channels - 4) * 320 * 9  # weights of the first convolution
    assert sum(parameter.numel() for parameter in unet.parameters()) == count + extra
    assert not differences(unet, Sidecar(tmp_path, dict(other.config)))


def test_the_full_size_first_stage_has_exactly_diffusers_keys_and_shapes():
    blocks = {"down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4}
    settings = {**blocks, "block_out_channels": [128, 256, 512, 512], "layers_per_block": 2, "latent_channels": 4}
    config = plain(read_config(ROOT / "configs" / "sd1_vg.yaml").model.params.first_stage_config)
    with torch.device("meta"):
        ours, theirs = instantiate_from_config(config), diffusers.AutoencoderKL(**settings)
    state = to_ldm_vae(theirs.state_dict())
    assert {key: value.shape for key, value in ours.state_dict().items()} == {
        key: value.shape for key, value in state.items()
    }
