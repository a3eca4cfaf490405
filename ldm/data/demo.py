"""Synthetic scenes as data sets: no files, and every graph is exactly true of its picture."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterator
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

BOXES = ("mixed", "all", "part", "none")


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
        annotation = subsample_graph(graph, rng, self.boxes, converse=self.world.converse)
        sample = self._render(graph, background), annotation
        return (*sample, self._render(self.reference_world.random_graph(rng), background)) if self.reference else sample

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
