"""A scene graph as the text that a U-Net reads: which tokens belong to which object, and attention drawn to their boxes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ldm.graph.caption import Caption, Span, caption
from ldm.graph.scene_graph import SceneGraph
from ldm.graph.text_spans import count_tokens, token_positions
from ldm.graph.text_tokens import LENGTH
from ldm.modules.attention_control import BoxSteering


@dataclass(frozen=True)
class GraphText:
    """A scene graph and its caption."""

    graph: SceneGraph
    caption: Caption

    @classmethod
    def of(cls, graph: SceneGraph, form: str = "long", keep: Sequence[int] = ()) -> GraphText:
        """Captions a graph within what a text encoder reads; of the objects `keep`, words are dropped last."""
        return cls(graph, caption(graph, form, count_tokens, keep=frozenset(keep)))

    def positions(self, spans: Sequence[Span]) -> list[tuple[int, ...]]:
        """The token positions of each span."""
        return token_positions(self.caption.text, spans)

    def name_positions(self, index: int) -> tuple[int, ...]:
        """The token positions of all mentions of an object's name."""
        return tuple(position for found in self.positions(self.caption.objects[index]) for position in found)

    def token_boxes(self) -> Tensor:  # -> (77,4)
        """The box of each token that belongs to the words of an object with a box; -1 throughout for the others."""
        boxes = torch.full((LENGTH, 4), -1.0)
        for index, box in enumerate(self.graph.boxes):
            if box is not None:
                for found in self.positions(self.caption.words_of(index)):
                    boxes[list(found)] = torch.tensor(box)
        return boxes

    @property
    def end(self) -> int:
        """The position of the end token."""
        return min(count_tokens(self.caption.text), LENGTH) - 1


def steering(texts: Sequence[GraphText | None], weight: float, peak: float | None = None) -> tuple[BoxSteering, ...]:
    """Draws the words of objects to their boxes.

    Args:
        texts: of each batch row; None for a row that is not steered.
        weight, peak: see `BoxSteering`.
    """
    rows = [(row, text.token_boxes()) for row, text in enumerate(texts) if text is not None]
    return (
        tuple(BoxSteering(row, boxes, weight, peak=peak) for row, boxes in rows if (boxes >= 0).any()) if weight else ()
    )
