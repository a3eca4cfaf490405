"""Visual Genome: photographs with scene graphs, from the files that scripts/preprocess_vg.py or sg2im's script writes."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset

from ldm.data.files import find_file
from ldm.data.values import require_count
from ldm.data.vg_file import VGFile
from ldm.data.vg_preprocess import PUBLISHED_VOCABULARY
from ldm.graph.scene_graph import SceneGraph
from ldm.graph.validation import Box
from ldm.graph.vocab import Vocab
from ldm.util.images import ImageError, find_image_errors, read_image, resize_square, to_tensor


class VGTrain(Dataset):
    """Visual Genome with graphs: ds[i] is (image (3,S,S) in [-1,1], SceneGraph with boxes and attributes).

    An object for which the file lists no attribute has none: () and not None. Objects are drawn at random, depending on
    (seed, epoch, index) only. Relations of an object with itself are left out. Boxes are clipped to the image; one without
    area in the image, or not finite, is treated as unknown.

    Args:
        vocab: path of the vocab.json that was written together with the h5 file.
        h5_path: file of one split.
        image_dir: folder that contains the folders VG_100K and VG_100K_2.
        image_size: side length S in pixels.
        max_objects: maximum number of objects, `__image__` not counted. If more objects have relations, this many of them
            are drawn at random. (sg2im's loader fills up to max_objects - 1, but takes max_objects if more are related.)
        max_samples: use only the first images, up to this number.
        include_relationships: False for graphs without triples.
        use_orphaned_objects: fill up to max_objects with random objects that have no relation. Images without any relation
            use such objects in any case.
        seed: of the random objects.

    Raises:
        DataError: the h5 file is missing, broken, or of another kind.
        GraphError: `vocab` is broken, or does not belong to the h5 file.
        ConfigError: an option has an impossible value.
    """

    published_vocabulary = PUBLISHED_VOCABULARY

    def __init__(
        self,
        vocab: str | Path,
        h5_path: str | Path,
        image_dir: str | Path,
        image_size: int = 256,
        max_objects: int = 10,
        max_samples: int | None = None,
        include_relationships: bool = True,
        use_orphaned_objects: bool = True,
        seed: int = 0,
    ):
        kind = type(self).__name__
        self.vocab = Vocab.read(vocab)
        self.h5_path, self.image_dir = Path(h5_path), Path(image_dir)
        self.image_size = require_count(f"{kind}: image_size", image_size)
        self.max_objects = require_count(f"{kind}: max_objects", max_objects)
        self.include_relationships, self.use_orphaned_objects = include_relationships, use_orphaned_objects
        self.seed, self.epoch = seed, 0
        self._file = VGFile(self.h5_path, self.vocab, vocab)
        self._length = len(self._file)
        if max_samples is not None:
            self._length = min(require_count(f"{kind}: max_samples", max_samples, 0), self._length)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> tuple[Tensor, SceneGraph]:
        if not 0 <= index < len(self):
            raise IndexError(f"{self.h5_path} has {len(self)} images; there is no index {index}")
        path = self.image_path(index)
        try:
            image = read_image(path)
        except ImageError as error:
            remedy = "restore it; trainer.py --check lists all such images"
            raise ImageError(f"{error}; it is index {index} of {self.h5_path}: {remedy}") from None
        return to_tensor(resize_square(image, self.image_size)), self.graph(index, image.size)

    def image_path(self, index: int) -> Path:
        """The path of one image, whose name on disk may be in another Unicode form than in the h5 file."""
        index = range(len(self))[index]
        with self._file.explain_errors():
            (name,) = self._file.image_names(slice(index, index + 1))
        return find_file(self.image_dir, name)

    def image_names(self) -> list[str]:
        """The paths of all images, relative to image_dir."""
        with self._file.explain_errors():
            return self._file.image_names(slice(len(self)))

    def graph(self, index: int, size: tuple[int, int]) -> SceneGraph:
        """The graph of one image, which is not read.

        Args:
            size: (width, height) of the image file in pixels, on which the boxes depend.

        Raises:
            DataError: the h5 file cannot be read any more.
        """
        file, path = self._file, self.image_path(index)
        count, relations = int(file.objects[index]), int(file.relations[index])
        with file.explain_errors():
            columns = [file.integers(f"relationship_{part}", index) for part in ("subjects", "predicates", "objects")]
            names = file.integers("object_names", index).tolist()
            boxes, attributes = file.boxes(index) / (*size, *size), file.attributes(index)
        valid = range(count)
        rows = zip(*(column[:relations].tolist() for column in columns))
        triples = [(s, p, o) for s, p, o in rows if s != o and s in valid and o in valid]
        chosen = self._choose(count, {obj for s, _, o in triples for obj in (s, o)}, self._rng(index))
        position = {row: place for place, row in enumerate(chosen)}  # of the file's objects in the graph
        return SceneGraph(
            objects=tuple(self.vocab.objects[names[row]] for row in chosen),
            boxes=tuple(_to_corners(*boxes[row].tolist()) for row in chosen),
            attributes=tuple(tuple(self.vocab.attributes[a] for a in attributes[row] if a >= 0) for row in chosen),
            triples=tuple(
                (position[s], self.vocab.predicates[p], position[o])
                for s, p, o in triples
                if self.include_relationships and s in position and o in position
            ),
            image=str(path),
        )

    def summary(self) -> str:
        """The numbers of objects and relations in the file."""
        objects, relations = (counts[: len(self)].sum() for counts in (self._file.objects, self._file.relations))
        return f"{objects} objects, {relations} relations"

    def check(self) -> Iterator[str]:
        """Reads all images, boxes and relations and yields each problem as 'where: what'."""
        yield from find_image_errors([find_file(self.image_dir, name) for name in self.image_names()])
        objects, relations = (counts[: len(self)] for counts in (self._file.objects, self._file.relations))
        for name in ("relationship_subjects", "relationship_objects"):
            with self._file.explain_errors():
                array = self._file.integers(name, slice(len(self)))
            used = np.arange(array.shape[1]) < relations[:, None]
            for index, column in np.argwhere(used & ((array < 0) | (array >= objects[:, None]))):
                where = f"{self.h5_path}, {name}[{index}, {column}]"
                yield f"{where}: the image has no object {array[index, column]}"
        with self._file.explain_errors():
            boxes = self._file.boxes(slice(len(self)))
        used = np.arange(boxes.shape[1]) < objects[:, None]
        wrong = used[:, :, None] & ~np.isfinite(boxes)
        for index, column in np.unique(np.argwhere(wrong)[:, :2], axis=0):
            yield f"{self.h5_path}, object_boxes[{index}, {column}]: the box is not finite"

    def _choose(self, count: int, related: set[int], rng: random.Random) -> list[int]:
        """Rows of at most max_objects of the `count` objects, in ascending order."""
        chosen = sorted(related)
        if len(chosen) > self.max_objects:
            chosen = rng.sample(chosen, self.max_objects)
        elif self.use_orphaned_objects or not chosen:
            orphans = [obj for obj in range(count) if obj not in related]
            chosen += rng.sample(orphans, min(len(orphans), self.max_objects - len(chosen)))
        return sorted(chosen)

    def _rng(self, index: int) -> random.Random:
        return random.Random(f"{self.seed}/{self.epoch}/{index}")


class VGValidation(VGTrain):
    """VGTrain whose objects depend on the index only, so that they are the same in every epoch and for every seed."""

    def _rng(self, index: int) -> random.Random:
        return random.Random(f"{index}")


def _to_corners(x: float, y: float, width: float, height: float) -> Box | None:
    """x0 y0 x1 y1, clipped to [0,1]; None if nothing is left."""
    x0, y0, x1, y1 = (min(max(edge, 0.0), 1.0) for edge in (x, y, x + width, y + height))
    return (x0, y0, x1, y1) if x0 < x1 and y0 < y1 else None
