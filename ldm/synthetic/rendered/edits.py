"""Edits of rendered scenes: functions from a scene to the scene that should result.

Each returns None where the scene has no room for the operation. The result obeys the same rule of visibility as every
other scene, so that a picture of it has one reading.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

from ldm.synthetic.rendered.relations import floor_position, holds
from ldm.synthetic.rendered.scenes import (
    MAX_THINGS,
    Geometry,
    Scene,
    all_visible,
    is_free,
    place,
    random_style,
    random_thing,
    with_things,
)
from ldm.synthetic.rendered.things import KINDS, Thing, looks

OPERATIONS = ("replace", "recolour", "remove", "add", "move", "resize", "relation", "restyle", "two")
MIN_MOVE = 0.5  # scene units
RETRIES = 30


class Edit(NamedTuple):
    """An edited scene.

    Args:
        scene: after the edit.
        origin: for each thing of the edited scene, its index in the source scene, or None if it was added.
        changed: indices of the edited scene's things that differ from the source.
        removed: indices of the source scene's things that are gone.
        relation: subject, predicate and object (indices of the edited scene) that asked for a move.
    """

    scene: Scene
    origin: tuple[int | None, ...]
    changed: tuple[int, ...] = ()
    removed: tuple[int, ...] = ()
    relation: tuple[int, str, int] | None = None


def edit_scene(scene: Scene, operation: str, geometry: Geometry) -> Edit | None:
    """The edit of this operation that belongs to a scene; it depends on the scene's seed alone."""
    rng = random.Random(f"edit/{operation}/{scene.seed}")
    for _ in range(RETRIES):
        edit = OPERATION_FUNCTIONS[operation](_unchanged(scene), rng)
        if edit and all_visible(edit.scene, geometry):
            return edit
    return None


def _unchanged(scene: Scene) -> Edit:
    return Edit(scene, tuple(range(len(scene.things))))


def _replace(edit: Edit, rng: random.Random) -> Edit | None:
    index = _choose_free(edit, rng)
    if index is None:
        return None
    old = edit.scene.things[index]
    new = random_thing(rng, rng.choice([kind for kind in KINDS if kind != old.kind]), old.size)
    return _exchange(edit, index, new._replace(x=old.x, y=old.y))


def _recolour(edit: Edit, rng: random.Random) -> Edit | None:
    """Another colour or another material."""
    choices = [i for i, thing in enumerate(edit.scene.things) if len(looks(thing.kind)) > 1 and i not in edit.changed]
    if not choices:
        return None
    index = rng.choice(choices)
    old = edit.scene.things[index]
    similar = [look for look in looks(old.kind) if (look.colour == old.colour) != (look.material == old.material)]
    options = similar or [look for look in looks(old.kind) if look != old.look]
    colour, material = rng.choice(options)
    return _exchange(edit, index, old._replace(colour=colour, material=material))


def _resize(edit: Edit, rng: random.Random) -> Edit | None:
    index = _choose_free(edit, rng)
    if index is None:
        return None
    old = edit.scene.things[index]
    return _exchange(edit, index, old._replace(size="large" if old.size == "small" else "small"))


def _move(edit: Edit, rng: random.Random) -> Edit | None:
    index = _choose_free(edit, rng)
    if index is None:
        return None
    old = edit.scene.things[index]
    new = place(old, _others(edit, index), rng, lambda thing: _distance(thing, old) >= MIN_MOVE)
    return new and _exchange(edit, index, new)


def _remove(edit: Edit, rng: random.Random) -> Edit | None:
    things = edit.scene.things
    carrying = {thing.support for thing in things}
    choices = [i for i in range(len(things)) if i not in carrying and i not in edit.changed]
    if not choices or len(things) == 1:
        return None
    gone = rng.choice(choices)

    def shifted(index: int) -> int:
        return index - (index > gone)

    kept = [
        thing if thing.support is None else thing._replace(support=shifted(thing.support))
        for i, thing in enumerate(things)
        if i != gone
    ]
    origin = edit.origin[gone]
    return Edit(
        with_things(edit.scene, kept),
        edit.origin[:gone] + edit.origin[gone + 1 :],
        tuple(shifted(i) for i in edit.changed),
        edit.removed if origin is None else (*edit.removed, origin),
    )


def _add(edit: Edit, rng: random.Random) -> Edit | None:
    things = edit.scene.things
    if len(things) == MAX_THINGS:
        return None
    new = place(random_thing(rng), things, rng)
    if new is None or new.identity in {thing.identity for thing in things}:
        return None
    scene = with_things(edit.scene, (*things, new))
    return edit._replace(scene=scene, origin=(*edit.origin, None), changed=(*edit.changed, len(things)))


def _relation(edit: Edit, rng: random.Random) -> Edit | None:
    """One thing moves to another side of a second one; a thing on or in another one may leave it."""
    scene, things = edit.scene, edit.scene.things
    carrying = {thing.support for thing in things}
    index = rng.choice([i for i in range(len(things)) if i not in carrying])
    old = things[index]
    fixed = old.support
    if fixed is None:
        others = [i for i, thing in enumerate(things) if i != index and thing.support is None]
        if not others:
            return None
        fixed = rng.choice(others)
    here, anchor = (floor_position(things[i], scene.camera) for i in (index, fixed))
    predicates = ("left of", "right of", "in front of", "behind")
    asked = rng.choice([word for word in predicates if old.support is not None or not holds(here, word, anchor)])

    def accept(thing: Thing) -> bool:
        right, away = (a - b for a, b in zip(floor_position(thing, scene.camera), anchor))
        evident = abs(right) >= abs(away) if asked in ("left of", "right of") else abs(away) >= abs(right)
        return evident and holds((right, away), asked, (0.0, 0.0))

    new = place(old, _others(edit, index), rng, accept)
    exchanged = new and _exchange(edit, index, new)
    return exchanged and exchanged._replace(relation=(index, asked, fixed))


def _restyle(edit: Edit, rng: random.Random) -> Edit | None:
    """Another floor, wall and light at once."""
    old, new = edit.scene.style, random_style(rng)
    while any(a == b for a, b in zip(old[:3], new[:3])):
        new = random_style(rng)
    return edit._replace(scene=replace(edit.scene, style=new))


def _two(edit: Edit, rng: random.Random) -> Edit | None:
    """Two different operations on two things."""
    result: Edit | None = edit
    for operation in rng.sample((_replace, _recolour, _remove, _add, _move, _resize), 2):
        result = result and operation(result, rng)
    return result


OPERATION_FUNCTIONS: dict[str, Callable[[Edit, random.Random], Edit | None]] = {
    "replace": _replace,
    "recolour": _recolour,
    "remove": _remove,
    "add": _add,
    "move": _move,
    "resize": _resize,
    "relation": _relation,
    "restyle": _restyle,
    "two": _two,
}


def _choose_free(edit: Edit, rng: random.Random) -> int | None:
    """A thing that stands on the floor, carries nothing and is unchanged so far."""
    things = edit.scene.things
    carrying = {thing.support for thing in things}
    choices = [
        i for i, thing in enumerate(things) if thing.support is None and i not in carrying and i not in edit.changed
    ]
    return rng.choice(choices) if choices else None


def _others(edit: Edit, index: int) -> list[Thing]:
    return [thing for i, thing in enumerate(edit.scene.things) if i != index]


def _exchange(edit: Edit, index: int, new: Thing) -> Edit | None:
    """The edit with one thing exchanged; None if the new one collides or is like another one."""
    others = _others(edit, index)
    if new.identity in {other.identity for other in others} or (new.support is None and not is_free(new, others)):
        return None
    things = [new if i == index else thing for i, thing in enumerate(edit.scene.things)]
    return edit._replace(scene=with_things(edit.scene, things), changed=(*edit.changed, index))


def _distance(a: Thing, b: Thing) -> float:
    return ((a.x - b.x) ** 2 + (a.y - b.y) ** 2) ** 0.5
