"""What lies beside weights is read as diffusers reads it, taken over where the config leaves it open, and said."""

import inspect
import json
import logging

import pytest
import torch
from diffusers_models import (
    KL,
    SCHEDULER,
    UNET,
    build_unet,
    change_json,
    kl_ddconfig,
    latent_diffusion,
    save_pipeline,
    unet_and_kl,
    write_json,
)
from toy import random_state, toy

from ldm.checkpoints.loading import load_part
from ldm.checkpoints.reading import CheckpointError
from ldm.checkpoints.sidecars import Sidecar, read_sidecars
from ldm.checkpoints.trained_with import DEFAULTS, OTHER_DEFAULTS, SAME, STANDS_IN, TrainedWith, scheduler_betas
from ldm.checkpoints.wrappers import unwrap_keys
from ldm.models.diffusion.published import settle_scale_factor
from ldm.models.diffusion.schedule import NoiseSchedule
from ldm.modules.diffusionmodules.openaimodel import UNetModel


@pytest.fixture(scope="module")
def networks():
    return unet_and_kl()


@pytest.fixture
def messages(caplog):
    """messages(level) -> what was logged at that level."""
    caplog.set_level(logging.DEBUG, "ldm")
    return lambda level: [record.getMessage() for record in caplog.records if record.levelno == level]


@pytest.mark.parametrize("name", sorted(SAME | STANDS_IN))
def test_what_a_scheduler_config_leaves_out_has_the_value_of_diffusers(name):
    diffusers = pytest.importorskip("diffusers")
    scheduler = getattr(diffusers, name)
    if name == "DPMSolverSDEScheduler":  # its package torchsde is not installed
        return
    parameters = inspect.signature(scheduler.__init__).parameters
    assert {key: parameters[key].default for key in DEFAULTS} == DEFAULTS | OTHER_DEFAULTS.get(name, {})


@pytest.mark.parametrize("kind", ["linear", "scaled_linear", "squaredcos_cap_v2"])
def test_the_betas_of_a_scheduler_config_are_diffusers_betas(tmp_path, kind):
    diffusers = pytest.importorskip("diffusers")
    values = {"beta_start": 0.001, "beta_end": 0.015, "beta_schedule": kind, "num_train_timesteps": 300}
    betas = scheduler_betas(Sidecar(tmp_path, {"_class_name": "DDIMScheduler", **values}))
    torch.testing.assert_close(betas.float(), diffusers.DDIMScheduler(**values).betas, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    "values, words",
    [
        ({"beta_start": "0.001"}, "beta_start '0.001'"),
        ({"beta_end": float("nan")}, "beta_end nan"),
        ({"beta_end": 3}, "beta_end 3"),
        ({"num_train_timesteps": 1e3}, "num_train_timesteps"),
        ({"num_train_timesteps": 10**9}, "num_train_timesteps"),
        ({"beta_schedule": "sigmoid"}, "beta_schedule 'sigmoid'"),
        ({"trained_betas": [0.1, "x"]}, "trained_betas"),
        ({"_class_name": "EDMEulerScheduler"}, "EDMEulerScheduler"),
    ],
)
def test_a_damaged_scheduler_config_is_refused_by_its_path_and_key(tmp_path, networks, values, words):
    save_pipeline(tmp_path, networks, **values)
    with pytest.raises(CheckpointError, match=f"scheduler_config.json.*{words}") as caught:
        latent_diffusion(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["scheduler/scheduler_config.json", "vae/config.json", "unet/config.json"])
@pytest.mark.parametrize("content", ["{", "[]", "\x00"])
def test_a_damaged_file_of_settings_is_refused_by_its_path(tmp_path, networks, name, content):
    save_pipeline(tmp_path, networks)
    (tmp_path / name).write_text(content)
    with pytest.raises(CheckpointError, match=name):
        latent_diffusion(tmp_path)


def test_a_scheduler_that_is_not_here_is_said_with_what_stands_in(tmp_path, networks, messages):
    changes = {"_class_name": "PNDMScheduler", "steps_offset": 0, "clip_sample": True, "timestep_spacing": "trailing"}
    latent_diffusion(save_pipeline(tmp_path, networks, **changes))
    (line,) = [line for line in messages(logging.INFO) if "stands in" in line]
    for words in ("PNDMScheduler", "ddim stands in", "clip_sample", "steps_offset is 0", "'trailing'"):
        assert words in line


def test_a_scheduler_that_does_as_ours_is_not_mentioned(tmp_path, networks, messages):
    latent_diffusion(save_pipeline(tmp_path, networks))
    assert not any("stands in" in line or "here" in line.partition("scheduler_config.json")[2] for line in messages(20))
    assert not messages(logging.WARNING)


def test_betas_of_a_closed_form_give_exactly_the_schedule_of_that_form(tmp_path, networks):
    model = latent_diffusion(save_pipeline(tmp_path, networks))
    assert torch.equal(model.schedule.betas, NoiseSchedule.linear(1000, 0.00085, 0.012).betas)


def test_values_under_defaults_give_way_and_stated_values_must_agree(tmp_path, networks):
    save_pipeline(tmp_path, networks)
    defaults = {"timesteps": 100, "linear_start": 0.1, "linear_end": 0.2, "scale_factor": 3.0}
    model = latent_diffusion(tmp_path, defaults=defaults)
    assert len(model.schedule) == 1000 and float(model.scale_factor) == pytest.approx(0.18215)
    agreeing = latent_diffusion(tmp_path, linear_start=0.00085, timesteps=1000, scale_factor=0.18215)
    assert torch.equal(agreeing.schedule.betas, model.schedule.betas)
    for stated, words in (({"timesteps": 999}, "timesteps 999 for 1000"), ({"linear_end": 0.02}, "linear_end 0.02")):
        with pytest.raises(CheckpointError, match=words):
            latent_diffusion(tmp_path, **stated)


def test_values_under_defaults_hold_where_the_weights_state_nothing(networks):
    random = {"init": "random", "first_stage_config": {"target": "ldm.models.autoencoder.AutoencoderKL"}}
    random["first_stage_config"]["params"] = {"embed_dim": 4, "ddconfig": kl_ddconfig(KL), "init": "random"}
    defaults = {"timesteps": 100, "linear_start": 0.1, "linear_end": 0.2, "scale_factor": 3.0}
    model = latent_diffusion(None, defaults=defaults, **random)
    assert torch.equal(model.schedule.betas, NoiseSchedule.linear(100, 0.1, 0.2).betas)
    assert float(model.scale_factor) == 3 and model.unet.heads == {0: 2, 1: 2}
    stated = latent_diffusion(None, defaults=defaults, timesteps=50, scale_factor=0.5, **random)
    assert len(stated.schedule) == 50 and float(stated.scale_factor) == 0.5


@pytest.mark.parametrize("defaults, words", [({"linear_strat": 1}, "linear_start"), ({"channels": 4}, "channels")])
def test_a_key_that_cannot_be_left_open_is_refused(defaults, words):
    with pytest.raises(ValueError, match=words):
        latent_diffusion(None, defaults=defaults)


@pytest.mark.parametrize("defaults, words", [({}, "num_heads"), ({"heads": 3}, "heads")])
def test_the_unets_defaults_have_heads_only(defaults, words):
    params = {"image_size": 8, "in_channels": 4, "model_channels": 32, "out_channels": 4, "num_res_blocks": 1}
    with pytest.raises(ValueError, match=words):
        UNetModel(**params, attention_resolutions=[1], context_dim=8, defaults=defaults)


def test_heads_of_equal_width_are_taken_over(tmp_path, networks):
    save_pipeline(tmp_path, networks)
    change_json(tmp_path / "unet" / "config.json", attention_head_dim=[2, 4])
    assert latent_diffusion(tmp_path).unet.heads == {0: 2, 1: 4}


def test_the_first_stages_own_scale_factor_is_taken_over_unless_the_unet_states_another(tmp_path, networks):
    save_pipeline(tmp_path / "a", networks)
    save_pipeline(tmp_path / "b", networks)
    change_json(tmp_path / "b" / "vae" / "config.json", scaling_factor=0.5)
    first_stage = {"target": "ldm.models.autoencoder.AutoencoderKL", "params": {"embed_dim": 4}}
    first_stage["params"] |= {"ddconfig": kl_ddconfig(KL), "ckpt_path": str(tmp_path / "b" / "vae")}
    alone = tmp_path / "a" / "unet" / "diffusion_pytorch_model.safetensors"
    (tmp_path / "alone").mkdir()
    (tmp_path / "alone" / "model.safetensors").write_bytes(alone.read_bytes())
    model = latent_diffusion(tmp_path / "alone" / "model.safetensors", {"num_heads": 4}, first_stage_config=first_stage)
    assert float(model.scale_factor) == 0.5
    with pytest.raises(CheckpointError, match="scaling_factor is 0.5, but the U-Net was trained with 0.18215"):
        latent_diffusion(tmp_path / "a", first_stage_config=first_stage)


def test_settings_are_found_from_the_pipeline_the_part_and_its_file(tmp_path, networks):
    save_pipeline(tmp_path, networks)
    for place in (tmp_path, tmp_path / "unet", tmp_path / "unet" / "diffusion_pytorch_model.safetensors"):
        found = read_sidecars(place)
        assert found.unet.path == tmp_path / "unet" / "config.json"
        assert found.first_stage.path == tmp_path / "vae" / "config.json"
        assert found.scheduler.values["beta_end"] == SCHEDULER["beta_end"]


def test_files_in_an_ordinary_folder_have_no_settings(tmp_path):
    write_json(tmp_path / "config.json", {"act_fn": "mish"})
    write_json(tmp_path / "scheduler" / "scheduler_config.json", {"prediction_type": "v_prediction"})
    (tmp_path / "model.ckpt").touch()
    found = read_sidecars(tmp_path / "model.ckpt")
    assert found.unet is found.first_stage is found.scheduler is None
    assert read_sidecars(tmp_path / "nowhere") == read_sidecars(None) == read_sidecars({}) == found


def test_parameters_without_a_moving_average_are_said(messages):
    module = toy(out=(2, 2), middle_block=(2, 2))
    state = random_state(module, "model.diffusion_model.")
    state["model_ema.diffusion_modeloutweight"] = torch.zeros(2, 2)
    load_part(module, state, "unet")
    (warning,) = messages(logging.WARNING)
    assert "only 1 of 4 parameters have a moving average" in warning


def test_two_keys_for_one_parameter_are_refused():
    state = {"module.a.weight": torch.zeros(1), "_orig_mod.a.weight": torch.ones(1)}
    with pytest.raises(CheckpointError, match="module.a.weight.*_orig_mod.a.weight"):
        unwrap_keys(state, "model.diffusion_model.")


def test_the_unet_states_its_settings_in_diffusers_words():
    config = build_unet(UNET).diffusers_config()
    assert config["heads"] == {0: 4, 1: 4} and config["block_out_channels"] == [32, 64]


def test_a_unet_that_reads_more_than_the_latents_is_named(networks):
    with pytest.raises(ValueError, match="in_channels: 8 channels, as of InstructPix2Pix model.* latents of 4"):
        latent_diffusion(None, {"in_channels": 8})


def test_a_file_of_another_format_under_the_name_safetensors_is_read(tmp_path, networks):
    torch.save(networks[0].state_dict(), tmp_path / "unet.safetensors")
    assert load_part(build_unet(UNET), tmp_path / "unet.safetensors", "unet").layout == "diffusers"


@pytest.mark.parametrize("heads", [10**9, 3, [1, 2, 3], "8", -1, None, [8, [2]]])
def test_heads_that_no_unet_has_are_refused(tmp_path, networks, heads):
    save_pipeline(tmp_path, networks)
    path = tmp_path / "unet" / "config.json"
    content = json.loads(path.read_text()) | {"attention_head_dim": heads}
    write_json(path, content)
    with pytest.raises(CheckpointError, match="attention heads are"):
        latent_diffusion(tmp_path)


@pytest.mark.parametrize("value", [torch.tensor(float("nan")), torch.tensor(0.0), torch.ones(3)])
def test_a_damaged_scale_factor_in_a_file_is_refused(value):
    trained = TrainedWith(scale_factor=value, scale_source="model.ckpt")
    with pytest.raises(CheckpointError, match="model.ckpt: its scale_factor is not a positive number"):
        settle_scale_factor(None, {}, trained, None)


@pytest.mark.parametrize("defaults", [{"timesteps": "many"}, {"linear_start": None}, {"beta_schedule": 3}])
def test_a_default_of_another_type_is_refused_by_its_key(defaults):
    with pytest.raises(ValueError, match=next(iter(defaults))):
        latent_diffusion(None, defaults=defaults)
