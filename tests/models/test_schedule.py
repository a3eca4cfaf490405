"""The noise schedule equals the published values and its closed forms."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from ldm.models.diffusion.schedule import NoiseSchedule


@pytest.fixture
def published(parity_dir):
    return load_file(parity_dir / "ddim_schedule.safetensors")


@pytest.fixture
def schedule():
    return NoiseSchedule.linear()


def assert_same(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


def test_the_linear_schedule_is_the_published_one(published, schedule):
    assert_same(schedule.betas, published["betas"])
    assert_same(schedule.alphas_cumprod, published["alphas_cumprod"])


@pytest.mark.parametrize("steps", [10, 50, 200])
def test_a_sub_schedule_is_the_published_one(published, schedule, steps):
    ddim = schedule.ddim(steps)
    assert torch.equal(ddim.timesteps, published[f"ddim{steps}.timesteps"])
    assert_same(ddim.alphas, published[f"ddim{steps}.alphas"])
    assert_same(ddim.alphas_prev, published[f"ddim{steps}.alphas_prev"])
    assert_same(ddim.sigmas(0.0), published[f"ddim{steps}.eta0.0.sigmas"])
    assert_same(ddim.sigmas(1.0), published[f"ddim{steps}.eta1.0.sigmas"])


def test_the_linear_schedule_is_linear_in_the_square_root_of_beta():
    betas = NoiseSchedule.linear(3, 0.01, 0.09).betas
    assert_same(betas, torch.tensor([0.01, 0.04, 0.09], dtype=torch.float64))


@pytest.mark.parametrize("steps", [1, 7, 30, 51, 333, 600, 999])
def test_a_sub_schedule_has_the_requested_number_of_evenly_spaced_steps(schedule, steps):
    ddim = schedule.ddim(steps)
    gaps = ddim.timesteps.diff()
    assert len(ddim) == steps
    assert ddim.timesteps[0] == 1 and ddim.timesteps[-1] < len(schedule)
    assert steps == 1 or (gaps.min() >= 1 and gaps.max() - gaps.min() <= 1)


def test_sampling_steps_are_contiguous_and_end_at_timestep_0(schedule):
    ddim = schedule.ddim(30)
    assert ddim.alphas_prev[0] == schedule.alphas_cumprod[0]
    assert torch.equal(ddim.alphas_prev[1:], ddim.alphas[:-1])


@pytest.mark.parametrize("steps", [-1, 0, 1000, 5000])
def test_a_number_of_steps_out_of_range_is_an_error(schedule, steps):
    with pytest.raises(ValueError, match="between 1 and 999"):
        schedule.ddim(steps)


def test_the_full_sub_schedule_with_eta_1_has_the_posterior_variance_of_ddpm(schedule):
    ddim, beta = schedule.ddim(999), schedule.betas[1:]
    posterior = beta * (1 - ddim.alphas_prev) / (1 - ddim.alphas)  # DDPM eq. 7
    assert_same(ddim.sigmas(1.0) ** 2, posterior)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_noise_is_added_at_each_rows_timestep_in_the_dtype_of_z0(schedule, dtype):
    z0, noise = torch.randn(2, 3, 4, 4, 4, dtype=torch.float64).unbind()
    t = torch.tensor([0, 500, 999])
    rows = [
        a**0.5 * x + (1 - a) ** 0.5 * n for a, x, n in zip(schedule.alphas_cumprod[t].tolist(), z0, noise, strict=True)
    ]
    z_t = schedule.add_noise(z0.to(dtype), noise.to(dtype), t)
    assert z_t.dtype == dtype
    precision = {torch.float64: 1e-12, torch.float32: 1e-6, torch.bfloat16: 4e-2}[dtype]
    torch.testing.assert_close(z_t.double(), torch.stack(rows), rtol=0, atol=precision)


def test_noise_is_added_to_a_half_precision_latent_in_full_precision(schedule):
    z0, noise = torch.randn(2, 1, 1000).bfloat16()
    t = torch.tensor([300])
    exact = schedule.add_noise(z0.float(), noise.float(), t)
    assert torch.equal(schedule.add_noise(z0, noise, t), exact.bfloat16())


def test_a_schedule_up_to_a_timestep_has_the_timesteps_below_and_at_least_one(schedule):
    full = schedule.ddim(10)
    for top, count in ((0, 1), (1, 1), (100, 1), (101, 2), (500, 5), (999, 10)):
        part = full.up_to(top)
        assert len(part) == count and torch.equal(part.timesteps, full.timesteps[:count])
        assert torch.equal(part.alphas, full.alphas[:count]) and torch.equal(part.alphas_prev, full.alphas_prev[:count])


@pytest.mark.parametrize("name", ["cosine", "sqrt", "sqrt_linear"])
def test_an_unsupported_schedule_is_an_error_that_names_it(name):
    assert torch.equal(NoiseSchedule.from_name("linear", 10).betas, NoiseSchedule.linear(10).betas)
    with pytest.raises(ValueError, match=name):
        NoiseSchedule.from_name(name)


@pytest.mark.parametrize("timestep", [0, 300, 999])
def test_an_error_of_the_noise_is_an_error_of_v_with_its_weight(schedule, timestep):
    generator = torch.Generator().manual_seed(0)
    z0, noise, error = (torch.randn(1, 4, 2, 2, generator=generator, dtype=torch.float64) for _ in range(3))
    t = torch.tensor([timestep])
    a = schedule.alphas_cumprod[timestep]
    x = schedule.add_noise(z0, noise, t)
    guess = noise + 0.1 * error
    z0_guess = (x - (1 - a).sqrt() * guess) / a.sqrt()
    error_of_v = (a.sqrt() * guess - (1 - a).sqrt() * z0_guess) - (a.sqrt() * noise - (1 - a).sqrt() * z0)
    weight = error_of_v.square().mean() / (guess - noise).square().mean()
    assert schedule.v_weight(t).item() == pytest.approx(weight.item(), rel=1e-4)


def test_a_model_of_v_needs_no_weight():
    schedule = replace(NoiseSchedule.linear(), prediction="v")
    assert schedule.v_weight(torch.tensor([0, 999])).tolist() == [1, 1]


def test_a_predicted_noise_has_no_v_where_the_schedule_ends_in_pure_noise():
    schedule = NoiseSchedule.linear().with_zero_terminal_snr()
    with pytest.raises(ValueError, match="set model.params.parameterization to v"):
        schedule.v_weight(torch.tensor([5]))
