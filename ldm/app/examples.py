"""Photographs with their graphs to begin with: those that ship, and scenes of a world that is drawn."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from ldm.app.errors import NotFound
from ldm.checkpoints import shipped
from ldm.graph.graph_files import read_graph
from ldm.graph.scene_graph import SceneGraph
from ldm.models.diffusion.latent_diffusion import LatentDiffusion
from ldm.synthetic.rendered.records import complete_shards, read_records
from ldm.synthetic.worlds import WORLDS
from ldm.util.errors import UserError
from ldm.util.images import read_image

MOST = 12
DRAWN = 5  # scenes of a world that is drawn


class Example(NamedTuple):
    """A photograph with its graph. `open` reads or draws both."""

    id: str
    title: str
    number: int  # of the scene, 0 for a photograph with a name
    open: Callable[[], tuple[Image.Image, SceneGraph]]


class Examples:
    """The examples that a model can edit: those whose names are all in its vocabulary.

    Args:
        model: whose vocabulary decides.
        folders: of weights that ship, with example*.json, and with rendered scenes in examples/ (default: of all sets).
    """

    def __init__(self, model: LatentDiffusion, *folders: Path):
        self.model = model
        self.folders = folders or tuple(
            shipped.ROOT / shipped.FOLDER / weights for weights in dict.fromkeys(shipped.OF_SCENES.values())
        )

    @cached_property
    def all(self) -> dict[str, Example]:
        """By id, at most MOST."""
        found = [*self._files(), *self._rendered(), *self._drawn()]
        fitting = [each for each in found if self._fits(each)][:MOST]
        return {each.id: each for each in fitting}

    def find(self, id: str) -> Example:
        """An example by its id. Raises NotFound."""
        if id not in self.all:
            raise NotFound("there is no such example").coded("no_example")
        return self.all[id]

    def _fits(self, example: Example) -> bool:
        try:
            _, graph = example.open()
            graph.validate(self.model.vocab, max_objects=self.model.cond_stage_model.max_objects)
        except UserError:
            return False
        return True

    def _files(self) -> list[Example]:
        """Graphs that name their photograph."""
        return [
            Example(path.stem, path.stem.replace("_", " ").capitalize(), 0, _opener(path))
            for folder in self.folders
            for path in sorted(folder.glob("example*.json"))
        ]

    def _rendered(self) -> list[Example]:
        """Rendered scenes, those that are edits apart."""
        folders = [folder / "examples" for folder in self.folders if (folder / "examples").is_dir()]
        try:
            scenes = [
                (shard / record.file, record.graph())
                for folder in folders
                for shard in complete_shards(str(folder))
                for record in read_records(shard)
                if not record.edit
            ]
        except UserError:
            return []
        return [
            Example(f"scene{number}", f"Scene {number}", number, lambda path=path, graph=graph: (_read(path), graph))
            for number, (path, graph) in enumerate(scenes[:MOST], 1)
        ]

    def _drawn(self) -> list[Example]:
        """Scenes of the world that has the model's vocabulary, if it can be drawn."""
        world = next((world for world in WORLDS.values() if world.vocab == self.model.vocab), None)
        if world is None:
            return []

        def draw(number: int) -> tuple[Image.Image, SceneGraph]:
            rng = random.Random(f"example/{number}")
            graph = world.random_graph(rng)
            return world.render(graph, world.random_background(rng)), graph

        return [
            Example(f"drawn{number}", f"Drawn scene {number}", number, lambda number=number: draw(number))
            for number in range(1, DRAWN + 1)
        ]


def _opener(path: Path) -> Callable[[], tuple[Image.Image, SceneGraph]]:
    def read() -> tuple[Image.Image, SceneGraph]:
        graph = read_graph(path)
        if graph.image is None:
            raise NotFound(f"{path.name} names no picture")
        return _read(path.parent / graph.image), graph

    return read


def _read(path: Path) -> Image.Image:
    return read_image(path, upright=True)
