"""Attention control for editing: the edited image attends to the source image in the same batch.

A `Control` lists pairs of batch rows (source, target). In each pair the target's self-attention uses the source's keys and
values (mutual self-attention, MasaCtrl, Cao et al. 2023, arXiv 2304.08465), its cross-attention uses the source's attention
probabilities for the tokens that both graphs share (prompt-to-prompt, Hertz et al. 2022, arXiv 2208.01626), or both.
Without pairs, it can draw the cross-attention of a row to tokens inside their boxes (`BoxSteering`). The U-Net passes the
control on to its attention layers (`ldm.modules.attention.AttentionControl`). Rows that are the target of no pair and are not
steered stay bit-equal.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ldm.graph.validation import Box
from ldm.modules.boxes import box_coverage
from ldm.modules.kernels.sdpa import attend

Shifts = tuple[tuple[Box, Box | None], ...]  # (source box, target box or None) of each object


class MutualSelfAttention(NamedTuple):
    """Self-attention of the target to the source's keys and values (MasaCtrl eq. 5).

    Attributes:
        shifts: (source box, target box) of each moved object, in drawing order. The source's keys and values are resampled
            from the source box to the target box, and the part of the source box that this uncovers is masked. A target
            box None masks the object altogether.
        blend: (...,h,w) in [0,1], weight of the mutual self-attention at each location; the rest is the target's own
            self-attention. None is 1 everywhere.
    """

    shifts: Shifts = ()
    blend: Tensor | None = None


class TokenInjection(NamedTuple):
    """Cross-attention probabilities of the source, injected into the target for shared tokens.

    This is prompt-to-prompt's refinement: tokens without a counterpart keep the target's probabilities, and the sum over
    tokens is not renormalised.

    Attributes:
        source: (M,) long, index of the source token that corresponds to each target token, -1 for none. Target tokens from
            index M on have no counterpart.
    """

    source: Tensor


class RowPair(NamedTuple):
    """Batch row `target` attends to batch row `source`.

    Attributes:
        mutual: Replaces self-attention, or None.
        tokens: Replaces cross-attention, or None.
    """

    source: int
    target: int
    mutual: MutualSelfAttention | None = None
    tokens: TokenInjection | None = None


class BoxSteering(NamedTuple):
    """Cross-attention of a batch row, drawn to tokens inside their boxes without training (paint with words, eDiff-I, Balaji
    et al. 2022, arXiv 2211.01324): weight * log(1 + sigma) * m is added to a token's logits inside its box.

    Attributes:
        row: the batch row.
        boxes: (M,4) x0 y0 x1 y1 in [0,1], box of each token; -1 throughout for a token without one. Tokens from index M on have
            none. Cells that a box covers in part get that part of the bias.
        weight: w; with 0 the output is bit-equal to the model's.
        sigma: the noise level sqrt((1 - a) / a) of alpha-bar a.
        peak: m; by default the largest logit of the row in each layer, at least 0. A constant saves the explicit logits, which
            fused attention does not compute.
    """

    row: int
    boxes: Tensor
    weight: float
    sigma: float = 0.0
    peak: float | None = None

    @property
    def strength(self) -> float:
        """The bias as a multiple of m."""
        return self.weight * math.log1p(self.sigma)


class AttentionStore:
    """Accumulates cross-attention maps, averaged over heads, over all U-Net evaluations whose `Control` holds this store.

    All of these evaluations must have the same batch size.
    """

    def __init__(self) -> None:
        self.sums: dict[int, Tensor] = {}  # layer -> (B,N,h,w)
        self.counts: dict[int, int] = {}

    def add(self, layer: int, size: tuple[int, int], probabilities: Tensor) -> None:  # (B,heads,h*w,N)
        """Adds one layer's attention probabilities for a feature map of `size` (h,w)."""
        maps = probabilities.detach().float().mean(1).mT.unflatten(2, size)
        self.sums[layer] = self.sums[layer] + maps if layer in self.sums else maps
        self.counts[layer] = self.counts.get(layer, 0) + 1

    def layer_mean(self, layer: int) -> Tensor:  # -> (B,N,h,w)
        """Returns one layer's mean over the evaluations; at each location the tokens sum to 1."""
        return self.sums[layer] / self.counts[layer]

    def mean(self, size: tuple[int, int] | None = None) -> Tensor:  # -> (B,N,h,w)
        """Returns the mean over layers, each resized to `size` (h,w), by default the largest layer's."""
        h, w = size or max(tuple(maps.shape[-2:]) for maps in self.sums.values())
        return torch.stack([_resize(self.layer_mean(layer), (h, w)) for layer in self.sums]).mean(0)


class Control(NamedTuple):
    """An `AttentionControl`: which batch rows attend to which, and where attention maps are stored.

    Attributes:
        pairs: Pairs of source and target rows.
        maps: Receives the cross-attention maps of all rows; the U-Net's output does not depend on it.
        steering: Rows whose tokens are drawn to their boxes.
    """

    pairs: tuple[RowPair, ...] = ()
    maps: AttentionStore | None = None
    steering: tuple[BoxSteering, ...] = ()

    def at_noise(self, sigma: float) -> Control:
        """Returns the control of a denoising step at noise level `sigma`."""
        return self._replace(steering=tuple(each._replace(sigma=sigma) for each in self.steering))

    def repeat(self, has_graph: Sequence[bool], rows: int) -> Control:
        """Repeats the control for the branches of guidance, which are stacked along the batch.

        Args:
            has_graph: For each branch, whether it is conditioned on the graph (by tokens or text). Null tokens are shared by
                no graph and have no box, so `TokenInjection` and `BoxSteering` are left out of the other branches.
            rows: Batch size of one branch.
        """
        pairs = tuple(
            RowPair(pair.source + n * rows, pair.target + n * rows, pair.mutual, pair.tokens if has_tokens else None)
            for n, has_tokens in enumerate(has_graph)
            for pair in self.pairs
        )
        steering = tuple(
            each._replace(row=each.row + n * rows)
            for n, has_tokens in enumerate(has_graph)
            for each in self.steering
            if has_tokens
        )
        return self._replace(pairs=pairs, steering=steering)

    def at(self, layer: int, size: tuple[int, int]) -> LayerControl:
        """Returns the control of transformer number `layer`, whose feature map has `size` (h,w)."""
        return LayerControl(self, layer, size)


class LayerControl(NamedTuple):
    """A `Control` for one transformer layer, whose feature map has `size` (h,w)."""

    control: Control
    layer: int
    size: tuple[int, int]

    def self_attention(self, y: Tensor, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Replaces target rows of a self-attention output y; all tensors are (B,heads,h*w,d)."""
        rows = {}
        for pair in self.control.pairs:
            if pair.mutual is not None:
                mutual = self._attend_to_source(pair.mutual.shifts, q[pair.target], k[pair.source], v[pair.source])
                rows[pair.target] = self._blend(pair.mutual.blend, mutual, y[pair.target])
        return _replace_rows(y, rows)

    def cross_attention(self, y: Tensor, q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
        """Replaces target rows of a cross-attention output y, and stores the attention maps.

        Args:
            y, q: (B,heads,h*w,d).
            k, v: (B,heads,N,d).
            bias: Broadcasts to (B,heads,h*w,N).
        """
        bias, steered = self._steer(q, k, bias)
        if self.control.maps is not None:
            self.control.maps.add(self.layer, self.size, _probabilities(q, k, bias))
        rows = dict(zip(steered, attend(q[steered], k[steered], v[steered], bias[steered]))) if steered else {}
        for pair in self.control.pairs:
            if pair.tokens is not None:
                both = [pair.source, pair.target]
                of_source, of_target = _probabilities(q[both], k[both], bias[both])
                index = pair.tokens.source.to(q.device)
                index = F.pad(index, (0, of_target.shape[-1] - len(index)), value=-1)
                mixed = torch.where(index >= 0, of_source[..., index.clamp(min=0)], of_target)
                rows[pair.target] = mixed @ v[pair.target]
        return _replace_rows(y, rows)

    def _steer(self, q: Tensor, k: Tensor, bias: Tensor) -> tuple[Tensor, list[int]]:
        """Returns the bias with that of `BoxSteering` added, and the rows to which it was."""
        active = [each for each in self.control.steering if each.strength]
        if not active:
            return bias, []
        bias = bias.expand(*bias.shape[:2], q.shape[-2], k.shape[-2]).clone()
        for each in active:
            peak = each.peak
            if peak is None:
                peak = _logits(q[each.row], k[each.row], bias[each.row]).max().float().clamp(min=0)
            boxes = each.boxes[: k.shape[-2]].to(q.device, torch.float32)
            inside = box_coverage(boxes[None], *self.size)[0].mT  # (h*w,M)
            inside = F.pad(inside, (0, k.shape[-2] - len(boxes)))
            bias[each.row] += (each.strength * peak * inside).to(bias.dtype)
        return bias, list(dict.fromkeys(each.row for each in active))

    def _attend_to_source(self, shifts: Shifts, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attention of q to the source's k and v with objects moved to their target boxes; all (heads,h*w,d)."""
        k, v = (warp(part.unflatten(1, self.size).movedim(3, 1), shifts).flatten(2).mT for part in (k, v))
        bias = _visibility_bias(shifts, self.size, q.device)
        bias = None if bias is None else bias.to(q.dtype)
        return F.scaled_dot_product_attention(q[None], k[None], v[None], attn_mask=bias)[0]

    def _blend(self, weight: Tensor | None, mutual: Tensor, plain: Tensor) -> Tensor:  # (heads,h*w,d)
        if weight is None:
            return mutual
        weight = _resize(weight.reshape(1, 1, *weight.shape[-2:]).to(plain), self.size).flatten()[:, None]
        return weight * mutual + (1 - weight) * plain


def warp(features: Tensor, shifts: Sequence[tuple[Box, Box | None]]) -> Tensor:  # (...,h,w) -> (...,h,w)
    """Moves the content of each source box to its target box, over the present content.

    The content is resampled by area. Cells that the target box covers in part get a mixture.
    """
    warped = features
    for old, new in shifts:
        if new is not None and new != old:
            rows, columns, covered = _resampling_matrices(
                old, new, tuple(features.shape[-2:]), features.device, features.dtype
            )
            warped = covered * (rows @ features @ columns) + (1 - covered) * warped
    return warped


@lru_cache(maxsize=256)
def _resampling_matrices(
    old: Box, new: Box, size: tuple[int, int], device: torch.device, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the weights of rows (h,h) and of columns (w,w), and the new box's coverage of each cell (h,w)."""
    rows = _resampling((old[1], old[3]), (new[1], new[3]), size[0])
    columns = _resampling((old[0], old[2]), (new[0], new[2]), size[1]).T
    rows, columns, covered = (part.to(device, dtype) for part in (rows, columns, _coverage(new, size)))
    return rows, columns, covered


def _resampling(old: tuple[float, float], new: tuple[float, float], cells: int) -> Tensor:
    """Weight (cells,cells) of each cell of the old interval in each cell of the new one; rows sum to 1, outside to 0."""
    (a, b), (c, d) = ([edge * cells for edge in interval] for interval in (old, new))
    cell = torch.arange(cells, dtype=torch.float64)
    low, high = cell.clamp(min=c), (cell + 1).clamp(max=d)  # each cell's part inside the new interval
    low, high = (a + (edge - c) * (b - a) / (d - c) for edge in (low, high))
    shared = torch.minimum(high[:, None], cell + 1) - torch.maximum(low[:, None], cell)
    shared = shared.clamp(min=0) * (high > low)[:, None]
    return shared / shared.sum(1, keepdim=True).clamp(min=1e-12)


def _coverage(box: Box, size: tuple[int, int]) -> Tensor:  # -> (h,w)
    return box_coverage(torch.tensor([[box]], dtype=torch.float64), *size).view(size)


@lru_cache(maxsize=256)
def _visibility_bias(shifts: Shifts, size: tuple[int, int], device: torch.device) -> Tensor | None:  # -> (1,h*w)
    """Logit bias that masks moved and removed objects at their source boxes; None for no bias."""
    visible = torch.ones(size, dtype=torch.float64)
    for old, new in shifts:
        if new != old:
            visible = visible * (1 - _coverage(old, size))
    for _, new in shifts:
        if new is not None:
            visible = torch.maximum(visible, _coverage(new, size))
    if (visible == 1).all() or not visible.any():  # with every key masked, softmax would be NaN
        return None
    return visible.log().float().view(1, -1).to(device)


def _logits(q: Tensor, k: Tensor, bias: Tensor) -> Tensor:  # -> (...,heads,h*w,N)
    return q @ k.mT * q.shape[-1] ** -0.5 + bias


def _probabilities(q: Tensor, k: Tensor, bias: Tensor) -> Tensor:  # -> (B,heads,h*w,N)
    return _logits(q, k, bias).softmax(-1, dtype=torch.float32).to(q.dtype)


def _replace_rows(y: Tensor, rows: dict[int, Tensor]) -> Tensor:
    return torch.stack([rows.get(number, row) for number, row in enumerate(y)]) if rows else y


def _resize(maps: Tensor, size: tuple[int, int]) -> Tensor:  # (B,N,h,w) -> (B,N,*size)
    """Resizes by area averaging when shrinking, bilinearly when enlarging."""
    if tuple(maps.shape[-2:]) == tuple(size):
        return maps
    if maps.shape[-2] >= size[0]:
        return F.adaptive_avg_pool2d(maps, size)
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=False)
