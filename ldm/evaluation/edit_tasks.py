"""Edits with a known answer: a held-out synthetic scene, one change to it, and the image that should result.

A task depends on its scenes, its operation and its number only. Source and target graph list their objects and triples in
the same order, with all ids, boxes and triples, so that they differ in the operation only; a 'relation' leaves the box of
the moved object open. The number is that of a scene in the validation set: numbers that nobody used for tuning give unseen
scenes.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from PIL import Image

from ldm.data.demo import DemoValidation
from ldm.evaluation.scene_changes import SINGLE_OPERATIONS, SceneChange, SceneObject, change_scene, complete_graph
from ldm.graph.scene_graph import SceneGraph
from ldm.graph.validation import Box
from ldm.synthetic.worlds import WORLDS, World, find_reader
from ldm.util.errors import UserError, did_you_mean

OPERATIONS = (*SINGLE_OPERATIONS, "relation", "restyle", "two")
SUBSTITUTE_OFFSET = 10**9  # from the number of a scene that has no room for an operation to that of its substitute


@dataclass(frozen=True)
class EditTask:
    """An edit with a known answer.

    Args:
        scenes: kind of synthetic scenes, a key of `ldm.synthetic.worlds.READERS`, or photographs.
        operation: one of `OPERATIONS`.
        index: number of the task.
        picture: the image to edit.
        source: its graph, as the editor gets it.
        target: the graph of the edited image, as the editor gets it; lacks the moved object's box in a 'relation'.
        truth: the image that should result; in a 'relation' others are correct too. None where nobody knows it.
        truth_graph: the complete graph of `truth`, from back to front; None without `truth`.
        changed: ids of the objects that are removed, added or otherwise changed.
        reference: the image whose style is to be transferred, in a 'restyle'.
        composed: whether `picture` and `truth` are composed of several photographs, which is said wherever they are shown.
    """

    scenes: str
    operation: str
    index: int
    picture: Image.Image
    source: SceneGraph
    target: SceneGraph
    truth: Image.Image | None
    truth_graph: SceneGraph | None
    changed: frozenset[str]
    reference: Image.Image | None = None
    composed: tuple[bool, bool] = (False, False)


def make_task(scenes: str, operation: str, index: int) -> EditTask:
    """Makes task number `index` of an operation, on scene `index` or, where that has no room for it, on a substitute.

    Raises:
        UserError: unknown scenes or operation.
    """
    for kind, value, known in (("scenes", scenes, WORLDS), ("operation", operation, OPERATIONS)):
        if value not in known:
            raise UserError(f"unknown {kind} {value!r}: choose one of {', '.join(known)}{did_you_mean(value, known)}")
    number = index
    while True:
        rng = random.Random(f"edit/{operation}/{number}")
        task = _try_scene(scenes, operation, index, number, rng)
        if task is not None:
            return task
        number += SUBSTITUTE_OFFSET


def object_boxes(task: EditTask) -> list[Box]:
    """Old and new boxes of the changed objects, as far as the graphs give them."""
    return [
        box
        for graph in (task.source, task.target)
        for box, id in zip(graph.boxes, graph.ids)
        if id in task.changed and box is not None
    ]


def changed_boxes(task: EditTask, result: SceneGraph | None = None, shadow_reach: float | None = None) -> list[Box]:
    """Old and new boxes of the changed objects, enlarged by the shadows that these cast.

    Args:
        result: what the edited image shows. It gives the new box in a 'relation', whose target graph leaves it open.
        shadow_reach: how far shadows reach beyond a box, as a share of its side; by default that of the task's world.
    """
    boxes = object_boxes(task)
    if task.operation == "relation" and result is not None:
        moved = [_appearance(task.target, i) for i, id in enumerate(task.target.ids) if id in task.changed]
        boxes += [box for i, box in enumerate(result.boxes) if _appearance(result, i) in moved]
    if shadow_reach is None:
        shadow_reach = find_reader(task.scenes).shadow_reach
    return list(dict.fromkeys(_enlarged(box, shadow_reach) for box in boxes))


def _appearance(graph: SceneGraph, index: int) -> tuple[str, frozenset[str]]:
    return graph.objects[index], frozenset(graph.known_attributes[index])


def _enlarged(box: Box, share: float) -> Box:
    """By a share of its longer side, within the image."""
    margin = share * max(box[2] - box[0], box[3] - box[1])
    return max(0.0, box[0] - margin), max(0.0, box[1] - margin), min(1.0, box[2] + margin), min(1.0, box[3] + margin)


def _try_scene(scenes: str, operation: str, index: int, number: int, rng: random.Random) -> EditTask | None:
    """The task on scene `number`; None where the scene has no room for the operation."""
    world = WORLDS[scenes]
    graph, background = DemoValidation(number + 1, scenes=scenes).scene(number)
    fields = zip(graph.objects, graph.boxes, graph.known_attributes)
    objects = [SceneObject(f"object {i}", name, box, words) for i, (name, box, words) in enumerate(fields) if box]
    ids = rng.sample([item.id for item in objects], len(objects))
    new_background, reference = background, None
    if operation == "restyle":
        new_background, reference = _draw_other_style(world, graph, background, rng)
        change: SceneChange | None = SceneChange(objects, frozenset())
    else:
        change = change_scene(world, operation, objects, rng)
    if change is None:
        return None
    before, after = complete_graph(world, objects), complete_graph(world, change.objects)
    source = _reordered(world, before, ids, number)
    ids = [id for id in ids if id in after.ids]
    for id in sorted(change.changed - set(before.ids)):
        ids.insert(rng.randint(0, len(ids)), id)
    target = _reordered(world, after, ids, number)
    if change.relation:
        target = with_relation_only(world.converse, source, target, *change.relation)
    picture, truth = world.render(before, background), world.render(after, new_background)
    return EditTask(scenes, operation, index, picture, source, target, truth, after, change.changed, reference)


def _draw_other_style(
    world: World, graph: SceneGraph, background: tuple, rng: random.Random
) -> tuple[tuple, Image.Image]:
    """A background with a style that differs from the scene's, and an image of another scene in which it is visible."""
    look = world.read_scene(world.render(graph, background)).style
    while True:
        new_background = world.random_background(rng)
        reference = world.render(world.random_graph(rng), new_background)
        wanted = world.read_scene(reference).style
        if world.same_style(look, wanted):
            continue
        if world.same_style(world.read_scene(world.render(graph, new_background)).style, wanted):
            return new_background, reference


def with_relation_only(
    converse: Mapping[str, str],
    source: SceneGraph,
    target: SceneGraph,
    moved_id: str,
    direction: str,
    fixed_id: str,
) -> SceneGraph:
    """The target graph with a single triple about the moved object, and without its box.

    Args:
        converse: of each predicate that has one.
    """
    moved, fixed = target.ids.index(moved_id), target.ids.index(fixed_id)
    relation = (moved, direction, fixed)
    if any((subject, object) == (fixed, moved) for subject, _, object in source.known_triples):
        relation = (fixed, converse[direction], moved)  # subject and object as in the source graph
    triples = [triple for triple in source.known_triples if moved not in (triple[0], triple[2])]
    boxes = tuple(None if index == moved else box for index, box in enumerate(target.boxes))
    return SceneGraph(target.objects, boxes, target.attributes, (*triples, relation), target.ids)


def _reordered(world: World, graph: SceneGraph, ids: Sequence[str], number: int) -> SceneGraph:
    """A complete graph with its objects in the order of `ids`.

    Which object of a pair is the subject, and the position of their triple, depend on the pair only, so that they are the
    same in source and target.
    """
    triples = []
    for subject, predicate, object in graph.known_triples:
        ends = graph.ids[subject], graph.ids[object]
        pair = sorted(map(str, ends))
        rng = random.Random(f"{number}/{pair}")
        if predicate in world.converse and ends[0] != rng.choice(pair):
            ends, predicate = ends[::-1], world.converse[predicate]
        triples.append((rng.random(), (ids.index(ends[0]), predicate, ids.index(ends[1]))))
    order = [graph.ids.index(id) for id in ids]
    return SceneGraph(
        tuple(graph.objects[i] for i in order),
        tuple(graph.boxes[i] for i in order),
        tuple(graph.attributes[i] for i in order),
        tuple(triple for _, triple in sorted(triples)),
        tuple(ids),
    )
