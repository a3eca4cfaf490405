"""Inversion and sampling from it, with denoisers whose answer is known in closed form."""

import pytest
import torch
from tiny import tiny_model

from ldm.models.diffusion import dpm_solver, inversion_paths
from ldm.models.diffusion.inversion import (
    ANY_SAMPLER,
    METHODS,
    SourceBranch,
    get_method,
    make_schedule,
    null_text,
    resample,
)
from ldm.models.diffusion.samplers import SAMPLERS
from ldm.models.diffusion.schedule import NoiseSchedule
from ldm.util.errors import UserError

SCHEDULE = NoiseSchedule.linear()
A0 = SCHEDULE.alphas_cumprod[0]
EXACT = ["bdia", "direct", "ddpm"]  # exactly invertible by construction
INVERSIONS = [name for name in METHODS if name != "noise"]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def latents(rows=2, dtype=torch.float32):
    return torch.randn(rows, 4, 8, 8, generator=seeded(), dtype=dtype) * 0.5


def constant(x, t):
    return torch.linspace(-1, 1, 4, dtype=x.dtype).view(1, 4, 1, 1).expand_as(x)


def gaussian(mean=0.0, std=0.5):
    """The exact denoiser of N(mean, std^2) data."""

    def eps(x, t):
        a = SCHEDULE.alphas_cumprod[t].view(-1, 1, 1, 1)
        return ((1 - a).sqrt() * (x - a.sqrt() * mean) / (a * std**2 + 1 - a)).to(x)

    return eps


def mixture(x, t):
    """The exact denoiser of a mixture of two Gaussians with means 0.5 and -0.5 and standard deviation 0.2; non-linear."""
    a = SCHEDULE.alphas_cumprod[t].view(-1, 1, 1, 1)
    variance = a * 0.2**2 + 1 - a
    mean = a.sqrt() * 0.5 * (a.sqrt() * 0.5 * x / variance).tanh()
    return ((1 - a).sqrt() * (x - mean) / variance).to(x)


def smooth(x, t):
    return 0.9 * x.tanh() + 0.1 * (t.to(x.dtype) / 100).sin().view(-1, 1, 1, 1)


DENOISERS = {"constant": constant, "gaussian": gaussian(), "mixture": mixture, "smooth": smooth}
NULL = torch.full((1, 1, 4), 0.05)


def guided(denoiser, scale=10.0):
    """Guidance away from a null prediction that differs by the mean of the null tokens, one value per channel.

    Null tokens of 0 therefore cancel the guidance.
    """

    def eps(x, t, tokens=NULL):
        conditional = denoiser(x, t)
        null = conditional + tokens.mean(1)[..., None, None].to(x)
        return null + scale * (conditional - null)

    return eps


def source_branch(name, denoiser, seed=0):
    if name == "null":
        return SourceBranch(denoiser, guided(denoiser), NULL)
    return SourceBranch(denoiser, generator=seeded(seed))


def invert(name, denoiser=smooth, steps=20, x0=None):
    """The inversion, its schedule, and the denoiser that reconstructs the source from it."""
    schedule, source = SCHEDULE.ddim(steps), source_branch(name, denoiser)
    return METHODS[name](source, schedule, latents() if x0 is None else x0), schedule, source.guided or denoiser


def relative_error(result, x0):
    return float((result - x0).norm() / x0.norm())


# Reconstruction


@pytest.mark.parametrize("denoiser", DENOISERS)
@pytest.mark.parametrize("name, tolerance", [*[(name, 3e-5) for name in EXACT], ("fixed-point", 1e-4)])
def test_sampling_an_inverted_image_returns_it(name, denoiser, tolerance):
    x0 = latents()
    inverted, schedule, source = invert(name, DENOISERS[denoiser], 50, x0)
    assert relative_error(resample(inverted, schedule, source), x0) < tolerance


@pytest.mark.parametrize("denoiser", DENOISERS)
def test_guided_sampling_with_fitted_null_tokens_reconstructs_as_well_as_plain_inversion_without_guidance(denoiser):
    x0, denoiser = latents(), DENOISERS[denoiser]
    inverted, schedule, source = invert("null", denoiser, 20, x0)
    without = relative_error(resample(inverted._replace(null_tokens=None), schedule, denoiser), x0)
    assert relative_error(resample(inverted, schedule, source), x0) < without + 0.02
    assert relative_error(resample(inverted._replace(null_tokens=None), schedule, source), x0) > without + 0.1


@pytest.mark.parametrize("name", EXACT)
def test_exact_methods_reconstruct_with_few_steps_and_from_any_noise_level(name):
    x0, source = latents(), source_branch(name, mixture)
    for top in (0, 200, 400, 600, 999):
        schedule = SCHEDULE.ddim(6).up_to(top)
        assert relative_error(resample(METHODS[name](source, schedule, x0), schedule, mixture), x0) < 1e-5


def test_plain_inversion_reconstructs_approximately_and_better_with_more_steps():
    def plain(steps):
        x0 = latents()
        inverted, schedule, source = invert("ddim", smooth, steps, x0)
        return relative_error(resample(inverted, schedule, source), x0)

    assert 1e-3 < plain(50) < 0.5
    assert plain(200) < 0.5 * plain(50)


@pytest.mark.parametrize("name", [name for name in INVERSIONS if name not in ("ddpm", "null")])
def test_paths_with_constant_predicted_noise_have_the_closed_form(name):
    x0, schedule = latents(dtype=torch.float64), SCHEDULE.ddim(50)
    noise = constant(x0, None)
    clean = (x0 - (1 - A0).sqrt() * noise) / A0.sqrt()
    inverted, _, source = invert(name, constant, 50, x0)
    for level, a in zip(inverted.path, schedule.levels()):
        torch.testing.assert_close(level, a.sqrt() * clean + (1 - a).sqrt() * noise)
    torch.testing.assert_close(resample(inverted, schedule, source), x0)


def test_bdia_inversion_is_more_accurate_than_plain_inversion():
    """Trajectories of N(0, s^2) data are known: x scales with the standard deviation at its noise level."""
    x0, schedule = latents(), SCHEDULE.ddim(100)
    spread = (schedule.levels() * 0.5**2 + 1 - schedule.levels()).sqrt()
    expected = x0 * float(spread[-1] / spread[0])
    plain, bdia = (relative_error(invert(name, gaussian(), 100, x0)[0].path[-1], expected) for name in ("ddim", "bdia"))
    assert bdia < 0.5 * plain


def test_direct_and_ddpm_compensate_for_guidance_of_the_source():
    x0, schedule, guided_mixture = latents(), SCHEDULE.ddim(20), guided(mixture)
    for name in ("direct", "ddpm"):
        inverted = METHODS[name](SourceBranch(mixture, guided_mixture, generator=seeded()), schedule, x0)
        assert relative_error(resample(inverted, schedule, guided_mixture), x0) < 1e-5
    plain, schedule, _ = invert("ddim", mixture, 20, x0)
    assert relative_error(resample(plain, schedule, guided_mixture), x0) > 0.1


# Editing


@pytest.mark.parametrize("name", [name for name in INVERSIONS if name != "null"])
def test_shifting_the_mean_of_the_data_shifts_the_image_and_preserves_its_detail(name):
    """Trajectories of Gaussians whose means differ by d differ by sqrt(a) d."""
    x0 = latents()
    inverted, schedule, _ = invert(name, gaussian(), 50, x0)
    shifted = resample(inverted, schedule, gaussian(mean=1.0))
    torch.testing.assert_close(shifted, x0 + A0.sqrt().float(), rtol=0, atol=0.15)
    if name in EXACT:
        assert float((shifted - x0).std()) < 1e-4


@pytest.mark.parametrize("name", EXACT)
def test_exact_methods_preserve_the_image_where_source_and_target_agree(name):
    x0, left = latents(), torch.arange(8) < 4
    inverted, schedule, _ = invert(name, mixture, 20, x0)
    edited = resample(inverted, schedule, lambda x, t: torch.where(left, gaussian(1.0, 0.1)(x, t), mixture(x, t)))
    assert relative_error(edited[..., 4:], x0[..., 4:]) < 1e-5
    assert relative_error(edited[..., :4], x0[..., :4]) > 0.5


@pytest.mark.parametrize("name", METHODS)
def test_an_edit_is_bit_equal_to_the_source_outside_its_region(name):
    x0 = latents()
    inverted, schedule, _ = invert(name, smooth, 10, x0)
    region = torch.zeros(1, 1, 8, 8)
    region[..., 2:5, 3:7] = 1
    target = guided(gaussian(1.0))

    edited = resample(inverted, schedule, target, region)
    inside = region.bool().expand_as(x0)
    assert torch.equal(edited[~inside], x0[~inside])
    assert (edited - x0)[inside].abs().mean() > 0.1
    assert torch.equal(resample(inverted, schedule, target, 0 * region), x0)
    everywhere = resample(inverted, schedule, target)
    assert torch.equal(resample(inverted, schedule, target, torch.ones_like(region)), everywhere)
    per_image = torch.cat([torch.ones_like(region), region])
    expected = torch.cat([everywhere[:1], edited[1:]])
    torch.testing.assert_close(resample(inverted, schedule, target, per_image), expected)


def test_a_soft_region_interpolates_source_and_edit_at_every_level():
    x0 = latents()
    inverted, schedule, _ = invert("ddim", smooth, 10, x0)
    inputs = []

    def target(x, t):
        inputs.append(x)
        return gaussian(1.0)(x, t)

    edited = resample(inverted, schedule, target, torch.full((1, 1, 8, 8), 0.25))
    for i, x in zip(reversed(range(10)), inputs):
        unrestricted = ddim_step(gaussian(1.0), schedule, i, x)
        expected = 0.25 * unrestricted + 0.75 * inverted.path[i]
        torch.testing.assert_close(edited if i == 0 else inputs[10 - i], expected)


def ddim_step(denoiser, schedule, i, x):
    """The i-th DDIM step, written out."""
    a, b = schedule.alphas[i], schedule.alphas_prev[i]
    eps = denoiser(x, torch.full((len(x),), int(schedule.timesteps[i])))
    return (b / a).sqrt() * x + ((1 - b).sqrt() - (b * (1 - a) / a).sqrt()) * eps


@pytest.mark.parametrize("name", METHODS)
def test_images_of_a_batch_are_edited_independently(name):
    x0, schedule, target = latents(), SCHEDULE.ddim(10), guided(gaussian(1.0))

    def edited(x0, seeds):
        source = source_branch(name, smooth)._replace(generator=[seeded(seed) for seed in seeds])
        return resample(METHODS[name](source, schedule, x0), schedule, target)

    torch.testing.assert_close(
        edited(x0, [1, 2]), torch.cat([edited(x0[:1], [1]), edited(x0[1:], [2])]), rtol=0, atol=1e-3
    )


@pytest.mark.parametrize("name", METHODS)
def test_a_path_starts_at_x0_and_has_a_latent_for_every_noise_level(name):
    inverted, _, _ = invert(name, smooth, 7)
    assert inverted.path.shape == (8, 2, 4, 8, 8)
    assert torch.equal(inverted.path[0], latents())


@pytest.mark.parametrize("name, inversion_calls", [("ddim", 7), ("bdia", 8), ("direct", 7), ("ddpm", 0), ("noise", 0)])
def test_methods_call_the_denoiser_as_often_as_documented(name, inversion_calls):
    calls = []

    def counted(x, t):
        calls.append(int(t[0]))
        return smooth(x, t)

    inverted, schedule, _ = invert(name, counted, 7)
    assert len(calls) == inversion_calls
    descending, calls_per_step = schedule.timesteps.flip(0), 1 if inverted.source_denoiser is None else 2
    for paired in (False, True):
        calls.clear()
        resample(inverted, schedule, counted, paired=paired)
        assert calls == descending.repeat_interleave(1 if paired else calls_per_step).tolist()


@pytest.mark.parametrize(
    "name, sampler",
    [(name, sampler) for name in METHODS for sampler in SAMPLERS if sampler == "ddim" or name in ANY_SAMPLER],
)
def test_a_paired_batch_gives_the_same_result_as_separate_source_and_target_calls(name, sampler):
    x0, schedule, rows = latents(), SCHEDULE.ddim(7), []
    source = source_branch(name, smooth)
    inverted = get_method(name, sampler)(source, schedule, x0)
    separate = resample(inverted, schedule, guided(mixture))

    def both(x, t, *null):
        rows.append(x)
        source_eps = (source.guided or smooth)(x[:2], t[:2], *(tokens[:2] for tokens in null))
        return torch.cat([source_eps, guided(mixture)(x[2:], t[2:], *(tokens[2:] for tokens in null))])

    torch.testing.assert_close(resample(inverted, schedule, both, paired=True), separate)
    assert torch.equal(torch.stack([x[:2] for x in rows]), inverted.path[1:].flip(0))


# With DPM-Solver++


def test_second_order_direct_inversion_reconstructs_exactly_and_plain_inversion_approximately():
    x0 = latents()
    for steps in (1, 2, 5, 20):
        schedule = make_schedule(SCHEDULE, "dpm++", steps)
        for denoiser in DENOISERS.values():
            guided_denoiser = guided(denoiser)
            inverted = get_method("direct", "dpm++")(SourceBranch(denoiser, guided_denoiser), schedule, x0)
            assert torch.equal(resample(inverted, schedule, guided_denoiser), x0)
            assert torch.equal(inverted.path, dpm_solver.invert(denoiser, schedule, x0))
    schedule = make_schedule(SCHEDULE, "dpm++", 20)
    inverted = get_method("ddim", "dpm++")(SourceBranch(mixture), schedule, x0)
    assert relative_error(resample(inverted, schedule, mixture), x0) < 0.01


@pytest.mark.parametrize("steps", [1, 2, 5, 20])
def test_sampling_from_an_inversion_without_region_equals_the_solver(steps):
    x0, schedule = latents(), make_schedule(SCHEDULE, "dpm++", steps)
    for name in ("ddim", "noise"):
        inverted = get_method(name, "dpm++")(source_branch(name, smooth), schedule, x0)
        expected = dpm_solver.sample(mixture, schedule, inverted.path[-1])
        torch.testing.assert_close(resample(inverted, schedule, mixture), expected)


def test_second_order_sampling_reconstructs_better_than_ddim():
    x0, schedule = latents(), make_schedule(SCHEDULE, "dpm++", 8)
    inverted = get_method("direct", "dpm++")(SourceBranch(mixture), schedule, x0)
    plain = resample(inverted._replace(source_denoiser=None), schedule, mixture)
    first = resample(inverted._replace(source_denoiser=None, sampler="ddim"), schedule, mixture)
    assert relative_error(plain, x0) < 0.5 * relative_error(first, x0) and relative_error(plain, x0) > 1e-4


@pytest.mark.parametrize("name", ANY_SAMPLER)
def test_a_second_order_edit_is_bit_equal_to_the_source_outside_its_region(name):
    x0, schedule = latents(), make_schedule(SCHEDULE, "dpm++", 6)
    inverted = get_method(name, "dpm++")(source_branch(name, smooth), schedule, x0)
    region = torch.zeros(1, 1, 8, 8)
    region[..., 2:5, 3:7] = 1
    edited = resample(inverted, schedule, guided(gaussian(1.0)), region)
    inside = region.bool().expand_as(x0)
    assert torch.equal(edited[~inside], x0[~inside])
    assert (edited - x0)[inside].abs().mean() > 0.1


@pytest.mark.parametrize("name", [name for name in METHODS if name not in ANY_SAMPLER])
def test_methods_that_require_ddim_steps_refuse_other_samplers(name):
    with pytest.raises(UserError, match="does not support"):
        get_method(name, "dpm++")
    assert get_method(name) is METHODS[name]


def test_an_unknown_method_or_sampler_is_an_error():
    with pytest.raises(UserError, match="direct"):
        get_method("dirct")
    with pytest.raises(UserError, match="euler"):
        get_method("ddim", "euler")


# Single methods


def test_noise_of_different_levels_is_independent_for_ddpm_and_shared_for_noise():
    x0 = latents(64)
    share = (SCHEDULE.ddim(5).levels() / A0)[1:].view(-1, 1, 1, 1, 1)
    for name, correlation in (("ddpm", 0.0), ("noise", 1.0)):
        path = invert(name, smooth, 5, x0)[0].path
        noise = ((path[1:] - share.sqrt() * x0) / (1 - share).sqrt()).flatten(1)
        torch.testing.assert_close(noise.std(1), torch.ones(5, dtype=noise.dtype), rtol=0, atol=0.03)
        expected = torch.full((5, 5), correlation, dtype=noise.dtype).fill_diagonal_(1.0)
        torch.testing.assert_close(noise.corrcoef(), expected, rtol=0, atol=0.03)


def test_the_exact_denoiser_removes_added_noise_from_any_level():
    x0 = latents()
    clean = x0 / A0.sqrt()

    def eps(x, t):
        a = SCHEDULE.alphas_cumprod[t].view(-1, 1, 1, 1)
        return ((x - a.sqrt() * clean) / (1 - a).sqrt()).to(x)

    # x0 itself contains the noise of the lowest level, which this denoiser does not predict.
    for top in (200, 999):
        schedule = SCHEDULE.ddim(10).up_to(top)
        result = resample(METHODS["noise"](source_branch("noise", eps), schedule, x0), schedule, eps)
        assert (result - x0).abs().max() < 5 * (1 - A0).sqrt()


def test_null_tokens_are_fitted_to_the_known_solution():
    """The source's noise is constant and the null prediction is the sum of the tokens, so both must be equal."""
    x0, schedule = latents(), SCHEDULE.ddim(10)
    learned = torch.zeros(1, 2, 4)

    def eps(x, t, tokens):
        return 3 * constant(x, t) - 2 * tokens.sum(1)[..., None, None]

    source = SourceBranch(constant, eps, learned)
    with torch.no_grad():
        inverted = null_text(source, schedule, x0, iterations=300, tolerance=1e-9)
    assert inverted.null_tokens.shape == (10, 2, 2, 4)
    torch.testing.assert_close(
        inverted.null_tokens.sum(2), constant(x0, None)[:, :, 0, 0].expand(10, 2, 4), rtol=0, atol=2e-2
    )
    assert relative_error(resample(inverted, schedule, eps), x0) < 1e-3
    unfitted = inverted._replace(null_tokens=learned.expand(10, 2, 2, 4))
    assert relative_error(resample(unfitted, schedule, eps), x0) > 0.3


def test_null_tokens_are_fitted_through_a_unet_without_changing_it():
    torch.manual_seed(0)
    model = tiny_model().eval().requires_grad_(False)
    for parameter in model.unet.parameters():
        parameter += torch.randn_like(parameter) * 0.02
    for parameter in model.unet.out.parameters():
        parameter *= 0.1  # random U-Nets are less smooth in x than trained ones
    x0, schedule = latents(), SCHEDULE.ddim(3)
    cond = model.unconditional(2)._replace(tokens=torch.randn(2, 1, 32))
    guided = model.denoiser(cond, 8.0, 8.0)
    source = SourceBranch(model.denoiser(cond), guided, model.null_tokens)
    with torch.no_grad():
        inverted = null_text(source, schedule, x0, iterations=4, rate=0.1)
    learned = inverted._replace(null_tokens=model.null_tokens.expand(3, 2, 1, 32))
    fitted, unfitted = (relative_error(resample(i, schedule, guided), x0) for i in (inverted, learned))
    assert fitted < 0.8 * unfitted
    assert all(p.grad is None for p in model.parameters())


def test_null_inversion_without_guidance_is_an_error():
    x0, schedule = latents(), SCHEDULE.ddim(3)
    with pytest.raises(UserError, match="guided denoiser"):
        null_text(SourceBranch(smooth), schedule, x0)
    with pytest.raises(UserError, match="graph scale"):
        null_text(SourceBranch(smooth, lambda x, t, tokens: smooth(x, t), NULL), schedule, x0)


def test_fixed_point_inversion_warns_of_steps_that_do_not_converge():
    with pytest.warns(UserWarning, match="inexact"):
        inversion_paths.fixed_point(lambda x, t: (40 * x).sin(), SCHEDULE.ddim(3), torch.ones(1, 4, 2, 2), iterations=4)


def test_anderson_acceleration_converges_where_plain_iteration_diverges():
    """x = g(x) for a linear g with eigenvalues from -3 to 0.9; plain iteration diverges along the first."""
    matrix = torch.diag(torch.tensor([-3.0, -2.0, 0.5, 0.9], dtype=torch.float64))
    given = torch.tensor([[1.0, 2.0, 3.0, 4.0], [4.0, 3.0, 2.0, 1.0]], dtype=torch.float64)
    x, residual = inversion_paths.solve_fixed_point(
        lambda x: x @ matrix + given, torch.zeros(2, 4, dtype=torch.float64), 50, 1e-9
    )
    torch.testing.assert_close(x, given @ torch.linalg.inv(torch.eye(4, dtype=torch.float64) - matrix))
    assert residual <= 1e-9
