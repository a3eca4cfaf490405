"""Attention control: what a picture being edited sees of its source, when both go through the U-Net in one batch.

A Control names pairs of rows. In each pair the target's row attends to the source's keys and values (Mutual, MasaCtrl
2304.08465), uses the source's attention to the tokens that both graphs share (Words, prompt-to-prompt 2208.01626), or
both. It is a value that UNetModel.forward hands to its attention layers, which know nothing of it but that it may put
other numbers in the place of what they computed; rows that it does not name keep theirs to the bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ldm.graph.validation import Box
from ldm.modules.boxes import box_coverage


class Mutual(NamedTuple):
    """Self-attention to the source's keys and values instead of one's own (MasaCtrl eq. 5).

    shifts  (old box, new box) of each thing, those in front last. Keys and values are resampled from the old box to the
            new one, and what the old box leaves uncovered is hidden; a new box None hides the thing altogether
    where   (...,h,w) in [0,1]: the share of what the source says at each place; None is 1 throughout
    """

    shifts: tuple[tuple[Box, Box | None], ...] = ()
    where: Tensor | None = None


class Words(NamedTuple):
    """Cross-attention to the tokens that source and target share as the source attends to them (prompt-to-prompt, the
    refinement of a prompt); to its other tokens the target attends as it would. Sums are not made 1 again, as there.

    source  (M,) long: of each token of the target the source's token, -1 where there is none; beyond M, none
    """

    source: Tensor


class Pair(NamedTuple):
    """Row `target` of the batch sees row `source`."""

    source: int
    target: int
    mutual: Mutual | None = None
    words: Words | None = None


class Maps:
    """Where the tokens are looked at: cross-attention averaged over heads, added up as passes go by.

    Each pass of a Control that holds it must have as many rows."""

    def __init__(self):
        self.sums: dict[int, Tensor] = {}  # layer -> (B,N,h,w)
        self.counts: dict[int, int] = {}

    def add(self, layer: int, size: tuple[int, int], probabilities: Tensor) -> None:  # (B,heads,h*w,N)
        maps = probabilities.detach().float().mean(1).mT.unflatten(2, size)
        self.sums[layer] = self.sums[layer] + maps if layer in self.sums else maps
        self.counts[layer] = self.counts.get(layer, 0) + 1

    def of(self, layer: int) -> Tensor:  # -> (B,N,h,w)
        """The mean over the passes in one layer; at each place the tokens' sum is 1."""
        return self.sums[layer] / self.counts[layer]

    def mean(self, size: tuple[int, int] | None = None) -> Tensor:  # -> (B,N,h,w)
        """The mean over layers, each brought to `size` (h,w), or to the finest of them."""
        size = size or max(tuple(maps.shape[-2:]) for maps in self.sums.values())
        return torch.stack([_resize(self.of(layer), size) for layer in self.sums]).mean(0)


class Control(NamedTuple):
    """pairs  which rows see which, and how
    maps   takes the cross-attention of all rows; the output is the same with it and without"""

    pairs: tuple[Pair, ...] = ()
    maps: Maps | None = None

    def repeat(self, graphs: Sequence[bool], rows: int) -> Control:
        """The same in each repetition of a batch of `rows`, as guidance makes them: one for each of `graphs`, which
        tells whether its tokens are a graph's and not the null's, of which no word is shared."""
        pairs = tuple(
            Pair(pair.source + n * rows, pair.target + n * rows, pair.mutual, pair.words if told else None)
            for n, told in enumerate(graphs)
            for pair in self.pairs
        )
        return self._replace(pairs=pairs)

    def at(self, layer: int, size: tuple[int, int]) -> ControlAt:
        return ControlAt(self, layer, size)


class ControlAt(NamedTuple):
    """A Control at one attention layer, whose feature map is of `size` (h,w)."""

    control: Control
    layer: int
    size: tuple[int, int]

    def self_attention(self, y: Tensor, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """y is what attention gave, all (B,heads,h*w,d)."""
        rows = {}
        for pair in self.control.pairs:
            if pair.mutual is not None:
                seen = self._seen(pair.mutual.shifts, q[pair.target], k[pair.source], v[pair.source])
                rows[pair.target] = self._within(pair.mutual.where, seen, y[pair.target])
        return _with_rows(y, rows)

    def cross_attention(self, y: Tensor, q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
        """y, q (B,heads,h*w,d), k, v (B,heads,N,d), bias broadcasts to (B,heads,h*w,N)."""
        if self.control.maps is not None:
            self.control.maps.add(self.layer, self.size, _probabilities(q, k, bias))
        rows = {}
        for pair in self.control.pairs:
            if pair.words is not None:
                both = [pair.source, pair.target]
                theirs, own = _probabilities(q[both], k[both], bias[both])
                source = pair.words.source.to(q.device)
                source = F.pad(source, (0, own.shape[-1] - len(source)), value=-1)
                mixed = torch.where(source >= 0, theirs[..., source.clamp(min=0)], own)
                rows[pair.target] = mixed @ v[pair.target]
        return _with_rows(y, rows)

    def _seen(self, shifts: tuple[tuple[Box, Box | None], ...], q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """What q attends to of k and v once things are where they moved to, all (heads,h*w,d)."""
        k, v = (warp(part.unflatten(1, self.size).movedim(3, 1), shifts).flatten(2).mT for part in (k, v))
        bias = _hiding(shifts, self.size, q.device)
        bias = None if bias is None else bias.to(q.dtype)
        return F.scaled_dot_product_attention(q[None], k[None], v[None], attn_mask=bias)[0]

    def _within(self, where: Tensor | None, seen: Tensor, own: Tensor) -> Tensor:  # (heads,h*w,d)
        if where is None:
            return seen
        share = _resize(where.reshape(1, 1, *where.shape[-2:]).to(own), self.size).flatten()[:, None]
        return share * seen + (1 - share) * own


def warp(features: Tensor, shifts: Sequence[tuple[Box, Box | None]]) -> Tensor:  # (...,h,w) -> (...,h,w)
    """What lies in each old box, resampled by area into its new box, on top of what is there; cells that the new box
    covers in part get a mixture."""
    warped = features
    for old, new in shifts:
        if new is not None and new != old:
            rows, columns, covered = _move(old, new, tuple(features.shape[-2:]), features.device, features.dtype)
            warped = covered * (rows @ features @ columns) + (1 - covered) * warped
    return warped


@lru_cache(maxsize=256)
def _move(
    old: Box, new: Box, size: tuple[int, int], device: torch.device, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """What rows (h,h) and columns (w,w) are made of, and how much of each cell (h,w) is new."""
    rows = _resampling((old[1], old[3]), (new[1], new[3]), size[0])
    columns = _resampling((old[0], old[2]), (new[0], new[2]), size[1]).T
    return tuple(part.to(device, dtype) for part in (rows, columns, _coverage(new, size)))


def _resampling(old: tuple[float, float], new: tuple[float, float], cells: int) -> Tensor:
    """(cells,cells): how much of a cell's part in the new interval each cell of the old one makes; rows sum to 1, 0."""
    (a, b), (c, d) = ([edge * cells for edge in interval] for interval in (old, new))
    cell = torch.arange(cells, dtype=torch.float64)
    low, high = cell.clamp(min=c), (cell + 1).clamp(max=d)  # of the part of each cell that is in the new interval
    low, high = (a + (edge - c) * (b - a) / (d - c) for edge in (low, high))
    shared = torch.minimum(high[:, None], cell + 1) - torch.maximum(low[:, None], cell)
    shared = shared.clamp(min=0) * (high > low)[:, None]
    return shared / shared.sum(1, keepdim=True).clamp(min=1e-12)


def _coverage(box: Box, size: tuple[int, int]) -> Tensor:  # -> (h,w)
    return box_coverage(torch.tensor([[box]], dtype=torch.float64), *size).view(size)


@lru_cache(maxsize=256)
def _hiding(
    shifts: tuple[tuple[Box, Box | None], ...], size: tuple[int, int], device: torch.device
) -> Tensor | None:  # -> (1,h*w)
    """What to add to the logits of the warped keys, so that what moved away is not seen in its old place. None is 0."""
    shown = torch.ones(size, dtype=torch.float64)  # how much of each key's place is not what moved away
    for old, new in shifts:
        if new != old:
            shown = shown * (1 - _coverage(old, size))
    for _, new in shifts:
        if new is not None:
            shown = torch.maximum(shown, _coverage(new, size))
    if (shown == 1).all() or not shown.any():  # nothing left to see: a softmax over nothing is NaN
        return None
    return shown.log().float().view(1, -1).to(device)


def _probabilities(q: Tensor, k: Tensor, bias: Tensor) -> Tensor:  # -> (B,heads,h*w,N)
    logits = q @ k.mT * q.shape[-1] ** -0.5 + bias
    return logits.softmax(-1, dtype=torch.float32).to(q.dtype)


def _with_rows(y: Tensor, rows: dict[int, Tensor]) -> Tensor:
    return torch.stack([rows.get(row, own) for row, own in enumerate(y)]) if rows else y


def _resize(maps: Tensor, size: tuple[int, int]) -> Tensor:  # (B,N,h,w) -> (B,N,*size)
    """By area where it shrinks, linearly where it grows."""
    if tuple(maps.shape[-2:]) == tuple(size):
        return maps
    if maps.shape[-2] >= size[0]:
        return F.adaptive_avg_pool2d(maps, size)
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=False)
