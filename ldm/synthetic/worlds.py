"""Synthetic worlds: what each of them offers, and the tables of their names."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeVar

from PIL import Image

from ldm.graph.scene_graph import SceneGraph
from ldm.graph.validation import Box
from ldm.graph.vocab import Vocab
from ldm.synthetic.readings import SceneReading
from ldm.synthetic.rendered.world import ClevrWorld, RenderedWorld
from ldm.synthetic.shapes import MoreShapesWorld, ShapesWorld
from ldm.util.errors import UserError, did_you_mean
from ldm.util.images import Picture

T = TypeVar("T")


class WorldReader(Protocol):
    """The words of a world, and a reader that recovers the graph and the style of a picture from its pixels.

    This is what the checker needs; `World` also generates and draws. In a complete graph every object has a box, and as
    attributes its size, then its colour and its finish, as far as its kind has a choice. A style belongs to no graph, and
    its type is the world's own.
    """

    @property
    def vocab(self) -> Vocab: ...

    @property
    def image_size(self) -> int:
        """Default side of a picture in pixels."""
        ...

    @property
    def object_names(self) -> tuple[str, ...]: ...

    @property
    def sizes(self) -> tuple[str, ...]: ...

    @property
    def colours(self) -> tuple[str, ...]: ...

    @property
    def finishes(self) -> tuple[str, ...]:
        """Fills or materials."""
        ...

    @property
    def directions(self) -> tuple[str, ...]:
        """Predicates that an edit may ask for by moving an object."""
        ...

    @property
    def converse(self) -> Mapping[str, str]:
        """Converse of each predicate that has one, such as 'left of' and 'right of'."""
        ...

    @property
    def flat(self) -> bool:
        """Whether objects lie in the picture plane, without perspective, so that layout search can place them."""
        ...

    @property
    def shadow_reach(self) -> float:
        """How far an object changes the picture outside its box, as a share of the box's side."""
        ...

    def read_scene(self, picture: Picture) -> SceneReading:
        """Recovers objects, relations and style from the pixels of a picture of any size."""
        ...

    def triple_holds(self, reading: SceneReading, subject: int, predicate: str, object: int) -> bool:
        """Whether a triple is true of two objects of a reading, be it the most evident one or not.

        Args:
            reading: of this world, with a graph.
            subject, object: indices of objects of the reading's graph.
        """
        ...

    @property
    def style_parts(self) -> tuple[str, ...]:
        """What a style consists of: the keys of `style_distance` and `style_follows`."""
        ...

    def same_style(self, a: Any, b: Any) -> bool:
        """Whether two pictures have one style; `a` and `b` are styles that `read_scene` returned."""
        ...

    def style_distance(self, a: Any, b: Any) -> Mapping[str, float]:
        """How much two styles differ, by part, in units of the part's own; 0 if they are equal."""
        ...

    def style_follows(self, style: Any, source: Any, reference: Any) -> Mapping[str, float]:
        """How far a style has moved from the source's (0) to the reference's (1), by part; NaN where these are equal."""
        ...


class World(WorldReader, Protocol):
    """A world that generates scene graphs and draws them.

    Complete graphs list their objects from back to front, and every object has a size, a colour and a finish.
    """

    @property
    def max_objects(self) -> int:
        """Most objects in a generated scene."""
        ...

    def random_graph(self, rng: random.Random) -> SceneGraph:
        """A complete graph with every triple that clearly holds; no two objects agree in both name and colour."""
        ...

    def random_background(self, rng: random.Random) -> Any:
        """A background of any style."""
        ...

    def render(self, graph: SceneGraph, background: Any, image_size: int = ...) -> Image.Image:
        """Draws a graph whose objects all have boxes; the default size is the world's.

        Raises:
            GraphError: an object has an unknown name, no box or no colour.
        """
        ...

    def graph_from_boxes(
        self,
        objects: Sequence[str],
        boxes: Sequence[Box],
        attributes: Sequence[tuple[str, ...]],
        ids: Sequence[str | None] = (),
    ) -> SceneGraph:
        """The complete graph of objects that are listed from back to front, with at most one triple for each pair."""
        ...

    def back_to_front(self, graph: SceneGraph) -> list[int]:
        """Indices of the objects in drawing order."""
        ...

    def find_ambiguity(self, graph: SceneGraph) -> str | None:
        """Why a picture of this complete graph would not determine the graph (a hidden object, say), or None."""
        ...

    def random_box(self, size: str, rng: random.Random, like: Box | None = None) -> Box:
        """A box anywhere in the picture for an object of this size; `like`: the box that it had before."""
        ...

    def resized_boxes(self, size: str, box: Box, rng: random.Random) -> list[Box]:
        """Boxes of another size for an object that stays where it is, in random order."""
        ...


WORLDS: dict[str, World] = {
    "shapes": ShapesWorld(),
    "more_shapes": MoreShapesWorld(),
}
# All worlds whose pictures can be read; a reader of CLEVR's look that reads has weights, `ClevrWorld(weights)`.
READERS: dict[str, WorldReader] = {**WORLDS, "rendered": RenderedWorld(), "clevr": ClevrWorld()}


def find_world(name: str) -> World:
    """The world of this name, which can be drawn.

    Raises:
        UserError: there is none.
    """
    return _find(name, WORLDS)


def find_reader(name: str) -> WorldReader:
    """The reader of the world of this name.

    Raises:
        UserError: there is none.
    """
    return _find(name, READERS)


def _find(name: str, known: Mapping[str, T]) -> T:
    if name not in known:
        raise UserError(f"unknown world {name!r}: choose one of {', '.join(known)}{did_you_mean(name, known)}")
    return known[name]
