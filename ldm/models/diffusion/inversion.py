"""Invert a picture, and walk back from it under another condition: each method is what it remembers on the way up.

A method takes (source, schedule, x0, progress) and returns an `Inversion`; `resample` walks back along it under the
target's denoiser. Under the source's own it returns x0, as exactly as the method's line says:

    method       U-Net calls up, of S steps     returns x0          remembers besides the path
    ddim         S                              nearly              -
    fixed-point  2 S to 20 S                    to 1e-5             -
    bdia         S + 1                          to rounding         that steps leap
    direct       S                              to rounding         the source's denoiser
    null         S + up to 11 S, with gradient  nearly              null tokens of each step
    ddpm         0                              to rounding         the source's denoiser, for the noise of each step
    noise        0                              no                  -

Down, every method calls the target once a step, and what remembers the source's denoiser calls that too, or both in one
batch; a guided denoiser's call has a row for each of its branches. A picture inverted by any method has a source
trajectory, its path, and that is what stays outside the region of an edit.

The steps are DDIM's, or for the methods in SECOND_ORDER those of DPM-Solver++ (2M), which needs fewer of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from ldm.models.diffusion import dpm_solver, inversion_paths
from ldm.models.diffusion.ddim import Denoiser, gaussian_noise, step, timestep_batch
from ldm.models.diffusion.schedule import DDIMSchedule, NoiseSchedule
from ldm.util.errors import UserError, did_you_mean


class SourceBranch(NamedTuple):
    """The denoisers of the picture as it is.

    eps        under the picture's own condition, without guidance: what makes the path of an ODE
    guided     the same with the guidance that the target will have: what it does to the picture is what `direct`, `null`
               and `ddpm` make up for; without it they make up for `eps`
    null       (1,N,D) or (B,N,D), for the method of that name: the tokens that guidance goes away from, which `guided`
               and the target then take as a third argument
    generator  of the noise that `ddpm` and `noise` draw; or one for each image
    """

    unguided: Denoiser
    guided: Callable[..., Tensor] | None = None
    null_tokens: Tensor | None = None
    generator: torch.Generator | Sequence[torch.Generator] | None = None


class Inversion(NamedTuple):
    """A picture's trajectory, and what walking back along it needs.

    path          (S+1,B,C,H,W): path[0] is x0, and path[i + 1] lies where the schedule's i-th timestep is
    source        the denoiser whose own step from path[i + 1] tells, by what it misses path[i] by, how to correct the
                  target's; or None, and nothing is corrected so
    corrections   (S,B,C,H,W): corrections[i] is added to the step from path[i + 1] to path[i]; or None
    eta           of the steps: at 1 what the source's steps miss is their noise
    leaps         whether a step goes on from the level before as well (`inversion_paths.bdia_step`)
    null          (S,B,N,D): the tokens that guidance goes away from at each step; or None
    second_order  whether the steps are DPM-Solver++'s (`dpm_solver.step`)
    """

    path: Tensor
    source_denoiser: Denoiser | None = None
    corrections: Tensor | None = None
    eta: float = 0.0
    bidirectional: bool = False
    null_tokens: Tensor | None = None
    second_order: bool = False


def resample(
    inverted: Inversion,
    schedule: DDIMSchedule,
    target: Callable[..., Tensor],
    region: Tensor | None = None,
    paired: bool = False,
    progress: Callable = reversed,
) -> Tensor:  # -> (B,C,H,W)
    """x_0 of the target, from the path's end. The schedule is the one that the path was made with.

    region: (1,1,H,W) or (B,1,H,W) from 0 to 1. After each step the latents outside it are the source's of that level
    (Avrahami et al. 2206.02779, Alg. 1), and in between a mixture; so outside they end as exactly x0.
    target: eps(x, t); eps(x, t, null tokens) for an `inverted` that has some.
    paired: it is called for rows of the source, at its path, and as many of the target, (2B,C,H,W), and answers for
    both; `inverted.source_denoiser` is then not called.
    """
    path, a, sigmas = inverted.path, inversion_paths.alpha_levels(schedule), schedule.sigmas(inverted.eta)
    x, last, before = path[-1], None, None
    for i in progress(range(len(schedule))):
        rows, t = torch.cat([path[i + 1], x]), timestep_batch(schedule, i, x)
        null = () if inverted.null_tokens is None else (inverted.null_tokens[i],)
        if paired:
            eps = target(rows, t.repeat(2), *(tokens.repeat(2, 1, 1) for tokens in null))
        else:
            theirs = () if inverted.source_denoiser is None else (inverted.source_denoiser(path[i + 1], t),)
            eps = torch.cat([*theirs, target(x, t, *null)])
        if inverted.source_denoiser is None:  # what the source does is nobody's concern
            rows, eps = x, eps[-len(x) :]
        if inverted.second_order:
            clean = dpm_solver.predict_x0(rows, eps, a[i + 1])
            below = dpm_solver.step(rows, clean, a[i + 1], a[i], before if i > 0 else None)
            before = clean, a[i + 1]
        elif inverted.bidirectional and last is not None:
            below = inversion_paths.bdia_step(last, x, eps, a[i + 2], a[i + 1], a[i])
        else:
            below = step(rows, eps, a[i + 1], a[i], sigmas[i])
        if inverted.source_denoiser is not None:
            theirs, below = below.chunk(2)
            below = path[i] + (below - theirs)
        if inverted.corrections is not None:
            below = below + inverted.corrections[i]
        if region is not None:
            below = torch.lerp(path[i], below, region.to(below))
        last, x = x, below
    return x


def ddim(
    source: SourceBranch, schedule: DDIMSchedule, x0: Tensor, progress: Callable = iter, second_order: bool = False
) -> Inversion:
    """Plain inversion (`inversion_paths.ddim`): returns nearly to x0, the nearer the more steps, and under guidance not at all."""
    if second_order:
        return Inversion(dpm_solver.invert(source.unguided, schedule, x0, progress=progress), second_order=True)
    return Inversion(inversion_paths.ddim(source.unguided, schedule, x0, progress))


def fixed_point(source: SourceBranch, schedule: DDIMSchedule, x0: Tensor, progress: Callable = iter) -> Inversion:
    """Inversion with each step solved (`inversion_paths.fixed_point`)."""
    return Inversion(inversion_paths.fixed_point(source.unguided, schedule, x0, progress))


def bdia(source: SourceBranch, schedule: DDIMSchedule, x0: Tensor, progress: Callable = iter) -> Inversion:
    """An exactly invertible sampler (Zhang et al. 2307.10829): like EDICT, but with one call a step and one trajectory.

    Only the first step down has no level before it to go on from, so what that misses is remembered.
    """
    path = inversion_paths.bdia(source.unguided, schedule, x0, progress)
    corrections = torch.zeros_like(path[1:])
    x, a = path[-1], inversion_paths.alpha_levels(schedule)
    corrections[-1] = path[-2] - step(x, source.unguided(x, timestep_batch(schedule, len(schedule) - 1, x)), a[-1], a[-2])
    return Inversion(path, corrections=corrections, bidirectional=True)


def direct(
    source: SourceBranch, schedule: DDIMSchedule, x0: Tensor, progress: Callable = iter, second_order: bool = False
) -> Inversion:
    """Keep the trajectory of plain inversion, and make up for what each step down misses it by (Ju et al. 2310.01506, Alg. 1).

    There only the source's branch is corrected, which here is the path. The target has its own eps, and is corrected by
    the same besides: so what the two conditions agree on returns as it was, at any guidance if `source.guided` has it.
    """
    return ddim(source, schedule, x0, progress, second_order)._replace(source_denoiser=source.guided or source.unguided)


def ddpm(source: SourceBranch, schedule: DDIMSchedule, x0: Tensor, progress: Callable = iter) -> Inversion:
    """The edit-friendly noise of DDPM's own steps (Huberman-Spiegelglas et al. 2304.06140, Alg. 1).

    Each level has independent noise (eq. 6), and sigma z_i is what a step between them lacks (eq. 5). The target's steps
    add the same. The more of the last levels are left out (`DDIMSchedule.below`), the more of the picture stays.
    """
    independent = torch.stack([gaussian_noise(x0.shape, source.generator) for _ in range(len(schedule))])
    return Inversion(inversion_paths.noised_path(x0, schedule, independent), source.guided or source.unguided, eta=1.0)


def noise(
    source: SourceBranch, schedule: DDIMSchedule, x0: Tensor, progress: Callable = iter, second_order: bool = False
) -> Inversion:
    """No inversion, but noise on the picture: inpainting with a region (Avrahami et al. 2206.02779), SDEdit with a
    schedule that ends `below` the most noise (Meng et al. 2108.01073)."""
    path = inversion_paths.noised_path(x0, schedule, gaussian_noise(x0.shape, source.generator)[None])
    return Inversion(path, second_order=second_order)


def null(
    source: SourceBranch,
    schedule: DDIMSchedule,
    x0: Tensor,
    progress: Callable = iter,
    iterations: int = 10,
    rate: float = 0.1,
    tolerance: float = 1e-6,
) -> Inversion:
    """The path of plain inversion, and null tokens for each step with which guided sampling follows it (Mokady et al.
    2211.09794, Alg. 1): each step's are found from the step's before, by up to `iterations` of Adam, until every
    image's mean squared distance from its path is within `tolerance`. `rate` is ten times the paper's, as there is one
    null token here and there are 77 there.

    Raises UserError where the guided denoiser does not depend on null tokens at any step.
    """
    if source.guided is None or source.null_tokens is None:
        raise UserError("null inversion needs a guided denoiser, and the null tokens that it goes away from")
    path = inversion_paths.ddim(source.unguided, schedule, x0, progress)
    x, tokens, found, guides = path[-1], source.null_tokens.detach().expand(len(x0), -1, -1), [], False
    for i in progress(range(len(schedule))[::-1]):
        tokens, x, depends = _nearest(source.guided, schedule, i, x, path[i], tokens, iterations, rate, tolerance)
        found.append(tokens)
        guides = guides or depends
    if not guides:
        raise UserError("null inversion fits the null graph that guidance goes away from: it needs a graph scale other than 1")
    return Inversion(path, null_tokens=torch.stack(found[::-1]))


METHODS = {
    "ddim": ddim,
    "fixed-point": fixed_point,
    "bdia": bdia,
    "direct": direct,
    "null": null,
    "ddpm": ddpm,
    "noise": noise,
}
SECOND_ORDER = ("ddim", "direct", "noise")
SAMPLERS = ("ddim", "dpm++")


def get_method(method: str, sampler: str = "ddim") -> Callable[..., Inversion]:
    """The method of that name, with the steps of that sampler. Raises UserError for what does not exist, and for a method
    that is made of DDIM's own steps with any others."""
    if method not in METHODS:
        raise UserError(f"there is no method {method!r}, only {', '.join(METHODS)}{did_you_mean(method, METHODS)}")
    if sampler not in SAMPLERS:
        raise UserError(f"there is no sampler {sampler!r}, only {' and '.join(SAMPLERS)}{did_you_mean(sampler, SAMPLERS)}")
    if sampler == "ddim":
        return METHODS[method]
    if method not in SECOND_ORDER:
        raise UserError(
            f"the method {method} is made of ddim's own steps and cannot go by {sampler}: leave the sampler at ddim, or take "
            f"one of the methods {', '.join(SECOND_ORDER)}"
        )
    return partial(METHODS[method], second_order=True)


def make_schedule(schedule: NoiseSchedule, sampler: str, steps: int) -> DDIMSchedule:
    """The timesteps that suit the sampler. Raises UserError for a number of steps that there is no room for."""
    return schedule.ddim(steps) if sampler == "ddim" else dpm_solver.uniform_log_snr_schedule(schedule, steps)


def _nearest(
    guided: Callable[..., Tensor],
    schedule: DDIMSchedule,
    i: int,
    x: Tensor,
    goal: Tensor,
    tokens: Tensor,
    iterations: int,
    rate: float,
    tolerance: float,
) -> tuple[Tensor, Tensor, bool]:
    """Of the null tokens that Adam passes through, each image's with which step i from x lands nearest to its goal; where
    it lands; and whether that depends on the tokens at all."""
    t = timestep_batch(schedule, i, x)
    tokens = tokens.clone().requires_grad_()
    optimizer = torch.optim.Adam([tokens], rate)
    for iteration in range(iterations + 1):
        with torch.set_grad_enabled(iteration < iterations):
            below = step(x, guided(x, t, tokens), schedule.alphas[i], schedule.alphas_prev[i])
            errors = (below - goal).square().mean((1, 2, 3))
        if iteration == 0:
            depends = errors.requires_grad
            best, landed, least = tokens.detach().clone(), below.detach(), errors.detach()
        else:
            nearer = errors.detach() < least
            best = torch.where(nearer[:, None, None], tokens.detach(), best)
            landed = torch.where(nearer[:, None, None, None], below.detach(), landed)
            least = torch.where(nearer, errors.detach(), least)
        if iteration == iterations or not depends or least.max() <= tolerance:
            break
        (tokens.grad,) = torch.autograd.grad(errors, tokens, torch.ones_like(errors))
        optimizer.step()
    return best, landed, depends
