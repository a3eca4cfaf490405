"""EDM's process as one of v-prediction, against EDM's own equations and diffusers' scheduler for Stable Video Diffusion."""

import math

import pytest
import torch

from ldm.checkpoints.edm import c_noise, karras_sigmas
from ldm.models.diffusion import ddim, dpm_solver
from ldm.models.diffusion.prediction import predict_noise
from ldm.models.diffusion.schedule import NoiseSchedule
from ldm.util.errors import UserError

STD = 0.6  # of the images of a world whose best denoiser is known


def ideal_x0(x, sigma):
    """E[x_0 | x_0 + sigma n] for x_0 ~ N(0, STD^2)."""
    return x * STD**2 / (STD**2 + sigma**2)


def test_the_noise_levels_are_those_of_diffusers_scheduler_for_svd():
    diffusers = pytest.importorskip("diffusers")
    scheduler = svd_scheduler(diffusers)
    for steps in (4, 10, 28):  # of which every level is among the thousand
        scheduler.set_timesteps(steps)
        visited = NoiseSchedule.edm().ddim(steps)
        sigmas = ((1 - visited.alphas) / visited.alphas).sqrt().flip(0)
        torch.testing.assert_close(sigmas.float(), scheduler.sigmas[:-1], rtol=2e-5, atol=0)
        times = c_noise(karras_sigmas())[visited.timesteps].flip(0)
        torch.testing.assert_close(times.float(), scheduler.timesteps, rtol=1e-5, atol=1e-5)
        assert visited.alphas_prev[0] == 1


def svd_scheduler(diffusers):
    return diffusers.EulerDiscreteScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        interpolation_type="linear",
        use_karras_sigmas=True,
        sigma_min=0.002,
        sigma_max=700.0,
        timestep_spacing="leading",
        timestep_type="continuous",
        steps_offset=1,
    )


@pytest.mark.parametrize("sigma", [0.002, 0.5, 3.0, 700.0])
def test_the_preconditioning_is_v_prediction(sigma):
    x0, noise, output = torch.randn(3, 1, 4, 4, 4, dtype=torch.float64)
    c_skip, c_out, c_in = 1 / (sigma**2 + 1), -sigma / math.sqrt(sigma**2 + 1), 1 / math.sqrt(sigma**2 + 1)
    noisy = x0 + sigma * noise
    denoised = c_skip * noisy + c_out * output  # EDM eq. 7
    a = torch.tensor([1 / (1 + sigma**2)], dtype=torch.float64)
    schedule = NoiseSchedule(1 - a, a, "v")
    eps = schedule.to_noise(output, c_in * noisy, torch.tensor([0]))
    torch.testing.assert_close((c_in * noisy - (1 - a).sqrt() * eps) / a.sqrt(), denoised, rtol=1e-6, atol=1e-6)
    target = schedule.target(x0, noise, torch.tensor([0]))  # the output at which `denoised` is the image
    torch.testing.assert_close(c_skip * noisy + c_out * target, x0, rtol=1e-6, atol=1e-6)


def test_ddim_takes_the_steps_of_eulers_method_in_sigma():
    schedule, steps = NoiseSchedule.edm(), 10
    start = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def v(x, t):  # of the ideal denoiser, in the variance-preserving scale
        a = schedule.alphas_cumprod[t].view(-1, 1, 1, 1)
        sigma = ((1 - a) / a).sqrt()
        x0 = ideal_x0(x / a.sqrt(), sigma)
        return (a.sqrt() * x - x0) / (1 - a).sqrt()

    visited = schedule.ddim(steps)
    sampled = ddim.sample(predict_noise(v, schedule), visited, start)
    sigmas = torch.cat([((1 - visited.alphas) / visited.alphas).sqrt().flip(0), torch.zeros(1)])
    x = start * (1 + sigmas[0] ** 2).sqrt()
    for sigma, following in zip(sigmas, sigmas[1:]):
        x = x + (x - ideal_x0(x, sigma)) / sigma * (following - sigma)  # EDM alg. 1 without its correction
    torch.testing.assert_close(sampled, x, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("sampler, steps, bound", [(ddim, 100, 0.06), (dpm_solver, 50, 0.02)])
def test_samplers_arrive_at_images_of_the_right_deviation(sampler, steps, bound):
    schedule = NoiseSchedule.edm()
    noise = torch.randn(1, 4, 32, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def v(x, t):
        a = schedule.alphas_cumprod[t].view(-1, 1, 1, 1)
        x0 = ideal_x0(x / a.sqrt(), ((1 - a) / a).sqrt())
        return (a.sqrt() * x - x0) / (1 - a).sqrt()

    x0 = sampler.sample(predict_noise(v, schedule), sampler.make_schedule(schedule, steps), noise)
    assert abs(float(x0.std() / noise.std()) / STD - 1) < bound
    correlation = torch.corrcoef(torch.stack([x0.flatten(), noise.flatten()]))[0, 1]
    assert correlation > 0.9999


def test_a_config_names_the_process_and_an_unknown_name_is_refused():
    schedule = NoiseSchedule.from_name("edm", 1000)
    assert schedule.prediction == "v" and len(schedule) == 1000
    assert float(schedule.sigmas()[-1]) == pytest.approx(700, rel=1e-6)
    assert float(schedule.sigmas()[0]) == pytest.approx(0.002, rel=1e-4)
    with pytest.raises(UserError, match="'edm' for Stable Video Diffusion"):
        NoiseSchedule.from_name("cosine")
