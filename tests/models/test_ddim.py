"""DDIM steps and sampling against closed forms and the published trajectory."""

import torch
from safetensors.torch import load_file

from ldm.models.diffusion.ddim import sample, step
from ldm.models.diffusion.schedule import NoiseSchedule

SCHEDULE = NoiseSchedule.linear()


def test_a_step_with_the_true_noise_moves_between_any_two_noise_levels():
    x0, noise = torch.randn(2, 2, 4, 8, 8, dtype=torch.float64)
    for a, b in ((0.9, 0.2), (0.2, 0.9), (0.5, 0.5)):
        a, b = torch.tensor(a), torch.tensor(b)
        result = step(a.sqrt() * x0 + (1 - a).sqrt() * noise, noise, a, b)
        torch.testing.assert_close(result, b.sqrt() * x0 + (1 - b).sqrt() * noise)


def test_sampling_follows_the_published_trajectory(parity_dir):
    published = load_file(parity_dir / "ddim_schedule.safetensors")

    def eps(x, t):
        return 0.9 * x.tanh() + 0.1 * (t.double() / 100).sin().view(-1, 1, 1, 1)

    x0 = sample(eps, SCHEDULE.ddim(50), published["traj.x_T"])
    torch.testing.assert_close(x0, published["traj.x_0"], rtol=0, atol=1e-10)


def test_sampling_with_the_exact_denoiser_of_a_single_point_returns_the_point():
    point = torch.randn(1, 4, 8, 8)

    def eps(x, t):
        a = SCHEDULE.alphas_cumprod[t].float().view(-1, 1, 1, 1)
        return (x - a.sqrt() * point) / (1 - a).sqrt()

    for eta in (0.0, 1.0):
        x0 = sample(eps, SCHEDULE.ddim(20), torch.randn(3, 4, 8, 8), eta, torch.Generator().manual_seed(0))
        # The last step ends at timestep 0, whose noise remains.
        a = SCHEDULE.alphas_cumprod[0]
        assert (x0 - point).abs().max() < 5 * (1 - a).sqrt()


def test_ddim_and_ddpm_samples_have_the_variance_of_gaussian_data():
    """For N(0, s^2) data the exact denoiser is eps(x) = sqrt(1-a) x / (a s^2 + 1 - a)."""
    s = 0.5

    def eps(x, t):
        a = SCHEDULE.alphas_cumprod[t].float().view(-1, 1, 1, 1)
        return (1 - a).sqrt() * x / (a * s**2 + 1 - a)

    x_T = torch.randn(64, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    for eta in (0.0, 1.0):
        x0 = sample(eps, SCHEDULE.ddim(250), x_T, eta, torch.Generator().manual_seed(2))
        assert abs(x0.std().item() - s) < 0.02


def test_equal_seeds_give_equal_samples():
    def run(seed):
        return sample(
            lambda x, t: x.tanh(), SCHEDULE.ddim(5), torch.ones(1, 4, 2, 2), 1.0, torch.Generator().manual_seed(seed)
        )

    assert torch.equal(run(3), run(3))
    assert not torch.equal(run(3), run(4))
