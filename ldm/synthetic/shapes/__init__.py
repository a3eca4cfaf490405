"""The world 'shapes': flat coloured shapes on a textured background, 64 x 64 pixels."""

from __future__ import annotations

import random
from dataclasses import dataclass

from ldm.graph.scene_graph import SceneGraph
from ldm.graph.vocab import Vocab
from ldm.synthetic.annotation import CONVERSE, subsample_graph
from ldm.synthetic.readings import SceneReading
from ldm.synthetic.shapes import scenes
from ldm.synthetic.shapes.rendering import (
    STRIPE_BRIGHTNESS,
    STRIPE_HEIGHT,
    TEXTURE_CONTRAST,
    TEXTURES,
    Background,
    random_background,
    render,
    texture_pattern,
)
from ldm.synthetic.shapes.scenes import (
    CELLS,
    COLOURS,
    DIAGONAL_MARGIN,
    FILLS,
    IMAGE_SIZE,
    MIN_VISIBLE,
    MORE_SHAPES,
    SHAPES,
    SIDES,
    VOCAB,
    back_to_front,
    find_ambiguity,
    graph_from_boxes,
    main_relation,
    random_box,
    random_graph,
    relation_holds,
    resized_boxes,
)
from ldm.synthetic.shapes.style import STYLE_PARTS, StyleReading, same_style, style_distance, style_follows
from ldm.synthetic.shapes.vision import read_scene, triple_holds
from ldm.util.images import Picture

__all__ = [
    "CELLS",
    "COLOURS",
    "CONVERSE",
    "DIAGONAL_MARGIN",
    "FILLS",
    "IMAGE_SIZE",
    "MIN_VISIBLE",
    "MORE_SHAPES",
    "SHAPES",
    "SIDES",
    "STRIPE_BRIGHTNESS",
    "STRIPE_HEIGHT",
    "STYLE_PARTS",
    "TEXTURES",
    "TEXTURE_CONTRAST",
    "VOCAB",
    "Background",
    "MoreShapesWorld",
    "ShapesWorld",
    "StyleReading",
    "back_to_front",
    "find_ambiguity",
    "graph_from_boxes",
    "main_relation",
    "random_background",
    "random_box",
    "random_graph",
    "read_scene",
    "relation_holds",
    "render",
    "resized_boxes",
    "same_style",
    "style_distance",
    "style_follows",
    "subsample_graph",
    "texture_pattern",
    "triple_holds",
]


@dataclass(frozen=True)
class ShapesWorld:
    """Flat shapes as a `ldm.synthetic.worlds.World`.

    Args:
        apart: share of objects that overlap no other; the rest lie over or inside another one.
    """

    apart: float = scenes.APART

    vocab = VOCAB
    image_size = IMAGE_SIZE
    max_objects = scenes.MAX_OBJECTS
    object_names = SHAPES
    sizes = tuple(SIDES)
    colours = tuple(COLOURS)
    finishes = FILLS
    directions = ("left of", "right of", "above", "below")
    converse = CONVERSE
    flat = True
    shadow_reach = 0.0
    style_parts = STYLE_PARTS

    render = staticmethod(render)
    read_scene = staticmethod(read_scene)
    random_background = staticmethod(random_background)
    graph_from_boxes = staticmethod(graph_from_boxes)
    back_to_front = staticmethod(back_to_front)
    triple_holds = staticmethod(triple_holds)
    same_style = staticmethod(same_style)
    style_distance = staticmethod(style_distance)
    style_follows = staticmethod(style_follows)
    find_ambiguity = staticmethod(find_ambiguity)
    random_box = staticmethod(random_box)
    resized_boxes = staticmethod(resized_boxes)

    def random_graph(self, rng: random.Random) -> SceneGraph:
        return random_graph(rng, self.apart)


@dataclass(frozen=True)
class MoreShapesWorld(ShapesWorld):
    """Flat shapes with a star and a heart among them, which the weights that ship have never seen."""

    vocab = Vocab((*VOCAB.objects, *MORE_SHAPES[len(SHAPES) :]), VOCAB.predicates, VOCAB.attributes)
    object_names = MORE_SHAPES

    @staticmethod
    def read_scene(picture: Picture) -> SceneReading:
        return read_scene(picture, MORE_SHAPES)

    def random_graph(self, rng: random.Random) -> SceneGraph:
        return random_graph(rng, self.apart, MORE_SHAPES)
