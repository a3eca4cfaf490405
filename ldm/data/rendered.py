"""Rendered scenes as data sets: folders that scripts/render_scenes.py wrote, with graphs that are exactly true."""

from __future__ import annotations

import itertools
import json
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from ldm.data.demo import BOXES
from ldm.data.style_groups import StyleGroups
from ldm.data.values import require_count
from ldm.graph.scene_graph import SceneGraph
from ldm.graph.vocab import Vocab
from ldm.synthetic.annotation import subsample_graph
from ldm.synthetic.rendered.records import Record, RenderedError, complete_shards, look_of, read_records
from ldm.synthetic.rendered.relations import CONVERSE
from ldm.synthetic.rendered.things import VOCAB
from ldm.util.errors import ConfigError, did_you_mean
from ldm.util.images import find_image_errors, read_image, resize_square, to_tensor

KEPT = ("on", "inside")  # triples that boxes without depth cannot replace


class RenderedScenes(Dataset):
    """Pictures (3,S,S) in [-1,1] of rendered scenes, with their scene graphs.

    Args:
        root: folder with the shards; a shard that is not complete is ignored. Pictures of edits are left out.
        image_size: side S of a picture in pixels; default is 128, as rendered.
        max_samples: use only the first pictures, up to this number.
        held_out: number of shards, from the first one on, that are the validation data; 0 if all are data of this split.
        boxes: which objects have a box in the graph: 'all', 'part', 'none', or 'mixed', which draws one of these per
            picture, 'all' every second time.
        reference: add another picture with the same floor, wall and light, drawn at random; a picture without such a
            partner is its own. With cached latents, the style is that of the reference.
        seed: of everything that is drawn for training; validation graphs are always the same.

    Raises:
        RenderedError: a folder is missing, or a line of an index is damaged.
        ConfigError: an option has an unknown value.
    """

    vocab: Vocab = VOCAB
    looks: tuple[str, ...] = ("table",)  # of the scenes that it reads
    published_vocabulary = None

    def __init__(
        self,
        root: str | Path,
        image_size: int = 128,
        max_samples: int | None = None,
        held_out: int = 1,
        boxes: str = "mixed",
        reference: bool = False,
        seed: int = 0,
    ):
        kind = type(self).__name__
        if boxes not in BOXES:
            raise ConfigError(f"{kind}: boxes is {boxes!r}; it can be {', '.join(BOXES)}{did_you_mean(boxes, BOXES)}")
        self.image_size = require_count(f"{kind}: image_size", image_size)
        require_count(f"{kind}: held_out", held_out, 0)
        if max_samples is not None:
            require_count(f"{kind}: max_samples", max_samples, 0)
        self.root, self.boxes, self.reference = Path(root), boxes, reference
        self.seed, self.epoch = seed, 0
        self._read(held_out, max_samples)

    def _folders(self) -> list[Path]:
        """The folders that are read."""
        return [self.root]

    def _shards(self, folder: Path, held_out: int) -> list[Path]:
        """The shards of this split in a folder."""
        raise NotImplementedError

    def _read(self, held_out: int, max_samples: int | None) -> None:
        """Keeps the graphs as one text, since worker processes would copy Python objects when reference counts change."""
        graphs, styles, numbers = [], [], {}
        for folder in self._folders():
            records = self._records(self._shards(folder, held_out))
            for shard, record in itertools.islice(records, max_samples):
                name = f"{os.path.relpath(shard.resolve(), self.root.resolve())}/{record.file}"
                graphs.append(json.dumps(record.graph().to_json() | {"image": name}, separators=(",", ":")).encode())
                styles.append(numbers.setdefault(record.scene.style, len(numbers)))
        self._graphs, self._start = b"".join(graphs), np.cumsum([0, *map(len, graphs)])
        self._styles = StyleGroups(np.array(styles, dtype=np.int64))

    def _records(self, shards: list[Path]) -> Iterator[tuple[Path, Record]]:
        """The pictures of shards that are no edits."""
        for shard in shards:
            look = look_of(shard)
            for record in read_records(shard, look if look in self.looks else self.looks[0]):
                if record.edit is None:
                    yield shard, record

    def __len__(self) -> int:
        return len(self._start) - 1

    def __getitem__(self, index: int) -> tuple:
        """Picture (3,S,S) and its graph with boxes and triples dropped; with `reference` a second picture."""
        sample = self._picture(index), self.graph(index)
        return (*sample, self._picture(self.style_reference(index))) if self.reference else sample

    def _picture(self, index: int) -> Tensor:
        picture = read_image(self.image_path(index))
        square = (self.image_size, self.image_size)
        return to_tensor(picture if picture.size == square else resize_square(picture, self.image_size))

    def complete_graph(self, index: int) -> SceneGraph:
        """The graph with every box and every triple."""
        fields = self._fields(index)
        return SceneGraph.from_json(fields | {"image": str(self.root / fields["image"])})

    def graph(self, index: int, size: tuple[int, int] | None = None) -> SceneGraph:
        """The graph of one picture with boxes and triples dropped; the file's size does not matter."""
        rng = random.Random(f"graph/{self._key(index)}")
        return subsample_graph(self.complete_graph(index), rng, self.boxes, converse=CONVERSE, kept=KEPT)

    def style_reference(self, index: int) -> int:
        """The index of the picture that shows the style of picture `index`: itself without `reference`."""
        index = range(len(self))[index]
        return self._styles.another(index, random.Random(f"reference/{self._key(index)}")) if self.reference else index

    def image_path(self, index: int) -> Path:
        """The path of one picture."""
        return self.root / self._fields(index)["image"]

    def image_names(self) -> list[str]:
        """The paths of all pictures, relative to `root`."""
        return [self._fields(index)["image"] for index in range(len(self))]

    def picture(self, index: int) -> Image.Image:
        """One picture as it was rendered."""
        return read_image(self.image_path(index))

    def summary(self) -> str:
        """The numbers of things, triples and styles."""
        graphs = [self._fields(index) for index in range(len(self))]
        things, triples = (sum(len(graph[key]) for graph in graphs) for key in ("objects", "relationships"))
        return f"{things} objects, {triples} relations, {len(self._styles)} styles"

    def check(self) -> Iterator[str]:
        """Reads all pictures and yields each problem as 'where: what'."""
        yield from find_image_errors([self.image_path(index) for index in range(len(self))])

    def _fields(self, index: int) -> dict[str, Any]:
        start, end = self._start[range(len(self))[index] :][:2]
        return json.loads(self._graphs[start:end])

    def _key(self, index: int) -> str:
        """Seed of what is drawn for a picture."""
        raise NotImplementedError


class RenderedTrain(RenderedScenes):
    """All shards but the held-out ones; dropped boxes and triples and the reference depend on (seed, epoch, index)."""

    def _shards(self, folder: Path, held_out: int) -> list[Path]:
        shards = complete_shards(folder)
        if len(shards) <= held_out:
            raise RenderedError(
                f"{folder} has {len(shards)} complete shard{'s' * (len(shards) > 1)}, and held_out is {held_out}, so "
                "that none is left to train on; render more scenes, or set held_out to 0 with validation data of another "
                "folder"
            )
        return shards[held_out:]

    def _key(self, index: int) -> str:
        return f"{self.seed}/{self.epoch}/{index}"


class RenderedValidation(RenderedScenes):
    """The held-out shards; what is dropped, and the reference, depend on the index alone, whatever the seed."""

    def _shards(self, folder: Path, held_out: int) -> list[Path]:
        return complete_shards(folder)[: held_out or None]

    def _key(self, index: int) -> str:
        return f"{index}"
