"""Random scenes for the renderer: what stands where, under which light, seen from where.

A scene is a value without Blender's types. It is drawn again until every thing is seen well enough; the number of things
is drawn before that, so that crowded scenes are as frequent as empty ones.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple, Protocol

from ldm.synthetic.rendered.things import HELD, HOLDERS, KINDS, STANDING, Thing, collide, random_look, random_turn

FLOORS = ("oak", "granite", "linen", "concrete", "terracotta", "laminate")
WALLS = ("cream", "sage", "slate", "blush", "white", "navy", "ochre")
LIGHTS = ("studio", "daylight", "overcast", "evening", "lamplit")
SIDES = ("left", "right")  # of the main lamp

SENSOR = 36.0  # mm, width of the camera's sensor
MIN_THINGS, MAX_THINGS = 2, 7
REACH_X, REACH_Y = (-1.5, 1.5), (-1.1, 1.5)  # where things stand
SUPPORTED = 0.5  # share of scenes in which one thing stands on or lies in another
VISIBLE, VISIBLE_INSIDE = 0.6, 0.3  # least visible share of a thing, and of one that lies in another
MARGIN = 0.01  # least distance of a thing's box from the picture's edge, as a share of its side
MIN_CELLS = 24  # least visible area of a thing, in cells of 1/64 of the picture's side
TRIES = 400


class Camera(NamedTuple):
    """A camera with a sensor of the width `SENSOR`.

    Args:
        location, target: points in the scene.
        lens: focal length in mm.
        focus: distance of the plane in focus.
        aperture: f-number.
    """

    location: tuple[float, float, float]
    target: tuple[float, float, float]
    lens: float
    focus: float
    aperture: float


class Style(NamedTuple):
    """What no graph says: floor, wall, and the light with the side that it comes from."""

    floor: str
    wall: str
    light: str
    side: str


@dataclass(frozen=True)
class Scene:
    """A scene; `seed` names it and is that of the renderer's noise too."""

    seed: int
    things: tuple[Thing, ...]
    camera: Camera
    style: Style

    def to_json(self) -> dict[str, Any]:
        fields = asdict(self)
        fields["things"] = [thing._asdict() for thing in self.things]
        return fields | {"camera": self.camera._asdict(), "style": self.style._asdict()}

    @staticmethod
    def from_json(fields: dict[str, Any]) -> Scene:
        things = tuple(Thing(**thing) for thing in fields["things"])
        camera = {name: tuple(value) if isinstance(value, list) else value for name, value in fields["camera"].items()}
        return Scene(fields["seed"], things, Camera(**camera), Style(**fields["style"]))


class Visibility(NamedTuple):
    """How well a thing is seen: the visible share, the visible area in cells of 1/64, and the full box in [0,1]."""

    share: float
    cells: float
    box: tuple[float, float, float, float]


class Geometry(Protocol):
    """What the sampler must know of the meshes; implemented with Blender in `ldm.synthetic.rendered.geometry`."""

    def visibility(self, scene: Scene) -> list[Visibility]:
        """How well each thing of a scene is seen, in the scene's order."""
        ...

    def resting_height(self, thing: Thing, support: Thing) -> float:
        """The z at which `thing`, lowered from above, touches `support`."""
        ...


def random_style(rng: random.Random) -> Style:
    return Style(rng.choice(FLOORS), rng.choice(WALLS), rng.choice(LIGHTS), rng.choice(SIDES))


def random_camera(rng: random.Random) -> Camera:
    """A camera in front of the table, a little above, with small variations."""
    azimuth, elevation = rng.uniform(-0.05, 0.05), math.radians(25 + rng.uniform(-1.5, 2.5))
    distance = 5.35 + rng.uniform(-0.15, 0.15)
    target = (rng.uniform(-0.08, 0.08), 0.1 + rng.uniform(-0.08, 0.08), 0.5)
    location = (
        target[0] + distance * math.cos(elevation) * math.sin(azimuth),
        target[1] - distance * math.cos(elevation) * math.cos(azimuth),
        target[2] + distance * math.sin(elevation),
    )
    return Camera(location, target, lens=46.0, focus=distance - 0.2, aperture=0.9)


def random_thing(rng: random.Random, kind: str | None = None, size: str | None = None) -> Thing:
    """A thing at the origin."""
    kind = kind or rng.choice(tuple(KINDS))
    colour, material = random_look(kind, rng)
    return Thing(kind, size or rng.choice(("small", "large")), colour, material, turn=random_turn(kind, rng))


def random_scene(seed: int, geometry: Geometry) -> Scene:
    """The scene of a seed.

    Raises:
        RuntimeError: no scene was found, which does not happen with the constants above.
    """
    rng = random.Random(f"scene/{seed}")
    count = rng.randint(MIN_THINGS, MAX_THINGS)
    relation = rng.choice(("on", "inside")) if rng.random() < SUPPORTED else None
    for _ in range(TRIES):
        things = _arrange(count, relation, rng, geometry)
        if things is None:
            continue
        scene = Scene(seed, things, random_camera(rng), random_style(rng))
        if all_visible(scene, geometry):
            return scene
    raise RuntimeError(f"no scene found for seed {seed}")


def all_visible(scene: Scene, geometry: Geometry) -> bool:
    """Whether every thing is seen well enough to be named."""
    for thing, seen in zip(scene.things, geometry.visibility(scene)):
        least = VISIBLE_INSIDE if thing.relation == "inside" else VISIBLE
        inside = min(seen.box) >= MARGIN and max(seen.box) <= 1 - MARGIN
        if seen.share < least or seen.cells < MIN_CELLS or not inside:
            return False
    return True


def _arrange(count: int, relation: str | None, rng: random.Random, geometry: Geometry) -> tuple[Thing, ...] | None:
    things: list[Thing] = []
    if relation:
        kinds = HOLDERS if relation == "inside" else [kind for kind in KINDS if KINDS[kind].top]
        support = place(random_thing(rng, rng.choice(kinds), "large"), things, rng)
        carried = support and carry(relation, support, 0, rng, geometry)
        if support is None or carried is None:
            return None
        things += [support, carried]
    while len(things) < count:
        thing = random_thing(rng)
        if thing.identity in {other.identity for other in things}:
            continue
        thing = place(thing, things, rng)
        if thing is None:
            return None
        things.append(thing)
    return tuple(things)


def carry(relation: str, support: Thing, index: int, rng: random.Random, geometry: Geometry) -> Thing | None:
    """A small thing of another kind on or inside a support, which has this index."""
    kind = rng.choice([kind for kind in (HELD if relation == "inside" else STANDING) if kind != support.kind])
    thing = random_thing(rng, kind, "small")
    thing = thing._replace(
        x=support.x + rng.uniform(-0.06, 0.06),
        y=support.y + rng.uniform(-0.06, 0.06),
        support=index,
        relation=relation,
    )
    return thing._replace(z=geometry.resting_height(thing, support))


def place(
    thing: Thing,
    others: Sequence[Thing],
    rng: random.Random,
    accept: Callable[[Thing], bool] = lambda thing: True,
    tries: int = 40,
) -> Thing | None:
    """The thing at a random free position on the floor that is accepted; None if there is no room."""
    for _ in range(tries):
        moved = thing._replace(x=rng.uniform(*REACH_X), y=rng.uniform(*REACH_Y), z=0.0, support=None, relation=None)
        if accept(moved) and is_free(moved, others):
            return moved
    return None


def is_free(thing: Thing, others: Sequence[Thing]) -> bool:
    """Whether a thing on the floor collides with none of the others that stand on the floor."""
    return not any(collide(thing, other) for other in others if other.support is None)


def with_things(scene: Scene, things: Sequence[Thing]) -> Scene:
    return replace(scene, things=tuple(things))
