"""Invert a picture, and walk back from it under another condition: each method is what it remembers on the way up.

A method takes (source, schedule, x0, progress) and returns an `Inverted`; `resample` walks back along it under the
target's denoiser. Under the source's own it returns x0, as exactly as the method's line says:

    method       U-Net calls up, of S steps     returns x0          remembers besides the path
    ddim         S                              nearly              -
    fixed-point  2 S to 20 S                    to 1e-5             -
    bdia         S + 1                          to rounding         that steps leap
    direct       2 S                            to rounding         what each step misses
    null         S + up to 11 S, with gradient  nearly              null tokens of each step
    ddpm         S                              to rounding         the noise of each step
    noise        0                              no                  -

Down, every method calls the target once a step; a guided denoiser's call has a row for each of its branches. A picture
inverted by any method has a source trajectory, its path, and that is what stays outside the region of an edit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ldm.models.diffusion import paths
from ldm.models.diffusion.ddim import Denoiser, normal, step, timestep
from ldm.schedule import DDIMSchedule
from ldm.util import UserError


class Source(NamedTuple):
    """The denoisers of the picture as it is.

    eps        under the picture's own condition, without guidance: what makes the path of an ODE
    guided     the same with the guidance that the target will have: what it does to the picture is what `direct`, `null`
               and `ddpm` make up for; without it they make up for `eps`
    null       (1,N,D) or (B,N,D), for the method of that name: the tokens that guidance goes away from, which `guided`
               and the target then take as a third argument
    generator  of the noise that `ddpm` and `noise` draw; or one for each image
    """

    eps: Denoiser
    guided: Callable[..., Tensor] | None = None
    null: Tensor | None = None
    generator: torch.Generator | Sequence[torch.Generator] | None = None


class Inverted(NamedTuple):
    """A picture's trajectory, and what walking back along it needs.

    path         (S+1,B,C,H,W): path[0] is x0, and path[i + 1] lies where the schedule's i-th timestep is
    corrections  (S,B,C,H,W): corrections[i] is added to the step from path[i + 1] to path[i]; or None
    eta          of the steps: at 1 the corrections are their noise
    leaps        whether a step goes on from the level before as well (`paths.leap`)
    null         (S,B,N,D): the tokens that guidance goes away from at each step; or None
    """

    path: Tensor
    corrections: Tensor | None = None
    eta: float = 0.0
    leaps: bool = False
    null: Tensor | None = None


def resample(
    inverted: Inverted,
    schedule: DDIMSchedule,
    target: Callable[..., Tensor],
    region: Tensor | None = None,
    start: int | None = None,
    progress: Callable = reversed,
) -> Tensor:  # -> (B,C,H,W)
    """x_0 of the target, from the path's level `start`: all of S, or fewer for what stays nearer to the picture.

    region: (1,1,H,W) or (B,1,H,W) from 0 to 1. After each step the latents outside it are the source's of that level
    (Avrahami et al. 2206.02779, Alg. 1), and in between a mixture; so outside they end as exactly x0.
    target: eps(x, t); eps(x, t, null tokens) for an `inverted` that has some. When it is called with the i-th timestep,
    the source is at path[i + 1].
    """
    path, a, sigmas = inverted.path, paths.levels(schedule), schedule.sigmas(inverted.eta)
    start = len(schedule) if start is None else start
    x = path[start]
    last = path[start + 1] if start < len(schedule) else None  # the level that x was reached from
    for i in progress(range(start)):
        null = () if inverted.null is None else (inverted.null[i],)
        eps = target(x, timestep(schedule, i, x), *null)
        if inverted.leaps and last is not None:
            below = paths.leap(last, x, eps, a[i + 2], a[i + 1], a[i])
        else:
            below = step(x, eps, a[i + 1], a[i], sigmas[i])
        if inverted.corrections is not None:
            below = below + inverted.corrections[i]
        if region is not None:
            below = torch.lerp(path[i], below, region.to(below))
        last, x = x, below
    return x


def ddim(source: Source, schedule: DDIMSchedule, x0: Tensor, progress: Callable = iter) -> Inverted:
    """Plain inversion (`paths.ddim`): returns nearly to x0, the nearer the more steps, and under guidance not at all."""
    return Inverted(paths.ddim(source.eps, schedule, x0, progress))


def fixed_point(source: Source, schedule: DDIMSchedule, x0: Tensor, progress: Callable = iter) -> Inverted:
    """Inversion with each step solved (`paths.fixed_point`)."""
    return Inverted(paths.fixed_point(source.eps, schedule, x0, progress))


def bdia(source: Source, schedule: DDIMSchedule, x0: Tensor, progress: Callable = iter) -> Inverted:
    """An exactly invertible sampler (Zhang et al. 2307.10829): like EDICT, but with one call a step and one trajectory.

    Only the first step down has no level before it to go on from, so what that misses is remembered.
    """
    path = paths.bdia(source.eps, schedule, x0, progress)
    corrections = torch.zeros_like(path[1:])
    corrections[-1] = _missed(source.eps, schedule, path, len(schedule) - 1)
    return Inverted(path, corrections, leaps=True)


def direct(source: Source, schedule: DDIMSchedule, x0: Tensor, progress: Callable = iter) -> Inverted:
    """Keep the trajectory of plain inversion, and remember what each step down misses it by (Ju et al. 2310.01506, Alg. 1).

    There only the source's branch is corrected, which here is the path. The target has its own eps, and is corrected by
    the same besides: so what the two conditions agree on returns as it was, at any guidance if `source.guided` has it.
    """
    path = paths.ddim(source.eps, schedule, x0, progress)
    eps = source.guided or source.eps
    return Inverted(path, torch.stack([_missed(eps, schedule, path, i) for i in progress(range(len(schedule)))]))


def ddpm(source: Source, schedule: DDIMSchedule, x0: Tensor, progress: Callable = iter) -> Inverted:
    """The edit-friendly noise of DDPM's own steps (Huberman-Spiegelglas et al. 2304.06140, Alg. 1).

    Each level has independent noise (eq. 6), and sigma z_i is what a step between them lacks (eq. 5). The target's steps
    add the same. The more of the last levels are left out (`start`), the more of the picture stays.
    """
    independent = torch.stack([normal(x0.shape, source.generator) for _ in range(len(schedule))])
    path = paths.noised(x0, schedule, independent)
    eps = source.guided or source.eps
    between = torch.stack([_missed(eps, schedule, path, i, eta=1.0) for i in progress(range(len(schedule)))])
    return Inverted(path, between, eta=1.0)


def noise(source: Source, schedule: DDIMSchedule, x0: Tensor, progress: Callable = iter) -> Inverted:
    """No inversion, but noise on the picture: inpainting with a region (Avrahami et al. 2206.02779), SDEdit with a
    `start` (Meng et al. 2108.01073)."""
    return Inverted(paths.noised(x0, schedule, normal(x0.shape, source.generator)[None]))


def null(
    source: Source,
    schedule: DDIMSchedule,
    x0: Tensor,
    progress: Callable = iter,
    iterations: int = 10,
    rate: float = 0.1,
    tolerance: float = 1e-6,
) -> Inverted:
    """The path of plain inversion, and null tokens for each step with which guided sampling follows it (Mokady et al.
    2211.09794, Alg. 1): each step's are found from the step's before, by up to `iterations` of Adam, until every
    image's mean squared distance from its path is within `tolerance`. `rate` is ten times the paper's, as there is one
    null token here and there are 77 there.

    Raises UserError where the guided denoiser does not depend on null tokens at any step.
    """
    if source.guided is None or source.null is None:
        raise UserError("null inversion needs a guided denoiser, and the null tokens that it goes away from")
    path = paths.ddim(source.eps, schedule, x0, progress)
    x, tokens, found, guides = path[-1], source.null.detach().expand(len(x0), -1, -1), [], False
    for i in progress(range(len(schedule))[::-1]):
        tokens, x, depends = _nearest(source.guided, schedule, i, x, path[i], tokens, iterations, rate, tolerance)
        found.append(tokens)
        guides = guides or depends
    if not guides:
        raise UserError("null inversion fits the null graph that guidance goes away from: it needs a graph scale other than 1")
    return Inverted(path, null=torch.stack(found[::-1]))


METHODS = {
    "ddim": ddim,
    "fixed-point": fixed_point,
    "bdia": bdia,
    "direct": direct,
    "null": null,
    "ddpm": ddpm,
    "noise": noise,
}


def _missed(eps: Denoiser, schedule: DDIMSchedule, path: Tensor, i: int, eta: float = 0.0) -> Tensor:
    """What a step from path[i + 1] lacks to land on path[i]."""
    x, a = path[i + 1], paths.levels(schedule)
    return path[i] - step(x, eps(x, timestep(schedule, i, x)), a[i + 1], a[i], schedule.sigmas(eta)[i])


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
    t = timestep(schedule, i, x)
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
