"""Random clips of rendered scenes: things that glide along the table, turn at its border, pass behind others, come and go.

What a clip shows is known in every frame: each is a scene of its own, with its own graph, and obeys the rules of every other scene.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from ldm.synthetic.rendered.scenes import REACH_X, REACH_Y, Geometry, Scene, all_visible, is_free, random_scene
from ldm.synthetic.rendered.things import Thing

MOTIONS = {"still": 0.4, "straight": 0.4, "turn": 0.2}  # probability of each, per thing on the floor
MIN_DISTANCE = (
    0.8  # scene units between the two ends of a way; a sixth of the picture's width or more, if it leads sideways
)
VISITING = 0.2  # share of the clips in which a thing comes or leaves
MAX_TRIES = 40  # of motions for one scene, before another scene is drawn
NEXT_SCENE = 10**10  # from a clip's seed to the seed of its next scene

Place = tuple[float, float]


class Frame(NamedTuple):
    """A frame of a clip.

    Args:
        scene: what it shows.
        things: number of each thing of the scene, the same in all frames.
    """

    scene: Scene
    things: tuple[int, ...]


def random_clip(seed: int, geometry: Geometry, frames: int) -> list[Frame]:
    """The clip of a seed: two to seven things of which at least one moves by MIN_DISTANCE, and each is seen well in every frame.

    A thing that stands on or lies in another one moves with it. Camera, light and table stay as they are.
    """
    rng = random.Random(f"clip/{seed}")
    start = seed
    while True:
        scene = replace(random_scene(start, geometry), seed=seed)
        for _ in range(MAX_TRIES):
            ways, visit = _random_ways(scene, frames, rng), _random_visit(scene, frames, rng)
            clip = [_frame(scene, ways, frame, visit) for frame in range(frames)]
            if _is_readable(clip, geometry):
                return clip
        start += NEXT_SCENE


def _random_ways(scene: Scene, frames: int, rng: random.Random) -> list[list[Place]]:
    """Where each thing is in each frame."""
    standing = [index for index, thing in enumerate(scene.things) if thing.support is None]
    motions = dict(zip(standing, rng.choices(tuple(MOTIONS), tuple(MOTIONS.values()), k=len(standing))))
    if set(motions.values()) == {"still"}:
        motions[rng.choice(standing)] = "straight"
    ways = []
    for index, thing in enumerate(scene.things):
        if thing.support is None:
            ways.append(_way(thing, motions[index], frames, rng))
        else:  # supports are listed before what they carry
            carrier = scene.things[thing.support]
            ways.append([(x + thing.x - carrier.x, y + thing.y - carrier.y) for x, y in ways[thing.support]])
    return ways


def _way(thing: Thing, motion: str, frames: int, rng: random.Random) -> list[Place]:
    """Along straight lines at an even pace: to another place, or to the border of the table's middle and from there to another place."""
    corners, times = [(thing.x, thing.y)], [0]
    if motion == "turn":
        x, y = _far_place(corners[-1], rng)
        corners.append(rng.choice([(rng.choice(REACH_X), y), (x, rng.choice(REACH_Y))]))
        times.append(rng.randint(frames // 4, frames - 1 - frames // 4))
    if motion != "still":
        corners.append(_far_place(corners[-1], rng))
        times.append(frames - 1)
    way = [corners[0]]
    for start, end, before, after in zip(corners, corners[1:], times, times[1:]):
        shares = [(frame - before) / (after - before) for frame in range(before + 1, after + 1)]
        way += [(start[0] + share * (end[0] - start[0]), start[1] + share * (end[1] - start[1])) for share in shares]
    return way if len(way) > 1 else way * frames


def _far_place(start: Place, rng: random.Random) -> Place:
    while True:
        place = rng.uniform(*REACH_X), rng.uniform(*REACH_Y)
        if math.dist(start, place) >= MIN_DISTANCE:
            return place


def _random_visit(scene: Scene, frames: int, rng: random.Random) -> tuple[int, range] | None:
    """With a probability of VISITING, a thing that carries nothing and the frames in which it is there."""
    carrying = {thing.support for thing in scene.things}
    free = [index for index in range(len(scene.things)) if index not in carrying]
    if rng.random() >= VISITING or len(scene.things) < 3:
        return None
    turn = rng.randint(frames // 4, frames - 1 - frames // 4)
    return rng.choice(free), rng.choice((range(turn, frames), range(turn)))


def _frame(scene: Scene, ways: Sequence[Sequence[Place]], frame: int, visit: tuple[int, range] | None) -> Frame:
    absent = visit[0] if visit and frame not in visit[1] else None
    shown = [index for index in range(len(scene.things)) if index != absent]
    things = []
    for index in shown:
        thing = scene.things[index]
        support = None if thing.support is None else shown.index(thing.support)
        x, y = ways[index][frame]
        things.append(thing._replace(x=x, y=y, support=support))
    return Frame(replace(scene, things=tuple(things)), tuple(shown))


def _is_readable(clip: Sequence[Frame], geometry: Geometry) -> bool:
    """Whether no things collide, and every thing is seen well enough to be named, in every frame."""
    for scene, _ in clip:
        standing = [thing for thing in scene.things if thing.support is None]
        if not all(is_free(thing, standing[:index]) for index, thing in enumerate(standing)):
            return False
    return all(all_visible(scene, geometry) for scene, _ in clip)
