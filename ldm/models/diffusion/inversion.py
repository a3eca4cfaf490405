"""Inverts latents to noise by one of several methods, and samples from there under another conditioning.

A method takes (source, schedule, x0, progress) and returns an `Inversion`. `resample` samples back along it with the
denoiser of the edit (the target). With the source's own denoiser it reconstructs x0:

    method       denoiser calls to invert, S steps    reconstruction            stored besides the path
    ddim         S                                    approximate               -
    fixed-point  2 S to 20 S                          relative error 1e-5       -
    bdia         S + 1                                to rounding               that sampling is bidirectional
    direct       S                                    to rounding               the source's denoiser
    null         S + up to 11 S, with gradients       approximate               null tokens of each step
    ddpm         0                                    to rounding               the source's denoiser
    noise        0                                    none                      -

Sampling calls the target's denoiser once per step. Methods that store the source's denoiser call it once per step as
well, or both in one batch (`paired`). Each guided call has one row per guidance branch and image.

The path is the source's trajectory: outside the region of an edit, sampling follows it exactly.

All methods use DDIM's steps. Those in ANY_SAMPLER can use the steps of any other sampler instead.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from ldm.models.diffusion import inversion_paths
from ldm.models.diffusion.ddim import Denoiser, gaussian_noise, step, timestep_batch
from ldm.models.diffusion.samplers import get_sampler
from ldm.models.diffusion.schedule import DDIMSchedule, NoiseSchedule
from ldm.util.errors import UserError, did_you_mean


class SourceBranch(NamedTuple):
    """The denoisers of the unedited image, and what the stochastic and null-token methods need besides.

    Attributes:
        unguided: the denoiser under the image's own conditioning without guidance; ODE methods invert with it.
        guided: the same with the guidance of the target. `direct`, `null` and `ddpm` then compensate for what guidance
            changes in the source; without it they compensate for `unguided` only.
        null_tokens: (1,N,D) or (B,N,D), the tokens that guidance points away from, for the method `null`. `guided` and
            the target's denoiser then take them as a third argument.
        generator: source of the noise of `ddpm` and `noise`; one for the batch or one per image.
    """

    unguided: Denoiser
    guided: Callable[..., Tensor] | None = None
    null_tokens: Tensor | None = None
    generator: torch.Generator | Sequence[torch.Generator] | None = None


class Inversion(NamedTuple):
    """The trajectory of the unedited image and what sampling back along it requires.

    Attributes:
        path: (S+1,B,C,H,W); path[0] is x0, and path[i + 1] is the latent at the schedule's i-th timestep.
        source_denoiser: Source-branch denoiser; its residual corrects the target step (Direct Inversion, Ju et al.
            2023).
        corrections: (S,B,C,H,W); corrections[i] is added to the step from path[i + 1] to path[i].
        eta: of DDIM's steps; with eta 1 the residual of the source branch is the noise of the step.
        bidirectional: whether sampling uses the steps of BDIA (`inversion_paths.bdia_step`).
        null_tokens: (S,B,N,D), the tokens that guidance points away from at each step.
        sampler: whose steps sampling uses, a name in `samplers.SAMPLERS`.
    """

    path: Tensor
    source_denoiser: Denoiser | None = None
    corrections: Tensor | None = None
    eta: float = 0.0
    bidirectional: bool = False
    null_tokens: Tensor | None = None
    sampler: str = "ddim"


# Sampling back from an inversion -------------------------------------------------------------------------------------


def resample(
    inverted: Inversion,
    schedule: DDIMSchedule,
    target: Callable[..., Tensor],
    region: Tensor | None = None,
    paired: bool = False,
    progress: Callable = reversed,
) -> Tensor:
    """Samples from the end of the inverted path with the target's denoiser.

    Args:
        inverted: result of an inversion method.
        schedule: the schedule that the path was computed with.
        target: eps(x, t), or eps(x, t, null_tokens) if `inverted` has null tokens.
        region: edited region, (1,1,H,W) or (B,1,H,W) in [0,1]. After each step the latents outside the region are
            replaced by the source's at that level (Blended Latent Diffusion, Avrahami et al. 2206.02779, Alg. 1) and
            interpolated for values between 0 and 1, so that the result outside the region is exactly x0.
        paired: whether `target` computes source and target in one batch (2B,C,H,W), with the source's rows, which are
            on the path, first. `inverted.source_denoiser` is then not called.
        progress: turns range(S) into the step indices from last to first; wrap it to show a progress bar.

    Returns:
        The edited x_0, (B,C,H,W).
    """
    path, a = inverted.path, schedule.levels()
    stepper = get_sampler(inverted.sampler).Stepper(schedule, inverted.eta)
    x, x_previous = path[-1], None
    for i in progress(range(len(schedule))):
        rows, eps = _predict_noise(inverted, i, x, timestep_batch(schedule, i, x), target, paired)
        if inverted.bidirectional and x_previous is not None:
            following = inversion_paths.bdia_step(x_previous, x, eps, a[i + 2], a[i + 1], a[i])
        else:
            following = stepper(i, rows, eps)
        if inverted.source_denoiser is not None:
            source_following, following = following.chunk(2)
            following = path[i] + (following - source_following)
        if inverted.corrections is not None:
            following = following + inverted.corrections[i]
        if region is not None:
            following = torch.lerp(path[i], following, region.to(following))
        x_previous, x = x, following
    return x


def _predict_noise(
    inverted: Inversion, i: int, x: Tensor, t: Tensor, target: Callable[..., Tensor], paired: bool
) -> tuple[Tensor, Tensor]:
    """Latents and predicted noise at step i: the target's rows, after the source's if these correct the target's."""
    rows = torch.cat([inverted.path[i + 1], x])
    null_tokens = () if inverted.null_tokens is None else (inverted.null_tokens[i],)
    if paired:
        eps = target(rows, t.repeat(2), *(tokens.repeat(2, 1, 1) for tokens in null_tokens))
        return (x, eps[-len(x) :]) if inverted.source_denoiser is None else (rows, eps)
    if inverted.source_denoiser is None:
        return x, target(x, t, *null_tokens)
    source_eps = inverted.source_denoiser(inverted.path[i + 1], t)
    return rows, torch.cat([source_eps, target(x, t, *null_tokens)])


# Methods -------------------------------------------------------------------------------------------------------------


def ddim(
    source: SourceBranch, schedule: DDIMSchedule, x0: Tensor, progress: Callable = iter, sampler: str = "ddim"
) -> Inversion:
    """Plain inversion. It reconstructs approximately, better with more steps, and not under guidance."""
    return Inversion(get_sampler(sampler).invert(source.unguided, schedule, x0, progress), sampler=sampler)


def fixed_point(source: SourceBranch, schedule: DDIMSchedule, x0: Tensor, progress: Callable = iter) -> Inversion:
    """DDIM inversion whose implicit steps are solved by fixed-point iteration (Pan et al. 2309.04907)."""
    return Inversion(inversion_paths.fixed_point(source.unguided, schedule, x0, progress))


def bdia(source: SourceBranch, schedule: DDIMSchedule, x0: Tensor, progress: Callable = iter) -> Inversion:
    """BDIA, an exactly invertible sampler (Zhang et al. 2307.10829) with one call per step and one trajectory.

    Only the first sampling step has no previous level; its residual is stored as a correction.
    """
    path = inversion_paths.bdia(source.unguided, schedule, x0, progress)
    corrections = torch.zeros_like(path[1:])
    x, a = path[-1], schedule.levels()
    eps = source.unguided(x, timestep_batch(schedule, len(schedule) - 1, x))
    corrections[-1] = path[-2] - step(x, eps, a[-1], a[-2])
    return Inversion(path, corrections=corrections, bidirectional=True)


def direct(
    source: SourceBranch, schedule: DDIMSchedule, x0: Tensor, progress: Callable = iter, sampler: str = "ddim"
) -> Inversion:
    """Direct Inversion: sampling steps along the plain path add the source branch's residual (Ju et al. 2310.01506).

    Alg. 1 of the paper corrects the source branch only. Here the target's step receives the same correction, so that
    whatever source and target agree on is reconstructed, at any guidance scale if `source.guided` is given.
    """
    plain = ddim(source, schedule, x0, progress, sampler)
    return plain._replace(source_denoiser=source.guided or source.unguided)


def ddpm(source: SourceBranch, schedule: DDIMSchedule, x0: Tensor, progress: Callable = iter) -> Inversion:
    """Edit-friendly DDPM inversion (Huberman-Spiegelglas et al. 2304.06140, Alg. 1).

    Each level has independent noise (eq. 6), and the residual of the source's step between two levels is its noise
    sigma z_i (eq. 5), which the target's step adds too. Fewer levels (`DDIMSchedule.up_to`) preserve more of the image.
    """
    independent = torch.stack([gaussian_noise(x0.shape, source.generator) for _ in range(len(schedule))])
    path = inversion_paths.noised_path(x0, schedule, independent)
    return Inversion(path, source.guided or source.unguided, eta=1.0)


def noise(
    source: SourceBranch, schedule: DDIMSchedule, x0: Tensor, progress: Callable = iter, sampler: str = "ddim"
) -> Inversion:
    """Adds noise instead of inverting.

    With a region this is inpainting (Avrahami et al. 2206.02779); with a schedule that ends below the highest noise
    level it is SDEdit (Meng et al. 2108.01073).
    """
    path = inversion_paths.noised_path(x0, schedule, gaussian_noise(x0.shape, source.generator)[None])
    return Inversion(path, sampler=sampler)


def null_text(
    source: SourceBranch,
    schedule: DDIMSchedule,
    x0: Tensor,
    progress: Callable = iter,
    iterations: int = 10,
    rate: float = 0.1,
    tolerance: float = 1e-6,
) -> Inversion:
    """Null-text inversion: fits null tokens so that guided sampling follows the plain path (Mokady et al. 2211.09794).

    Alg. 1 of the paper; each step starts from the tokens of the previous one.

    Args:
        source: its `guided` and `null_tokens` are required.
        schedule: the timesteps of the path.
        x0: the clean latents, (B,C,H,W).
        progress: wraps the iteration over steps.
        iterations: the largest number of Adam iterations per step.
        rate: learning rate, ten times the paper's because there is one null token here instead of 77.
        tolerance: mean squared distance from the path, of every image, at which the fit of a step ends.

    Raises:
        UserError: there is no guided denoiser, or it does not depend on null tokens at any step.
    """
    if source.guided is None or source.null_tokens is None:
        raise UserError("null inversion needs a guided denoiser and its null tokens: give both, or use another method")
    path = get_sampler("ddim").invert(source.unguided, schedule, x0, progress)
    x, tokens, fitted, is_guided = path[-1], source.null_tokens.detach().expand(len(x0), -1, -1), [], False
    for i in progress(range(len(schedule))[::-1]):
        sampling_step = partial(_guided_step, source.guided, schedule, i, x)
        tokens, x, depends = _fit_null_tokens(sampling_step, path[i], tokens, iterations, rate, tolerance)
        fitted.append(tokens)
        is_guided = is_guided or depends
    if not is_guided:
        raise UserError("null inversion fits the null tokens of guidance: set a graph scale other than 1")
    return Inversion(path, null_tokens=torch.stack(fitted[::-1]))


METHODS = {
    "ddim": ddim,
    "fixed-point": fixed_point,
    "bdia": bdia,
    "direct": direct,
    "null": null_text,
    "ddpm": ddpm,
    "noise": noise,
}
ANY_SAMPLER = ("ddim", "direct", "noise")  # methods that are not made of DDIM's own steps


def get_method(method: str, sampler: str = "ddim") -> Callable[..., Inversion]:
    """Returns an inversion method by its name in METHODS, for the steps of a sampler.

    Raises:
        UserError: there is no such method or sampler, or the method requires DDIM's steps.
    """
    if method not in METHODS:
        raise UserError(f"there is no method {method!r}, only {', '.join(METHODS)}{did_you_mean(method, METHODS)}")
    get_sampler(sampler)
    if method in ANY_SAMPLER:
        return partial(METHODS[method], sampler=sampler)
    if sampler != "ddim":
        raise UserError(
            f"the method {method} requires DDIM's steps and does not support {sampler}: use the sampler ddim, or one of "
            f"the methods {', '.join(ANY_SAMPLER)}"
        )
    return METHODS[method]


def make_schedule(schedule: NoiseSchedule, sampler: str, steps: int) -> DDIMSchedule:
    """Returns timesteps that suit the sampler. Raises UserError if the number of steps is out of range."""
    return get_sampler(sampler).make_schedule(schedule, steps)


# Fitting null tokens -------------------------------------------------------------------------------------------------


def _guided_step(
    guided: Callable[..., Tensor], schedule: DDIMSchedule, i: int, x: Tensor, null_tokens: Tensor
) -> Tensor:
    """Step i of guided DDIM sampling from x, as a function of the null tokens."""
    eps = guided(x, timestep_batch(schedule, i, x), null_tokens)
    return step(x, eps, schedule.alphas[i], schedule.alphas_prev[i])


def _fit_null_tokens(
    sampling_step: Callable[[Tensor], Tensor],
    goal: Tensor,
    tokens: Tensor,
    iterations: int,
    rate: float,
    tolerance: float,
) -> tuple[Tensor, Tensor, bool]:
    """Fits each image's null tokens with Adam so that the sampling step ends near the goal.

    Returns the best tokens visited, the end of the step with them, and whether it depends on the tokens at all.
    """
    tokens = tokens.clone().requires_grad_()
    optimizer = torch.optim.Adam([tokens], rate)
    best_tokens, best_reached, smallest, depends = tokens.detach(), goal, None, False
    for iteration in range(iterations + 1):
        with torch.set_grad_enabled(iteration < iterations):
            reached = sampling_step(tokens)
            errors = (reached - goal).square().mean((1, 2, 3))
        if smallest is None:
            depends, nearer, smallest = errors.requires_grad, torch.ones_like(errors, dtype=torch.bool), errors.detach()
        else:
            nearer = errors.detach() < smallest
            smallest = torch.where(nearer, errors.detach(), smallest)
        best_tokens = torch.where(nearer[:, None, None], tokens.detach(), best_tokens)
        best_reached = torch.where(nearer[:, None, None, None], reached.detach(), best_reached)
        if iteration == iterations or not depends or smallest.max() <= tolerance:
            break
        (tokens.grad,) = torch.autograd.grad(errors, tokens, torch.ones_like(errors))
        optimizer.step()
    return best_tokens, best_reached, depends
