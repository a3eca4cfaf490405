"""Drawn scenes as data sets: no files, and a picture's truth is known to the pixel."""

from __future__ import annotations

import random
from collections.abc import Iterator
from types import ModuleType

from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from ldm.graph.scene_graph import SceneGraph
from ldm.synthetic.worlds import SCENES
from ldm.util.images import to_tensor

BOXES = ("mixed", "all", "part", "none")


class _Demo(Dataset):
    """scenes: 'shapes', flat ones at 64 pixels, or 'hard', shaded solids at 128. boxes: how many of its objects' boxes a
    graph tells: 'all', 'part', 'none', or 'mixed', where every second graph tells all. reference: add another scene under
    the same background, so that nothing but the style can be learned from it. apart: of 'shapes', the share of objects
    that is placed apart from others; a low one shows an autoencoder more of what it finds hard.
    """

    def __init__(
        self,
        size: int,
        image_size: int | None = None,
        seed: int = 0,
        max_samples: int | None = None,
        scenes: str = "shapes",
        boxes: str = "mixed",
        reference: bool = False,
        apart: float | None = None,
    ):
        for name, value, known in (("scenes", scenes, SCENES), ("boxes", boxes, BOXES)):
            if value not in known:
                raise ValueError(f"{type(self).__name__}: {name} is {value!r}; it can be {', '.join(known)}")
        if apart is not None and scenes != "shapes":
            raise ValueError(f"{type(self).__name__}: apart is an option of the scenes 'shapes'; leave it out with {scenes!r}")
        self._placing = {} if apart is None else {"apart": apart}
        self._scenes, self.boxes, self.reference = scenes, boxes, reference
        self.size = size if max_samples is None else min(size, max_samples)
        self.image_size = image_size or self.scenes.IMAGE_SIZE
        self.seed = seed
        self.epoch = 0

    @property
    def scenes(self) -> ModuleType:  # by name, since workers that are spawned need a set that pickles
        return SCENES[self._scenes]

    @property
    def vocab(self):
        return self.scenes.VOCAB

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> tuple:  # (3,H,W) in [-1,1], the graph as told, with `reference` (3,H,W)
        graph, background = self.scene(index)
        rng = random.Random(f"told/{self._key(index)}")
        sample = self._draw(graph, background), self.scenes.subsample_graph(graph, rng, self.boxes)
        return (*sample, self._draw(self.scenes.random_graph(rng), background)) if self.reference else sample

    def _draw(self, graph: SceneGraph, background: tuple) -> Tensor:
        return to_tensor(self.scenes.render(graph, background, self.image_size))

    def scene(self, index: int) -> tuple[SceneGraph, tuple]:
        """The complete graph of picture `index`, from back to front, and its background: what `render` needs to draw
        it, as it is or edited."""
        if not 0 <= index < len(self):
            raise IndexError(f"there is no picture {index} among {len(self)}")
        rng = random.Random(self._key(index))
        return self.scenes.random_graph(rng, **self._placing), self.scenes.random_background(rng)

    def picture(self, index: int) -> Image.Image:
        return self.scenes.render(*self.scene(index), self.image_size)

    def check(self) -> Iterator[str]:
        """Nothing to find: there are no files."""
        return iter(())


class DemoTrain(_Demo):
    """New scenes in every epoch: a scene depends on (seed, epoch, index)."""

    def _key(self, index: int) -> str:
        return f"{self.seed}/{self.epoch}/{index}"


class DemoValidation(_Demo):
    """The same scenes always: a scene depends on the index alone, whatever the seed."""

    def _key(self, index: int) -> str:
        return f"{index}"
