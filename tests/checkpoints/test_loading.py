"""Published weights load by key, completely, and the report says what was not loaded and why."""

import logging

import pytest
import torch
from published_unets import SD1, SGDIFF_VG
from torch import nn
from toy import assert_has_weights, random_state, toy

from ldm.checkpoints.diffusers_layout import to_ldm_unet, to_ldm_vae
from ldm.checkpoints.loading import LoadReport, load_part
from ldm.checkpoints.reading import PARTS, CheckpointError
from ldm.checkpoints.saving import trainable_state_dict
from ldm.models.autoencoder import AutoencoderKL, VQModelInterface
from ldm.modules.diffusionmodules.openaimodel import UNetModel
from ldm.modules.ema import EMA

VQ_F8 = {
    "embed_dim": 4,
    "n_embed": 16384,
    "ddconfig": {
        "double_z": False,
        "z_channels": 4,
        "resolution": 256,
        "in_channels": 3,
        "out_ch": 3,
        "ch": 128,
        "ch_mult": [1, 2, 2, 4],
        "num_res_blocks": 2,
        "attn_resolutions": [32],
        "dropout": 0.0,
    },
}
SD_KL = {
    "embed_dim": 4,
    "ddconfig": {**VQ_F8["ddconfig"], "double_z": True, "ch_mult": [1, 2, 4, 4], "attn_resolutions": []},
}


@pytest.fixture
def messages(caplog):
    """messages(level) -> what was logged at that level."""
    caplog.set_level(logging.DEBUG, "ldm")
    return lambda level: [record.getMessage() for record in caplog.records if record.levelno == level]


def test_missing_unexpected_and_reshaped_keys_are_named_and_nothing_is_loaded(messages):
    module = toy()
    before = {key: value.clone() for key, value in module.state_dict().items()}
    state = random_state(module)
    del state["b.bias"]
    state["a.weight"] = torch.zeros(3, 5)
    state["stranger"] = torch.zeros(1)
    with pytest.raises(CheckpointError) as caught:
        load_part(module, state, "unet")
    for complaint in ("missing: b.bias", "a.weight 3x5 for 3x2", "unexpected: stranger"):
        assert complaint in str(caught.value)
    assert_has_weights(module, before)
    assert not messages(logging.INFO) and not hasattr(module, "weights_from")


def test_a_file_without_the_part_is_refused_with_where_to_get_it():
    for state in ({"stranger": torch.zeros(1)}, random_state(toy(), "model.diffusion_model.")):
        with pytest.raises(CheckpointError, match="no weights of the first_stage.*vq-f8"):
            load_part(toy(), state, "first_stage")


@pytest.mark.parametrize("part", ["unet", "first_stage", "cond_stage"])
def test_a_part_is_loaded_from_the_whole_model_and_the_other_keys_are_explained(part, messages):
    module, prefix = toy(), PARTS[part].prefix
    weights = random_state(module)
    whole = {prefix + key: value for key, value in weights.items()}
    others = {other.prefix for other in PARTS.values()} - {prefix}
    for other in others:
        whole |= random_state(toy(c=(1, 1)), other)
    whole |= {"betas": torch.zeros(9), "sqrt_one_minus_alphas_cumprod": torch.zeros(9), "scale_factor": torch.zeros(())}
    report = load_part(module, whole, part)
    assert_has_weights(module, weights)
    assert set(report.unused) == whole.keys() - {prefix + key for key in weights}
    (short,), (long,) = messages(logging.INFO), messages(logging.DEBUG)
    assert short.startswith(f"{part}: 4 tensors from memory (LDM layout, no EMA)")
    assert "\n" not in short and "2 (noise schedule" in short and f"{2 * len(others)} (another part" in short
    assert all(key in long for key in report.unused) and all(key in long for key in weights)
    assert not messages(logging.WARNING)


def test_the_training_loss_in_vq_f8_is_unused(messages):
    module = toy()
    weights = random_state(module)
    load_part(module, {**weights, "loss.discriminator.main.0.weight": torch.zeros(1)}, "first_stage")
    assert_has_weights(module, weights)
    assert "1 (training loss)" in messages(logging.INFO)[0]
    assert "loss.discriminator.main.0.weight" in messages(logging.DEBUG)[0]


def test_the_moving_average_of_lit_ema_is_preferred():
    module = toy(out=(2, 2), middle_block=(2, 2))
    raw = random_state(module)
    average = {key: torch.randn_like(value) for key, value in raw.items() if key != "out.bias"}  # as if frozen
    state = {f"model.diffusion_model.{key}": value for key, value in raw.items()}
    state |= {"model_ema.diffusion_model" + key.replace(".", ""): value for key, value in average.items()}
    state |= {"model_ema.decay": torch.zeros(()), "model_ema.num_updates": torch.zeros(())}
    report = load_part(module, state, "unet")
    assert_has_weights(module, {**raw, **average})
    assert report.ema_count == 3 and "3 from EMA" in str(report)
    load_part(module, state, "unet", prefer_ema=False)
    assert_has_weights(module, raw)


@pytest.mark.parametrize("part", ["unet", "cond_stage"])
def test_the_moving_average_in_a_checkpoint_of_this_project_is_preferred(part):
    model, prefix = nn.ModuleDict(), PARTS[part].prefix
    inner = model
    for name in prefix.split(".")[:-2]:
        inner[name] = nn.ModuleDict()
        inner = inner[name]
    inner[prefix.split(".")[-2]] = toy()
    ema = EMA(model)
    average = {name: torch.randn_like(parameter) for name, parameter in model.named_parameters()}
    for name, value in average.items():
        ema.average(name).copy_(value)
    state = {**trainable_state_dict(model), **ema.state_dict(prefix="model_ema."), "null_tokens": torch.zeros(1, 1, 4)}
    module = toy()
    report = load_part(module, state, part)
    assert_has_weights(module, {name.removeprefix(prefix): value for name, value in average.items()})
    assert report.ema_count == len(average) and "EMA weights" in str(report)


def test_parameters_that_are_new_here_keep_their_initial_values(messages):
    module = toy(a=(2, 2), film=(2, 2))
    published, before = random_state(toy(a=(2, 2))), module["film"].weight.clone()
    report = load_part(module, published, "unet")
    assert torch.equal(module["film"].weight, before) and torch.equal(module["a"].weight, published["a.weight"])
    assert set(report.not_loaded) == {"film.weight", "film.bias"}
    assert "not loaded: 2 (new here)" in messages(logging.INFO)[0] and "film.weight" in messages(logging.DEBUG)[0]
    assert not messages(logging.WARNING)


def test_published_weights_that_do_not_fit_an_optional_layer_are_named_in_a_warning(messages):
    module = toy(a=(2, 2), context_local_mlp=(2, 4))
    published = {"a.weight": torch.zeros(2, 2), "a.bias": torch.zeros(2), "context_local_mlp.weight": torch.zeros(4, 9)}
    report = load_part(module, published, "unet")
    assert set(report.not_loaded) == {"context_local_mlp.weight", "context_local_mlp.bias"}
    assert report.lost == ("context_local_mlp.weight",)
    (warning,) = messages(logging.WARNING)
    assert "context_local_mlp.weight" in warning and "other shape" in warning


def test_ignored_prefixes_are_left_out_on_either_side_with_a_warning(messages):
    module = toy()
    state, before = random_state(module), module["b"].weight.clone()
    load_part(module, {**state, "stranger.x": torch.zeros(1)}, "unet", ignore=["b.", "stranger"])
    assert torch.equal(module["b"].weight, before) and torch.equal(module["a"].weight, state["a.weight"])
    (warning,) = messages(logging.WARNING)
    assert "b.weight, b.bias" in warning


def test_a_module_on_the_meta_device_takes_the_tensors_without_a_copy():
    with torch.device("meta"):
        module = toy()
    state = random_state(toy())
    load_part(module, state, "unet")
    assert_has_weights(module, state)
    assert module["a"].weight.data_ptr() == state["a.weight"].data_ptr() and module["a"].weight.requires_grad
    with torch.device("meta"):
        half = toy()
    load_part(half, {key: value.half() for key, value in state.items()}, "unet")
    assert half["a"].weight.dtype == torch.float32


# Keys and shapes of full-size published checkpoints


def load_on_meta(build, params, shapes: dict, part: str) -> LoadReport:
    with torch.device("meta"):
        module = build(**params)
        return load_part(module, {key: torch.empty(shape) for key, shape in shapes.items()}, part)


def test_the_autoencoder_has_exactly_the_keys_of_vq_f8(manifest):
    shapes = manifest("vq_f8")
    report = load_on_meta(VQModelInterface, VQ_F8, shapes, "first_stage")
    assert set(report.loaded) == set(shapes) and not report.unused and not report.not_loaded


def test_the_checkpoint_of_sgdiff_gives_the_ema_unet_and_the_first_stage(manifest):
    shapes = manifest("sgdiff_vg")
    unet = load_on_meta(UNetModel, SGDIFF_VG, shapes, "unet")
    assert len(unet.loaded) == unet.ema_count == sum(key.startswith("model_ema.diffusion_model") for key in shapes)
    assert not unet.not_loaded
    first_stage = load_on_meta(VQModelInterface, VQ_F8, shapes, "first_stage")
    assert len(first_stage.loaded) == sum(key.startswith("first_stage_model.") for key in shapes)
    assert not first_stage.ema_count and not first_stage.not_loaded


def test_the_unet_of_sgdiff_loads_beside_new_adapters(manifest):
    params = {**SGDIFF_VG, "context_local_dim": 512, "film_embedding_dim": 512, "lora_rank": 4}
    report = load_on_meta(UNetModel, params, manifest("sgdiff_vg"), "unet")
    assert {"context_local_mlp.0.weight"} < set(report.not_loaded)
    assert all(any(part in key for part in ("film", "lora_", "context_local_mlp")) for key in report.not_loaded)


def test_stable_diffusion_loads_in_both_layouts_with_the_same_keys(manifest):
    ldm, diffusers = manifest("sd1_ldm"), manifest("sd1_diffusers")
    for build, params, part, folder, prefix, convert in (
        (UNetModel, SD1, "unet", "unet", "model.diffusion_model.", to_ldm_unet),
        (AutoencoderKL, SD_KL, "first_stage", "vae", "first_stage_model.", to_ldm_vae),
    ):
        own = {key.removeprefix(prefix): shape for key, shape in ldm.items() if key.startswith(prefix)}
        for shapes in (ldm, diffusers[folder]):
            report = load_on_meta(build, params, shapes, part)
            assert set(report.loaded) == set(own) and not report.not_loaded
        with torch.device("meta"):
            converted = convert({key: torch.empty(shape) for key, shape in diffusers[folder].items()})
        assert {key: list(value.shape) for key, value in converted.items()} == own
