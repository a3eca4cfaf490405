"""What the U-Net is told besides x and t: tokens to attend to, and a style to take on."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Conditioning(NamedTuple):
    """One row per image.

    tokens (B,N,D)  cross-attention tokens
    mask   (B,N)    True where a token is real; a padded token changes nothing
    boxes  (B,N,4)  x0 y0 x1 y1 in [0,1] of a token's object, -1 throughout where it has none
    style  (B,E)    embedding of a reference image, or None
    """

    tokens: Tensor
    mask: Tensor
    boxes: Tensor
    style: Tensor | None = None

    @classmethod
    def of(cls, tokens: Tensor, style: Tensor | None = None) -> Conditioning:
        """Plain tokens (B,N,D), every one of them real and none with a box."""
        mask = torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
        return cls(tokens, mask, tokens.new_full((*tokens.shape[:2], 4), -1.0), style)

    def drop(self, graph: Tensor, style: Tensor, null: Conditioning) -> Conditioning:
        """Take the rows where `graph` (B,) is True, and apart from them those where `style` (B,)
        is True, from `null`: one row whose tokens are no more than ours."""
        null = null.pad(self.tokens.shape[1])
        row = graph[:, None, None]
        return Conditioning(
            torch.where(row, null.tokens.to(self.tokens.dtype), self.tokens),
            torch.where(graph[:, None], null.mask, self.mask),
            torch.where(row, null.boxes.to(self.boxes.dtype), self.boxes),
            None if self.style is None else torch.where(style[:, None], null.style.to(self.style.dtype), self.style),
        )

    def rows(self, count: int) -> Conditioning:
        """The first `count` images' rows."""
        return Conditioning(*(None if value is None else value[:count] for value in self))

    def pad(self, length: int) -> Conditioning:
        """The same with padded tokens up to N = `length`."""
        more = length - self.tokens.shape[1]
        if more < 0:
            raise ValueError(f"{self.tokens.shape[1]} tokens do not fit in {length}")
        if more == 0:
            return self
        pad = torch.nn.functional.pad
        return self._replace(
            tokens=pad(self.tokens, (0, 0, 0, more)),
            mask=pad(self.mask, (0, more)),
            boxes=pad(self.boxes, (0, 0, 0, more), value=-1.0),
        )


def cat(*conditionings: Conditioning) -> Conditioning:
    """Join along the batch, padding to the longest. Raises ValueError where some have a style and some have none."""
    if len({c.style is None for c in conditionings}) > 1:
        raise ValueError("conditionings with a style and without one cannot be joined; give all of them one, or none")
    length = max(c.tokens.shape[1] for c in conditionings)
    tokens, mask, boxes, style = zip(*(c.pad(length) for c in conditionings))
    return Conditioning(
        torch.cat(tokens), torch.cat(mask), torch.cat(boxes), None if style[0] is None else torch.cat(style)
    )
