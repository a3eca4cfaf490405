"""The verdict on an edited photograph: a classifier reads the crops at the boxes of its two graphs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from PIL import Image

from ldm.evaluation.edit_judges import Judgement
from ldm.evaluation.edit_tasks import EditTask
from ldm.evaluation.photographs.classifier import CropClassifier, load_classifier
from ldm.evaluation.photographs.crops import NOTHING, overlap
from ldm.evaluation.photographs.tasks import WHOLE
from ldm.graph.scene_graph import SceneGraph
from ldm.graph.validation import Box
from ldm.util.errors import UserError
from ldm.util.files import digest

LEFT = 0.25  # share of an old box that anything else may cover for its place to be judged


@dataclass(frozen=True)
class CropJudge:
    """Judges by a classifier of crops; a `Judge`.

    A new thing must be recognised in its box. One that stays, or moves, must be read as what it is or as what it was read in the
    source, so that the classifier's errors on real things are not the editor's. Where a thing is gone, nothing must be seen; an
    old place that other things cover in part is not judged.

    Args:
        weights: of the classifier, which scripts/train_crop_classifier.py wrote; None if the user named none.
    """

    weights: str | None
    judges_shadows: bool = False
    shadow_reach: float = 0.0

    @cached_property
    def classifier(self) -> CropClassifier:
        """The classifier. Raises UserError without weights."""
        return load_classifier(self._path())

    def identity(self) -> str:
        """Checksum of the classifier's weights. Raises UserError without weights."""
        return digest(self._path())[:16]

    def _path(self) -> Path:
        if self.weights is None or not Path(self.weights).is_file():
            what = (
                "photographs are judged by a classifier of crops"
                if self.weights is None
                else f"there is no file {self.weights}"
            )
            raise UserError(f"--classifier: {what}; name the weights that scripts/train_crop_classifier.py wrote")
        return Path(self.weights)

    def judge(self, task: EditTask, image: Image.Image) -> Judgement:
        read, before = self._read(task.target, image), self._read(task.source, task.picture)
        names = dict(zip(task.source.ids, task.source.objects))
        complaints, right = [], {}
        for id, name in zip(task.target.ids, task.target.objects):
            if id in read:
                as_before = names.get(id) == name and read[id] == before.get(id) != NOTHING
                right[id] = read[id] == name or as_before or (id not in task.changed and read[id] == before.get(id))
                complaints += [] if right[id] else [f"the {name} is read as {read[id]}"]
        changed = all(value for id, value in right.items() if id in task.changed)
        for name, box in _left_places(task):
            found = self.classifier.name(image, box)
            if found != NOTHING:
                changed = False
                complaints.append(f"where the {name} was, {'it' if found == name else found} is read")
        staying = [value for id, value in right.items() if id not in task.changed]
        row = {"success": changed and all(staying), "changed": changed, "intact": all(staying)}
        return Judgement(row | {"untouched": sum(staying), "of_untouched": len(staying)}, complaints)

    def _read(self, graph: SceneGraph, image: Image.Image) -> dict:
        """What the classifier reads in the box of each thing, by its id."""
        boxes = [(id, box) for id, box in zip(graph.ids, graph.boxes) if box is not None and box != WHOLE]
        return {id: self.classifier.name(image, box) for id, box in boxes}


def _left_places(task: EditTask) -> list[tuple[str, Box]]:
    """Names and boxes of what is gone from its place, as far as nothing else covers that place."""
    if task.operation not in ("remove", "move"):
        return []
    after = [box for box in task.target.boxes if box not in (None, WHOLE)]
    old = [
        (name, box)
        for id, name, box in zip(task.source.ids, task.source.objects, task.source.boxes)
        if id in task.changed
    ]
    return [(name, box) for name, box in old if box and all(overlap(box, other) <= LEFT for other in after if other)]
