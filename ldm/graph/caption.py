"""A scene graph as a caption for text encoders, and where in it the words of each object, attribute and relation are.

    SceneGraph(("man", "hat", "horse"), attributes=((), ("red",), ()), triples=((0, "wearing", 1), (0, "riding", 2)))
    long    man wearing red hat and riding horse
    short   man, red hat, horse

Attributes stand before the name, at the first mention of an object; later mentions repeat them only where another object
has the same name. There are no articles: names may be plural or mass nouns, and image captions often have none.

A caption that is too long loses what matters least, in this order, until it fits:

    1. relations of place (`ldm.graph.spatial_relations`), which boxes show better
    2. other relations
    3. attributes, from the last one of an object on
    4. objects

In each group, the object with the smallest box comes first, and of equal ones the last in the graph; an object without a box
counts as the whole image, and a relation as the smaller of its objects. Everything about objects that are to be kept (such as
those that an edit changes) goes after all that is about others. At least one object remains.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ldm.graph.scene_graph import SceneGraph
from ldm.graph.spatial_relations import box_area, kind_of
from ldm.graph.validation import GraphError, Triple, shorten

FORMS = ("long", "short")
BUDGET = 77  # tokens of CLIP's text encoders, the start and the end token included
# Predicates that are not phrases, of CLEVR; others stand as they are.
PHRASES = {"left": "left of", "right": "right of", "front": "in front of"}


class Span(NamedTuple):
    """The characters text[start:end]."""

    start: int
    end: int


@dataclass(frozen=True)
class Caption:
    """A caption, and the characters of its words.

    Attributes:
        text: the caption.
        objects: for each object of the graph the spans of its name, one per mention; () if it was left out.
        attributes: for each object and each of its known attributes the spans of the attribute.
        relations: for each known triple the span of its predicate, or None if it was left out. Repeated triples share one.
        dropped: what was left out for lack of room, in words and in order.
    """

    text: str
    objects: tuple[tuple[Span, ...], ...]
    attributes: tuple[tuple[tuple[Span, ...], ...], ...]
    relations: tuple[Span | None, ...]
    dropped: tuple[str, ...] = ()

    def words_of(self, index: int) -> tuple[Span, ...]:
        """The spans of an object's name and of its attributes, in the order of the text."""
        return tuple(sorted((*self.objects[index], *(span for spans in self.attributes[index] for span in spans))))


class Element(NamedTuple):
    """A part of a caption that can be left out.

    Attributes:
        kind: 'object', 'attribute' or 'relation'.
        index: of the object or triple.
        number: of the attribute of the object; 0 otherwise.
    """

    kind: str
    index: int
    number: int = 0


def caption(
    graph: SceneGraph,
    form: str = "long",
    count_tokens: Callable[[str], int] | None = None,
    budget: int = BUDGET,
    keep: Collection[int] = (),
) -> Caption:
    """Describes a scene graph in words.

    Args:
        graph: the scene graph.
        form: 'long' with relations, 'short' without.
        count_tokens: number of tokens of a text, start and end tokens included; without it, the length is not limited.
        budget: the largest number of tokens.
        keep: indices of objects of which to leave out nothing as long as there is anything about others.

    Raises:
        GraphError: even a single object's name does not fit.
        ValueError: there is no such form.
    """
    if form not in FORMS:
        raise ValueError(f"a caption has no form {form!r}; choose one of {', '.join(FORMS)}")
    left_out = set() if form == "long" else {Element("relation", i) for i in range(len(graph.known_triples))}
    result = _write(graph, left_out)
    if count_tokens is None or count_tokens(result.text) <= budget:
        return result
    dropped: list[str] = []
    order = [element for element in drop_order(graph, keep) if element not in left_out]
    for element in order[:-1]:  # the last one is the name of the object that matters most
        left_out.add(element)
        dropped.append(_describe(graph, element))
        result = _write(graph, left_out, tuple(dropped))
        if count_tokens(result.text) <= budget:
            return result
    raise GraphError(
        f"the caption {shorten(result.text)} alone takes {count_tokens(result.text)} tokens, but the text encoder reads "
        f"{budget}: shorten the name"
    )


def drop_order(graph: SceneGraph, keep: Collection[int] = ()) -> list[Element]:
    """All elements of a caption, what matters least first; see the module's description for the order."""
    sizes = [1.0 if box is None else float(box_area(np.array(box))) for box in graph.boxes]
    places = [(sizes[i], -i) for i in range(len(graph.objects))]  # sorts by size, equal ones from the last to the first

    def priority(element: Element) -> tuple:
        kind, index, number = element
        if kind == "relation":
            subject, predicate, object_ = graph.known_triples[index]
            stage = 0 if kind_of(predicate) is not None else 1
            return subject in keep and object_ in keep, stage, min(places[subject], places[object_]), -index
        return index in keep, 2 if kind == "attribute" else 3, places[index], -number

    elements = [Element("object", i) for i in range(len(graph.objects))]
    elements += [
        Element("attribute", i, n) for i, names in enumerate(graph.known_attributes) for n in range(len(names))
    ]
    elements += [Element("relation", i) for i in _first_of_repeated(graph).values()]
    return sorted(elements, key=priority)


class _Writer:
    """Writes phrases one after another and notes where the words are."""

    def __init__(self, graph: SceneGraph, left_out: Collection[Element]):
        self.graph, self.left_out, self.text = graph, left_out, ""
        self.spans: dict[Element, list[Span]] = {}

    def write(self, words: str, element: Element | None = None) -> None:
        start = len(self.text)
        self.text += words
        if element is not None:
            self.spans.setdefault(element, []).append(Span(start, len(self.text)))

    def mention(self, index: int) -> None:
        """Writes an object's attributes and name."""
        name, this = self.graph.objects[index], Element("object", index)
        if this not in self.spans or self.graph.objects.count(name) > 1:
            for number, attribute in enumerate(self.graph.known_attributes[index]):
                if (element := Element("attribute", index, number)) not in self.left_out:
                    self.write(attribute, element)
                    self.write(" ")
        self.write(name, this)

    def clause(self, subject: int, relations: Sequence[int]) -> None:
        """Writes an object with its relations to others, which may be none."""
        self.write(", " if self.text else "")
        self.mention(subject)
        for number, index in enumerate(relations):
            _, predicate, object_ = self.graph.known_triples[index]
            self.write(" and " if number else " ")
            self.write(_phrase(predicate), Element("relation", index))
            self.write(" ")
            self.mention(object_)


def _write(graph: SceneGraph, left_out: Collection[Element], dropped: tuple[str, ...] = ()) -> Caption:
    triples, first = graph.known_triples, _first_of_repeated(graph)
    relations: dict[int, list[int]] = {index: [] for index in range(len(graph.objects))}  # of each subject
    mentioned = set()
    for i in sorted(first.values()):
        if Element("relation", i) not in left_out:
            relations[triples[i][0]].append(i)
            mentioned.add(triples[i][2])
    writer = _Writer(graph, left_out)
    for index in range(len(graph.objects)):
        if Element("object", index) not in left_out and (relations[index] or index not in mentioned):
            writer.clause(index, relations[index])

    def spans(element: Element) -> tuple[Span, ...]:
        return tuple(writer.spans.get(element, ()))

    return Caption(
        writer.text,
        tuple(spans(Element("object", i)) for i in range(len(graph.objects))),
        tuple(
            tuple(spans(Element("attribute", i, n)) for n in range(len(names)))
            for i, names in enumerate(graph.known_attributes)
        ),
        tuple(next(iter(spans(Element("relation", first[triple]))), None) for triple in triples),
        dropped,
    )


def _first_of_repeated(graph: SceneGraph) -> dict[Triple, int]:
    return {triple: i for i, triple in reversed(list(enumerate(graph.known_triples)))}


def _phrase(predicate: str) -> str:
    words = " ".join(predicate.replace("_", " ").split())
    return PHRASES.get(words, words)


def _describe(graph: SceneGraph, element: Element) -> str:
    if element.kind == "relation":
        subject, predicate, object_ = graph.known_triples[element.index]
        return f"{graph.objects[subject]} {_phrase(predicate)} {graph.objects[object_]}"
    name = graph.objects[element.index]
    return name if element.kind == "object" else f"{graph.known_attributes[element.index][element.number]} ({name})"
