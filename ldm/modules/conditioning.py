"""The conditioning of the U-Net: cross-attention tokens of the scene graph and the style of a reference image."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Conditioning(NamedTuple):
    """Conditioning of a batch of B images.

    Attributes:
        tokens: (B,N,D) cross-attention tokens.
        mask: (B,N) bool, False for padding, which does not change the U-Net's output.
        boxes: (B,N,4) x0 y0 x1 y1 in [0,1], box of the token's object; -1 throughout for a token without a box.
        style: (B,E) embedding of a reference image or of the whole graph, or None.
    """

    tokens: Tensor
    mask: Tensor
    boxes: Tensor
    style: Tensor | None = None

    @classmethod
    def from_tokens(cls, tokens: Tensor, style: Tensor | None = None) -> Conditioning:
        """Builds a conditioning of tokens (B,N,D) without padding and without boxes."""
        mask = torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
        return cls(tokens, mask, tokens.new_full((*tokens.shape[:2], 4), -1.0), style)

    def drop(self, graph: Tensor, style: Tensor, null: Conditioning) -> Conditioning:
        """Replaces the graph, the style or both by the null conditioning, as classifier-free guidance needs.

        Args:
            graph: (B,) bool, True for images whose tokens are replaced.
            style: (B,) bool, True for images whose style is replaced.
            null: Conditioning of one row, with at most N tokens.

        Raises:
            ValueError: if there is a style, but none in `null`.
        """
        null = null.pad(self.tokens.shape[1])
        row = graph[:, None, None]
        new_style = self.style
        if self.style is not None:
            if null.style is None:
                raise ValueError("the null conditioning has no style to replace the conditioning's; give it one")
            new_style = torch.where(style[:, None], null.style.to(self.style.dtype), self.style)
        return Conditioning(
            torch.where(row, null.tokens.to(self.tokens.dtype), self.tokens),
            torch.where(graph[:, None], null.mask, self.mask),
            torch.where(row, null.boxes.to(self.boxes.dtype), self.boxes),
            new_style,
        )

    def rows(self, count: int) -> Conditioning:
        """Returns the conditioning of the first `count` images."""
        style = None if self.style is None else self.style[:count]
        return Conditioning(self.tokens[:count], self.mask[:count], self.boxes[:count], style)

    def pad(self, length: int) -> Conditioning:
        """Pads to N = `length` tokens.

        Raises:
            ValueError: if there are more tokens than that.
        """
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
    """Concatenates along the batch, padding to the largest number of tokens.

    Raises:
        ValueError: if some conditionings have a style and others have none.
    """
    if len({c.style is None for c in conditionings}) > 1:
        raise ValueError(
            "cannot concatenate conditionings with and without a style; give a style to all of them or to none"
        )
    length = max(c.tokens.shape[1] for c in conditionings)
    tokens, mask, boxes, style = zip(*(c.pad(length) for c in conditionings))
    return Conditioning(
        torch.cat(tokens), torch.cat(mask), torch.cat(boxes), None if style[0] is None else torch.cat(style)
    )
