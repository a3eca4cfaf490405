"""Edits of photographs with a known answer: the pairs of a folder, as tasks of the edit benchmark.

A graph names every thing and the ground, which covers the picture. Objects that an edit leaves as they are have the same id in
source and target; what is replaced has one id with two names and boxes. Task number `index` of an operation is the `index`-th
such pair of the folder's validation split.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations
from pathlib import Path

from PIL import Image

from ldm.data.coco import find_relation
from ldm.evaluation.edit_tasks import EditTask
from ldm.evaluation.photographs.annotations import MIX, PhotographError, PhotographSplit, Thing
from ldm.graph.scene_graph import SceneGraph
from ldm.graph.validation import Box, Triple

SCENES = "photographs"  # their name in place of that of a world
OPERATIONS = ("replace", "remove", "add", "move")
WHOLE: Box = (0.0, 0.0, 1.0, 1.0)


@dataclass(frozen=True)
class PhotographTasks:
    """The pairs of a folder; a `TaskSource`.

    Args:
        folder: of photographs, see `ldm.evaluation.photographs.annotations`.
        split: its part that is edited.
    """

    folder: str
    split: str = "val"
    scenes: str = SCENES
    operations: tuple[str, ...] = OPERATIONS

    def identity(self) -> str:
        """Checksum of the annotations and pairs."""
        return self._photographs.identity()

    def count(self, operation: str | None = None) -> int:
        """How many tasks of an operation, or photographs, there are."""
        return len(self._photographs.images if operation is None else self._pairs[operation])

    def task(self, operation: str, index: int) -> EditTask:
        """Task number `index` of an operation.

        Raises:
            PhotographError: the folder has fewer, or the images of the pair do not differ by the operation.
        """
        pairs, photographs = self._pairs[operation], self._photographs
        if index >= len(pairs):
            raise PhotographError(
                f"{self.folder} has {len(pairs)} edits of the operation {operation!r}, none numbered {index}"
            )
        pair = pairs[index]
        before, after = pair["source"], pair["target"]
        place = f"{photographs.path('edits')}: the pair {before}, {after}"
        source, target, changed = paired_graphs(photographs.things[before], photographs.things[after], operation, place)
        source, target = (with_ground(graph, photographs.grounds.get(before)) for graph in (source, target))
        composed = [photographs.images[image].get("kind") == MIX for image in (before, after)]
        return EditTask(
            SCENES,
            operation,
            index,
            photographs.picture(before),
            source,
            target,
            photographs.picture(after),
            truth_graph=target,
            changed=frozenset({changed}),
            composed=(composed[0], composed[1]),
        )

    def graph(self, index: int, boxes: str = "all") -> SceneGraph:
        """The graph of photograph `index`, with all boxes or none."""
        image = self._image(index)
        things = self._photographs.things[image]
        ids = tuple(f"object {number}" for number in range(len(things)))
        graph = with_ground(_graph(things, ids), self._photographs.grounds.get(image))
        return graph if boxes == "all" else replace(graph, boxes=(None,) * len(graph.boxes))

    def picture(self, index: int) -> Image.Image:
        """Photograph `index`."""
        return self._photographs.picture(self._image(index))

    def other_picture(self, index: int, number: int) -> Image.Image:
        """The `number`-th photograph after photograph `index`."""
        return self.picture((index + number) % len(self._photographs.images))

    def _image(self, index: int) -> int:
        return list(self._photographs.images)[index]

    @cached_property
    def _photographs(self) -> PhotographSplit:
        return PhotographSplit(Path(self.folder), self.split)

    @cached_property
    def _pairs(self) -> dict[str, list[dict]]:
        pairs = self._photographs.pairs
        return {operation: [pair for pair in pairs if pair["kind"] == operation] for operation in OPERATIONS}


def paired_graphs(
    before: Sequence[Thing], after: Sequence[Thing], operation: str, place: str
) -> tuple[SceneGraph, SceneGraph, str]:
    """The graphs of two images, and the id of the one object in which they differ.

    Args:
        place: names the pair in messages.

    Raises:
        PhotographError: they differ in more, or not as the operation says.
    """
    ids_before = [f"object {index}" for index in range(len(before))]
    left, ids_after = list(range(len(before))), [""] * len(after)
    for index, thing in enumerate(after):
        partner = next((other for other in left if before[other] == thing), None)
        if partner is not None:
            left.remove(partner)
            ids_after[index] = ids_before[partner]
    new = [index for index, id in enumerate(ids_after) if not id]
    gone_and_new = [before[index].name for index in left], [after[index].name for index in new]
    expected = {"add": (0, 1), "remove": (1, 0)}.get(operation, (1, 1))
    same_name = gone_and_new[0] == gone_and_new[1]
    if (len(left), len(new)) != expected or (operation in ("move", "replace") and same_name != (operation == "move")):
        gone, added = (", ".join(names) or "nothing" for names in gone_and_new)
        raise PhotographError(
            f"{place}: {gone} gone and {added} new is not what {operation!r} says; prepare the folder again"
        )
    changed = ids_before[left[0]] if left else "new 0"
    for index in new:
        ids_after[index] = changed
    return _graph(before, ids_before), _graph(after, ids_after), changed


def with_ground(graph: SceneGraph, ground: str | None) -> SceneGraph:
    """The graph with the ground as its last object, on which everything lies."""
    if ground is None:
        return graph
    count = len(graph.objects)
    within: tuple[Triple, ...] = tuple((index, "inside", count) for index in range(count))
    return SceneGraph(
        (*graph.objects, ground),
        (*graph.boxes, WHOLE),
        triples=(*graph.known_triples, *within),
        ids=(*graph.ids, "ground"),
    )


def _graph(things: Sequence[Thing], ids: Sequence[str]) -> SceneGraph:
    """Every pair of things has the relation that COCO's rules give its boxes."""
    boxes = tuple(thing.box for thing in things)
    centres = [((box[0] + box[2]) / 2, (box[1] + box[3]) / 2) for box in boxes]
    triples: tuple[Triple, ...] = tuple(
        (one, find_relation(boxes[one], boxes[two], centres[one], centres[two]), two)
        for one, two in combinations(range(len(things)), 2)
    )
    return SceneGraph(tuple(thing.name for thing in things), boxes, triples=triples, ids=tuple(ids))
