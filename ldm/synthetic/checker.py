"""Whether a picture shows what a scene graph says, and how much of another picture it keeps.

`check` looks at pixels alone, through the world's own eyes (`ldm.synthetic.shapes_vision`, `ldm.synthetic.solids_vision`): it never sees
the model that made them. Distances between pictures are in the field's numbers, PSNR and SSIM, over a part of the
picture.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterator
from itertools import combinations
from types import ModuleType
from typing import NamedTuple

import numpy as np

from ldm.graph.scene_graph import SceneGraph
from ldm.graph.validation import Box
from ldm.synthetic.shapes_vision import SceneReading, StyleReading
from ldm.synthetic.worlds import SCENES
from ldm.util.errors import UserError, did_you_mean
from ldm.util.images import Picture

EYES = {"shapes": "ldm.synthetic.shapes_vision", "hard": "ldm.synthetic.solids_vision"}
CENTRE, SIDE = 2.5 / 64, 3.5 / 64  # how far an object may be from its box: its middle, and its width and height
STRAY = 20  # pixels of a picture of 64 that may look like objects and be none
PERFECT = 1000.0  # likeness of what is all that is said
ALIKE = 30  # levels by which two backgrounds' mean colours may differ and be of one style


class Verdict(NamedTuple):
    passed: bool  # all that the graph says is seen, and nothing else
    objects: tuple[bool, ...]  # of each of its objects: there with all its words, and at its box where it has one
    triples: tuple[bool, ...]  # of each of its triples: holds between the objects seen
    extra: int  # objects seen that the graph lacks
    complaints: tuple[str, ...]  # what is wrong, a sentence each


class StyleDistance(NamedTuple):
    """How unlike two backgrounds are."""

    colour: float  # between the mean colours, in levels of 0..255 (Euclidean, over red, green and blue)
    ramp: float  # the same between their ramps, the two axes together
    texture: float  # between the strengths of their textures, in shares of brightness


def read_scene(scenes: str, picture: Picture) -> SceneReading:
    """What a picture of these scenes shows, from its pixels."""
    return importlib.import_module(EYES[scenes]).read_scene(picture)


def check(target: SceneGraph, image: Picture | SceneReading, scenes: str = "shapes") -> Verdict:
    """What a picture shows, or what was seen in it, against the graph that it should show.

    Only what the graph says counts: words, boxes and triples that it lacks are free, objects are not. Raises UserError
    for unknown scenes.
    """
    world = _world(scenes)
    seen = image if isinstance(image, SceneReading) else read_scene(scenes, image)
    shown = seen.graph
    partner = _assign(target, shown, world) if shown else [None] * len(target.objects)
    complaints, objects, triples = [], [], []
    for index, other in enumerate(partner):
        wrong = ["is missing"] if other is None else list(_differences(target, index, shown, other, world))
        objects.append(not wrong)
        complaints += [f"object {index}, the {_name(target, index)}, {what}" for what in wrong]
    for subject, predicate, object_ in target.triples:
        true = _holds(world, shown, partner[subject], predicate, partner[object_])
        triples.append(true)
        if not true and None not in (partner[subject], partner[object_]):  # else it is said that one is missing
            between = " and ".join(f"object {i}, the {_name(target, i)}" for i in (subject, object_))
            complaints.append(f"{predicate!r} does not hold between {between}")
    extra = [index for index in range(len(shown.objects) if shown else 0) if index not in partner]
    complaints += [f"there is a {_name(shown, index)} that the graph lacks" for index in extra]
    if seen.stray > STRAY:
        complaints.append(f"{seen.stray} pixels look like an object, but like none that is known")
    return Verdict(not complaints, tuple(objects), tuple(triples), len(extra), tuple(complaints))


def _world(scenes: str) -> ModuleType:
    if scenes not in EYES or scenes not in SCENES:
        raise UserError(f"there are no scenes {scenes!r}, only {', '.join(EYES)}{did_you_mean(scenes, EYES)}")
    return SCENES[scenes]


def _name(graph: SceneGraph, index: int) -> str:
    return " ".join((*graph.attributes[index], graph.objects[index]))


def _differences(target: SceneGraph, index: int, shown: SceneGraph, other: int, world: ModuleType) -> Iterator[str]:
    """How what is seen departs from what is said, as the ends of sentences."""
    if shown.objects[other] != target.objects[index]:
        yield f"is a {shown.objects[other]}"
    for word in target.attributes[index]:
        if word not in shown.attributes[other]:
            instead = set(_kind(word, world)) & set(shown.attributes[other])
            yield f"is {instead.pop()}" if instead else f"is not clearly {word}"
    if target.boxes[index] is not None:
        (dx, dy), (wider, higher) = _shift(target.boxes[index], shown.boxes[other])
        if max(abs(dx), abs(dy)) > CENTRE:
            way = [f"{abs(100 * d):.0f} % of the picture too far {word}" for d, word in _ways(dx, dy)]
            yield f"stands {' and '.join(way)}"
        if max(abs(wider), abs(higher)) > SIDE:
            yield f"is too {'large' if wider + higher > 0 else 'small'} for its box"


def _ways(dx: float, dy: float) -> list[tuple[float, str]]:
    ways = [(dx, "right" if dx > 0 else "left"), (dy, "down" if dy > 0 else "up")]
    return [(by, word) for by, word in ways if abs(by) > CENTRE]


def _kind(word: str, world: ModuleType) -> tuple[str, ...]:
    """The words of which an object has one: sizes, colours, and fills or materials."""
    kinds = [tuple(world.SIDES), tuple(world.COLOURS)]
    kinds.append(tuple(set(world.VOCAB.attributes) - {word for kind in kinds for word in kind}))
    return next((kind for kind in kinds if word in kind), ())


def _shift(box: Box, seen: Box) -> tuple[tuple[float, float], tuple[float, float]]:
    """How far the second box's middle is to the right and below; and how much wider and higher it is."""
    low, high = np.subtract(seen, box).reshape(2, 2)
    return tuple((low + high) / 2), tuple(high - low)


def _holds(
    world: ModuleType, shown: SceneGraph | None, subject: int | None, predicate: str, object_: int | None
) -> bool:
    if subject is None or object_ is None:
        return False
    return world.relation_holds(shown.boxes[subject], predicate, shown.boxes[object_], subject > object_)


def _assign(target: SceneGraph, shown: SceneGraph, world: ModuleType) -> list[int | None]:
    """For each object of the target the one that is taken for it, or None, no two the same.

    As many as can be are as they are said; what is left goes by shape, colour and place. Of objects that are said
    alike, the triples tell which is which.
    """
    rows, columns = range(len(target.objects)), range(len(shown.objects))
    gains = [[_likeness(target, i, shown, j, world) for j in columns] for i in rows]
    partner = [j if gain else None for j, gain in _best_pairs(gains)]

    def true(partner: list[int | None]) -> int:
        return sum(_holds(world, shown, partner[s], predicate, partner[o]) for s, predicate, o in target.triples)

    improving = True
    while improving:
        improving = False
        for i, j in combinations(rows, 2):
            places = partner[i], partner[j]
            if None in places or any(gains[k][place] < PERFECT for k in (i, j) for place in places):
                continue
            swapped = partner.copy()
            swapped[i], swapped[j] = partner[j], partner[i]
            if true(swapped) > true(partner):
                partner, improving = swapped, True
    return partner


def _likeness(target: SceneGraph, index: int, shown: SceneGraph, other: int, world: ModuleType) -> float:
    """At least PERFECT where all is as said; more than 0 where one may be taken for the other, changed."""
    box, near = target.boxes[index], 0.0
    if box is not None:
        near = max(0.0, 1 - math.hypot(*_shift(box, shown.boxes[other])[0]) / (4 * CENTRE))
    if next(_differences(target, index, shown, other, world), None) is None:
        return PERFECT + near
    words = [word for word in target.attributes[index] if word in shown.attributes[other]]
    shape = target.objects[index] == shown.objects[other]
    colour = any(word in world.COLOURS for word in words)
    if shape and colour:
        return 40.0 + len(words) + 10 * near  # wherever it is
    if (shape or colour) and (near or box is None):
        return 5.0 + len(words) + 10 * near
    return 0.0


def _best_pairs(gains: list[list[float]]) -> list[tuple[int | None, float]]:
    """For each row its column, or None, and the gain there, so that the gains are largest together; no column twice.

    Kuhn's and Munkres's method, by shortest augmenting paths with potentials.
    """
    rows, columns = len(gains), len(gains[0])
    cost = -np.hstack([np.asarray(gains, float), np.zeros((rows, rows))])  # a row may stay alone, for no gain
    of_row, of_column = np.zeros(rows + 1), np.zeros(cost.shape[1] + 1)
    owner = np.zeros(cost.shape[1] + 1, int)  # of each column, its row; both count from 1, 0 is none
    for row in range(1, rows + 1):
        owner[0], column = row, 0
        least, came = np.full(len(owner), np.inf), np.zeros(len(owner), int)
        done = np.zeros(len(owner), bool)
        while owner[column]:
            done[column] = True
            reduced = cost[owner[column] - 1] - of_row[owner[column]] - of_column[1:]
            closer = ~done[1:] & (reduced < least[1:])
            least[1:][closer], came[1:][closer] = reduced[closer], column
            following = int(np.where(done, np.inf, least)[1:].argmin()) + 1
            step = least[following]
            of_row[owner[done]] += step
            of_column[done] -= step
            least[~done] -= step
            column = following
        while column:
            owner[column], column = owner[came[column]], came[column]
    pairs = {int(owner[column]) - 1: column - 1 for column in range(1, columns + 1) if owner[column]}
    return [(pairs[row], gains[row][pairs[row]]) if row in pairs else (None, 0.0) for row in range(rows)]


# Style ---------------------------------------------------------------------------------------------------------------


def style_distance(a: StyleReading, b: StyleReading) -> StyleDistance:
    return StyleDistance(
        float(np.linalg.norm(np.subtract(a.mean, b.mean))),
        float(np.linalg.norm(np.subtract(a.ramp, b.ramp))),
        float(np.linalg.norm(np.subtract(a.relief, b.relief))),
    )


def same_style(a: StyleReading, b: StyleReading) -> bool:
    """Of one texture, and near each other in colour."""
    return a.texture == b.texture and style_distance(a, b).colour <= ALIKE


def style_follows(look: StyleReading, source: StyleReading, reference: StyleReading) -> tuple[float, float]:
    """How far a background has gone from the source's to the reference's, 0..1: in mean colour, and in texture.

    It is the share of the way between the two that the nearest point of the line through them marks; nan where the two
    are the same.
    """

    def share(here, start, end) -> float:
        way = np.subtract(end, start)
        return float(np.dot(np.subtract(here, start), way) / np.dot(way, way)) if np.any(way) else math.nan

    return share(look.mean, source.mean, reference.mean), share(look.relief, source.relief, reference.relief)


# Pixels --------------------------------------------------------------------------------------------------------------


