"""Clips of the drawn world as data sets: no files, and every frame's graph is exactly true of its picture."""

from __future__ import annotations

import multiprocessing
import random
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from PIL import Image, ImageEnhance
from torch.utils.data import Dataset

from ldm.data.values import require_count, require_share
from ldm.graph.scene_graph import SceneGraph
from ldm.graph.storyboard import Storyboard
from ldm.graph.vocab import Vocab
from ldm.synthetic.shapes import ShapesWorld
from ldm.synthetic.shapes.clips import FRAMES, drawn, random_storyboard
from ldm.util.images import to_tensor
from ldm.util.processes import available_cores, end_with_parent

PREPARED_ALONE = 200  # clips that are generated faster than processes start


class DrawnClips(Dataset):
    """Frames (3,H,W) in [-1,1] of random storyboards of the world 'shapes', with their scene graphs; the same in every epoch.

    Frames T k to T k + T - 1 are clip k. Clips 2k and 2k + 1 have the same background: with `reference`, the first frame of one
    shows the style of the other.

    Args:
        size: number of clips.
        frames: T, frames of a clip.
        seed: of the storyboards.
        max_samples: upper limit of `size`.
        reference: add a picture of another clip with the same background, which shows the style and nothing else.
        light: the most by which a clip grows lighter or darker from its first to its last frame, as a share of its brightness.

    Raises:
        ConfigError: a number is out of range.
    """

    _prepared: Sequence[Storyboard] = ()
    _graphs: Mapping[int, list[SceneGraph]] = MappingProxyType({})

    def __init__(
        self,
        size: int,
        frames: int = FRAMES,
        seed: int = 0,
        max_samples: int | None = None,
        reference: bool = False,
        light: float = 0.0,
    ):
        for name, value, least in (("size", size, 0), ("frames", frames, 4), ("max_samples", max_samples, 0)):
            if value is not None:
                require_count(f"DrawnClips: {name}", value, least)
        self.light = require_share("DrawnClips: light", light)
        self.world, self.frames, self.seed, self.reference = ShapesWorld(), frames, seed, reference
        self.clips = size if max_samples is None else min(size, max_samples)
        self.image_size = self.world.image_size
        self.epoch = 0

    @property
    def vocab(self) -> Vocab:
        return self.world.vocab

    def __len__(self) -> int:
        return self.clips * self.frames

    def __getitem__(self, index: int) -> tuple:
        sample = to_tensor(self.picture(index)), self.graph(index, self.drawn_size(index))
        return (*sample, to_tensor(self.picture(self.style_reference(index)))) if self.reference else sample

    def storyboard(self, clip: int) -> Storyboard:
        """The storyboard of a clip."""
        if self._prepared:
            return self._prepared[clip]
        return random_storyboard(random.Random(f"clip/{self.seed}/{clip}"), self.frames)

    def background(self, clip: int) -> Any:
        """The background of a clip, an argument of the world's `render`."""
        return self.world.random_background(random.Random(f"clip/{self.seed}/background {clip // 2}"))

    def picture(self, index: int) -> Image.Image:
        """The picture of a frame."""
        clip, frame = divmod(index, self.frames)
        picture = self.world.render(drawn(self.graph(index, self.drawn_size(index))), self.background(clip))
        brightness = self.brightness(clip)[frame]
        return picture if brightness == 1 else ImageEnhance.Brightness(picture).enhance(brightness)

    def brightness(self, clip: int) -> list[float]:
        """The factor of the pixels of each frame of a clip, which changes evenly from 1 on."""
        change = self.light * random.Random(f"clip/{self.seed}/light {clip}").uniform(-1, 1)
        return [1 + change * frame / (self.frames - 1) for frame in range(self.frames)]

    def graph(self, index: int, size: tuple[int, int]) -> SceneGraph:
        """The graph of a frame."""
        if not 0 <= index < len(self):
            raise IndexError(f"there is no frame {index} among {len(self)}")
        clip, frame = divmod(index, self.frames)
        if (
            clip not in self._graphs
        ):  # those of two clips are kept: a clip's, and those of the clip that shows its style
            self._graphs = dict([*self._graphs.items()][-1:]) | {clip: self.storyboard(clip).graphs()}
        return self._graphs[clip][frame]

    def style_reference(self, index: int) -> int:
        clip = index // self.frames
        return self.frames * min(clip ^ 1, self.clips - 1) if self.reference else index

    def prepare(self) -> None:
        """Generates all storyboards with all cores, so that the loader's processes need not do it in each epoch."""
        if self._prepared or self.clips < PREPARED_ALONE:
            return
        with multiprocessing.Pool(available_cores(), end_with_parent) as pool:
            self._prepared = pool.map(self.storyboard, range(self.clips), chunksize=64)

    def drawn_size(self, index: int) -> tuple[int, int]:
        return self.image_size, self.image_size

    def image_names(self) -> list[str]:
        light = f" in light of {self.light}" if self.light else ""
        world = f"{self.world!r} clips on the grid{light}"
        names = (f"{world}/{self.seed}/{clip} of {self.frames}" for clip in range(self.clips))
        return [f"{name}: {frame}" for name in names for frame in range(self.frames)]

    def check(self) -> Iterator[str]:
        """Reports nothing: there are no files that could be broken."""
        return iter(())
