"""The conditioning of the U-Net: tokens of the scene graph and of a text, and the style of a reference image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class TextTokens(NamedTuple):
    """Encoded texts of a batch of B images, which the cross-attention of a U-Net like Stable Diffusion's was trained on.

    Attributes:
        tokens: (B,M,D), 77 for each chunk of a text.
        mask: (B,M) bool, False for tokens that only make the rows of a batch equally long. (CLIP's own padding is a part of
            the text: published U-Nets attend to it.)
        vector: (B,A) what the U-Net's label embedding reads (SDXL: the pooled text, sizes and crop), or None.
    """

    tokens: Tensor
    mask: Tensor
    vector: Tensor | None = None

    @classmethod
    def from_tokens(cls, tokens: Tensor, vector: Tensor | None = None) -> TextTokens:
        """Texts (B,M,D) of equal length."""
        return cls(tokens, torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device), vector)

    def rows(self, rows: slice) -> TextTokens:
        """The texts of some images."""
        return TextTokens(self.tokens[rows], self.mask[rows], None if self.vector is None else self.vector[rows])

    def expand(self, count: int) -> TextTokens:
        """One text for `count` images."""
        vector = None if self.vector is None else self.vector.expand(count, -1)
        return TextTokens(self.tokens.expand(count, -1, -1), self.mask.expand(count, -1), vector)

    def pad(self, length: int) -> TextTokens:
        """Pads to M = `length` tokens, which the U-Net does not see."""
        more = length - self.tokens.shape[1]
        pad = torch.nn.functional.pad
        return (
            self if more <= 0 else TextTokens(pad(self.tokens, (0, 0, 0, more)), pad(self.mask, (0, more)), self.vector)
        )

    def where(self, row: Tensor, other: TextTokens) -> TextTokens:
        """These texts, replaced in the rows (B,) that are True by `other`, which has one row or B."""
        length = max(self.tokens.shape[1], other.tokens.shape[1])
        mine, other = self.pad(length), other.pad(length)
        vector = mine.vector
        if vector is not None:
            if other.vector is None:
                raise ValueError("the other texts have no vector to replace this one's; give them one")
            vector = torch.where(row[:, None], other.vector.to(vector.dtype), vector)
        return TextTokens(
            torch.where(row[:, None, None], other.tokens.to(mine.tokens.dtype), mine.tokens),
            torch.where(row[:, None], other.mask, mine.mask),
            vector,
        )


class Conditioning(NamedTuple):
    """Conditioning of a batch of B images.

    Attributes:
        tokens: (B,N,D) cross-attention tokens of the graph.
        mask: (B,N) bool, False for padding, which does not change the U-Net's output.
        boxes: (B,N,4) x0 y0 x1 y1 in [0,1], box of the token's object; -1 throughout for a token without a box.
        style: (B,E) embedding of a reference image or of the whole graph, or None.
        text: texts beside the graphs, for a U-Net that was trained on text; its cross-attention reads them. None for the
            others, whose cross-attention reads the graph's tokens.
    """

    tokens: Tensor
    mask: Tensor
    boxes: Tensor
    style: Tensor | None = None
    text: TextTokens | None = None

    @classmethod
    def from_tokens(cls, tokens: Tensor, style: Tensor | None = None, text: TextTokens | None = None) -> Conditioning:
        """Builds a conditioning of tokens (B,N,D) without padding and without boxes."""
        mask = torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
        return cls(tokens, mask, tokens.new_full((*tokens.shape[:2], 4), -1.0), style, text)

    @classmethod
    def from_text(cls, text: TextTokens) -> Conditioning:
        """Builds a conditioning of texts alone: no graph token and no style."""
        return cls.from_tokens(text.tokens.new_zeros(len(text.tokens), 0, 0), text=text)

    def drop(self, graph: Tensor, style: Tensor, null: Conditioning, text: Tensor | None = None) -> Conditioning:
        """Replaces the graph, the style or the text by the null conditioning, as classifier-free guidance needs.

        Args:
            graph: (B,) bool, True for images whose tokens are replaced.
            style: (B,) bool, True for images whose style is replaced.
            null: Conditioning of one row, with at most N tokens.
            text: (B,) bool, True for images whose text is replaced; by default those whose graph is.

        Raises:
            ValueError: if there is a style or a text, but none in `null`.
        """
        null = null.pad(self.tokens.shape[1])
        row = graph[:, None, None]
        new_style = self.style
        if self.style is not None:
            if null.style is None:
                raise ValueError("the null conditioning has no style to replace the conditioning's; give it one")
            new_style = torch.where(style[:, None], null.style.to(self.style.dtype), self.style)
        new_text = self.text
        if self.text is not None:
            if null.text is None:
                raise ValueError("the null conditioning has no text to replace the conditioning's; give it one")
            new_text = self.text.where(graph if text is None else text, null.text)
        return Conditioning(
            torch.where(row, null.tokens.to(self.tokens.dtype), self.tokens),
            torch.where(graph[:, None], null.mask, self.mask),
            torch.where(row, null.boxes.to(self.boxes.dtype), self.boxes),
            new_style,
            new_text,
        )

    def rows(self, rows: slice) -> Conditioning:
        """Returns the conditioning of some images."""
        style = None if self.style is None else self.style[rows]
        text = None if self.text is None else self.text.rows(rows)
        return Conditioning(self.tokens[rows], self.mask[rows], self.boxes[rows], style, text)

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
        ValueError: if some conditionings have a style or a text and others have none.
    """
    if len({c.style is None for c in conditionings}) > 1:
        raise ValueError(
            "cannot concatenate conditionings with and without a style; give a style to all of them or to none"
        )
    if len({c.text is None for c in conditionings}) > 1:
        raise ValueError(
            "cannot concatenate conditionings with and without a text; give a text to all of them or to none"
        )
    length = max(c.tokens.shape[1] for c in conditionings)
    tokens, mask, boxes, style, _ = zip(*(c.pad(length) for c in conditionings))
    texts = [c.text for c in conditionings if c.text is not None]
    return Conditioning(
        torch.cat(tokens),
        torch.cat(mask),
        torch.cat(boxes),
        None if style[0] is None else torch.cat(style),
        cat_texts(texts) if texts else None,
    )


def cat_texts(texts: Sequence[TextTokens]) -> TextTokens:
    """Concatenates along the batch, padding to the largest number of tokens."""
    length = max(text.tokens.shape[1] for text in texts)
    tokens, mask, vector = zip(*(text.pad(length) for text in texts))
    return TextTokens(torch.cat(tokens), torch.cat(mask), None if vector[0] is None else torch.cat(vector))
