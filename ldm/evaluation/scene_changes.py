"""Random changes to a synthetic scene: one operation on one object, after which every object can still be recognised."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from typing import NamedTuple

from ldm.graph.scene_graph import SceneGraph
from ldm.graph.validation import Box
from ldm.synthetic.readings import SceneReading
from ldm.synthetic.worlds import World

SINGLE_OPERATIONS = ("replace", "recolour", "remove", "add", "move", "resize")  # one object, whose box is given
MIN_MOVE = 12 / 64  # distance of centres, as a share of the image's side, at which an object is clearly elsewhere
BOX_CANDIDATES = 150  # random boxes tried for an object
RETRIES = 20  # tries of an operation on one scene


class SceneObject(NamedTuple):
    """An object of a scene whose objects are listed from back to front."""

    id: str
    name: str
    box: Box
    words: tuple[str, ...]  # size, colour, and fill or material


class SceneChange(NamedTuple):
    """A scene after a change.

    Args:
        objects: from back to front.
        changed: ids of the objects that were changed, added or removed.
        relation: ids and direction (subject, predicate, object), where the change is known by its new relation only.
    """

    objects: list[SceneObject]
    changed: frozenset[str]
    relation: tuple[str, str, str] | None = None


def change_scene(world: World, operation: str, objects: list[SceneObject], rng: random.Random) -> SceneChange | None:
    """Applies an operation to a random object (two different ones to two objects for 'two').

    Returns:
        The changed scene, or None where the scene has no room for the operation.
    """
    if operation == "relation":
        return _change_relation(world, objects, rng)
    for _ in range(RETRIES):
        change: SceneChange | None = SceneChange(objects, frozenset())
        for single in rng.sample(SINGLE_OPERATIONS, 2) if operation == "two" else [operation]:
            change = change and _apply_operation(world, single, change, rng)
        if change:
            return change
    return None


def complete_graph(world: World, objects: Sequence[SceneObject]) -> SceneGraph:
    """The graph with all boxes and relations, from back to front (on a floor, lower in the image means in front)."""
    ids, names, boxes, words = zip(*objects)
    order = world.back_to_front(SceneGraph(names, boxes, words))
    ids, names, boxes, words = ([values[index] for index in order] for values in (ids, names, boxes, words))
    return world.graph_from_boxes(names, boxes, words, ids)


def _apply_operation(world: World, operation: str, change: SceneChange, rng: random.Random) -> SceneChange | None:
    """One more operation, on an object that is unchanged so far."""
    objects = change.objects
    if operation == "add":
        if len(objects) == world.max_objects:
            return None
        words = tuple(rng.choice(kind) for kind in (world.sizes, world.colours, world.finishes))
        target = SceneObject("new", rng.choice(world.object_names), world.random_box(words[0], rng), words)
        candidates = [[*objects, target._replace(box=world.random_box(words[0], rng))] for _ in range(BOX_CANDIDATES)]
    else:
        unchanged = [item for item in objects if item.id not in change.changed]
        if not unchanged or len(objects) == 1:
            return None
        target = rng.choice(unchanged)
        if operation == "remove":
            candidates = [[item for item in objects if item != target]]
        else:
            replacements = VARIATIONS[operation](world, target, rng)
            candidates = [[new if item == target else item for item in objects] for new in replacements]
    unambiguous = next((candidate for candidate in candidates if _is_unambiguous(world, candidate)), None)
    return SceneChange(unambiguous, change.changed | {target.id}) if unambiguous else None


def _replace(world: World, old: SceneObject, rng: random.Random) -> list[SceneObject]:
    return [old._replace(name=rng.choice([name for name in world.object_names if name != old.name]))]


def _recolour(world: World, old: SceneObject, rng: random.Random) -> list[SceneObject]:
    """Another colour or, as often, another fill or material."""
    size, *words = old.words
    position = rng.randrange(2)
    choices = (world.colours, world.finishes)[position]
    words[position] = rng.choice([word for word in choices if word != words[position]])
    return [old._replace(words=(size, *words))]


def _move(world: World, old: SceneObject, rng: random.Random) -> list[SceneObject]:
    boxes = [world.random_box(old.words[0], rng, old.box) for _ in range(BOX_CANDIDATES)]
    return [old._replace(box=box) for box in boxes if _distance(box, old.box) >= MIN_MOVE]


def _resize(world: World, old: SceneObject, rng: random.Random) -> list[SceneObject]:
    size = rng.choice([size for size in world.sizes if size != old.words[0]])
    boxes = world.resized_boxes(size, old.box, rng)
    return [old._replace(box=box, words=(size, *old.words[1:])) for box in boxes]


# Operations that replace an object: from the object to what it may become, in order of preference.
VARIATIONS: dict[str, Callable[[World, SceneObject, random.Random], list[SceneObject]]] = {
    "replace": _replace,
    "recolour": _recolour,
    "move": _move,
    "resize": _resize,
}


def _change_relation(world: World, objects: list[SceneObject], rng: random.Random) -> SceneChange | None:
    """Moves one object to another side of a second one, to the nearest of some unambiguous places."""
    pairs = [(a, b) for a in objects for b in objects if a != b and _direction(world, objects, a.id, b.id)]
    for moved, fixed in rng.sample(pairs, len(pairs)):
        by_direction: dict[str, list[tuple[float, list[SceneObject]]]] = {}
        for box in [world.random_box(moved.words[0], rng, moved.box) for _ in range(BOX_CANDIDATES)]:
            candidate = [item._replace(box=box) if item == moved else item for item in objects]
            direction = _direction(world, candidate, moved.id, fixed.id)
            if (
                direction
                and not _relation_holds(world, objects, moved, direction, fixed)
                and _is_unambiguous(world, candidate)
            ):
                by_direction.setdefault(direction, []).append((_distance(box, moved.box), candidate))
        if by_direction:
            direction = rng.choice(sorted(by_direction))
            nearest = min(by_direction[direction])[1]
            return SceneChange(nearest, frozenset({moved.id}), (moved.id, direction, fixed.id))
    return None


# Properties of a scene -----------------------------------------------------------------------------------------------


def _is_unambiguous(world: World, objects: Sequence[SceneObject]) -> bool:
    """Whether an image shows each object clearly, and no two have the same shape and colour."""
    kinds = {(item.name, item.words[1]) for item in objects}
    return len(kinds) == len(objects) and world.find_ambiguity(complete_graph(world, objects)) is None


def _direction(world: World, objects: Sequence[SceneObject], subject: str, object: str) -> str | None:
    """The direction in which one object lies from another; None if their relation is no direction."""
    graph = complete_graph(world, [item for item in objects if item.id in (subject, object)])
    for first, predicate, _ in graph.known_triples:
        if graph.ids[first] != subject:
            predicate = world.converse.get(predicate)
        return predicate if predicate in world.directions else None
    return None


def _relation_holds(
    world: World, objects: Sequence[SceneObject], subject: SceneObject, predicate: str, object: SceneObject
) -> bool:
    graph = complete_graph(world, objects)
    return world.triple_holds(SceneReading(graph), graph.ids.index(subject.id), predicate, graph.ids.index(object.id))


def _distance(a: Box, b: Box) -> float:
    """Between the centres."""
    return math.hypot(*((a[k] + a[k + 2] - b[k] - b[k + 2]) / 2 for k in (0, 1)))
