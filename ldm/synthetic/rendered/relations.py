"""Spatial relations between the things of a rendered scene, by rules in three dimensions, and the complete graph.

Of two things that stand on the floor, with distances in scene units along the camera's horizontal axes:

    left of, right of       the origins differ by at least CLEAR to the right
    in front of, behind     the origins differ by at least CLEAR in depth

A graph names the larger of the two differences. A thing that stands on or lies in another one has the relation `on` or
`inside` to it, and no other.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ldm.graph.scene_graph import SceneGraph
from ldm.graph.validation import Box
from ldm.synthetic.rendered.scenes import Camera, Scene
from ldm.synthetic.rendered.things import Thing

CLEAR = 0.45  # least difference in scene units
CONVERSE = {"left of": "right of", "right of": "left of", "in front of": "behind", "behind": "in front of"}


def floor_position(thing: Thing, camera: Camera) -> tuple[float, float]:
    """Distances of a thing's origin from the camera: to the right, and away along the floor."""
    forward = np.subtract(camera.target, camera.location)[:2]
    forward /= np.linalg.norm(forward)
    x, y = np.subtract((thing.x, thing.y), camera.location[:2])
    return float(x * forward[1] - y * forward[0]), float(x * forward[0] + y * forward[1])


def relation_between(subject: tuple[float, float], object: tuple[float, float]) -> str | None:
    """The more evident relation of two things on the floor, from their floor positions; None if none is clear."""
    right, away = np.subtract(subject, object)
    if max(abs(right), abs(away)) < CLEAR:
        return None
    if abs(right) >= abs(away):
        return "right of" if right > 0 else "left of"
    return "behind" if away > 0 else "in front of"


def holds(subject: tuple[float, float], predicate: str, object: tuple[float, float], slack: float = 0.0) -> bool:
    """Whether a spatial relation on the floor is true; accepts every true one, not the more evident alone.

    Args:
        slack: measurement error to allow, in scene units.
    """
    right, away = np.subtract(subject, object)
    distance = {"left of": -right, "right of": right, "in front of": -away, "behind": away}[predicate]
    return bool(distance >= CLEAR - slack)


def triples_of(scene: Scene) -> list[tuple[int, str, int]]:
    """All triples of a scene, at most one for each pair."""
    supports = [
        (thing.relation, thing.support) if thing.relation and thing.support is not None else None
        for thing in scene.things
    ]
    return triples_between([floor_position(thing, scene.camera) for thing in scene.things], supports)


def triples_between(
    positions: Sequence[tuple[float, float]], supports: Sequence[tuple[str, int] | None]
) -> list[tuple[int, str, int]]:
    """All triples of some things, at most one for each pair.

    Args:
        positions: on the floor, of each thing.
        supports: of each thing the relation to its support and the support's index, or None.
    """
    triples: list[tuple[int, str, int]] = []
    for index, support in enumerate(supports):
        if support:
            triples.append((index, *support))
        for other in range(index):
            if support or supports[other]:
                continue
            predicate = relation_between(positions[index], positions[other])
            if predicate:
                triples.append((index, predicate, other))
    return triples


def complete_graph(scene: Scene, boxes: Sequence[Box], ids: Sequence[str | None] = ()) -> SceneGraph:
    """The graph of a scene with everything that it says, objects in the scene's order.

    Args:
        boxes: of each thing, hidden parts included, as shares of the picture's sides.
    """
    return SceneGraph(
        tuple(thing.kind for thing in scene.things),
        tuple(tuple(float(edge) for edge in box) for box in boxes),
        tuple(thing.words for thing in scene.things),
        tuple(triples_of(scene)),
        tuple(ids),
    )
