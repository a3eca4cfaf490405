"""Synthetic scenes as data sets: no files, and every graph is exactly true of its picture."""

from __future__ import annotations

import dataclasses
import multiprocessing
import random
from collections.abc import Iterator, Sequence
from typing import Any

from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from ldm.data.values import require_count, require_share
from ldm.graph.scene_graph import SceneGraph
from ldm.graph.vocab import Vocab
from ldm.synthetic.annotation import subsample_graph
from ldm.synthetic.shapes import ShapesWorld
from ldm.synthetic.worlds import WORLDS
from ldm.util.errors import ConfigError, did_you_mean
from ldm.util.images import to_tensor
from ldm.util.processes import available_cores, end_with_parent

BOXES = ("mixed", "all", "part", "none")
PREPARED_ALONE = 1000  # scenes that are generated faster than processes start


class _Demo(Dataset):
    """Pictures (3,H,W) in [-1,1] of random scenes, with their scene graphs.

    Args:
        size: number of scenes.
        image_size: side of a picture in pixels; default is the world's.
        seed: of the training scenes; validation scenes are always the same.
        max_samples: upper limit of `size`.
        scenes: name of a synthetic world that is drawn (`ldm.synthetic.worlds.WORLDS`).
        boxes: which objects have a box in the graph: 'all', 'part', 'none', or 'mixed', which draws one of these per
            scene, 'all' every second time.
        reference: add a picture of another scene with the same background, which shows the style and nothing else.
        apart: for the world 'shapes', the share of objects that overlap no other; a low share makes harder training
            pictures for an autoencoder.

    Raises:
        ConfigError: an option has an unknown value.
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
        for name, value, known in (("scenes", scenes, WORLDS), ("boxes", boxes, BOXES)):
            if value not in known:
                raise ConfigError(
                    f"{type(self).__name__}: {name} is {value!r}; it can be {', '.join(known)}{did_you_mean(value, known)}"
                )
        for name, value, least in (("size", size, 0), ("image_size", image_size, 1), ("max_samples", max_samples, 0)):
            if value is not None:
                require_count(f"{type(self).__name__}: {name}", value, least)
        self.world = self.reference_world = WORLDS[scenes]
        if apart is not None:
            require_share(f"{type(self).__name__}: apart", apart)
            if not isinstance(self.world, ShapesWorld):
                raise ConfigError(
                    f"{type(self).__name__}: apart is an option of the scenes 'shapes'; leave it out with {scenes!r}"
                )
            self.world = dataclasses.replace(self.world, apart=apart)
        self.boxes, self.reference = boxes, reference
        self.size = size if max_samples is None else min(size, max_samples)
        self.image_size = image_size or self.world.image_size
        self.seed = seed
        self.epoch = 0

    @property
    def vocab(self) -> Vocab:
        return self.world.vocab

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> tuple:
        """Picture (3,H,W) in [-1,1] and its graph with boxes and triples dropped; with `reference` a second picture."""
        graph, background = self.scene(index)
        rng = random.Random(f"told/{self._key(index)}")
        sample = self._render(graph, background), self._annotate(graph, rng)
        return (*sample, self._render(self.reference_world.random_graph(rng), background)) if self.reference else sample

    def _annotate(self, graph: SceneGraph, rng: random.Random) -> SceneGraph:
        return subsample_graph(graph, rng, self.boxes, converse=self.world.converse)

    def _render(self, graph: SceneGraph, background: Any) -> Tensor:
        return to_tensor(self.world.render(graph, background, self.image_size))

    def scene(self, index: int) -> tuple[SceneGraph, Any]:
        """The complete graph of a picture, objects from back to front, and its background: arguments of `render`."""
        if not 0 <= index < len(self):
            raise IndexError(f"there is no picture {index} among {len(self)}")
        rng = random.Random(self._key(index))
        return self.world.random_graph(rng), self.world.random_background(rng)

    def picture(self, index: int) -> Image.Image:
        return self.world.render(*self.scene(index), self.image_size)

    def check(self) -> Iterator[str]:
        """Reports nothing: there are no files that could be broken."""
        return iter(())

    def _key(self, index: int) -> str:
        """Seed of a scene."""
        raise NotImplementedError


class DemoTrain(_Demo):
    """New scenes in every epoch: a scene depends on (seed, epoch, index)."""

    def _key(self, index: int) -> str:
        return f"{self.seed}/{self.epoch}/{index}"


class DemoValidation(_Demo):
    """The same scenes always: a scene depends on the index alone, whatever the seed."""

    def _key(self, index: int) -> str:
        return f"{index}"


class DemoFixed(_Demo):
    """The same scenes in every epoch, whose latents can be cached; what their graphs leave out depends on (seed, epoch, index).

    Scenes 2k and 2k + 1 have the same background: with `reference`, the picture of one shows the style of the other.
    """

    _prepared: Sequence[tuple[SceneGraph, Any]] = ()

    def __getitem__(self, index: int) -> tuple:
        sample = to_tensor(self.picture(index)), self.graph(index, self.drawn_size(index))
        return (*sample, to_tensor(self.picture(self.style_reference(index)))) if self.reference else sample

    def scene(self, index: int) -> tuple[SceneGraph, Any]:
        if not 0 <= index < len(self):
            raise IndexError(f"there is no picture {index} among {len(self)}")
        if self._prepared:
            return self._prepared[index]
        rng = random.Random(f"fixed/{self.seed}/background {index // 2}")
        return self.world.random_graph(random.Random(self._key(index))), self.world.random_background(rng)

    def prepare(self) -> None:
        """Generates all scenes with all cores, so that the loader's processes need not do it in each epoch."""
        if self._prepared or len(self) < PREPARED_ALONE:
            return
        with multiprocessing.Pool(available_cores(), end_with_parent) as pool:
            self._prepared = pool.map(self.scene, range(len(self)), chunksize=256)

    def graph(self, index: int, size: tuple[int, int]) -> SceneGraph:
        """The graph of a picture, with boxes and triples dropped."""
        return self._annotate(self.scene(index)[0], random.Random(f"told/{self.seed}/{self.epoch}/{index}"))

    def style_reference(self, index: int) -> int:
        return min(index ^ 1, len(self) - 1) if self.reference else index

    def drawn_size(self, index: int) -> tuple[int, int]:
        return self.image_size, self.image_size

    def image_names(self) -> list[str]:
        return [f"{self.world!r} {self._key(index)}" for index in range(len(self))]

    def _key(self, index: int) -> str:
        return f"fixed/{self.seed}/{index}"
