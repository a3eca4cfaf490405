"""Placement: boxes for the objects of an edited graph that only says how they relate.

A new relation is satisfied at the strictest level that is possible (`ldm.graph.spatial_relations`), by the smallest
translation that keeps all existing relations as clear as they were. Candidates are all translations by multiples of a
step, so the smallest is found exactly, up to the step. If none of them fits, the step is a cell of GRID.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby, product
from typing import NamedTuple

import numpy as np

from ldm.graph.diff import Add, AddRelation, ChangeRelation, Move, Operation
from ldm.graph.object_sizes import DEFAULT_SIZE, expected_size
from ldm.graph.perspective import Floor
from ldm.graph.placement_scene import PlacementScene, check_positions, make_scene, other_end, stands_in_order
from ldm.graph.scene_graph import SceneGraph
from ldm.graph.spatial_relations import (
    BARE,
    CLEAR,
    FAIR,
    GRID,
    LEVELS,
    LOOSE,
    ROUNDING,
    UNAMBIGUOUS,
    BoxPair,
    is_background,
)
from ldm.graph.validation import Box, GraphError, Triple


def place_objects(
    source: SceneGraph,
    target: SceneGraph,
    operations: Sequence[Operation],
    step: float = 1 / GRID,
    floor: Floor | None = None,
) -> tuple[SceneGraph, str]:
    """Chooses boxes for an edited graph from those of the source graph and from new relations.

    If a relation is new and the edited graph gives neither object a new box, the subject moves by the smallest translation
    that satisfies the new relation and keeps the existing ones, within the image and without new overlaps. Its contents
    move along if necessary; if the subject cannot move, the object of the relation does. If nothing fits, objects may
    overlap as little as possible, but both stay visible. On a floor (`perspective.shows_floor`), objects in front stand
    lower, and the size of an object that moves alone follows the perspective.

    An added object without a box is placed by the same rules near the objects to which it relates, or else where there is
    most room. New boxes in the edited graph do not change.

    Args:
        operations: `diff(source, target)`.
        step: of translations, as a fraction of the image's side; at least 1 / GRID.
        floor: where objects stand, if it is known. What moves or is added stands on it alone and at the size that fits.

    Returns:
        The edited graph with all boxes that are known or chosen, and a description of the chosen ones, '' if there are
        none.

    Raises:
        GraphError: a new relation is not spatial, or no position satisfies it.
    """
    scene = make_scene(source, target, operations, floor)
    steps = sorted({max(step, 1 / GRID), 1 / GRID}, reverse=True)
    changed = [operation.target for operation in operations if isinstance(operation, ChangeRelation)]
    added = [operation.target for operation in operations if isinstance(operation, AddRelation)]
    unmet = _unmet_relations(scene, changed, CLEAR if floor else FAIR) + _unmet_relations(scene, added, BARE)
    while unmet:
        move = _find_smallest_move(scene, unmet, steps)
        _apply(scene, move)
        unmet = [triple for triple in unmet if triple not in move.triples]
    for operation in operations:
        if isinstance(operation, Add):
            _place_added(scene, operation.target, steps)
    graph = SceneGraph(target.objects, tuple(scene.boxes), target.attributes, target.triples, target.ids, target.image)
    return graph, "; ".join(scene.messages)


# Moving ---------------------------------------------------------------------------------------------------------------


class _Move(NamedTuple):
    group: list[int]  # objects that move together
    boxes: np.ndarray  # (G,4), their new boxes
    triples: list[Triple]  # relations that the move satisfies
    crowded: int  # whether it overlaps unrelated objects


def _unmet_relations(scene: PlacementScene, triples: Sequence[Triple], level: int) -> list[Triple]:
    """The new relations for which an object has to move: those that do not hold at `level` yet."""
    unmet = []
    for triple in triples:
        subject, predicate, object_ = triple
        if (scene.added | scene.fixed) & {subject, object_}:
            continue
        unknown = [index for index in (subject, object_) if scene.boxes[index] is None]
        if unknown:
            scene.messages.append(
                f"the model decides where {scene.claim(triple)}, since {scene.name(unknown[0])} has no box"
            )
        elif scene.kind(predicate) is None:
            if scene.target.boxes[subject] is None:
                raise GraphError(
                    f"the new relation {predicate!r} does not define a position for {scene.name(subject)}: "
                    f"give it a box, the old one if it stays"
                ).coded("relation_without_place", predicate=predicate, object=scene.target.describe(subject))
        elif scene.holds(triple, level):
            scene.pending.discard(triple)
            scene.messages.append(f"{scene.name(subject)} stays where it is, since {scene.claim(triple)} already")
        else:
            unmet.append(triple)
    return unmet


def _find_smallest_move(scene: PlacementScene, unmet: Sequence[Triple], steps: Sequence[float]) -> _Move:
    movers, attempts = _attempts(scene, unmet)
    for crowded, level, mover in _tries(scene, attempts):
        triples = [triple for triple in unmet if mover in triple[::2]]
        groups = _groups(scene, mover, {other_end(triple, mover) for triple in triples})
        for group, step in product(groups, steps):
            boxes = _best_translation(scene, group, triples, level, crowded, step)
            if boxes is not None:
                return _Move(group, boxes, triples, crowded)
    asked = [triple for triple in unmet if movers[0] in triple[::2]]
    describe = scene.target.describe
    raise GraphError(
        f"no position within the image satisfies {' and '.join(map(scene.claim, asked))}, and all other relations: "
        f"give {scene.name(movers[0])} a box, or change other relations too"
    ).coded(
        "no_position",
        object=describe(movers[0]),
        relations=", ".join(f"{describe(s)} {predicate} {describe(o)}" for s, predicate, o in asked),
    )


def _tries(scene: PlacementScene, attempts: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int, int]]:
    """How crowded it may be, the level and the object, in the order to try.

    On a known floor an object may rather hide others than that its new relation is doubtful, and rather the object moves
    whose box is open.
    """
    if not scene.plane:
        for crowded, (level, mover) in product((0, 1), attempts):
            yield crowded, level, mover
        return
    for without_box in (True, False):
        group = [(level, mover) for level, mover in attempts if (scene.target.boxes[mover] is None) == without_box]
        for most in ((0, 1), (2,), (3,)):
            for level, mover in group:
                if level < BARE:
                    yield from ((crowded, level, mover) for crowded in most)
        for level, mover in group:
            if level == BARE:
                yield 3, level, mover


def _attempts(scene: PlacementScene, unmet: Sequence[Triple]) -> tuple[list[int], list[tuple[int, int]]]:
    """The objects that may move, by their number of unmet relations; and (level, object) in the order to try."""
    ends = [index for subject, _, object_ in unmet for index in (subject, object_)]
    movers = sorted(dict.fromkeys(ends), key=lambda index: -ends.count(index))
    attempts = []
    for without_box in (True, False):  # objects without a box in the edited graph move first
        candidates = [mover for mover in movers if (scene.target.boxes[mover] is None) == without_box]
        for _, tier in groupby(candidates, ends.count):
            attempts += product((CLEAR, FAIR, UNAMBIGUOUS), list(tier))
        attempts += [(BARE, mover) for mover in candidates]
    return movers, attempts


def _groups(scene: PlacementScene, mover: int, others: set[int]) -> Iterator[list[int]]:
    """The object alone, then with its contents."""
    yield [mover]
    contents = scene.contents(mover)
    if len(contents) > 1 and not contents & (others | scene.fixed):
        yield sorted(contents)


def _best_translation(
    scene: PlacementScene, group: list[int], triples: Sequence[Triple], level: int, crowded: int, step: float
) -> np.ndarray | None:  # (G,4)
    """New boxes of a group: with the feet in order of depth, the least overlap, and the smallest translation."""
    old = np.array([scene.boxes[index] for index in group])
    shifts = _lattice(-old[:, :2].min(0), 1 - old[:, 2:].max(0), step)
    if scene.plane and len(group) == 1:
        boxes = _translate_on_floor(old[0], shifts, scene.plane, scene.feet[group[0]])
    else:
        boxes = _translate(old, shifts, scene.growth)
    allowed, covered = check_positions(scene, group, boxes, triples, level, crowded)
    allowed &= (np.abs(boxes - 0.5) <= 0.5 + ROUNDING).all((1, 2))
    if not allowed.any():
        return None
    in_order = stands_in_order(scene, group, boxes, triples)
    return boxes[np.lexsort((np.hypot(*shifts.T), covered, ~in_order, ~allowed))[0]]


def _translate(boxes: np.ndarray, shifts: np.ndarray, growth: float) -> np.ndarray:  # (G,4), (K,2) -> (K,G,4)
    """Translates boxes; a single one also changes its size, by `growth` per height of the image."""
    moved = boxes + np.tile(shifts, 2)[:, None]
    if len(boxes) > 1 or not growth:
        return moved
    size = (1 + growth * shifts[:, 1]).clip(0.5, 2)[:, None] * (boxes[0, 2:] - boxes[0, :2])
    x, foot = (moved[:, 0, :1] + moved[:, 0, 2:3]) / 2, moved[:, 0, 3:]
    return np.concatenate([x - size[:, :1] / 2, foot - size[:, 1:], x + size[:, :1] / 2, foot], 1)[:, None]


def _translate_on_floor(box: np.ndarray, shifts: np.ndarray, plane: Floor, foot: float) -> np.ndarray:  # -> (K,1,4)
    """Translates an object that stands at the height `foot` of a floor, or on something there; its size follows."""
    middle, feet = (box[0] + box[2]) / 2 + shifts[:, 0], box[3] + shifts[:, 1]
    width, height = np.outer(box[2:] - box[:2], plane.scale(foot, feet).clip(0.3, 3))
    return np.stack([middle - width / 2, feet - height, middle + width / 2, feet], -1)[:, None]


def _apply(scene: PlacementScene, move: _Move) -> None:
    scene.pending -= set(move.triples)
    moves = []
    for index, box in zip(move.group, move.boxes):
        old, new = scene.boxes[index], _clip(box)
        assert old is not None
        scene.boxes[index], scene.feet[index] = new, new[3]
        moves.append(str(Move(scene.source_index[index], index, scene.target.describe(index), (old, new))))
    overlap = " (overlapping other objects for lack of room)" if move.crowded else ""
    claims = " and ".join(map(scene.claim, move.triples))
    scene.messages.append(f"{' and '.join(moves)}{overlap}, so that {claims}")


# Adding ---------------------------------------------------------------------------------------------------------------


def _place_added(scene: PlacementScene, index: int, steps: Sequence[float]) -> None:
    """Chooses the box of an added object, unless it has one or no box is known at all."""
    if scene.boxes[index] is not None or not any(scene.boxes):
        return
    triples = [triple for triple in scene.target.known_triples if index in triple[::2]]
    for _, predicate, _ in triples:
        if scene.kind(predicate) is None:
            raise GraphError(
                f"the new relation {predicate!r} does not define a position for {scene.name(index)}: give it a box"
            ).coded("relation_without_place", predicate=predicate, object=scene.target.describe(index))
    scene.pending -= set(triples)
    triples = [triple for triple in triples if scene.boxes[other_end(triple, index)] is not None]
    size = expected_size(index, scene.target.objects, scene.target.known_attributes, scene.boxes)
    size = np.full(2, DEFAULT_SIZE) if size is None else size
    candidates = [_candidates(scene, index, size, triples, step) for step in steps]
    for level, (boxes, cost) in product(LEVELS[:LOOSE], candidates):
        allowed, _ = check_positions(scene, [index], boxes[:, None], triples, level)
        if allowed.any():
            box = boxes[np.where(allowed, cost, np.inf).argmin()]
            scene.boxes[index] = _clip(box)
            x, y = ((box[:2] + box[2:]) / 2).tolist()
            claims = f", so that {' and '.join(map(scene.claim, triples))}" if triples else ""
            scene.messages.append(
                f"place {scene.name(index)}, {size[0]:.2f} x {size[1]:.2f}, at ({x:.2f}, {y:.2f}){claims}"
            )
            return
    raise GraphError(f"there is no room for {scene.name(index)}: give object {index} of the edited graph a box")


def _candidates(
    scene: PlacementScene, index: int, size: np.ndarray, triples: Sequence[Triple], step: float
) -> tuple[np.ndarray, np.ndarray]:
    """Boxes (K,4) of a size within the image, and their costs (K,): distance from related objects, or lack of room."""
    corners = _lattice(np.zeros(2), 1 - size, step)
    boxes, centres = np.concatenate([corners, corners + size], 1), corners + size / 2
    if triples:
        related = np.array([scene.boxes[other_end(triple, index)] for triple in triples])
        return boxes, np.hypot(*(centres - (related[:, :2] + related[:, 2:]).mean(0) / 2).T)
    others = [np.array(box) for box in scene.boxes if box is not None and not is_background(box)]
    gaps = [BoxPair.of(boxes, other).gap for other in others]
    room = np.min([corners.min(1), (1 - boxes[:, 2:]).min(1), *gaps], axis=0)
    return boxes, np.hypot(*(centres - 0.5).T) / GRID - room  # of positions with equal room, the most central


def _lattice(low: np.ndarray, high: np.ndarray, step: float) -> np.ndarray:  # (2,), (2,) -> (K,2)
    """All multiples of `step` between `low` and `high`."""
    axes = [
        np.arange(np.ceil(a / step - ROUNDING), np.floor(b / step + ROUNDING) + 1) * step for a, b in zip(low, high)
    ]
    return np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 2)


def _clip(box: np.ndarray) -> Box:
    x0, y0, x1, y1 = np.clip(box, 0, 1).tolist()
    return x0, y0, x1, y1
