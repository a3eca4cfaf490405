"""Judges of edits: whether an edited image shows what its task asks for, from its pixels alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

from PIL import Image

from ldm.evaluation.edit_tasks import EditTask
from ldm.graph.scene_graph import SceneGraph
from ldm.synthetic import checker
from ldm.synthetic.checker import Verdict
from ldm.synthetic.readings import SceneReading
from ldm.synthetic.worlds import find_reader


class Judgement(NamedTuple):
    """What a judge says of an edited image.

    Args:
        row: numbers for the report, among them `success`, `changed` (the change itself is right), `intact` (all else is as it
            was) and how many of the objects that stay are recognised (`untouched`, `of_untouched`).
        complaints: what is wrong, a sentence each.
        shown: the graph that the image shows, where the judge can read one.
    """

    row: dict
    complaints: list[str]
    shown: SceneGraph | None = None


class Judge(Protocol):
    """Decides whether an edited image shows what its task asks for."""

    @property
    def judges_shadows(self) -> bool:
        """Whether a shadow or reflection of a removed object is a fault."""
        ...

    @property
    def shadow_reach(self) -> float:
        """How far an object changes the image outside its box, as a share of the box's side."""
        ...

    def identity(self) -> str | None:
        """What judgements depend on besides the image and the code."""
        ...

    def judge(self, task: EditTask, image: Image.Image) -> Judgement: ...


@dataclass(frozen=True)
class WorldJudge:
    """The exact checker of a synthetic world; a `Judge`.

    Args:
        scenes: name of the world.
    """

    scenes: str
    judges_shadows: bool = True

    @property
    def shadow_reach(self) -> float:
        return find_reader(self.scenes).shadow_reach

    def identity(self) -> None:
        return None

    def judge(self, task: EditTask, image: Image.Image) -> Judgement:
        reading = checker.read_scene(task.scenes, image)
        row, complaints = _judge(task, reading, checker.check(task.target, reading, task.scenes))
        return Judgement(row, complaints, reading.graph)


def _judge(task: EditTask, reading: SceneReading, verdict: Verdict) -> tuple[dict, list[str]]:
    """Whether the edited image shows what it should, and what is wrong with it."""
    complaints = list(verdict.complaints)
    if task.reference is not None:
        reader = find_reader(task.scenes)
        changed = reader.same_style(reading.style, reader.read_scene(task.reference).style)
        if not changed:
            complaints.append("the background is not the reference's")
    else:
        ids, changed_ids = task.target.ids, task.changed
        objects_right = all(right for right, id in zip(verdict.objects, ids) if id in changed_ids)
        removal_right = changed_ids <= set(ids) or verdict.extra == 0
        relations_right = all(
            right
            for right, (subject, _, object) in zip(verdict.triples, task.target.known_triples)
            if changed_ids & {ids[subject], ids[object]}
        )
        changed = objects_right and removal_right and (task.operation != "relation" or relations_right)
    untouched = [right for right, id in zip(verdict.objects, task.target.ids) if id not in task.changed]
    judgement = {"success": verdict.passed and changed, "changed": changed, "intact": all(untouched)}
    judgement |= {"untouched": sum(untouched), "of_untouched": len(untouched), "graph": verdict.passed}
    return judgement, complaints
