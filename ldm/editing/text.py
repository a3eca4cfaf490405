"""Edits of models that read text: captions of both graphs, and which of their tokens stand for what.

The photograph is inverted under the caption of its graph, and sampled under the caption of the edited graph. Tokens of an object's
words can be drawn to its box (`ldm.modules.graph_text.steering`), and words that both captions share take their attention from the
photograph (`shared_tokens`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from ldm.graph.caption import Span
from ldm.graph.diff import Add, AddRelation, Operation, Remove, RemoveRelation
from ldm.graph.scene_graph import SceneGraph
from ldm.graph.text_tokens import LENGTH
from ldm.modules.graph_text import GraphText


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
