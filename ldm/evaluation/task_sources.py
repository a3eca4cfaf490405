"""Where the benchmarks take scenes and edit tasks from: a world that draws them, a folder of rendered ones, CLEVR's, or photographs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from PIL import Image

from ldm.data.demo import DemoValidation
from ldm.evaluation import clevr_tasks
from ldm.evaluation.edit_judges import Judge, WorldJudge
from ldm.evaluation.edit_tasks import OPERATIONS, SUBSTITUTE_OFFSET, EditTask, make_task
from ldm.evaluation.photographs import tasks as photographs
from ldm.evaluation.photographs.judge import CropJudge
from ldm.evaluation.rendered_tasks import RenderedTasks
from ldm.graph.scene_graph import SceneGraph
from ldm.synthetic.worlds import WORLDS, find_reader
from ldm.util.errors import UserError


class TaskSource(Protocol):
    """Held-out scenes with their graphs and pictures, and edits of them with a known answer, all by number."""

    @property
    def scenes(self) -> str:
        """Name of the world, a key of `ldm.synthetic.worlds.READERS`, or 'photographs'."""
        ...

    @property
    def operations(self) -> tuple[str, ...]:
        """The operations of its tasks."""
        ...

    def identity(self) -> str | None:
        """What scenes and tasks depend on besides the world and the code."""
        ...

    def count(self, operation: str | None = None) -> int | None:
        """How many tasks of an operation, or scenes, there are; None for any number."""
        ...

    def task(self, operation: str, index: int) -> EditTask: ...

    def graph(self, index: int, boxes: str = "all") -> SceneGraph:
        """The graph of a scene as training shows it: 'all', 'none' or 'part' of the objects have a box."""
        ...

    def picture(self, index: int) -> Image.Image: ...

    def other_picture(self, index: int, number: int) -> Image.Image:
        """The picture of another scene; each `number` from 1 gives another one."""
        ...


@dataclass(frozen=True)
class DrawnTasks:
    """The scenes of a world that can draw, without end; a `TaskSource`.

    Args:
        scenes: name of the world, a key of `ldm.synthetic.worlds.WORLDS`.
    """

    scenes: str = "shapes"
    operations: tuple[str, ...] = OPERATIONS

    def identity(self) -> None:
        return None

    def count(self, operation: str | None = None) -> None:
        return None

    def task(self, operation: str, index: int) -> EditTask:
        return make_task(self.scenes, operation, index)

    def graph(self, index: int, boxes: str = "all") -> SceneGraph:
        return self._data(index, boxes)[index][1]

    def picture(self, index: int) -> Image.Image:
        return self._data(index).picture(index)

    def other_picture(self, index: int, number: int) -> Image.Image:
        return self.picture(index + number * SUBSTITUTE_OFFSET)

    def _data(self, index: int, boxes: str = "all") -> DemoValidation:
        return DemoValidation(index + 1, scenes=self.scenes, boxes=boxes)


def find_tasks(scenes: str, folder: str | None = None, checker: str | None = None) -> TaskSource:
    """The scenes and tasks of a world.

    Args:
        scenes: name of the world.
        folder: of rendered scenes, for a world that cannot draw, of CLEVR's pictures, or of photographs.
        checker: weights that read the words of CLEVR's pictures.

    Raises:
        UserError: there is no such world, or it needs a folder, or has no use for one.
    """
    if scenes == photographs.SCENES:
        if folder is None:
            raise UserError(
                "--scenes photographs: name their folder with --tasks, which scripts/prepare_photographs.py wrote"
            )
        return photographs.PhotographTasks(folder)
    if scenes == clevr_tasks.SCENES:
        if folder is None:
            raise UserError("--scenes clevr: name the folder of its pictures and CLEVR_scenes.json with --tasks")
        return clevr_tasks.ClevrTasks(folder, checker)
    find_reader(scenes)
    if scenes in WORLDS:
        if folder is not None:
            raise UserError(f"--tasks {folder}: the scenes {scenes!r} are drawn, not read from a folder; leave it out")
        return DrawnTasks(scenes)
    if folder is None:
        raise UserError(
            f"--scenes {scenes}: these scenes cannot be drawn here; name a folder of them with --tasks, which "
            "scripts/render_scenes.py --edits all wrote"
        )
    return RenderedTasks(folder, scenes)


def find_judge(scenes: str, classifier: str | None = None) -> Judge:
    """What judges the edits of a world, or of photographs.

    Args:
        scenes: name of the world, or 'photographs'.
        classifier: weights of a classifier of crops, for photographs, or of a checker, for CLEVR's pictures.

    Raises:
        UserError: there are such weights, but other scenes.
    """
    if scenes == photographs.SCENES:
        return CropJudge(classifier)
    if scenes == clevr_tasks.SCENES:
        return clevr_tasks.ClevrJudge(classifier)
    if classifier is not None:
        raise UserError(
            f"--classifier judges photographs, and --checker CLEVR's pictures; the scenes {scenes!r} have a checker of their own: leave it out"
        )
    return WorldJudge(scenes)
