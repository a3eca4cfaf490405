"""Synthetic worlds: what each of them offers, and the table of their names."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from PIL import Image

from ldm.graph.scene_graph import SceneGraph
from ldm.graph.validation import Box
from ldm.graph.vocab import Vocab
from ldm.synthetic.readings import SceneReading
from ldm.synthetic.shapes import ShapesWorld
from ldm.util.errors import UserError, did_you_mean
from ldm.util.images import Picture


class World(Protocol):
    """A generator of scene graphs, a renderer, and a reader that recovers the graph from pixels.

    Complete graphs list their objects from back to front; every object has a box and three attributes: its size, its
    colour and its finish, in this order. A background belongs to no graph. It is the style of the picture, and its type
    is the world's own.
    """

    @property
    def vocab(self) -> Vocab: ...

    @property
    def image_size(self) -> int:
        """Default side of a picture in pixels."""
        ...

    @property
    def max_objects(self) -> int:
        """Most objects in a generated scene."""
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

    def random_graph(self, rng: random.Random) -> SceneGraph:
        """A complete graph with every triple that clearly holds; no two objects agree in both name and colour."""
        ...

    def random_background(self, rng: random.Random) -> Any: ...

    def render(self, graph: SceneGraph, background: Any, image_size: int = ...) -> Image.Image:
        """Draws a graph whose objects all have boxes; the default size is the world's.

        Raises:
            GraphError: an object has an unknown name, no box or no colour.
        """
        ...

    def read_scene(self, picture: Picture) -> SceneReading:
        """Recovers objects, relations and style from the pixels of a picture of any size."""
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

    def relation_holds(self, subject: Box, predicate: str, object: Box, in_front: bool) -> bool:
        """Whether a triple is true of two measured boxes; `in_front`: the subject is drawn after the object."""
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
}


def find_world(name: str) -> World:
    """The world of this name.

    Raises:
        UserError: there is none.
    """
    if name not in WORLDS:
        raise UserError(f"unknown world {name!r}: choose one of {', '.join(WORLDS)}{did_you_mean(name, WORLDS)}")
    return WORLDS[name]
