"""Classifier-free guidance towards a graph and, apart from that, a style: one function of x and t out of a U-Net's branches.

A branch is the U-Net under one conditioning. All that count are computed in one batch, and what the U-Net makes of their
conditionings is computed at the first call and kept for the others, as it is the same at every step.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ldm.models.diffusion.ddim import Denoiser
from ldm.modules import conditioning
from ldm.modules.attention_control import Control
from ldm.modules.conditioning import Conditioning
from ldm.modules.diffusionmodules.openaimodel import Prepared
from ldm.util.errors import UserError


def guided_denoiser(
    unet: nn.Module,
    timesteps: int,
    cond: Conditioning,
    null: Conditioning,
    graph_scale: float = 1.0,
    style_scale: float = 1.0,
    interval: tuple[float, float] = (0.0, 1.0),
    rescale: float = 0.0,
) -> Denoiser:
    """eps(x, t) under `cond` (B rows), guided away from `null` (one row).

    With the null for what is absent, e(,) + graph_scale (e(graph,) - e(,)) + style_scale (e(graph, style) - e(graph,)),
    as InstructPix2Pix composes two conditions (2211.09800 eq. 3). Only branches that count are computed: one at scales
    of 1, two where the scales are equal.

    interval: the shares of all `timesteps`, first and last, at which to guide (Kynkäänniemi et al. 2404.07724); elsewhere
    cond alone is computed. rescale: how much of the spread that guidance adds is taken back, 0 to 1 (see `rescale_guidance`).
    eps(x, t, null_tokens (B,N,D)) guides away from other tokens than the null's, and is differentiable with respect to
    those. eps(x, t, control=Control) lets rows of the batch see one another.

    It is of the weights that the U-Net has when it is first called. Raises UserError for shares outside 0 .. 1.
    """
    low, high = interval
    if not (0 <= low <= high <= 1 and 0 <= rescale <= 1):
        raise UserError(
            f"guidance from {low} to {high}, rescaled by {rescale}: each is a share between 0 and 1, in order"
        )
    everyone = torch.ones(len(cond.tokens), dtype=torch.bool, device=cond.tokens.device)
    weighted = [
        (1 - graph_scale, False, lambda: cond.drop(everyone, everyone, null)),
        (graph_scale - style_scale, True, lambda: cond.drop(~everyone, everyone, null)),
    ]
    branches = [(weight, graph, branch()) for weight, graph, branch in weighted if weight != 0]
    if style_scale != 0 or rescale:  # rescaling needs to know it
        branches.append((style_scale, True, cond))
    weights, graphs, conds = zip(*branches)  # graphs: whether a branch is told the graph

    whole, told = Branches(unet, conds, graphs), Branches(unet, conds[1:], graphs[1:])
    alone = Branches(unet, (cond,), (True,))

    def throughout(x: Tensor, t: Tensor, null_tokens: Tensor | None, control: Control | None) -> Tensor:
        if null_tokens is None or graph_scale == 1:
            out = whole(x, t, control)
        else:
            with torch.no_grad():
                out = told(x, t, control)
            style = None if cond.style is None else null.style.expand(len(x), -1)
            away = Branches(unet, (Conditioning.of(null_tokens, style),), (False,))
            out = (*away(x, t, control, keep=False), *out)
        eps = sum(weight * e for weight, e in zip(weights, out))
        return rescale_guidance(eps, out[-1], rescale) if rescale and len(out) > 1 else eps

    def eps(x: Tensor, t: Tensor, null_tokens: Tensor | None = None, control: Control | None = None) -> Tensor:
        differentiable = null_tokens is not None and null_tokens.requires_grad and torch.is_grad_enabled()
        with torch.set_grad_enabled(differentiable):
            if (graph_scale, style_scale) == (1, 1) or (low, high) == (0, 1):
                return throughout(x, t, null_tokens, control)
            share = t / timesteps
            inside = (low <= share) & (share <= high)
            if inside.all():
                return throughout(x, t, null_tokens, control)
            (unguided,) = alone(x, t, control)
            if not inside.any():
                return unguided
            return torch.where(inside[:, None, None, None], throughout(x, t, null_tokens, control), unguided)

    return eps


class Branches:
    """The U-Net under several conditionings of B rows each, in one batch; `graphs` tells which of them have a graph's tokens
    and not the null's. What is made of the conditionings alone is kept from call to call."""

    def __init__(self, unet: nn.Module, conds: Sequence[Conditioning], graphs: Sequence[bool]):
        self.unet, self.conds, self.graphs = unet, conds, graphs
        self.prepared: dict[tuple[int, ...], Prepared] = {}  # by the latents' size

    def __call__(self, x: Tensor, t: Tensor, control: Control | None, keep: bool = True) -> tuple[Tensor, ...]:
        """x (B,C,h,w), t (B,) -> eps (B,C,h,w) for each. keep: or else all of it is computed anew, with its gradient."""
        n = len(self.conds)
        if n == 0:
            return ()
        rows, controls = x.repeat(n, 1, 1, 1), () if control is None else (control.repeat(self.graphs, len(x)),)
        return self.unet(rows, t.repeat(n), self._told(rows, keep), *controls).chunk(n)

    def _told(self, rows: Tensor, keep: bool) -> Conditioning | Prepared:
        if not keep:
            return conditioning.cat(*self.conds)
        size = tuple(rows.shape[-2:])
        if size not in self.prepared:
            with torch.no_grad():
                self.prepared[size] = self.unet.prepare(rows, conditioning.cat(*self.conds))
        return self.prepared[size]


def rescale_guidance(guided: Tensor, conditional: Tensor, share: float) -> Tensor:  # (B,C,H,W), (B,C,H,W) -> (B,C,H,W)
    """Guided outputs, `share` of the way towards the spread that each image's has without guidance, which large scales
    exceed (Lin et al. 2305.08891 eq. 15 and 16)."""
    spread, own = (out.std((1, 2, 3), keepdim=True) for out in (guided, conditional))
    return share * guided * (own / spread) + (1 - share) * guided
