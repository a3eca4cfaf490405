"""Scenes as CLEVR's generator draws them: three solids in rubber or metal on a grey floor (Johnson et al. 2017).

Numbers are those of facebookresearch/clevr-dataset-gen. Its camera looks at the origin from a jittered place; graphs use the
vocabulary of `ldm.data.clevr` and the relations of `ldm.synthetic.rendered.relations`.
"""

from __future__ import annotations

import math
import random
from typing import Any

from ldm.synthetic.rendered.relations import floor_position
from ldm.synthetic.rendered.scenes import SENSOR, Camera, Geometry, Scene, Style, with_things
from ldm.synthetic.rendered.things import Thing

DIAMETERS = {"small": 0.7, "large": 1.4}
EXTENTS = {"sphere": 1.0, "cube": 0.84, "cylinder": 0.9}  # height and width of the meshes
MATERIALS = ("rubber", "metal")
COLOURS = {  # levels of 255, which the generator takes for linear ones
    "gray": (87, 87, 87),
    "red": (173, 35, 35),
    "blue": (42, 75, 215),
    "green": (29, 105, 20),
    "brown": (129, 74, 25),
    "purple": (129, 38, 192),
    "cyan": (41, 208, 208),
    "yellow": (255, 238, 51),
}
STYLE = Style("grey", "grey", "clevr", "right")
LAMPS = {"key": (6.447, -2.907, 4.258), "fill": (-4.671, -4.014, 3.011), "back": (-1.168, 2.646, 5.816)}

MIN_SOLIDS, MAX_SOLIDS = 3, 10
REACH = 3.0  # of x and y
GAP = 0.25  # least distance of two solids
CLEAR = 0.4  # least difference to the right and in depth, so that relations are evident
MIN_CELLS = 200 / (480 * 320) * 64**2  # least visible area, in cells of 1/64 of the picture's side
CAMERA = (7.481, -6.508, 5.344)
LENS = SENSOR * 35 / 32  # mm: CLEVR's 35 mm on a sensor of 32 mm
SHARP = 1e6  # f-number
CAMERA_JITTER, LAMP_JITTER = 0.5, 1.0  # largest change of each coordinate
TRIES, PLACES = 400, 50


class Solid(Thing):
    """A thing of CLEVR's sizes."""

    __slots__ = ()

    @property
    def scale(self) -> float:
        return DIAMETERS[self.size] / EXTENTS[self.kind]


def scene_from_json(fields: dict[str, Any]) -> Scene:
    """The scene of a line in scenes.jsonl, ready to be drawn."""
    scene = Scene.from_json(fields)
    return with_things(scene, [Solid(*thing) for thing in scene.things])


def random_clevr_scene(seed: int, geometry: Geometry) -> Scene:
    """The scene of a seed.

    Raises:
        RuntimeError: no scene was found, which does not happen with the constants above.
    """
    rng = random.Random(f"clevr/{seed}")
    count = rng.randint(MIN_SOLIDS, MAX_SOLIDS)
    for _ in range(TRIES):
        camera = _random_camera(rng)
        solids = _arrange(count, camera, rng)
        if solids is None:
            continue
        scene = Scene(seed, solids, camera, STYLE)
        if all(seen.cells >= MIN_CELLS for seen in geometry.visibility(scene)):
            return scene
    raise RuntimeError(f"no CLEVR scene found for seed {seed}")


def lamp_places(seed: int) -> list[tuple[float, ...]]:
    """Where key, fill and back lamp of a scene are."""
    rng = random.Random(f"clevr/lamps/{seed}")
    return [_jittered(place, LAMP_JITTER, rng) for place in LAMPS.values()]


def _jittered(place: tuple[float, ...], jitter: float, rng: random.Random) -> tuple[float, ...]:
    return tuple(value + rng.uniform(-jitter, jitter) for value in place)


def _random_camera(rng: random.Random) -> Camera:
    x, y, z = _jittered(CAMERA, CAMERA_JITTER, rng)
    return Camera((x, y, z), (0.0, 0.0, 0.0), LENS, focus=math.hypot(x, y, z), aperture=SHARP)


def _arrange(count: int, camera: Camera, rng: random.Random) -> tuple[Solid, ...] | None:
    solids: list[Solid] = []
    for _ in range(count):
        solid = Solid(
            rng.choice(tuple(EXTENTS)), rng.choice(tuple(DIAMETERS)), rng.choice(tuple(COLOURS)), rng.choice(MATERIALS)
        )
        for _ in range(PLACES):
            x, y, turn = rng.uniform(-REACH, REACH), rng.uniform(-REACH, REACH), rng.uniform(0, 2 * math.pi)
            placed = solid._replace(x=x, y=y, turn=turn)
            if all(_is_apart(placed, other, camera) for other in solids):
                solids.append(placed)
                break
        else:
            return None
    return tuple(solids)


def _is_apart(a: Thing, b: Thing, camera: Camera) -> bool:
    """Whether two solids are far enough from each other, and differ in both directions of the floor."""
    gap = math.hypot(a.x - b.x, a.y - b.y) - (DIAMETERS[a.size] + DIAMETERS[b.size]) / 2
    (right_a, away_a), (right_b, away_b) = floor_position(a, camera), floor_position(b, camera)
    return gap >= GAP and min(abs(right_a - right_b), abs(away_a - away_b)) >= CLEAR
