"""v-prediction, zero-terminal SNR and spacings of timesteps: closed forms, and the latents of diffusers' schedulers."""

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

sys.path.append(str(Path(__file__).parents[1] / "checkpoints"))
from diffusers_models import KL, SD2, UNET, kl_ddconfig, latent_diffusion, save_pipeline
from tiny import demo_batch, tiny_model

from ldm.checkpoints.reading import CheckpointError
from ldm.editing.options import EditOptions, EditRequest
from ldm.editing.pipeline import edit
from ldm.models.diffusion import ddim, dpm_solver, inversion_paths
from ldm.models.diffusion.guidance import rescale_guidance
from ldm.models.diffusion.prediction import predict_noise, probe_prediction
from ldm.models.diffusion.published import find_prediction, settle_schedule
from ldm.models.diffusion.samplers import get_sampler
from ldm.models.diffusion.schedule import NO_SIGNAL, NoiseSchedule
from ldm.models.diffusion.spacing import Spacing
from ldm.modules.conditioning import Conditioning
from ldm.util.errors import UserError

diffusers = pytest.importorskip("diffusers")

SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}
V = {"prediction_type": "v_prediction"}
ZERO = V | {"rescale_betas_zero_snr": True}
DDIM = {"_class_name": "DDIMScheduler", "clip_sample": False}
DPM = {"_class_name": "DPMSolverMultistepScheduler"}
SCHEDULE = NoiseSchedule.linear(1000, 0.00085, 0.012)


def v_schedule(**changes) -> NoiseSchedule:
    return NoiseSchedule(SCHEDULE.betas, SCHEDULE.alphas_cumprod, "v", **changes)


def latents(rows=2):
    return torch.randn(rows, 4, 8, 8, generator=torch.Generator().manual_seed(2))


# Closed forms


def test_v_is_turned_into_the_noise_and_x0_that_it_was_made_of():
    schedule, z0, noise, t = v_schedule(), latents(), latents(4)[2:], torch.tensor([1, 981])
    a = SCHEDULE.alphas_cumprod[t].float().view(2, 1, 1, 1)
    v = schedule.target(z0, noise, t)
    torch.testing.assert_close(v, a.sqrt() * noise - (1 - a).sqrt() * z0)  # Salimans & Ho, appendix D
    x = schedule.add_noise(z0, noise, t)
    eps = schedule.to_noise(v, x, t)
    torch.testing.assert_close(eps, noise, rtol=0, atol=1e-6)
    for row, step in enumerate(t):
        x0 = dpm_solver.predict_x0(x[row], eps[row], SCHEDULE.alphas_cumprod[step])
        torch.testing.assert_close(x0, z0[row], rtol=0, atol=5e-5)


def test_the_target_of_a_model_of_the_noise_is_the_noise_itself():
    noise = latents()
    assert SCHEDULE.target(latents(4)[2:], noise, torch.tensor([1, 2])) is noise
    assert SCHEDULE.to_noise(noise, latents(), torch.tensor([1, 2])) is noise
    denoiser = lambda x, t: x  # noqa: E731
    assert predict_noise(denoiser, SCHEDULE) is denoiser


def test_the_rescaled_schedule_is_diffusers_and_ends_without_signal():
    from diffusers.schedulers.scheduling_ddim import rescale_zero_terminal_snr

    ours, theirs = SCHEDULE.with_zero_terminal_snr(), rescale_zero_terminal_snr(SCHEDULE.betas)
    torch.testing.assert_close(ours.betas, theirs, rtol=0, atol=1e-9)
    assert ours.alphas_cumprod[-1] == NO_SIGNAL and ours.betas[-1] == 1 and ours.ends_in_noise
    torch.testing.assert_close(ours.alphas_cumprod[0], SCHEDULE.alphas_cumprod[0])
    assert not SCHEDULE.ends_in_noise and SCHEDULE.alphas_cumprod[-1] > 4e-3


def test_x0_is_found_in_the_noise_that_is_predicted_where_there_is_no_signal():
    """With v = -x_0 at the last timestep, a sampler that sees eps alone recovers x_0, though sqrt(alpha-bar) is 1e-6."""
    schedule = v_schedule().with_zero_terminal_snr()
    x, x0, t = latents(), latents(4)[2:], torch.tensor([999, 999])
    eps = schedule.to_noise(-x0, x, t)
    torch.testing.assert_close(
        dpm_solver.predict_x0(x, eps, schedule.alphas_cumprod[-1]).float(), x0, rtol=0, atol=1e-5
    )
    step = ddim.step(x, eps, schedule.alphas_cumprod[-1], schedule.alphas_cumprod[900])
    a = schedule.alphas_cumprod[900].float()
    torch.testing.assert_close(step, a.sqrt() * x0 + (1 - a).sqrt() * x, rtol=0, atol=1e-5)
    assert step.dtype == torch.float32
    lost = dpm_solver.predict_x0(x, eps.float(), schedule.alphas_cumprod[-1])  # in float32 it would not be there
    assert (lost - x0).abs().max() > 1e-2


def test_a_model_of_gaussian_data_samples_its_standard_deviation_from_pure_noise():
    """The exact v of N(0, s^2) data; DPM-Solver++ and DDIM along 'trailing' timesteps, from no signal at all."""
    schedule, s = v_schedule().with_zero_terminal_snr(), 0.5

    def v(x, t):
        a = schedule.alphas_cumprod[t].view(-1, 1, 1, 1)
        return (a.sqrt() * (1 - a).sqrt() * (1 - s**2) * x / (a * s**2 + 1 - a)).to(x)

    eps, x = predict_noise(v, schedule), latents()
    for name, steps, tolerance in (("ddim", 200, 0.02), ("dpm++", 100, 0.01)):
        sampler = get_sampler(name)
        visited = sampler.make_schedule(schedule, steps)
        assert visited.timesteps[-1] == 999
        a = schedule.alphas_cumprod[0]
        expected = x * float((a * s**2 + 1 - a).sqrt())
        out = sampler.sample(eps, visited, x)
        assert out.dtype == torch.float32 and float((out - expected).norm() / expected.norm()) < tolerance


@pytest.mark.parametrize("method", ["fixed_point", "bdia"])
def test_inversions_see_the_noise_and_return_the_image(method):
    schedule = v_schedule()
    v = lambda x, t: 0.3 * x.tanh()  # noqa: E731
    eps, x0, visited = predict_noise(v, schedule), latents(), schedule.ddim(20)
    path = getattr(inversion_paths, method)(eps, visited, x0)
    assert path.dtype == torch.float32
    if method == "fixed_point":
        torch.testing.assert_close(ddim.sample(eps, visited, path[-1]), x0, rtol=0, atol=1e-3)


# Spacings


@pytest.mark.parametrize("steps", [1, 7, 10, 25, 50])
@pytest.mark.parametrize("kind", ["leading", "linspace", "trailing"])
def test_a_spacing_visits_the_timesteps_of_diffusers_schedulers(kind, steps):
    options = SD | {"timestep_spacing": kind, "steps_offset": 1}
    for name, theirs in (("ddim", diffusers.DDIMScheduler), ("dpm++", diffusers.DPMSolverMultistepScheduler)):
        scheduler = theirs(**options)
        scheduler.set_timesteps(steps)
        ours = Spacing(kind, 1).timesteps(1000, steps, with_end=name == "dpm++")
        assert ours.flip(0).tolist() == scheduler.timesteps.tolist()


def test_a_spacing_for_one_sampler_leaves_the_others_their_own_timesteps():
    schedule = v_schedule(spacing=Spacing("linspace", sampler="ddim"))
    assert schedule.ddim(10).timesteps[-1] == 999
    own = dpm_solver.make_schedule(SCHEDULE, 10)
    assert torch.equal(dpm_solver.make_schedule(schedule, 10).timesteps, own.timesteps)
    zero = v_schedule(spacing=Spacing("leading", sampler="ddim")).with_zero_terminal_snr()
    assert zero.ddim(10).timesteps[-1] == 901 and dpm_solver.make_schedule(zero, 10).timesteps[-1] == 999


def test_a_number_of_steps_that_does_not_fit_a_spacing_is_an_error():
    with pytest.raises(UserError, match="between 1 and 999"):
        Spacing("trailing").timesteps(1000, 1000)
    with pytest.raises(UserError, match="do not fit"):
        Spacing("leading", offset=600).timesteps(1000, 2)
    with pytest.raises(ValueError, match="'even' is not known"):
        Spacing("even")


# The latents of diffusers, from a folder


@pytest.fixture(scope="module")
def networks():
    torch.manual_seed(0)
    unet = diffusers.UNet2DConditionModel(**SD2).eval()
    for parameter in unet.parameters():  # larger than at initialisation, so that the prediction matters
        parameter.data *= 1.3
    return unet, diffusers.AutoencoderKL(block_out_channels=[32, 64], **KL_BLOCKS).eval()


KL_BLOCKS = {
    "down_block_types": ["DownEncoderBlock2D"] * 2,
    "up_block_types": ["UpDecoderBlock2D"] * 2,
    "latent_channels": 4,
    "layers_per_block": 2,
}
SD2_UNET = {"use_linear_in_transformer": True, "num_head_channels": 16}
TOKENS = torch.randn(2, 5, 24, generator=torch.Generator().manual_seed(3))


@torch.no_grad()
def their_latents(folder, unet, name: str, steps: int):
    scheduler = getattr(diffusers, name).from_pretrained(folder / "scheduler")
    scheduler.set_timesteps(steps)
    x = latents() * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        x = scheduler.step(unet(scheduler.scale_model_input(x, t), t, TOKENS).sample, t, x).prev_sample
    return x


@torch.no_grad()
def our_latents(model, sampler: str, steps: int):
    model.unet.context_local_mlp = nn.Identity()
    sampler = get_sampler(sampler)
    denoiser = model.denoiser(Conditioning.from_tokens(TOKENS))
    return sampler.sample(denoiser, sampler.make_schedule(model.schedule, steps), latents())


CASES = {
    "SD 2.1's file": (DDIM, V | {"set_alpha_to_one": False}, 20),
    "DDIM, zero SNR, trailing": (DDIM, ZERO | {"timestep_spacing": "trailing"}, 10),
    "DDIM, zero SNR, to the first level": (
        DDIM,
        ZERO | {"timestep_spacing": "trailing", "set_alpha_to_one": False},
        20,
    ),
    "DPM++": (DPM, V, 10),
    "DPM++, leading": (DPM, V | {"timestep_spacing": "leading"}, 20),
    "DPM++, to the first level": (DPM, V | {"timestep_spacing": "trailing", "final_sigmas_type": "sigma_min"}, 10),
    "DPM++, zero SNR, trailing": (DPM, ZERO | {"timestep_spacing": "trailing"}, 12),
}


@pytest.mark.parametrize("case", CASES)
def test_a_folder_of_v_prediction_gives_the_latents_of_its_scheduler(case, networks, tmp_path):
    scheduler, options, steps = CASES[case]
    folder = save_pipeline(tmp_path, networks, **scheduler, **options)
    theirs = their_latents(folder, networks[0], scheduler["_class_name"], steps)
    ours = our_latents(latent_diffusion(folder, SD2_UNET), "ddim" if scheduler is DDIM else "dpm++", steps)
    assert (ours - theirs).abs().max() <= 1e-4 * max(1, theirs.abs().max())


@pytest.mark.parametrize("scheduler", [DDIM, DPM], ids=["DDIM", "DPM++"])
def test_a_folder_of_noise_prediction_gives_the_latents_of_its_scheduler_where_its_spacing_is_asked_for(
    scheduler, networks, tmp_path
):
    folder = save_pipeline(tmp_path, networks, **scheduler, timestep_spacing="trailing")
    theirs = their_latents(folder, networks[0], scheduler["_class_name"], 10)
    name = "ddim" if scheduler is DDIM else "dpm++"
    published = our_latents(latent_diffusion(folder, SD2_UNET, timestep_spacing="published"), name, 10)
    assert (published - theirs).abs().max() <= 1e-4 * max(1, theirs.abs().max())
    model = latent_diffusion(folder, SD2_UNET)  # negative control: by default each sampler visits its own timesteps
    assert model.schedule.spacing is None and (our_latents(model, name, 10) - theirs).abs().max() > 1e-2


@pytest.mark.parametrize(
    "wrong", [{"prediction_type": "epsilon", "rescale_betas_zero_snr": False}, {"rescale_betas_zero_snr": False}]
)
def test_another_prediction_or_schedule_gives_other_latents(wrong, networks, tmp_path):
    options = ZERO | {"timestep_spacing": "trailing"}
    folder = save_pipeline(tmp_path / "a", networks, **DDIM, **options)
    theirs = their_latents(folder, networks[0], "DDIMScheduler", 10)
    other = latent_diffusion(save_pipeline(tmp_path / "b", networks, **DDIM, **(options | wrong)), SD2_UNET)
    assert (our_latents(other, "ddim", 10) - theirs).abs().max() > 1e-2


@torch.no_grad()
def test_guidance_and_its_rescaling_work_on_v_as_in_diffusers(networks, tmp_path):
    from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import rescale_noise_cfg

    model = latent_diffusion(save_pipeline(tmp_path, networks, **V), SD2_UNET)
    model.unet.context_local_mlp, model.null_tokens = nn.Identity(), nn.Parameter(TOKENS[:1] * 0.5)
    x, t = latents(), torch.tensor([900, 900])
    plain, null = (networks[0](x, t, tokens).sample for tokens in (TOKENS, TOKENS[:1].expand(2, -1, -1) * 0.5))
    guided = null + 5 * (plain - null)
    expected = model.schedule.to_noise(rescale_noise_cfg(guided, plain, 0.7), x, t)
    denoiser = model.denoiser(Conditioning.from_tokens(TOKENS), 5.0, 5.0, rescale=0.7)
    torch.testing.assert_close(denoiser(x, t), expected, rtol=0, atol=1e-4)
    wrong = rescale_guidance(model.schedule.to_noise(guided, x, t), model.schedule.to_noise(plain, x, t), 0.7)
    assert (wrong - expected).abs().max() > 1e-2


# What the prediction is stated by


def trained_by(state: dict, tmp_path, networks):
    from safetensors.torch import save_file

    from ldm.checkpoints.diffusers_layout import to_ldm_unet

    weights = {f"model.diffusion_model.{key}": value for key, value in to_ldm_unet(networks[0].state_dict()).items()}
    save_file({**weights, **state}, tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


@pytest.mark.parametrize(
    "marks, prediction, zero_snr",
    [({}, "eps", False), ({"v_pred"}, "v", False), ({"v_pred", "ztsnr"}, "v", True), ({"ztsnr"}, "v", True)],
)
def test_marker_keys_of_a_single_file_state_prediction_and_zero_snr(marks, prediction, zero_snr, tmp_path, networks):
    path = trained_by({mark: torch.zeros(0) for mark in marks}, tmp_path, networks)
    model = latent_diffusion(path, SD2_UNET, first_stage_config=RANDOM_KL, linear_start=0.00085, linear_end=0.012)
    assert model.schedule.prediction == prediction and model.schedule.ends_in_noise == zero_snr


RANDOM_KL = {
    "target": "ldm.models.autoencoder.AutoencoderKL",
    "params": {"init": "random", "embed_dim": 4, "ddconfig": kl_ddconfig(KL | {"layers_per_block": 1})},
}


def test_the_config_states_the_prediction_where_the_weights_do_not_and_must_agree_where_they_do(tmp_path, networks):
    (tmp_path / "a").mkdir()
    path = trained_by({}, tmp_path / "a", networks)
    options = {"first_stage_config": RANDOM_KL}
    for stated in ({"parameterization": "v"}, {"defaults": {"parameterization": "v"}}):
        assert latent_diffusion(path, SD2_UNET, **options, **stated).schedule.prediction == "v"
    folder = save_pipeline(tmp_path / "b", networks, **V)
    assert latent_diffusion(folder, SD2_UNET, defaults={"parameterization": "eps"}).schedule.prediction == "v"
    with pytest.raises(CheckpointError, match="scheduler_config.json.*trained for parameterization 'v'.*sets 'eps'"):
        latent_diffusion(folder, SD2_UNET, parameterization="eps")
    with pytest.raises(ValueError, match="parameterization: 'x0' is not supported"):
        latent_diffusion(path, SD2_UNET, **options, parameterization="x0")


def test_zero_snr_of_a_model_of_the_noise_is_refused():
    with pytest.raises(CheckpointError, match="zero-terminal SNR.*parameterization: v"):
        settle_schedule({"rescale_betas_zero_snr": True}, {}, latent_trained())
    schedule = settle_schedule({"rescale_betas_zero_snr": True, "parameterization": "v"}, {}, latent_trained())
    assert schedule.ends_in_noise and schedule.ddim(10).timesteps[-1] == 999


def latent_trained():
    from ldm.checkpoints.trained_with import TrainedWith

    return TrainedWith()


class Known(nn.Module):
    """A U-Net whose output at the last timestep is a share of its input."""

    context_dim, in_channels, weights_from = 1024, 4, "v2.safetensors"

    def __init__(self, share: float):
        super().__init__()
        self.share = nn.Parameter(torch.tensor(share))

    def forward(self, x, t):
        assert t.tolist() == [999]
        image = torch.randn(x.shape, generator=torch.Generator().manual_seed(5))
        return self.share * x - (1 - self.share) * image


@pytest.mark.parametrize("share, prediction", [(1.0, "eps"), (0.9, "eps"), (0.07, "v"), (0.0, "v"), (0.55, None)])
def test_one_evaluation_at_the_last_timestep_tells_what_sd_2_predicts(share, prediction):
    assert probe_prediction(Known(share), 1000, 4)[0] == prediction
    if prediction is None:
        with pytest.raises(
            CheckpointError, match="v2.safetensors: nothing states.*pass --prediction eps .* or v .*in a config$"
        ):
            find_prediction(Known(share), latent_trained(), 1000, 4)
    else:
        found = find_prediction(Known(share), latent_trained(), 1000, 4)
        assert settle_schedule({}, {}, found).prediction == prediction and "one evaluation" in found.prediction_source


def test_nothing_is_evaluated_where_the_prediction_is_known_or_the_model_is_not_sd_2():
    from dataclasses import replace

    known = replace(latent_trained(), prediction="epsilon")
    unet = Known(0.0)
    assert find_prediction(unet, known, 1000, 4) is known
    unet.context_dim = UNET["cross_attention_dim"]
    assert find_prediction(unet, latent_trained(), 1000, 4).prediction is None


# Training


def test_a_model_of_v_prediction_is_trained_to_predict_v(networks, tmp_path):
    model = latent_diffusion(save_pipeline(tmp_path, networks, **V), SD2_UNET)
    batch, seen = demo_batch(2), {}

    class Perfect(nn.Module):
        in_channels = 4

        def forward(self, x, t, cond):
            a = model.schedule.alphas_cumprod[t].float().view(-1, 1, 1, 1)
            z0 = model.batch_latents(batch)
            seen["x"] = x
            return (a.sqrt() * x - z0) / (1 - a).sqrt()  # v by x = sqrt(a) z0 + sqrt(1 - a) eps

    other = model.with_unet(Perfect())
    losses, _ = other.losses(batch, torch.Generator().manual_seed(0))
    assert losses.max() < 1e-3 and seen["x"].shape == (2, 4, 16, 16)


# Edits


@pytest.fixture(scope="module")
def tiny_v():
    torch.manual_seed(0)
    return tiny_model(parameterization="v", rescale_betas_zero_snr=True).eval()


@pytest.mark.parametrize("method", ["ddim", "fixed-point", "bdia", "direct", "null", "ddpm", "noise"])
@pytest.mark.filterwarnings("ignore:fixed-point inversion")
def test_every_method_edits_with_a_model_of_zero_snr_from_pure_noise_on(method, tiny_v, scene):
    photograph, source, graph = scene
    result = edit(tiny_v, EditRequest(photograph, graph, source), EditOptions(method=method, steps=4, region="none"))
    path = result.source.inverted.path
    assert result.source.schedule.timesteps[-1] == 999
    assert path.dtype == torch.float32 and path.isfinite().all() and path.abs().max() < 1e3
    assert result.image.size == photograph.size and result.image != photograph
