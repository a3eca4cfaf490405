"""Edits of models that read text: captions of both graphs, and which of their tokens stand for what.

The photograph is inverted under the caption of its graph, and sampled under the caption of the edited graph. Tokens of an object's
words can be drawn to its box (`steering`), and words that both captions share take their attention from the photograph
(`shared_tokens`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ldm.graph.caption import Caption, Span, caption
from ldm.graph.diff import Add, AddRelation, Operation, Remove, RemoveRelation
from ldm.graph.scene_graph import SceneGraph
from ldm.modules.attention_control import BoxSteering
from ldm.modules.text_spans import count_tokens, token_positions
from ldm.modules.text_tokens import LENGTH


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


def edit_texts(
    source: SceneGraph | None, target: SceneGraph, operations: Sequence[Operation], form: str = "long"
) -> tuple[GraphText | None, GraphText]:
    """The texts of the photograph and of the edit; what the operations touch keeps its words longest."""
    first = source and GraphText.of(source, form, touched_objects(operations, of_source=True))
    return first, GraphText.of(target, form, touched_objects(operations, of_source=False))


def touched_objects(operations: Sequence[Operation], of_source: bool) -> list[int]:
    """Indices of the objects of the source graph, or of the edited graph, that operations change or relate anew."""
    found: list[int] = []
    for operation in operations:
        if isinstance(operation, (Remove, RemoveRelation)):
            place = operation.source if of_source else None
        elif isinstance(operation, (Add, AddRelation)):
            place = None if of_source else operation.target
        else:
            place = operation.source if of_source else operation.target
        if isinstance(place, tuple):
            found += [place[0], place[2]]
        elif place is not None:
            found.append(place)
    return sorted(set(found))


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


def shared_tokens(source: GraphText, target: GraphText, unchanged: dict[int, int]) -> Tensor:  # -> (77,) long
    """For each token of the target's text the source's token of the same meaning, -1 for none (prompt-to-prompt).

    These are the words of unchanged objects, the predicates between them, and the start, end and padding tokens.

    Args:
        unchanged: index in the target's graph -> index in the source's, of objects with the same words and the same box.
    """
    tokens = torch.full((LENGTH,), -1)
    tokens[0] = 0
    rest = LENGTH - max(source.end, target.end)
    tokens[target.end : target.end + rest] = torch.arange(source.end, source.end + rest)
    for new, old in _shared_spans(source, target, unchanged):
        (there,), (here,) = source.positions([old]), target.positions([new])
        if len(there) == len(here):  # unless one of them is cut off
            tokens[list(here)] = torch.tensor(there, dtype=torch.long)
    return tokens


def text_maps(attention: Tensor, text: GraphText) -> Tensor:  # (77,h,w) -> (O,h,w)
    """Attention to each object: the mean over the tokens of its name; 0 for an object without words in the caption."""
    maps = []
    for index in range(len(text.graph.objects)):
        positions = text.name_positions(index)
        maps.append(attention[list(positions)].mean(0) if positions else torch.zeros_like(attention[0]))
    return torch.stack(maps)


def _shared_spans(source: GraphText, target: GraphText, unchanged: dict[int, int]) -> Iterator[tuple[Span, Span]]:
    """Pairs of spans in the target's and in the source's caption."""
    for j, i in unchanged.items():
        yield from zip(target.caption.objects[j], source.caption.objects[i])
        names = source.graph.known_attributes[i]
        for attribute, spans in zip(target.graph.known_attributes[j], target.caption.attributes[j]):
            if attribute in names:
                yield from zip(spans, source.caption.attributes[i][names.index(attribute)])
    for (subject, predicate, object_), span in zip(target.graph.known_triples, target.caption.relations):
        triple = unchanged.get(subject), predicate, unchanged.get(object_)
        if span and triple in source.graph.known_triples:
            old = source.caption.relations[source.graph.known_triples.index(triple)]
            if old:
                yield span, old
