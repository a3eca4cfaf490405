"""A thing of a synthetic world, such as a small red striped triangle, and graphs that call it by a word of their own."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from typing import Any

from ldm.graph.scene_graph import SceneGraph
from ldm.synthetic.worlds import World, WorldReader
from ldm.util.errors import UserError, did_you_mean


@dataclass(frozen=True)
class Thing:
    """What objects are that a word means.

    Attributes:
        name: of the object.
        attributes: that it has, all of them if it says so much.
    """

    name: str
    attributes: tuple[str, ...]

    @classmethod
    def of(cls, description: str, world: WorldReader) -> Thing:
        """'small red striped triangle' -> the thing. Raises UserError for words that the world does not have."""
        *attributes, name = description.split() or [""]
        for word, known in ((name, world.object_names), *((each, world.vocab.attributes) for each in attributes)):
            if word not in known:
                raise UserError(
                    f"{description!r}: {word!r} is not among {', '.join(known)}{did_you_mean(word, known)}; describe a thing by its "
                    "attributes and, last, its name"
                )
        for group in (world.sizes, world.colours, world.finishes):
            if len(both := [each for each in attributes if each in group]) > 1:
                raise UserError(f"{description!r}: nothing is both {both[0]} and {both[1]}; name one of them")
        return cls(name, tuple(attributes))

    def found_in(self, graph: SceneGraph) -> list[int]:
        """Which objects of a complete graph are such things."""
        pairs = zip(graph.objects, graph.attributes)
        return [
            i for i, (name, has) in enumerate(pairs) if name == self.name and set(self.attributes) <= set(has or ())
        ]

    def called(self, word: str, graph: SceneGraph) -> SceneGraph:
        """The graph in which each such thing has the word for its name, without the attributes that the word means."""
        objects, attributes = list(graph.objects), list(graph.attributes)
        for index in self.found_in(graph):
            objects[index] = word
            attributes[index] = tuple(name for name in attributes[index] or () if name not in self.attributes)
        return replace(graph, objects=tuple(objects), attributes=tuple(attributes))

    def is_alone_in(self, graph: SceneGraph, known: Collection[str]) -> bool:
        """Whether a graph has exactly one such thing, and besides it only known objects."""
        others = [name for name in graph.objects if name not in known]
        return len(self.found_in(graph)) == 1 and others in ([], [self.name])


def scenes_with(
    thing: Thing, world: World, seed: int, known: Collection[str] | None = None
) -> Iterator[tuple[SceneGraph, Any]]:
    """Random scenes with exactly one such thing, without end: complete graphs and backgrounds, for `World.render`.

    Args:
        known: names of the other objects; by default any.
    """
    rng = random.Random(f"things/{seed}")
    while True:
        graph = world.random_graph(rng)
        if thing.is_alone_in(graph, world.object_names if known is None else known):
            yield graph, world.random_background(rng)
