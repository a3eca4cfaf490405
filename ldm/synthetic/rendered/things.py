"""What can stand in a rendered scene: kinds of things, their sizes, colours, materials and footprints.

Lengths are in scene units; a sphere of size factor 1 has the diameter 1. The floor is the plane z = 0.
"""

from __future__ import annotations

import math
import random
from typing import NamedTuple

from ldm.graph.vocab import Vocab

COLOURS = ("red", "yellow", "green", "blue", "purple", "white")
MATERIALS = ("rubber", "metal", "wood", "marble")
SIZES = {"small": 0.75, "large": 1.2}  # scale factors
PREDICATES = ("left of", "right of", "in front of", "behind", "on", "inside")

# Colours of each material; wood and marble have their own, and white metal would show nothing but its surroundings.
TINTED = {"rubber": COLOURS, "metal": COLOURS[:-1]}


class Circle(NamedTuple):
    """Part of a footprint on the floor, relative to the thing's origin and orientation."""

    x: float
    y: float
    radius: float


class Kind(NamedTuple):
    """Properties of a kind of thing at size factor 1.

    Args:
        scale: of the mesh, so that kinds have comparable sizes.
        materials: the choice of materials; empty if the kind has one surface only, which no graph names.
        colours: the choice of colours, if `materials` is empty.
        surface: shader of the kind's own surface, if `materials` is empty.
        footprint: circles that cover the mesh from above.
        top: height of the level top that other things can stand on, or None.
        turn: range of rotation about the vertical axis, in radians.
        mirrored: whether a turn by half a circle is as frequent.
    """

    scale: float
    materials: tuple[str, ...] = ()
    colours: tuple[str, ...] = COLOURS
    surface: str = ""
    footprint: tuple[Circle, ...] = (Circle(0, 0, 0.5),)
    top: float | None = None
    turn: tuple[float, float] = (0, 2 * math.pi)
    mirrored: bool = False


KINDS = {
    "sphere": Kind(0.9, MATERIALS),
    "cube": Kind(0.95, MATERIALS, footprint=(Circle(0, 0, 0.58),), top=0.84),
    "cylinder": Kind(0.95, MATERIALS, footprint=(Circle(0, 0, 0.45),), top=0.9),
    "donut": Kind(1.0, ("rubber", "metal"), footprint=(Circle(0, 0, 0.56),)),
    "bowl": Kind(1.05, ("metal", "wood", "marble"), footprint=(Circle(0, 0, 0.75),)),
    "crate": Kind(1.05, ("wood",), footprint=(Circle(-0.25, 0, 0.56), Circle(0.25, 0, 0.56))),
    "mug": Kind(
        0.95,
        surface="ceramic",
        footprint=(Circle(0, 0, 0.4), Circle(0.5, 0, 0.14)),
        turn=(-0.9, 0.9),
        mirrored=True,
    ),
    "vase": Kind(0.95, surface="ceramic", footprint=(Circle(0, 0, 0.45),)),
    "bottle": Kind(0.9, surface="enamel", footprint=(Circle(0, 0, 0.31),)),
    "lamp": Kind(1.05, surface="shade", footprint=(Circle(0, 0, 0.48),)),
    "candle": Kind(1.0, surface="wax", footprint=(Circle(0, 0, 0.28),)),
    "stool": Kind(0.95, surface="paint", footprint=(Circle(0, 0, 0.52),), top=0.93),
    "apple": Kind(0.9, colours=("red", "yellow", "green"), surface="fruit"),
    "pear": Kind(0.9, colours=("yellow", "green"), surface="fruit"),
    "banana": Kind(
        0.95,
        colours=("yellow",),
        surface="fruit",
        footprint=(Circle(-0.5, 0.1, 0.25), Circle(0, -0.05, 0.25), Circle(0.5, 0.1, 0.25)),
        turn=(-0.5, 0.5),
    ),
}
HOLDERS = ("bowl", "crate")  # other things can lie inside
HELD = ("apple", "pear", "sphere", "donut")  # things that may lie inside another
STANDING = ("apple", "mug", "candle", "sphere", "pear", "vase", "cube", "donut", "bowl", "bottle", "lamp")  # on another

VOCAB = Vocab(
    objects=("__image__", *KINDS),
    predicates=("__in_image__", *PREDICATES),
    attributes=(*SIZES, *COLOURS, *MATERIALS),
)


class Look(NamedTuple):
    """Colour and material of a thing, where a graph would name them."""

    colour: str | None = None
    material: str | None = None


class Thing(NamedTuple):
    """One thing in a scene.

    Args:
        kind: a key of `KINDS`.
        size: a key of `SIZES`.
        x, y, z: position of the origin; y points away from the camera, z up.
        turn: rotation about the vertical axis in radians.
        support: index of the thing that it stands on or lies in.
        relation: 'on' or 'inside', if it has a support.
    """

    kind: str
    size: str
    colour: str | None
    material: str | None
    x: float = 0.0
    y: float = 0.0
    z: float = 0.0
    turn: float = 0.0
    support: int | None = None
    relation: str | None = None

    @property
    def scale(self) -> float:
        return KINDS[self.kind].scale * SIZES[self.size]

    @property
    def look(self) -> Look:
        return Look(self.colour, self.material)

    @property
    def words(self) -> tuple[str, ...]:
        """Attributes in a complete graph: size, then colour and material where the kind has a choice."""
        return tuple(word for word in (self.size, self.colour, self.material) if word)

    @property
    def identity(self) -> tuple[str, str | None]:
        """Kind and colour, or kind and material; no two things of a scene share it."""
        return self.kind, self.colour or self.material


def looks(kind: str) -> list[Look]:
    """Every look of a kind."""
    about = KINDS[kind]
    if not about.materials:
        return [Look(colour) for colour in about.colours]
    return [Look(colour, material) for material in about.materials for colour in TINTED.get(material, (None,))]


def random_look(kind: str, rng: random.Random) -> Look:
    """A look with an even choice of materials, then an even choice of colours."""
    about = KINDS[kind]
    if not about.materials:
        return Look(rng.choice(about.colours))
    material = rng.choice(about.materials)
    return Look(rng.choice(TINTED.get(material, (None,))), material)


def random_turn(kind: str, rng: random.Random) -> float:
    about = KINDS[kind]
    turn = rng.uniform(*about.turn)
    return turn + rng.choice((0.0, math.pi)) if about.mirrored else turn


def footprint(thing: Thing) -> list[Circle]:
    """The circles that a thing occupies on the floor, in scene coordinates."""
    scale, cosine, sine = thing.scale, math.cos(thing.turn), math.sin(thing.turn)
    return [
        Circle(
            thing.x + scale * (x * cosine - y * sine),
            thing.y + scale * (x * sine + y * cosine),
            scale * radius,
        )
        for x, y, radius in KINDS[thing.kind].footprint
    ]


def collide(a: Thing, b: Thing, gap: float = 0.06) -> bool:
    """Whether two footprints are closer than `gap`."""
    return any(math.hypot(p.x - q.x, p.y - q.y) < p.radius + q.radius + gap for p in footprint(a) for q in footprint(b))
