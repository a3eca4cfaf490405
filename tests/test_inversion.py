"""Inversion on denoisers with a known answer."""

import pytest
import torch

from ldm.models.diffusion.ddim import sample
from ldm.models.diffusion.inversion import METHODS, _solve, ddim, fixed_point
from ldm.schedule import NoiseSchedule

SCHEDULE = NoiseSchedule.linear()


def smooth(x, t):
    return 0.9 * x.tanh() + 0.1 * (t.to(x.dtype) / 100).sin().view(-1, 1, 1, 1)


def round_trip_error(method, steps=50):
    x0 = torch.randn(2, 4, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    schedule = SCHEDULE.ddim(steps)
    back = sample(smooth, schedule, method(smooth, schedule, x0)[-1])
    return float((back - x0).norm() / x0.norm())


@pytest.mark.parametrize("name", METHODS)
def test_sampling_an_image_inverted_under_a_constant_noise_returns_it(name):
    """Where eps does not depend on x, no step is implicit and every method is exact."""
    noise = torch.randn(1, 4, 8, 8, dtype=torch.float64)
    x0, schedule = torch.randn_like(noise), SCHEDULE.ddim(50)
    path = METHODS[name](lambda x, t: noise, schedule, x0)
    for level, a in zip(path, [SCHEDULE.alphas_cumprod[0], *schedule.alphas]):
        clean = (x0 - (1 - SCHEDULE.alphas_cumprod[0]).sqrt() * noise) / SCHEDULE.alphas_cumprod[0].sqrt()
        torch.testing.assert_close(level, a.sqrt() * clean + (1 - a).sqrt() * noise)
    torch.testing.assert_close(sample(lambda x, t: noise, schedule, path[-1]), x0)


def test_fixed_point_inversion_returns_where_plain_inversion_only_comes_near():
    assert round_trip_error(fixed_point) < 1e-5
    assert 1e-3 < round_trip_error(ddim) < 0.5


def test_plain_inversion_comes_nearer_with_more_steps():
    assert round_trip_error(ddim, 200) < 0.5 * round_trip_error(ddim, 50)


def test_the_path_starts_at_the_image_and_has_a_latent_for_every_noise_level():
    x0 = torch.randn(1, 4, 8, 8)
    path = ddim(smooth, SCHEDULE.ddim(7), x0)
    assert path.shape == (8, 1, 4, 8, 8)
    assert torch.equal(path[0], x0)


def test_plain_inversion_calls_the_denoiser_once_a_step():
    calls = []
    ddim(lambda x, t: calls.append(t) or x, SCHEDULE.ddim(7), torch.ones(1, 4, 2, 2))
    assert len(calls) == 7


def test_steps_that_do_not_converge_are_told():
    with pytest.warns(UserWarning, match="more --steps"):
        fixed_point(lambda x, t: (40 * x).sin(), SCHEDULE.ddim(3), torch.ones(1, 4, 2, 2), iterations=4)


def test_fixed_points_are_found_where_plain_iteration_runs_away():
    """x = g(x) of a linear g with eigenvalues from -3 to 0.9, of which plain iteration would blow up the first."""
    matrix = torch.diag(torch.tensor([-3.0, -2.0, 0.5, 0.9], dtype=torch.float64))
    constant = torch.tensor([[1.0, 2.0, 3.0, 4.0], [4.0, 3.0, 2.0, 1.0]], dtype=torch.float64)
    x, error = _solve(lambda x: x @ matrix + constant, torch.zeros(2, 4, dtype=torch.float64), 50, 1e-9)
    torch.testing.assert_close(x, constant @ torch.linalg.inv(torch.eye(4, dtype=torch.float64) - matrix))
    assert error <= 1e-9
