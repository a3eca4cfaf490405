"""Edits whose right answer is known: a held-out drawn scene, one thing done to it, and the picture that must come out.

A task depends on its scenes, its operation and its number alone. Source and target graph are told in one order, with
ids, every box and every triple, so that nothing but the operation is unlike; only 'relation' keeps to itself where the
moved object is to go. Its number is that of a scene in the validation set: numbers that nobody has looked at give scenes that
nobody has tuned on.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import NamedTuple

from PIL import Image

from ldm.data.demo import DemoValidation
from ldm.graph.scene_graph import SceneGraph
from ldm.graph.validation import Box
from ldm.synthetic.checker import read_scene, same_style
from ldm.synthetic.worlds import SCENES
from ldm.util.errors import UserError, did_you_mean

SINGLE = ("replace", "recolour", "remove", "add", "move", "resize")  # what happens to one object, its box told
OPERATIONS = (*SINGLE, "relation", "restyle", "two")
DIRECTIONS = {
    "shapes": ("left of", "right of", "above", "below"),
    "hard": ("left of", "right of", "in front of", "behind"),
}
MOST = {"shapes": 5, "hard": 8}  # objects in a scene, as the scenes are drawn
FARTHER = 12 / 64  # shares of the picture that a moved object's middle goes at least: it is clearly elsewhere
PLACES = 150  # boxes tried for an object
REDRAWS = 20  # tries of an operation on one scene before another scene is taken
LATER = 10**9  # numbers further on lies the scene that stands in for one on which an operation is not possible


class Thing(NamedTuple):
    """An object of a complete scene, in which things are listed from back to front."""

    id: str
    name: str
    box: Box
    words: tuple[str, ...]  # size, colour, and fill or material


@dataclass(frozen=True)
class Task:
    """source, target   as the editor is told them; `target` lacks the moved object's box in a 'relation'
    truth               what the edited picture may look like; only in a 'relation' may it rightly be another
    shown               the graph of `truth`, complete, from back to front
    changed             ids of the objects that are removed, added or otherwise changed
    reference           the picture whose style is to be taken over, in a 'restyle'
    """

    scenes: str
    operation: str
    index: int
    picture: Image.Image
    source: SceneGraph
    target: SceneGraph
    truth: Image.Image
    shown: SceneGraph
    changed: frozenset[str]
    reference: Image.Image | None = None


def task(scenes: str, operation: str, index: int) -> Task:
    """Number `index` of the tasks of an operation: done to scene `index`, or where that is not possible (a sixth object,
    say) to one far from all others. Raises UserError for unknown scenes or an unknown operation."""
    for what, value, known in (("scenes", scenes, SCENES), ("operation", operation, OPERATIONS)):
        if value not in known:
            raise UserError(f"there are no {what} {value!r}, only {', '.join(known)}{did_you_mean(value, known)}")
    number = index
    while True:
        rng = random.Random(f"edit/{operation}/{number}")
        made = _attempt(scenes, operation, index, number, rng)
        if made is not None:
            return made
        number += LATER


def changed_boxes(task: Task, seen: SceneGraph | None = None) -> list[Box]:
    """Old and new boxes of what the operation changes, with the shadows that it casts.

    seen: what the edited picture shows. A 'relation' leaves open where its object goes, so there its new box is where it
    is seen; elsewhere it is not asked.
    """
    boxes = []
    for graph in (task.source, task.target):
        boxes += [box for box, id in zip(graph.boxes, graph.ids) if id in task.changed and box is not None]
    if task.operation == "relation" and seen is not None:
        wanted = [_looks(task.target, i) for i, id in enumerate(task.target.ids) if id in task.changed]
        boxes += [box for i, box in enumerate(seen.boxes) if _looks(seen, i) in wanted]
    reach = getattr(SCENES[task.scenes], "REACH", 0.0)  # of shadows
    return list(dict.fromkeys(_grown(box, reach) for box in boxes))


def _looks(graph: SceneGraph, index: int) -> tuple[str, frozenset[str]]:
    return graph.objects[index], frozenset(graph.attributes[index])


def _grown(box: Box, share: float) -> Box:
    """By a share of its longer side, within the picture."""
    by = share * max(box[2] - box[0], box[3] - box[1])
    return max(0.0, box[0] - by), max(0.0, box[1] - by), min(1.0, box[2] + by), min(1.0, box[3] + by)


# Making one ----------------------------------------------------------------------------------------------------------


class Change(NamedTuple):
    """things  after it. claim: who is to be how towards whom, where the target says no more than that."""

    things: list[Thing]
    changed: frozenset[str]
    claim: tuple[str, str, str] | None = None


def _attempt(scenes: str, operation: str, index: int, number: int, rng: random.Random) -> Task | None:
    """The task on scene `number`; None where the scene leaves no way to do it."""
    world = SCENES[scenes]
    graph, background = DemoValidation(number + 1, scenes=scenes).scene(number)
    things = [Thing(f"object {i}", *of) for i, of in enumerate(zip(graph.objects, graph.boxes, graph.attributes))]
    ids = rng.sample([thing.id for thing in things], len(things))
    other, reference = background, None
    if operation == "restyle":
        other, reference = _another_style(scenes, graph, background, rng)
        change = Change(things, frozenset())
    else:
        change = _change(scenes, operation, things, rng)
        if change is None:
            return None
    before, after = _complete(world, things), _complete(world, change.things)
    source = _told(world, before, ids, number)
    ids = [id for id in ids if id in after.ids]
    for id in sorted(change.changed - set(before.ids)):
        ids.insert(rng.randint(0, len(ids)), id)
    target = _told(world, after, ids, number)
    if change.claim:
        target = _left_open(world, source, target, *change.claim)
    pictures = world.render(before, background), world.render(after, other)
    return Task(scenes, operation, index, pictures[0], source, target, pictures[1], after, change.changed, reference)


def _change(scenes: str, operation: str, things: list[Thing], rng: random.Random) -> Change | None:
    if operation == "relation":
        return _relate(scenes, things, rng)
    for _ in range(REDRAWS):
        change = Change(things, frozenset())
        for single in rng.sample(SINGLE, 2) if operation == "two" else [operation]:
            change = change and _single(scenes, single, change, rng)
        if change:
            return change
    return None


def _single(scenes: str, operation: str, change: Change, rng: random.Random) -> Change | None:
    """One more operation, on a thing that is as it was."""
    world, things = SCENES[scenes], change.things
    if operation == "add":
        if len(things) == MOST[scenes]:
            return None
        words = tuple(rng.choice(tuple(kind)) for kind in (world.SIDES, world.COLOURS, _finishes(world)))
        old = Thing("new", rng.choice(world.SHAPES), _place(world, words[0], rng), words)
        results = [[*things, old._replace(box=_place(world, words[0], rng))] for _ in range(PLACES)]
    else:
        free = [thing for thing in things if thing.id not in change.changed]
        if not free or len(things) == 1:
            return None
        old = rng.choice(free)
        others = [thing for thing in things if thing != old]
        if operation == "remove":
            results = [others]
        else:
            results = [
                [new if thing == old else thing for thing in things] for new in CHANGES[operation](world, old, rng)
            ]
    good = next((result for result in results if _is_good(world, result)), None)
    return good and Change(good, change.changed | {old.id})


def _replace(world: ModuleType, old: Thing, rng: random.Random) -> list[Thing]:
    return [old._replace(name=rng.choice([name for name in world.SHAPES if name != old.name]))]


def _recolour(world: ModuleType, old: Thing, rng: random.Random) -> list[Thing]:
    """Another colour or, as often, another fill or material."""
    size, *words = old.words
    which = rng.randrange(2)
    kind = (tuple(world.COLOURS), _finishes(world))[which]
    words[which] = rng.choice([word for word in kind if word != words[which]])
    return [old._replace(words=(size, *words))]


def _move(world: ModuleType, old: Thing, rng: random.Random) -> list[Thing]:
    places = [_place(world, old.words[0], rng, old.box) for _ in range(PLACES)]
    return [old._replace(box=place) for place in places if _distance(place, old.box) >= FARTHER]


def _resize(world: ModuleType, old: Thing, rng: random.Random) -> list[Thing]:
    size = rng.choice([size for size in world.SIDES if size != old.words[0]])
    return [old._replace(box=box, words=(size, *old.words[1:])) for box in _where_it_is(world, size, old.box, rng)]


# From one thing, the things that it may become, each in its own place of the list.
CHANGES: dict[str, Callable[[ModuleType, Thing, random.Random], list[Thing]]] = {
    "replace": _replace,
    "recolour": _recolour,
    "move": _move,
    "resize": _resize,
}


def _relate(scenes: str, things: list[Thing], rng: random.Random) -> Change | None:
    """One thing on another side of a second one: at the nearest of some places where it may be."""
    world = SCENES[scenes]
    pairs = [(a, b) for a in things for b in things if a != b and _side(scenes, things, a.id, b.id)]
    for moved, fixed in rng.sample(pairs, len(pairs)):
        fits: dict[str, list[tuple[float, list[Thing]]]] = {}
        for place in [_place(world, moved.words[0], rng, moved.box) for _ in range(PLACES)]:
            edited = [thing._replace(box=place) if thing == moved else thing for thing in things]
            side = _side(scenes, edited, moved.id, fixed.id)
            if side and not _holds(world, things, moved, side, fixed) and _is_good(world, edited):
                fits.setdefault(side, []).append((_distance(place, moved.box), edited))
        if fits:
            side = rng.choice(sorted(fits))
            return Change(min(fits[side])[1], frozenset({moved.id}), (moved.id, side, fixed.id))
    return None


def _another_style(scenes: str, graph: SceneGraph, background: tuple, rng: random.Random) -> tuple[tuple, Image.Image]:
    """A background that does not pass for the scene's own, and another scene before it in which it can be seen."""
    world = SCENES[scenes]
    look = read_scene(scenes, world.render(graph, background)).look
    while True:
        other = world.random_background(rng)
        reference = world.render(world.random_graph(rng), other)
        wanted = read_scene(scenes, reference).look
        if not same_style(look, wanted) and same_style(read_scene(scenes, world.render(graph, other)).look, wanted):
            return other, reference


def _left_open(world: ModuleType, source: SceneGraph, target: SceneGraph, id: str, side: str, other: str) -> SceneGraph:
    """The target that says of an object no more than on which side of another it is to be."""
    moved, fixed = target.ids.index(id), target.ids.index(other)
    claim = (moved, side, fixed)
    if any((s, o) == (fixed, moved) for s, _, o in source.triples):
        claim = (fixed, world.CONVERSE[side], moved)  # the source names them in this order
    triples = [triple for triple in source.triples if moved not in (triple[0], triple[2])]
    boxes = tuple(None if index == moved else box for index, box in enumerate(target.boxes))
    return SceneGraph(target.objects, boxes, target.attributes, (*triples, claim), target.ids)


# Scenes as lists of things -------------------------------------------------------------------------------------------


def _complete(world: ModuleType, things: Sequence[Thing]) -> SceneGraph:
    """The graph from back to front; on a floor, what stands lower in the picture is in front."""
    if hasattr(world, "FLOOR"):
        things = sorted(things, key=lambda thing: thing.box[3])
    ids, names, boxes, words = zip(*things)
    return world.graph_from_boxes(names, boxes, words, ids)


def _told(world: ModuleType, graph: SceneGraph, ids: Sequence[str], number: int) -> SceneGraph:
    """All of a complete graph, its objects in the order of `ids`. Which object of a pair is the subject and where in the
    list their triple comes depends on the pair, so that it is the same in source and target."""
    triples = []
    for subject, predicate, object in graph.triples:
        ends = graph.ids[subject], graph.ids[object]
        pair = sorted(ends)
        drawn = random.Random(f"{number}/{pair}")
        if predicate in world.CONVERSE and ends[0] != drawn.choice(pair):
            ends, predicate = ends[::-1], world.CONVERSE[predicate]
        triples.append((drawn.random(), (ids.index(ends[0]), predicate, ids.index(ends[1]))))
    order = [graph.ids.index(id) for id in ids]
    return SceneGraph(
        tuple(graph.objects[i] for i in order),
        tuple(graph.boxes[i] for i in order),
        tuple(graph.attributes[i] for i in order),
        tuple(triple for _, triple in sorted(triples)),
        tuple(ids),
    )


def _is_good(world: ModuleType, things: Sequence[Thing]) -> bool:
    """Whether a picture of them shows each clearly, and no two are alike in shape and colour."""
    kinds = {(thing.name, thing.words[1]) for thing in things}
    return len(kinds) == len(things) and world.find_ambiguity(_complete(world, things)) is None


def _side(scenes: str, things: Sequence[Thing], subject: str, object: str) -> str | None:
    """The plain direction, if one is said, in which the one thing lies from the other."""
    world = SCENES[scenes]
    graph = _complete(world, [thing for thing in things if thing.id in (subject, object)])
    for first, predicate, _ in graph.triples:
        if graph.ids[first] != subject:
            predicate = world.CONVERSE.get(predicate)
        return predicate if predicate in DIRECTIONS[scenes] else None
    return None


def _holds(world: ModuleType, things: Sequence[Thing], subject: Thing, predicate: str, object: Thing) -> bool:
    ids = _complete(world, things).ids
    return world.relation_holds(subject.box, predicate, object.box, ids.index(subject.id) > ids.index(object.id))


def _place(world: ModuleType, size: str, rng: random.Random, like: Box | None = None) -> Box:
    """Anywhere in the picture: on a flat one with the side of `like`, on a floor with the one that the place asks for."""
    if hasattr(world, "FLOOR"):
        base = rng.randint(*world.FLOOR)
        margin = world.side(size, base) / 2 + 1
        return world.box_at(size, rng.uniform(margin, world.CELLS - margin), base)
    side = rng.choice(_sides(world, size)) if like is None else round(world.CELLS * (like[2] - like[0]))
    return _square(world, rng.uniform(0, world.CELLS), rng.uniform(0, world.CELLS), side)


def _where_it_is(world: ModuleType, size: str, old: Box, rng: random.Random) -> list[Box]:
    """Boxes of another size: about the middle of the old one or, on a floor, on its base."""
    x, y = (world.CELLS * (old[k] + old[k + 2]) / 2 for k in (0, 1))
    if hasattr(world, "FLOOR"):
        base = world.CELLS * old[3]
        margin = world.side(size, base) / 2 + 1
        return [world.box_at(size, min(max(margin, x), world.CELLS - margin), base)]
    sides = _sides(world, size)
    return [_square(world, x, y, side) for side in rng.sample(sides, len(sides))]


def _sides(world: ModuleType, size: str) -> range:
    shortest, longest = world.SIDES[size]
    return range(shortest, longest + 1, world.GRID)


def _square(world: ModuleType, x: float, y: float, side: int) -> Box:
    """On the grid and in the picture, as near to that middle as it can be; in cells."""
    x, y = (min(max(0, world.GRID * round((at - side / 2) / world.GRID)), world.CELLS - side) for at in (x, y))
    return tuple(edge / world.CELLS for edge in (x, y, x + side, y + side))


def _finishes(world: ModuleType) -> tuple[str, ...]:
    return world.MATERIALS if hasattr(world, "MATERIALS") else world.FILLS


def _distance(a: Box, b: Box) -> float:
    """Of their middles."""
    return math.hypot(*((a[k] + a[k + 2] - b[k] - b[k + 2]) / 2 for k in (0, 1)))
