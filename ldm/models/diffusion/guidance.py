"""Classifier-free guidance towards a scene graph and, separately, a style.

A branch is the U-Net under one conditioning. All branches with a non-zero weight are computed in one batch. What the
U-Net computes from the conditionings alone is the same at every step; it is computed in the first call and cached.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from ldm.models.diffusion.ddim import Denoiser
from ldm.models.diffusion.schedule import NoiseSchedule
from ldm.modules import conditioning
from ldm.modules.attention_control import Control
from ldm.modules.conditioning import Conditioning, TextTokens
from ldm.modules.diffusionmodules.openaimodel import PreparedConditioning
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
    text_scale: float | None = None,
) -> Denoiser:
    """Returns eps(x, t, null_tokens=None, control=None) under `cond`, guided away from `null`.

    With eps(graph, style) and null conditionings left blank, the result is

        eps(,) + graph_scale (eps(graph,) - eps(,)) + style_scale (eps(graph, style) - eps(graph,))

    as InstructPix2Pix composes two conditions (2211.09800 eq. 3). A text beside the graph goes first, in the same way:

        eps(,,) + text_scale (eps(text,,) - eps(,,)) + graph_scale (eps(text, graph,) - eps(text,,)) + ...

    Only branches with a non-zero weight are computed: one for scales of 1, two for equal scales.

    In the returned function, null_tokens (B,N,D) replace the tokens of `null`; it is differentiable with respect to
    them. A `Control` lets rows of the batch attend to each other. The weights of the U-Net must not change after the
    first call.

    Args:
        unet: the U-Net.
        timesteps: T, number of timesteps of the noise schedule.
        cond: B rows.
        null: one row.
        graph_scale: guidance scale of the graph.
        style_scale: guidance scale of the style.
        interval: first and last timestep with guidance, as fractions of T (Kynkäänniemi et al. 2404.07724). Elsewhere
            only `cond` is computed.
        rescale: 0 to 1, see `rescale_guidance`.
        text_scale: guidance scale of the text; by default graph_scale, which guides both together.

    Raises:
        UserError: `interval` or `rescale` is out of range.
    """
    low, high = interval
    if not (0 <= low <= high <= 1 and 0 <= rescale <= 1):
        raise UserError(
            f"guidance from {low} to {high}, rescaled by {rescale}: set values between 0 and 1, the first two in order"
        )
    text_scale = graph_scale if text_scale is None or cond.text is None else text_scale
    if (text_scale, graph_scale, style_scale) == (1, 1, 1):
        interval = (0.0, 1.0)  # guidance at scales of 1 is the conditional prediction, inside the interval and outside
    scales = text_scale, graph_scale, style_scale
    return _Guidance(unet, timesteps, cond, null, scales, interval, rescale).predict


def controlled(denoiser: Denoiser, control: Control, schedule: NoiseSchedule) -> Denoiser:
    """Returns eps(x, t, ...) under an attention control, which is told the noise level of each step."""
    if not control.steering:
        return partial(denoiser, control=control)

    def predict(x: Tensor, t: Tensor, *null_tokens: Tensor) -> Tensor:
        a = float(schedule.alphas_cumprod[int(t[0])])
        return denoiser(x, t, *null_tokens, control=control.at_noise(((1 - a) / a) ** 0.5))

    return predict


def rescale_guidance(guided: Tensor, conditional: Tensor, share: float) -> Tensor:  # (B,C,H,W), (B,C,H,W) -> (B,C,H,W)
    """Reduces the standard deviation of the guided prediction, which large scales increase.

    Interpolates by `share` (0 to 1) towards the guided prediction with each image's standard deviation of the
    conditional prediction (Lin et al. 2305.08891 eq. 15 and 16).
    """
    guided_std, conditional_std = (out.std((1, 2, 3), keepdim=True) for out in (guided, conditional))
    return share * guided * (conditional_std / guided_std) + (1 - share) * guided


def refuse_untrained_null(kind: str, drop: float) -> None:
    """Raises UserError if the null graph or style (`kind`), which needs training rows without one, was not trained."""
    if drop == 0:
        raise UserError(
            f"guidance, and inversion without a source graph, need a null {kind}, but this model was trained with "
            f"{kind}_drop: 0: set the scales to 1 and name a source graph, or train with {kind}_drop: 0.1"
        )


class BranchBatch:
    """Evaluates the U-Net under several conditionings in one batch.

    Args:
        unet: the U-Net.
        conds: a conditioning of B rows for each branch.
        has_graph: for each branch, whether its tokens (or its text) are a graph's and not the null's.
    """

    def __init__(self, unet: nn.Module, conds: Sequence[Conditioning], has_graph: Sequence[bool]):
        self.unet, self.conds, self.has_graph = unet, conds, has_graph
        self.prepared: dict[tuple[int, ...], PreparedConditioning] = {}  # by size of the latents

    def __call__(self, x: Tensor, t: Tensor, control: Control | None, cache: bool = True) -> tuple[Tensor, ...]:
        """Returns eps (B,C,h,w) of each branch for x (B,C,h,w) and t (B,).

        With cache=False everything is computed from the conditionings, so that they receive gradients.
        """
        count = len(self.conds)
        if count == 0:
            return ()
        rows = x.repeat(count, 1, 1, 1)
        controls = () if control is None else (control.repeat(self.has_graph, len(x)),)
        return self.unet(rows, t.repeat(count), self._conditioning(rows, cache), *controls).chunk(count)

    def _conditioning(self, rows: Tensor, cache: bool) -> Conditioning | PreparedConditioning:
        if not cache:
            return conditioning.cat(*self.conds)
        size = tuple(rows.shape[-2:])
        if size not in self.prepared:
            with torch.no_grad():
                self.prepared[size] = self.unet.prepare(rows, conditioning.cat(*self.conds))
        return self.prepared[size]


class _Guidance:
    """The weighted sum of guidance branches, within an interval of timesteps. Arguments as for `guided_denoiser`.

    `scales` are those of text, graph and style.
    """

    def __init__(
        self,
        unet: nn.Module,
        timesteps: int,
        cond: Conditioning,
        null: Conditioning,
        scales: tuple[float, float, float],
        interval: tuple[float, float],
        rescale: float,
    ):
        text_scale, graph_scale, style_scale = scales
        self.unet, self.timesteps, self.interval, self.rescale = unet, timesteps, interval, rescale
        all_rows = torch.ones(len(cond.tokens), dtype=torch.bool, device=cond.tokens.device)
        branches = []  # weight, whether cross-attention reads the graph or its text, conditioning
        if text_scale != 1:
            branches.append((1 - text_scale, False, cond.drop(all_rows, all_rows, null)))
        if text_scale != graph_scale:
            branches.append((text_scale - graph_scale, True, cond.drop(all_rows, all_rows, null, text=~all_rows)))
        if graph_scale != style_scale:
            branches.append((graph_scale - style_scale, True, cond.drop(~all_rows, all_rows, null)))
        if style_scale != 0 or rescale:  # rescaling needs the conditional prediction
            branches.append((style_scale, True, cond))
        self.weights, has_graph, conds = zip(*branches)
        self.has_null_branch = text_scale != 1
        self.null_style, self.null_text = None if cond.style is None else null.style, null.text
        self.branches = BranchBatch(unet, conds, has_graph)
        self.branches_after_null = BranchBatch(unet, conds[1:], has_graph[1:])  # for calls that replace the null tokens
        self.conditional = BranchBatch(unet, (cond,), (True,))  # for timesteps outside the interval

    def predict(
        self, x: Tensor, t: Tensor, null_tokens: Tensor | None = None, control: Control | None = None
    ) -> Tensor:
        differentiable = null_tokens is not None and null_tokens.requires_grad and torch.is_grad_enabled()
        with torch.set_grad_enabled(differentiable):
            low, high = self.interval
            if (low, high) == (0, 1):
                return self._guided(x, t, null_tokens, control)
            inside = (low <= t / self.timesteps) & (t / self.timesteps <= high)
            if inside.all():
                return self._guided(x, t, null_tokens, control)
            (unguided,) = self.conditional(x, t, control)
            if not inside.any():
                return unguided
            return torch.where(inside[:, None, None, None], self._guided(x, t, null_tokens, control), unguided)

    def _guided(self, x: Tensor, t: Tensor, null_tokens: Tensor | None, control: Control | None) -> Tensor:
        if null_tokens is None or not self.has_null_branch:
            predictions = self.branches(x, t, control)
        else:
            predictions = self._with_null_tokens(x, t, null_tokens, control)
        weighted = (weight * prediction for weight, prediction in zip(self.weights, predictions, strict=True))
        eps = sum(weighted, start=x.new_zeros(()))
        return rescale_guidance(eps, predictions[-1], self.rescale) if self.rescale and len(predictions) > 1 else eps

    def _with_null_tokens(
        self, x: Tensor, t: Tensor, null_tokens: Tensor, control: Control | None
    ) -> tuple[Tensor, ...]:
        """Predictions of all branches, of which only the null branch has a gradient."""
        with torch.no_grad():
            others = self.branches_after_null(x, t, control)
        style = None if self.null_style is None else self.null_style.expand(len(x), -1)
        if self.null_text is None:
            null = Conditioning.from_tokens(null_tokens, style)
        else:  # they are those of the text, beside no token of a graph
            vector = self.null_text.vector
            vector = None if vector is None else vector.expand(len(x), -1)
            null = Conditioning.from_text(TextTokens.from_tokens(null_tokens, vector))._replace(style=style)
        null_branch = BranchBatch(self.unet, (null,), (False,))
        return *null_branch(x, t, control, cache=False), *others
