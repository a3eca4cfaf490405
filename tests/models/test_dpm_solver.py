"""DPM-Solver++ equals closed forms and diffusers' implementation, and is more accurate than DDIM."""

from functools import partial

import pytest
import torch
from tiny import tiny_model

from ldm.data.demo import DemoValidation
from ldm.graph.batch import encode
from ldm.models.diffusion import ddim, dpm_solver
from ldm.models.diffusion.dpm_solver import half_log_snr, invert, make_schedule, predict_x0, sample, step
from ldm.models.diffusion.schedule import DDIMSchedule, NoiseSchedule
from ldm.sampling.sample import SampleOptions, sample_images
from ldm.util.errors import UserError

SCHEDULE = NoiseSchedule.linear()
A = SCHEDULE.alphas_cumprod
SCHEDULES = {"even in time": SCHEDULE.ddim, "even in log-SNR": partial(make_schedule, SCHEDULE)}


def latents(rows=8):
    return torch.randn(rows, 4, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def gaussian(std=0.5, alphas=A):
    """The exact denoiser of N(0, std^2) data; along trajectories x scales with the standard deviation at its level."""

    def eps(x, t):
        a = alphas[t].view(-1, 1, 1, 1)
        return (1 - a).sqrt() * x / (a * std**2 + 1 - a)

    return eps


def standard_deviation(a, std=0.5):
    return (a * std**2 + 1 - a).sqrt()


def mixture(x, t):
    """The exact denoiser of a mixture of two Gaussians with means 0.5 and -0.5 and standard deviation 0.2; non-linear."""
    a = A[t].view(-1, 1, 1, 1)
    variance = a * 0.2**2 + 1 - a
    mean = a.sqrt() * 0.5 * (a.sqrt() * 0.5 * x / variance).tanh()
    return (1 - a).sqrt() * (x - mean) / variance


def transported(x, a_from, a_to):
    """Follows the mixture's trajectory from x at `a_from` to `a_to`.

    In one dimension trajectories do not cross, so the cumulative distribution is constant along them.
    """

    def cumulative(x, a):
        shift, scale = a.sqrt() * 0.5, (a * 0.2**2 + 1 - a).sqrt()
        return (torch.special.ndtr((x - shift) / scale) + torch.special.ndtr((x + shift) / scale)) / 2

    quantile, low, high = cumulative(x, a_from), torch.full_like(x, -20), torch.full_like(x, 20)
    for _ in range(60):
        middle = (low + high) / 2
        less = cumulative(middle, a_to) < quantile
        low, high = torch.where(less, middle, low), torch.where(less, high, middle)
    return low


def smooth(x, t):
    return 0.9 * x.tanh() + 0.1 * (t.to(x.dtype) / 100).sin().view(-1, 1, 1, 1)


def relative_error(x, expected):
    return float((x - expected).norm() / expected.norm())


# Order


def test_a_first_order_step_equals_ddim_in_either_direction():
    x, eps = latents(2), latents(4)[2:]
    for a, b in ((0.9, 0.2), (0.2, 0.9)):
        a, b = torch.tensor(a, dtype=torch.float64), torch.tensor(b, dtype=torch.float64)
        torch.testing.assert_close(step(x, predict_x0(x, eps, a), a, b), ddim.step(x, eps, a, b), rtol=0, atol=1e-13)


@pytest.mark.parametrize("up", [False, True])
def test_doubling_the_steps_divides_the_error_by_four(up):
    """On noise levels that are evenly spaced in log-SNR."""

    def error_with(steps):
        a = torch.sigmoid(2 * torch.linspace(2.5, -2.5, steps + 1, dtype=torch.float64))
        schedule, eps, x = DDIMSchedule(torch.arange(1, steps + 1), a[1:], a[:-1]), gaussian(alphas=a), latents()
        ratio = standard_deviation(a[-1]) / standard_deviation(a[0])
        if up:
            return relative_error(invert(eps, schedule, x)[-1], x * ratio)
        return relative_error(sample(eps, schedule, x), x / ratio)

    errors = [error_with(steps) for steps in (80, 160, 320)]
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.05)
    assert errors[1] / errors[2] == pytest.approx(4, rel=0.03)


@pytest.mark.parametrize("spacing", SCHEDULES)
def test_sampling_and_inversion_with_the_exact_denoiser_of_a_point_are_exact_in_any_number_of_steps(spacing):
    point, noise = latents(2), latents(4)[2:]

    def eps(x, t):
        a = A[t].view(-1, 1, 1, 1)
        return (x - a.sqrt() * point) / (1 - a).sqrt()

    for steps in (1, 2, 3, 10):
        schedule = SCHEDULES[spacing](steps)
        x_0, x_T = (a.sqrt() * point + (1 - a).sqrt() * noise for a in (A[0], schedule.alphas[-1]))
        torch.testing.assert_close(sample(eps, schedule, x_T), x_0)
        torch.testing.assert_close(invert(eps, schedule, x_0)[-1], x_T)


# On integer timesteps


def test_sampling_in_10_steps_is_more_accurate_than_ddim_in_50():
    x_T, few, many = latents(), make_schedule(SCHEDULE, 10), SCHEDULE.ddim(50)
    for eps, truth in (
        (gaussian(), lambda a: x_T * standard_deviation(A[0]) / standard_deviation(a)),
        (gaussian(1.0), lambda a: x_T * standard_deviation(A[0], 1.0) / standard_deviation(a, 1.0)),
        (mixture, lambda a: transported(x_T, a, A[0])),
    ):
        ours = relative_error(sample(eps, few, x_T), truth(few.alphas[-1]))
        theirs = relative_error(ddim.sample(eps, many, x_T), truth(many.alphas[-1]))
        assert ours < 0.7 * theirs and ours < 0.04


def test_inversion_in_10_steps_is_more_accurate_than_ddim_in_10():
    few, x_T = make_schedule(SCHEDULE, 10), latents()
    x_0 = transported(x_T, few.alphas[-1], A[0])
    path = invert(mixture, few, x_0)
    for level, a in zip(path, few.levels()):
        assert relative_error(level, transported(x_T, few.alphas[-1], a)) < 0.08
    assert relative_error(path[-1], x_T) < 0.5 * relative_error(ddim.invert(mixture, SCHEDULE.ddim(10), x_0)[-1], x_T)


def test_reconstruction_in_20_steps_is_more_accurate_than_ddim_in_50():
    few, many = make_schedule(SCHEDULE, 20), SCHEDULE.ddim(50)
    for eps in (gaussian(), gaussian(1.0), mixture):
        x_0 = transported(latents(), few.alphas[-1], A[0])
        ours = relative_error(sample(eps, few, invert(eps, few, x_0)[-1]), x_0)
        theirs = relative_error(ddim.sample(eps, many, ddim.invert(eps, many, x_0)[-1]), x_0)
        assert ours < 0.6 * theirs and ours < 0.003


# Against another implementation


def diffusers_scheduler(schedule):
    """The scheduler of diffusers on the timesteps of a schedule."""
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.DPMSolverMultistepScheduler(
        beta_start=0.0015, beta_end=0.0195, beta_schedule="scaled_linear", algorithm_type="dpmsolver++", solver_order=2,
        lower_order_final=False, euler_at_final=True, final_sigmas_type="sigma_min",
    )  # fmt: skip
    scheduler.set_timesteps(timesteps=schedule.timesteps.flip(0).tolist())
    return scheduler


@pytest.mark.parametrize("spacing", SCHEDULES)
@pytest.mark.parametrize("steps", [1, 2, 5, 20])
def test_samples_equal_those_of_diffusers(spacing, steps):
    schedule, x = SCHEDULES[spacing](steps), latents()
    scheduler, theirs = diffusers_scheduler(schedule), x
    for t in scheduler.timesteps:
        theirs = scheduler.step(smooth(theirs, t.expand(len(x))), t, theirs).prev_sample
    assert relative_error(sample(smooth, schedule, x), theirs) < 1e-5  # its sigmas are float32


@pytest.mark.parametrize("steps", [5, 20])
def test_inversions_equal_those_of_diffusers(steps):
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.DPMSolverMultistepInverseScheduler(
        beta_start=0.0015, beta_end=0.0195, beta_schedule="scaled_linear", algorithm_type="dpmsolver++", solver_order=2,
        lower_order_final=False,
    )  # fmt: skip
    scheduler.set_timesteps(steps)
    visited = torch.cat([scheduler.timesteps, torch.tensor([999])])
    schedule = DDIMSchedule(visited[1:], A[visited[1:]], A[visited[:-1]])
    x = theirs = latents()
    for t in scheduler.timesteps:
        theirs = scheduler.step(smooth(theirs, t.expand(len(x))), t, theirs).prev_sample
    assert relative_error(invert(smooth, schedule, x)[-1], theirs) < 1e-5


# Calls of the denoiser


def test_each_step_calls_the_denoiser_once_at_the_timestep_of_its_level():
    calls, schedule = [], make_schedule(SCHEDULE, 7)

    def counted(x, t):
        assert t.dtype == torch.long and len(t) == len(x)
        calls.append(int(t[0]))
        return smooth(x, t)

    sample(counted, schedule, latents())
    assert calls == schedule.timesteps.flip(0).tolist()
    calls.clear()
    path = invert(counted, schedule, latents())
    assert calls == [0, *schedule.timesteps[:-1].tolist()]
    assert path.shape == (8, *latents().shape) and torch.equal(path[0], latents())


def test_sampling_and_inversion_preserve_the_dtype():
    x, schedule = latents().float(), make_schedule(SCHEDULE, 3)
    assert sample(smooth, schedule, x).dtype == invert(smooth, schedule, x).dtype == torch.float32


# Timesteps


@pytest.mark.parametrize("steps", [1, 2, 7, 30, 51, 333, 998, 999])
def test_a_make_schedule_has_the_requested_number_of_timesteps_up_to_the_last(steps):
    schedule = make_schedule(SCHEDULE, steps)
    assert len(schedule) == steps and schedule.timesteps[-1] == 999
    assert schedule.timesteps[0] >= 1 and (schedule.timesteps.diff() >= 1).all()
    assert torch.equal(schedule.alphas, A[schedule.timesteps])
    assert schedule.alphas_prev[0] == A[0] and torch.equal(schedule.alphas_prev[1:], schedule.alphas[:-1])


def test_few_levels_are_evenly_spaced_in_log_snr():
    lambdas = half_log_snr(make_schedule(SCHEDULE, 10).levels())
    assert half_log_snr(torch.tensor(0.5)) == 0
    torch.testing.assert_close(lambdas.diff(), lambdas.diff().mean().expand(10), rtol=0.1, atol=0)
    in_time = half_log_snr(SCHEDULE.ddim(10).levels()).diff().abs()
    assert in_time.max() > 4 * in_time.min()


@pytest.mark.parametrize("steps", [-1, 0, 1000])
def test_a_number_of_steps_out_of_range_is_an_error(steps):
    with pytest.raises(UserError, match="between 1 and 999"):
        make_schedule(SCHEDULE, steps)


# As a sampler of images


def test_images_are_sampled_with_the_selected_sampler():
    model = tiny_model().eval()
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    graph, decoded = DemoValidation(1, 32)[0][1], []
    model.decode = lambda z: decoded.append(z) or z[:, :3]
    sample_images(model, [graph], [1], SampleOptions(4, sampler="dpm++"))
    sample_images(model, [graph], [1], SampleOptions(4))
    with torch.no_grad():
        eps = model.denoiser(model.condition(encode([graph], model.vocab)))
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    assert relative_error(decoded[0], dpm_solver.sample(eps, make_schedule(model.schedule, 4), noise)) < 1e-4
    assert relative_error(decoded[1], ddim.sample(eps, model.schedule.ddim(4), noise)) < 1e-4
    assert relative_error(decoded[0], decoded[1]) > 0.01


def test_options_that_no_sampler_supports_are_an_error():
    with pytest.raises(UserError, match="dpm\\+\\+"):
        SampleOptions(sampler="dpmpp")
    with pytest.raises(UserError, match="eta"):
        SampleOptions(eta=1.0, sampler="dpm++")


@pytest.mark.parametrize(
    "name, words, default",
    [
        ("sample", ["--split", "test"], None),
        ("evaluate", ["scenes"], "ddim"),
        ("ddim_invert_edit", ["--sg", "a"], None),
    ],
    ids=["sample.py", "evaluate.py", "ddim_invert_edit.py"],
)
def test_scripts_accept_the_name_of_a_sampler(name, words, default, capsys, load_script):
    script = load_script(name)
    assert script.parse(words).sampler == default
    assert script.parse([*words, "--sampler", "dpm++"]).sampler == "dpm++"
    with pytest.raises(SystemExit):
        script.parse([*words, "--sampler", "euler"])
    assert "dpm++" in capsys.readouterr().err
