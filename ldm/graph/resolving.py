"""Names that a user may write in a graph beyond a vocabulary: what asks for their meaning, and how a graph shows them again.

Graphs know no encoder: whoever resolves names gives a function (`ldm.words.OpenWords.of` makes one).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple, Protocol

from ldm.graph.validation import GraphError

if TYPE_CHECKING:
    from ldm.graph.scene_graph import SceneGraph


class Slot(NamedTuple):
    """Where in a graph a name stands.

    Args:
        kind: object, predicate or attribute.
        index: of the object; for a predicate, of the triple among the known ones.
        number: of the attribute among those of its object; else 0.
    """

    kind: str
    index: int
    number: int = 0

    @property
    def place(self) -> str:
        """The field of the JSON file, for error messages."""
        return f"{'relationships' if self.kind == 'predicate' else f'{self.kind}s'}[{self.index}]"


class Resolve(Protocol):
    """Tells what a name of a graph means."""

    def __call__(self, name: str, slot: Slot) -> str:
        """A name of the vocabulary; the same one for a name that the vocabulary has.

        Raises:
            GraphError: the name has no meaning there, or several.
        """
        ...


def resolve_names(graph: SceneGraph, resolve: Resolve, where: str = "graph") -> SceneGraph:
    """The graph in the names that a function gives.

    Raises:
        GraphError: the function does, and the message begins with the place.
    """

    def name_of(name: str, slot: Slot) -> str:
        try:
            return resolve(name, slot)
        except GraphError as error:
            raise GraphError(f"{where}, {slot.place}: {error}").coded_like(error) from None

    return _rename(graph, name_of)


@dataclass(frozen=True)
class Wording:
    """A graph as its user wrote it, and the same graph in a vocabulary's names.

    Attributes:
        written: in the user's words.
        named: in the vocabulary's names; objects and triples in the same order.
    """

    written: SceneGraph
    named: SceneGraph

    def show(self, graph: SceneGraph) -> SceneGraph:
        """A graph of the same objects in the user's words; what the user did not write keeps its name."""
        if graph.objects != self.named.objects:
            return graph
        pairs = zip(self.named.known_triples, self.written.known_triples)
        predicates = {triple: written[1] for triple, written in pairs}
        attributes = [dict(zip(*each)) for each in zip(self.named.known_attributes, self.written.known_attributes)]

        def written_name(name: str, slot: Slot) -> str:
            if slot.kind == "object":
                return self.written.objects[slot.index]
            if slot.kind == "predicate":
                return predicates.get(graph.known_triples[slot.index], name)
            return attributes[slot.index].get(name, name)

        return _rename(graph, written_name)


def _rename(graph: SceneGraph, name_of: Callable[[str, Slot], str]) -> SceneGraph:
    objects = tuple(name_of(name, Slot("object", index)) for index, name in enumerate(graph.objects))
    attributes = tuple(
        names and tuple(name_of(name, Slot("attribute", index, number)) for number, name in enumerate(names))
        for index, names in enumerate(graph.attributes)
    )
    triples = graph.triples and tuple(
        (s, name_of(name, Slot("predicate", index)), o) for index, (s, name, o) in enumerate(graph.triples)
    )
    return replace(graph, objects=objects, attributes=attributes, triples=triples)
