"""Visual Genome: photographs with scene graphs, from the files that scripts/preprocess_vg.py or sg2im's script writes."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import h5py
import numpy as np
from torch import Tensor
from torch.utils.data import Dataset

from ldm.data.vg_preprocess import PUBLISHED_VOCABULARY
from ldm.graph.scene_graph import SceneGraph
from ldm.graph.validation import Box, GraphError
from ldm.graph.vocab import Vocab
from ldm.util.images import ImageError, find_image_errors, read_image, resize_square, to_tensor


class VGTrain(Dataset):
    """Visual Genome with graphs: ds[i] is (image (3,S,S) in [-1,1], SceneGraph with boxes and attributes).

    Objects are drawn at random, depending on (seed, epoch, index) only. Relations of an object with itself are left out.
    Boxes are clipped to the image; one without area in the image is treated as unknown.

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
        FileNotFoundError: `h5_path` does not exist.
        GraphError: `vocab` does not belong to the h5 file.
        ValueError: the h5 file is broken, or `max_objects` is not positive.
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
        if max_objects < 1:
            raise ValueError(f"max_objects is {max_objects}; a graph needs at least one object")
        self.vocab = Vocab.read(vocab)
        self.h5_path, self.image_dir = Path(h5_path), Path(image_dir)
        self.image_size, self.max_objects = image_size, max_objects
        self.include_relationships, self.use_orphaned_objects = include_relationships, use_orphaned_objects
        self.seed, self.epoch = seed, 0
        self._opened: tuple[int, Mapping[str, Any]] | None = None  # process id, file
        if not self.h5_path.is_file():
            raise FileNotFoundError(f"{h5_path}: no such file; create it with scripts/preprocess_vg.py (see DATA.md)")
        try:
            with h5py.File(self.h5_path, "r") as file:
                arrays = cast("Mapping[str, Any]", file)
                counts = arrays["objects_per_image"][:]
                self._require_vocabulary(arrays, vocab)
        except (OSError, KeyError) as error:
            raise ValueError(f"{h5_path}: not a file of scripts/preprocess_vg.py ({error}); run it again") from None
        self._length = len(counts) if max_samples is None else min(max_samples, len(counts))
        self._first_row = np.cumsum(counts) - counts  # of each image in object_attributes

    def _require_vocabulary(self, file: Mapping[str, Any], vocab: str | Path) -> None:
        for array, names in (
            ("object_names", self.vocab.objects),
            ("relationship_predicates", self.vocab.predicates),
            ("object_attributes", self.vocab.attributes),
        ):
            if file[array].size and (largest := file[array][:].max()) >= len(names):
                raise GraphError(
                    f"{self.h5_path}: {array} contains index {largest}, but the vocabulary {vocab} has {len(names)} entries; "
                    "use the vocab.json that was written together with this file"
                )

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
        """The path of one image."""
        return self.image_dir / self._file["image_paths"][index].decode()

    def image_names(self) -> list[str]:
        """The paths of all images, relative to image_dir."""
        return [path.decode() for path in self._file["image_paths"][: len(self)]]

    def graph(self, index: int, size: tuple[int, int]) -> SceneGraph:
        """The graph of one image, which is not read.

        Args:
            size: (width, height) of the image file in pixels, on which the boxes depend.
        """
        file = self._file
        count, relations = int(file["objects_per_image"][index]), int(file["relationships_per_image"][index])
        columns = (file[f"relationship_{part}"][index, :relations] for part in ("subjects", "predicates", "objects"))
        valid = range(count)
        triples = [(s, p, o) for s, p, o in zip(*(c.tolist() for c in columns)) if s != o and s in valid and o in valid]
        chosen = self._choose(count, {obj for s, _, o in triples for obj in (s, o)}, self._rng(index))

        position = {row: place for place, row in enumerate(chosen)}  # of the file's objects in the graph
        names = file["object_names"][index].tolist()
        boxes = file["object_boxes"][index] / (*size, *size)
        attributes = file["object_attributes"][self._first_row[index] : self._first_row[index] + count]
        return SceneGraph(
            objects=tuple(self.vocab.objects[names[row]] for row in chosen),
            boxes=tuple(_to_corners(*boxes[row].tolist()) for row in chosen),
            attributes=tuple(tuple(self.vocab.attributes[a] for a in attributes[row] if a >= 0) for row in chosen),
            triples=tuple(
                (position[s], self.vocab.predicates[p], position[o])
                for s, p, o in triples
                if self.include_relationships and s in position and o in position
            ),
            image=str(self.image_path(index)),
        )

    def summary(self) -> str:
        """The numbers of objects and relations in the file."""
        objects, relations = (
            self._file[name][: len(self)].sum() for name in ("objects_per_image", "relationships_per_image")
        )
        return f"{objects} objects, {relations} relations"

    def check(self) -> Iterator[str]:
        """Reads all images and relations and yields each problem as 'where: what'."""
        yield from find_image_errors([self.image_dir / name for name in self.image_names()])
        objects = self._file["objects_per_image"][: len(self)]
        relations = self._file["relationships_per_image"][: len(self)]
        for name in ("relationship_subjects", "relationship_objects"):
            array = self._file[name][: len(self)]
            used = np.arange(array.shape[1]) < relations[:, None]
            for index, column in np.argwhere(used & ((array < 0) | (array >= objects[:, None]))):
                where = f"{self.h5_path}, {name}[{index}, {column}]"
                yield f"{where}: the image has no object {array[index, column]}"

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

    @property
    def _file(self) -> Mapping[str, Any]:
        """Opened once in each process, since h5py files can be neither forked nor pickled."""
        if self._opened is None or self._opened[0] != os.getpid():
            self._opened = os.getpid(), h5py.File(self.h5_path, "r")
        return self._opened[1]

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_opened": None}


class VGValidation(VGTrain):
    """VGTrain whose objects depend on the index only, so that they are the same in every epoch and for every seed."""

    def _rng(self, index: int) -> random.Random:
        return random.Random(f"{index}")


def _to_corners(x: float, y: float, width: float, height: float) -> Box | None:
    """x0 y0 x1 y1, clipped to [0,1]; None if nothing is left."""
    x0, y0, x1, y1 = (min(max(edge, 0.0), 1.0) for edge in (x, y, x + width, y + height))
    return (x0, y0, x1, y1) if x0 < x1 and y0 < y1 else None
