"""Where the clip benchmark takes storyboards and true clips from: a world that draws them, or a folder of rendered ones."""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

from PIL import Image

from ldm.data.rendered_clips import RenderedClips
from ldm.evaluation.task_sources import find_tasks
from ldm.graph.storyboard import Storyboard, moves
from ldm.synthetic.shapes import ShapesWorld
from ldm.synthetic.shapes.clips import CELLS, MIN_DISTANCE, drawn, random_storyboard
from ldm.util.errors import UserError

DRAWN = "shapes"  # the only world that draws clips


class ClipSource(Protocol):
    """Storyboards with complete graphs whose objects have ids, their true clips and styles, by number; in each something moves."""

    @property
    def scenes(self) -> str:
        """Name of the world, a key of `ldm.synthetic.worlds.READERS`."""
        ...

    def count(self) -> int | None:
        """How many there are; None for any number."""
        ...

    def storyboard(self, number: int) -> Storyboard: ...

    def clip(self, number: int) -> list[Image.Image]:
        """The true frames."""
        ...

    def style(self, number: int) -> Image.Image:
        """Another scene in the style of the clip, which shows nothing of its content."""
        ...


@dataclass(frozen=True)
class DrawnClipSource:
    """Random clips of drawn shapes, which no training set contains; a `ClipSource`.

    Args:
        frames: of each clip.
    """

    frames: int
    scenes = DRAWN

    def count(self) -> None:
        return None

    def storyboard(self, number: int) -> Storyboard:
        rng = random.Random(f"clip/held out/{number}")
        while True:
            storyboard = random_storyboard(rng, self.frames)
            if max(moves(storyboard)) >= MIN_DISTANCE / CELLS:
                return storyboard

    def clip(self, number: int) -> list[Image.Image]:
        background = self._background(number)
        return [ShapesWorld().render(drawn(graph), background) for graph in self.storyboard(number).graphs()]

    def style(self, number: int) -> Image.Image:
        graph = ShapesWorld().random_graph(random.Random(f"clip/held out/reference {number}"))
        return ShapesWorld().render(graph, self._background(number))

    def _background(self, number: int) -> Any:
        return ShapesWorld().random_background(random.Random(f"clip/held out/background {number}"))


@dataclass(frozen=True)
class RenderedClipSource:
    """The clips of a folder in which something moves by two cells of the latents; a `ClipSource`.

    Args:
        folder: that scripts/render_scenes.py wrote with --frames.
        frames: of each clip.
        least: that distance, as a fraction of the picture's side.
    """

    folder: str
    frames: int
    least: float = 2 / 16
    scenes = "rendered"

    def count(self) -> int:
        return len(self._numbers)

    def storyboard(self, number: int) -> Storyboard:
        return self._data.storyboard(self._numbers[number])

    def clip(self, number: int) -> list[Image.Image]:
        return self._data.pictures(self._numbers[number])

    def style(self, number: int) -> Image.Image:
        return self._data.reference(self._numbers[number])

    @cached_property
    def _data(self) -> RenderedClips:
        return RenderedClips(self.folder, self.frames)

    @cached_property
    def _numbers(self) -> list[int]:
        data = self._data
        return [clip for clip in range(data.clips) if max(moves(data.storyboard(clip))) >= self.least]


def find_clips(scenes: str, folder: str | None, frames: int) -> ClipSource:
    """The clips of a world.

    Raises:
        UserError: there is no such world, it has no clips, or it needs a folder or has no use for one.
    """
    if scenes == RenderedClipSource.scenes:
        if folder is None:
            raise UserError(
                "--scenes rendered: name a folder of clips with --tasks, which scripts/render_scenes.py --frames wrote"
            )
        return RenderedClipSource(folder, frames)
    find_tasks(scenes, folder)  # refuses an unknown world, and a folder that a world has no use for
    if scenes != DRAWN:
        raise UserError(
            f"--scenes {scenes}: there are no clips of these scenes; choose {DRAWN}, or rendered with --tasks"
        )
    return DrawnClipSource(frames)
