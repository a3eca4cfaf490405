"""Clips of rendered scenes as a data set: folders that scripts/render_scenes.py wrote with --frames, with graphs that are exactly true."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from ldm.data.values import require_count
from ldm.graph.scene_graph import SceneGraph
from ldm.graph.storyboard import Keyframe, Storyboard
from ldm.graph.vocab import Vocab
from ldm.synthetic.rendered.records import Record, RenderedError, complete_shards, read_records
from ldm.synthetic.rendered.things import VOCAB
from ldm.util.images import find_image_errors, read_image, resize_square, to_tensor

FPS = 8


class RenderedClips(Dataset):
    """Frames (3,S,S) in [-1,1] of rendered clips, with their scene graphs and the first frame of their clip, which shows the style.

    Frames T k to T k + T - 1 are clip k.

    Args:
        root: folder with the shards; a shard that is not complete is ignored.
        frames: T, frames of a clip; a clip of another number is an error.
        image_size: side S of a frame in pixels; default is 128, as rendered.
        max_samples: use only the first clips, up to this number.

    Raises:
        RenderedError: a folder is missing or has no clips, or a line of an index is damaged.
        ConfigError: a number is out of range.
    """

    vocab: Vocab = VOCAB
    published_vocabulary = None

    def __init__(self, root: str | Path, frames: int = 16, image_size: int = 128, max_samples: int | None = None):
        self.root, self.epoch = Path(root), 0
        self.frames = require_count("RenderedClips: frames", frames)
        self.image_size = require_count("RenderedClips: image_size", image_size)
        if max_samples is not None:
            require_count("RenderedClips: max_samples", max_samples, 0)
        found = [clip for shard in complete_shards(root, f" --frames {frames}") for clip in _clips_of(shard, frames)]
        if not found:
            raise RenderedError(
                f"{root} has no clips; render some there with scripts/render_scenes.py --frames {frames}"
            )
        self._clips = found[:max_samples]

    @property
    def clips(self) -> int:
        """The number of clips."""
        return len(self._clips)

    def __len__(self) -> int:
        return self.clips * self.frames

    def __getitem__(self, index: int) -> tuple[Tensor, SceneGraph, Tensor]:
        graph = self.graph(index, (self.image_size, self.image_size))
        return self._tensor(index), graph, self._tensor(self.style_reference(index))

    def storyboard(self, clip: int) -> Storyboard:
        """The storyboard of a clip, with a keyframe at each frame, since things that recede do not move evenly in the picture."""
        graphs = [record.graph() for record in self._clips[clip][1]]
        return Storyboard(self.frames, tuple(Keyframe(at, graph) for at, graph in enumerate(graphs)), FPS)

    def pictures(self, clip: int) -> list[Image.Image]:
        """The frames of a clip as they were rendered."""
        return [read_image(self.image_path(clip * self.frames + frame)) for frame in range(self.frames)]

    def reference(self, clip: int) -> Image.Image:
        """Another scene in the style of a clip."""
        shard, records = self._clips[clip]
        assert records[0].clip is not None
        return read_image(shard / records[0].clip.reference)

    def style_reference(self, index: int) -> int:
        """The index of the first frame of the clip."""
        return index - range(len(self))[index] % self.frames

    def image_path(self, index: int) -> Path:
        """The path of one frame."""
        shard, records = self._clips[range(len(self))[index] // self.frames]
        return shard / records[index % self.frames].file

    def image_names(self) -> list[str]:
        """The paths of all frames, relative to `root`."""
        return [f"{shard.name}/{record.file}" for shard, records in self._clips for record in records]

    def graph(self, index: int, size: tuple[int, int]) -> SceneGraph:
        """The graph of one frame; the file's size does not matter."""
        _, records = self._clips[range(len(self))[index] // self.frames]
        return replace(records[index % self.frames].graph(), image=f"{self.image_path(index)}")

    def check(self) -> Iterator[str]:
        """Reads all frames and yields each problem as 'where: what'."""
        yield from find_image_errors([self.image_path(index) for index in range(len(self))])

    def _tensor(self, index: int) -> Tensor:
        picture = read_image(self.image_path(index))
        square = (self.image_size, self.image_size)
        return to_tensor(picture if picture.size == square else resize_square(picture, self.image_size))


def _clips_of(shard: Path, frames: int) -> Iterator[tuple[Path, list[Record]]]:
    """The clips of a shard, each as the shard and its records. Raises RenderedError if one has another number of frames."""
    clips: dict[int, list[Record]] = {}
    for record in read_records(shard):
        if record.clip is not None:
            clips.setdefault(record.scene.seed, []).append(record)
    for seed, records in clips.items():
        numbers = [record.clip.frame for record in records if record.clip]
        if numbers != [*range(frames)]:
            raise RenderedError(
                f"{shard}: the clip {seed} has {len(numbers)} frames, where clips of {frames} are read; render clips of that "
                "length, or change `frames`"
            )
        yield shard, records
