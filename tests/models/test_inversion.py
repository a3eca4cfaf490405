"""Inversion and walking back, on denoisers with a known answer."""

import pytest
import torch
from tiny import tiny_model

from ldm.models.diffusion import dpm_solver, inversion_paths
from ldm.models.diffusion.inversion import METHODS, SECOND_ORDER, SourceBranch, get_method, make_schedule, null, resample
from ldm.models.diffusion.schedule import NoiseSchedule
from ldm.util.errors import UserError

SCHEDULE = NoiseSchedule.linear()
A0 = SCHEDULE.alphas_cumprod[0]
EXACT = ["bdia", "direct", "ddpm"]  # by construction
INVERSIONS = [name for name in METHODS if name != "noise"]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def pictures(rows=2, dtype=torch.float32):
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
    """The exact denoiser of data that is 0.5 or -0.5, each blurred by 0.2: not linear, and steep between the two."""
    a = SCHEDULE.alphas_cumprod[t].view(-1, 1, 1, 1)
    variance = a * 0.2**2 + 1 - a
    mean = a.sqrt() * 0.5 * (a.sqrt() * 0.5 * x / variance).tanh()
    return ((1 - a).sqrt() * (x - mean) / variance).to(x)


def smooth(x, t):
    return 0.9 * x.tanh() + 0.1 * (t.to(x.dtype) / 100).sin().view(-1, 1, 1, 1)


DENOISERS = {"constant": constant, "gaussian": gaussian(), "mixture": mixture, "smooth": smooth}
NULL = torch.full((1, 1, 4), 0.05)


def guided(denoiser, scale=10.0):
    """Towards the denoiser's answer and away from the null's, which is off by the tokens' mean, a value a channel: so
    tokens of 0 undo the guidance."""

    def eps(x, t, tokens=NULL):
        own = denoiser(x, t)
        away = own + tokens.mean(1)[..., None, None].to(x)
        return away + scale * (own - away)

    return eps


def source_of(name, denoiser, seed=0):
    if name == "null":
        return SourceBranch(denoiser, guided(denoiser), NULL)
    return SourceBranch(denoiser, generator=seeded(seed))


def inverted_by(name, denoiser=smooth, steps=20, x0=None):
    """The inversion, its schedule, and the denoiser that walks back to the source."""
    schedule, source = SCHEDULE.ddim(steps), source_of(name, denoiser)
    return METHODS[name](source, schedule, pictures() if x0 is None else x0), schedule, source.guided or denoiser


def error(back, x0):
    return float((back - x0).norm() / x0.norm())


# Returning to the picture


@pytest.mark.parametrize("denoiser", DENOISERS)
@pytest.mark.parametrize("name, tolerance", [*[(name, 3e-5) for name in EXACT], ("fixed-point", 1e-4)])
def test_walking_back_under_the_source_returns_the_picture(name, denoiser, tolerance):
    x0 = pictures()
    inverted, schedule, source = inverted_by(name, DENOISERS[denoiser], 50, x0)
    assert error(resample(inverted, schedule, source), x0) < tolerance


@pytest.mark.parametrize("denoiser", DENOISERS)
def test_with_its_null_tokens_guided_sampling_comes_as_near_as_plain_inversion_does_without_guidance(denoiser):
    x0, denoiser = pictures(), DENOISERS[denoiser]
    inverted, schedule, source = inverted_by("null", denoiser, 20, x0)
    without = error(resample(inverted._replace(null_tokens=None), schedule, denoiser), x0)
    assert error(resample(inverted, schedule, source), x0) < without + 0.02
    assert error(resample(inverted._replace(null_tokens=None), schedule, source), x0) > without + 0.1


@pytest.mark.parametrize("name", EXACT)
def test_an_exact_method_is_exact_with_few_steps_and_from_any_level(name):
    x0, source = pictures(), source_of(name, mixture)
    for top in (0, 200, 400, 600, 999):
        schedule = SCHEDULE.ddim(6).up_to(top)
        assert error(resample(METHODS[name](source, schedule, x0), schedule, mixture), x0) < 1e-5


def test_plain_inversion_only_comes_near_and_nearer_with_more_steps():
    def plain(steps):
        x0 = pictures()
        inverted, schedule, source = inverted_by("ddim", smooth, steps, x0)
        return error(resample(inverted, schedule, source), x0)

    assert 1e-3 < plain(50) < 0.5
    assert plain(200) < 0.5 * plain(50)


@pytest.mark.parametrize("name", [name for name in INVERSIONS if name not in ("ddpm", "null")])
def test_under_a_constant_noise_no_step_is_implicit_and_every_path_is_the_closed_form(name):
    x0, schedule = pictures(dtype=torch.float64), SCHEDULE.ddim(50)
    noise = constant(x0, None)
    clean = (x0 - (1 - A0).sqrt() * noise) / A0.sqrt()
    inverted, _, source = inverted_by(name, constant, 50, x0)
    for level, a in zip(inverted.path, inversion_paths.alpha_levels(schedule)):
        torch.testing.assert_close(level, a.sqrt() * clean + (1 - a).sqrt() * noise)
    torch.testing.assert_close(resample(inverted, schedule, source), x0)


def test_leaping_comes_nearer_to_the_true_noise_than_plain_inversion():
    """The trajectory of N(0, s^2) data is known: x scales with the standard deviation of its level."""
    x0, schedule = pictures(), SCHEDULE.ddim(100)
    spread = (inversion_paths.alpha_levels(schedule) * 0.5**2 + 1 - inversion_paths.alpha_levels(schedule)).sqrt()
    true = x0 * float(spread[-1] / spread[0])
    plain, leaping = (error(inverted_by(name, gaussian(), 100, x0)[0].path[-1], true) for name in ("ddim", "bdia"))
    assert leaping < 0.5 * plain


def test_what_guidance_does_to_the_source_is_made_up_for_where_the_method_is_told_of_it():
    x0, schedule, away = pictures(), SCHEDULE.ddim(20), guided(mixture)
    for name in ("direct", "ddpm"):
        inverted = METHODS[name](SourceBranch(mixture, away, generator=seeded()), schedule, x0)
        assert error(resample(inverted, schedule, away), x0) < 1e-5
    plain, schedule, _ = inverted_by("ddim", mixture, 20, x0)
    assert error(resample(plain, schedule, away), x0) > 0.1


# Walking to another picture


@pytest.mark.parametrize("name", [name for name in INVERSIONS if name != "null"])
def test_under_a_moved_mean_the_picture_moves_with_it_and_keeps_its_detail(name):
    """Gaussians whose means differ by d have trajectories that differ by sqrt(a) d, save for where they start."""
    x0 = pictures()
    inverted, schedule, _ = inverted_by(name, gaussian(), 50, x0)
    moved = resample(inverted, schedule, gaussian(mean=1.0))
    torch.testing.assert_close(moved, x0 + A0.sqrt().float(), rtol=0, atol=0.15)
    if name in EXACT:
        assert float((moved - x0).std()) < 1e-4


@pytest.mark.parametrize("name", EXACT)
def test_where_source_and_target_agree_the_picture_returns(name):
    x0, left = pictures(), torch.arange(8) < 4
    inverted, schedule, _ = inverted_by(name, mixture, 20, x0)
    edited = resample(inverted, schedule, lambda x, t: torch.where(left, gaussian(1.0, 0.1)(x, t), mixture(x, t)))
    assert error(edited[..., 4:], x0[..., 4:]) < 1e-5
    assert error(edited[..., :4], x0[..., :4]) > 0.5


@pytest.mark.parametrize("name", METHODS)
def test_outside_its_region_an_edit_is_the_source_to_the_last_bit(name):
    x0 = pictures()
    inverted, schedule, _ = inverted_by(name, smooth, 10, x0)
    region = torch.zeros(1, 1, 8, 8)
    region[..., 2:5, 3:7] = 1
    target = guided(gaussian(1.0))

    edited = resample(inverted, schedule, target, region)
    inside = region.bool().expand_as(x0)
    assert torch.equal(edited[~inside], x0[~inside])
    assert (edited - x0)[inside].abs().mean() > 0.1
    assert torch.equal(resample(inverted, schedule, target, 0 * region), x0)
    whole = resample(inverted, schedule, target)
    assert torch.equal(resample(inverted, schedule, target, torch.ones_like(region)), whole)
    own = torch.cat([torch.ones_like(region), region])
    torch.testing.assert_close(resample(inverted, schedule, target, own), torch.cat([whole[:1], edited[1:]]))


def test_in_a_soft_region_each_level_is_a_mixture():
    x0 = pictures()
    inverted, schedule, _ = inverted_by("ddim", smooth, 10, x0)
    seen = []

    def target(x, t):
        seen.append(x)
        return gaussian(1.0)(x, t)

    edited = resample(inverted, schedule, target, torch.full((1, 1, 8, 8), 0.25))
    for i, x in zip(reversed(range(10)), seen):
        own = sample_one(gaussian(1.0), schedule, i, x)
        expected = 0.25 * own + 0.75 * inverted.path[i]
        torch.testing.assert_close(edited if i == 0 else seen[10 - i], expected)


def sample_one(denoiser, schedule, i, x):
    """The i-th of DDIM's steps, written out."""
    a, b = schedule.alphas[i], schedule.alphas_prev[i]
    eps = denoiser(x, torch.full((len(x),), int(schedule.timesteps[i])))
    return (b / a).sqrt() * x + ((1 - b).sqrt() - (b * (1 - a) / a).sqrt()) * eps


@pytest.mark.parametrize("name", METHODS)
def test_each_image_of_a_batch_is_edited_as_if_it_were_alone(name):
    x0, schedule, target = pictures(), SCHEDULE.ddim(10), guided(gaussian(1.0))

    def edited(x0, seeds):
        source = source_of(name, smooth)._replace(generator=[seeded(seed) for seed in seeds])
        return resample(METHODS[name](source, schedule, x0), schedule, target)

    torch.testing.assert_close(edited(x0, [1, 2]), torch.cat([edited(x0[:1], [1]), edited(x0[1:], [2])]), rtol=0, atol=1e-3)


@pytest.mark.parametrize("name", METHODS)
def test_a_path_starts_at_the_picture_and_has_a_latent_for_every_noise_level(name):
    inverted, _, _ = inverted_by(name, smooth, 7)
    assert inverted.path.shape == (8, 2, 4, 8, 8)
    assert torch.equal(inverted.path[0], pictures())


@pytest.mark.parametrize("name, up", [("ddim", 7), ("bdia", 8), ("direct", 7), ("ddpm", 0), ("noise", 0)])
def test_a_method_calls_the_denoiser_as_often_as_it_says(name, up):
    calls = []

    def counted(x, t):
        calls.append(int(t[0]))
        return smooth(x, t)

    inverted, schedule, _ = inverted_by(name, counted, 7)
    assert len(calls) == up
    down, times = schedule.timesteps.flip(0), 1 if inverted.source_denoiser is None else 2
    for paired in (False, True):
        calls.clear()
        resample(inverted, schedule, counted, paired=paired)
        assert calls == down.repeat_interleave(1 if paired else times).tolist()


@pytest.mark.parametrize("second_order", [False, True])
@pytest.mark.parametrize("name", METHODS)
def test_source_and_target_in_one_batch_give_what_they_give_apart(name, second_order):
    if second_order and name not in SECOND_ORDER:
        return
    x0, schedule, rows = pictures(), SCHEDULE.ddim(7), []
    source = source_of(name, smooth)
    inverted = get_method(name, "dpm++" if second_order else "ddim")(source, schedule, x0)
    apart = resample(inverted, schedule, guided(mixture))

    def both(x, t, *null):
        rows.append(x)
        theirs = (source.guided or smooth)(x[:2], t[:2], *(tokens[:2] for tokens in null))
        return torch.cat([theirs, guided(mixture)(x[2:], t[2:], *(tokens[2:] for tokens in null))])

    torch.testing.assert_close(resample(inverted, schedule, both, paired=True), apart)
    assert torch.equal(torch.stack([x[:2] for x in rows]), inverted.path[1:].flip(0))


# By DPM-Solver++


def test_without_an_edit_second_order_corrections_return_the_picture_and_its_inversion_comes_near():
    x0 = pictures()
    for steps in (1, 2, 5, 20):
        schedule = make_schedule(SCHEDULE, "dpm++", steps)
        for denoiser in DENOISERS.values():
            away = guided(denoiser)
            inverted = get_method("direct", "dpm++")(SourceBranch(denoiser, away), schedule, x0)
            assert torch.equal(resample(inverted, schedule, away), x0)
            assert torch.equal(inverted.path, dpm_solver.invert(denoiser, schedule, x0))
    schedule = make_schedule(SCHEDULE, "dpm++", 20)
    inverted = get_method("ddim", "dpm++")(SourceBranch(mixture), schedule, x0)
    assert error(resample(inverted, schedule, mixture), x0) < 0.01


@pytest.mark.parametrize("steps", [1, 2, 5, 20])
def test_without_a_region_walking_back_is_what_the_solver_samples(steps):
    x0, schedule = pictures(), make_schedule(SCHEDULE, "dpm++", steps)
    for name in ("ddim", "noise"):
        inverted = get_method(name, "dpm++")(source_of(name, smooth), schedule, x0)
        expected = dpm_solver.sample(mixture, schedule, inverted.path[-1])
        torch.testing.assert_close(resample(inverted, schedule, mixture), expected)


def test_going_back_by_steps_of_second_order_comes_nearer_to_the_picture_than_by_ddims():
    x0, schedule = pictures(), make_schedule(SCHEDULE, "dpm++", 8)
    inverted = get_method("direct", "dpm++")(SourceBranch(mixture), schedule, x0)
    plain = resample(inverted._replace(source_denoiser=None), schedule, mixture)
    first = resample(inverted._replace(source_denoiser=None, second_order=False), schedule, mixture)
    assert error(plain, x0) < 0.5 * error(first, x0) and error(plain, x0) > 1e-4


@pytest.mark.parametrize("name", SECOND_ORDER)
def test_outside_its_region_an_edit_of_second_order_is_the_source_to_the_last_bit(name):
    x0, schedule = pictures(), make_schedule(SCHEDULE, "dpm++", 6)
    inverted = get_method(name, "dpm++")(source_of(name, smooth), schedule, x0)
    region = torch.zeros(1, 1, 8, 8)
    region[..., 2:5, 3:7] = 1
    edited = resample(inverted, schedule, guided(gaussian(1.0)), region)
    inside = region.bool().expand_as(x0)
    assert torch.equal(edited[~inside], x0[~inside])
    assert (edited - x0)[inside].abs().mean() > 0.1


@pytest.mark.parametrize("name", [name for name in METHODS if name not in SECOND_ORDER])
def test_a_method_made_of_ddims_steps_is_refused_with_another_sampler(name):
    with pytest.raises(UserError, match=f"the method {name} .* cannot go by dpm"):
        get_method(name, "dpm++")
    assert get_method(name) is METHODS[name]


def test_an_unknown_method_or_sampler_is_named():
    with pytest.raises(UserError, match="did you mean 'direct'"):
        get_method("dirct")
    with pytest.raises(UserError, match="no sampler 'euler'"):
        get_method("ddim", "euler")


# Each method's own


def test_the_levels_of_edit_friendly_noise_are_independent_and_without_inversion_they_share_theirs():
    x0 = pictures(64)
    share = (inversion_paths.alpha_levels(SCHEDULE.ddim(5)) / A0)[1:].view(-1, 1, 1, 1, 1)
    for name, correlation in (("ddpm", 0.0), ("noise", 1.0)):
        path = inverted_by(name, smooth, 5, x0)[0].path
        noise = ((path[1:] - share.sqrt() * x0) / (1 - share).sqrt()).flatten(1)
        torch.testing.assert_close(noise.std(1), torch.ones(5, dtype=noise.dtype), rtol=0, atol=0.03)
        expected = torch.full((5, 5), correlation, dtype=noise.dtype).fill_diagonal_(1.0)
        torch.testing.assert_close(noise.corrcoef(), expected, rtol=0, atol=0.03)


def test_the_denoiser_that_knows_the_noise_takes_it_off_from_any_level():
    x0 = pictures()
    clean = x0 / A0.sqrt()

    def eps(x, t):
        a = SCHEDULE.alphas_cumprod[t].view(-1, 1, 1, 1)
        return ((x - a.sqrt() * clean) / (1 - a).sqrt()).to(x)

    # The forward process leaves x0's own share of noise at its own level, of which this denoiser knows nothing.
    for top in (200, 999):
        schedule = SCHEDULE.ddim(10).up_to(top)
        back = resample(METHODS["noise"](source_of("noise", eps), schedule, x0), schedule, eps)
        assert (back - x0).abs().max() < 5 * (1 - A0).sqrt()


def test_null_tokens_are_found_where_the_answer_is_known():
    """The picture's noise is constant, and what guidance goes away from is the tokens: the path is followed by those
    that say the same noise."""
    x0, schedule = pictures(), SCHEDULE.ddim(10)
    learned = torch.zeros(1, 2, 4)

    def eps(x, t, tokens):
        return 3 * constant(x, t) - 2 * tokens.sum(1)[..., None, None]

    source = SourceBranch(constant, eps, learned)
    with torch.no_grad():
        inverted = null(source, schedule, x0, iterations=300, tolerance=1e-9)
    assert inverted.null_tokens.shape == (10, 2, 2, 4)
    torch.testing.assert_close(inverted.null_tokens.sum(2), constant(x0, None)[:, :, 0, 0].expand(10, 2, 4), rtol=0, atol=2e-2)
    assert error(resample(inverted, schedule, eps), x0) < 1e-3
    unfitted = inverted._replace(null_tokens=learned.expand(10, 2, 2, 4))
    assert error(resample(unfitted, schedule, eps), x0) > 0.3


def test_null_tokens_are_found_through_a_unet_and_leave_it_as_it_was():
    torch.manual_seed(0)
    model = tiny_model().eval().requires_grad_(False)
    for parameter in model.unet.parameters():
        parameter += torch.randn_like(parameter) * 0.02
    for parameter in model.unet.out.parameters():
        parameter *= 0.1  # a random U-Net answers a small change of x by a large one, as no trained one does
    x0, schedule = pictures(), SCHEDULE.ddim(3)
    cond = model.unconditional(2)._replace(tokens=torch.randn(2, 1, 32))
    guided = model.denoiser(cond, 8.0, 8.0)
    source = SourceBranch(model.denoiser(cond), guided, model.null_tokens)
    with torch.no_grad():
        inverted = null(source, schedule, x0, iterations=4, rate=0.1)
    learned = inverted._replace(null_tokens=model.null_tokens.expand(3, 2, 1, 32))
    fitted, unfitted = (error(resample(i, schedule, guided), x0) for i in (inverted, learned))
    assert fitted < 0.8 * unfitted
    assert all(p.grad is None for p in model.parameters())


def test_null_inversion_without_guidance_is_refused():
    x0, schedule = pictures(), SCHEDULE.ddim(3)
    with pytest.raises(UserError, match="guided denoiser"):
        null(SourceBranch(smooth), schedule, x0)
    with pytest.raises(UserError, match="graph scale"):
        null(SourceBranch(smooth, lambda x, t, tokens: smooth(x, t), NULL), schedule, x0)


def test_steps_that_do_not_converge_are_told():
    with pytest.warns(UserWarning, match="more --steps"):
        inversion_paths.fixed_point(lambda x, t: (40 * x).sin(), SCHEDULE.ddim(3), torch.ones(1, 4, 2, 2), iterations=4)


def test_fixed_points_are_found_where_plain_iteration_runs_away():
    """x = g(x) of a linear g with eigenvalues from -3 to 0.9, of which plain iteration would blow up the first."""
    matrix = torch.diag(torch.tensor([-3.0, -2.0, 0.5, 0.9], dtype=torch.float64))
    given = torch.tensor([[1.0, 2.0, 3.0, 4.0], [4.0, 3.0, 2.0, 1.0]], dtype=torch.float64)
    x, residual = inversion_paths._solve(lambda x: x @ matrix + given, torch.zeros(2, 4, dtype=torch.float64), 50, 1e-9)
    torch.testing.assert_close(x, given @ torch.linalg.inv(torch.eye(4, dtype=torch.float64) - matrix))
    assert residual <= 1e-9
