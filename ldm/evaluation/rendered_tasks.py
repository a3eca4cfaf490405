"""Edits with a known answer of rendered scenes: read from a folder that scripts/render_scenes.py wrote with --edits.

    python scripts/render_scenes.py --out DIR --seeds 2000000:2000270 --edits all --masks

Task number `index` of an operation is that of the folder's scene which is the `index`-th with such an edit, in the order
of the shards. Objects have the same ids, order and triples in source and target graph; boxes are those of the whole
objects, hidden parts included.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from PIL import Image

from ldm.evaluation.edit_tasks import OPERATIONS, EditTask, with_relation_only
from ldm.graph.scene_graph import SceneGraph
from ldm.synthetic.annotation import subsample_graph
from ldm.synthetic.rendered.records import INDEX, Record, RenderedError, complete_shards, read_records
from ldm.synthetic.rendered.relations import CONVERSE
from ldm.util.files import digest
from ldm.util.images import read_image

KEPT = ("on", "inside")  # triples that boxes without depth cannot replace


class _Picture:
    """A picture of the folder and what it shows."""

    def __init__(self, shard: Path, record: Record):
        self.path, self.record = shard / record.file, record

    @property
    def image(self) -> Image.Image:
        return read_image(self.path).convert("RGB")

    @property
    def edit(self) -> Mapping:
        return self.record.edit or {}

    def sibling(self, file: str) -> Path:
        """A picture of the same shard."""
        return self.path.with_name(file)


@dataclass(frozen=True)
class RenderedTasks:
    """The tasks and scenes of a folder; a `TaskSource`.

    Args:
        folder: with shards of rendered scenes.
        scenes: name of the world's reader.
    """

    folder: str
    scenes: str = "rendered"
    operations: tuple[str, ...] = OPERATIONS

    def identity(self) -> str:
        """Checksum of the folder's indices, which name the pictures and say what they show."""
        return digest(b"".join((shard / INDEX).read_bytes() for shard in complete_shards(self.folder)))[:16]

    def count(self, operation: str | None = None) -> int:
        """How many tasks of an operation, or scenes, there are."""
        return len(self._scenes if operation is None else self._edits[operation])

    def task(self, operation: str, index: int) -> EditTask:
        """Task number `index` of an operation.

        Raises:
            RenderedError: the folder has fewer, or the record of the edit is damaged.
        """
        edits = self._edits[operation]
        if index >= len(edits):
            raise RenderedError(
                f"{self.folder} has {len(edits)} edits of the operation {operation!r}, none numbered {index}"
            )
        try:
            return self._make_task(operation, index, edits[index])
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise RenderedError(f"{edits[index].path}: the record of this edit is damaged ({error!r})") from None

    def graph(self, index: int, boxes: str = "all") -> SceneGraph:
        """The graph of scene `index` as training shows it; `boxes` as in `subsample_graph`."""
        graph = self._picture(index).record.graph()
        return subsample_graph(graph, random.Random(f"graph/{index}"), boxes, converse=CONVERSE, kept=KEPT)

    def picture(self, index: int) -> Image.Image:
        """The picture of scene `index`."""
        return self._picture(index).image

    def other_picture(self, index: int, number: int) -> Image.Image:
        """The picture of another scene: the `number`-th one after scene `index`."""
        return self._picture((index + number) % len(self._scenes)).image

    def _picture(self, index: int) -> _Picture:
        if index >= len(self._scenes):
            raise RenderedError(f"{self.folder} has {len(self._scenes)} scenes, none numbered {index}")
        return self._scenes[index]

    @cached_property
    def _pictures(self) -> dict[Path, _Picture]:
        shards = complete_shards(self.folder)
        pictures = (_Picture(shard, record) for shard in shards for record in read_records(shard))
        return {picture.path: picture for picture in pictures}

    @cached_property
    def _edits(self) -> dict[str, list[_Picture]]:
        edits = [picture for picture in self._pictures.values() if picture.edit]
        return {name: [picture for picture in edits if picture.edit.get("operation") == name] for name in OPERATIONS}

    @cached_property
    def _scenes(self) -> list[_Picture]:
        """Pictures that are no edits and show no style of another scene."""
        shown = {picture.sibling(picture.edit["reference"]) for picture in self._edits["restyle"]}
        return [picture for path, picture in self._pictures.items() if not picture.edit and path not in shown]

    def _make_task(self, operation: str, index: int, after: _Picture) -> EditTask:
        edit = after.edit
        before = self._pictures[after.sibling(edit["source"])]
        source, target, changed = graphs_of_edit(before.record, after.record)
        truth_graph = target
        if edit["relation"]:
            subject, predicate, object_ = edit["relation"]
            target = with_relation_only(
                CONVERSE, source, target, str(target.ids[subject]), predicate, str(target.ids[object_])
            )
        reference = self._pictures[after.sibling(edit["reference"])].image if edit.get("reference") else None
        return EditTask(
            self.scenes, operation, index, before.image, source, target, after.image, truth_graph, changed, reference
        )


def graphs_of_edit(before: Record, after: Record) -> tuple[SceneGraph, SceneGraph, frozenset[str]]:
    """Complete graphs with ids of a scene and of its edit, and the ids of what differs.

    What an edit leaves as it is has the same box in both, also where it is the neighbours that changed.
    """
    edit = after.edit or {}
    source = replace(before.graph(), ids=tuple(f"object {index}" for index in range(len(before.boxes))))
    ids = _new_ids(edit["origin"])
    changed = {ids[index] for index in edit["changed"]} | {str(source.ids[index]) for index in edit["removed"]}
    target = replace(after.graph(), ids=ids)
    boxes = tuple(box if id in changed else source.boxes[source.ids.index(id)] for id, box in zip(ids, target.boxes))
    return source, replace(target, boxes=boxes), frozenset(changed)


def _new_ids(origin: Sequence[int | None]) -> tuple[str, ...]:
    return tuple(f"new {index}" if old is None else f"object {old}" for index, old in enumerate(origin))
