"""Visual Genome as sg2im's preprocessing leaves it (scripts/preprocess_vg.py): photographs with their scene graphs."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
from torch import Tensor
from torch.utils.data import Dataset

from ldm.data.vg_preprocess import PUBLISHED_VOCABULARY
from ldm.graph.scene_graph import SceneGraph, Vocab
from ldm.graph.validation import Box, GraphError
from ldm.util.images import ImageError, read_image, square, to_tensor, trouble_with


class VGTrain(Dataset):
    """ds[i] -> (image (3,S,S) in [-1,1] with S = `image_size`, SceneGraph with boxes and attributes).

    vocab                  path of the vocab.json that was written along with the h5
    h5_path, image_dir     one split, and what holds its folders VG_100K and VG_100K_2
    max_objects            at most so many objects, not counting __image__: of more related objects, so many at random;
                           of fewer, all of them and others at random to fill up. (Published loaders fill up to
                           max_objects - 1, but take max_objects where more are related.)
    use_orphaned_objects   whether to fill up; where no object has a relation, others are taken all the same
    include_relationships  whether to give triples
    max_samples            the first so many images only

    Draws depend on (seed, epoch, index) alone. Images are not flipped: "left of" would lie. A relation of an object
    with itself is left out, a box is clipped to the image, and one without area there counts as not known.
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
            raise ValueError(f"max_objects is {max_objects}; a graph needs one object at least")
        self.vocab = Vocab.read(vocab)
        self.h5_path, self.image_dir = Path(h5_path), Path(image_dir)
        self.image_size, self.max_objects = image_size, max_objects
        self.include_relationships, self.use_orphaned_objects = include_relationships, use_orphaned_objects
        self.seed, self.epoch = seed, 0
        self._opened: tuple[int, h5py.File] | None = None  # process id and its file
        if not self.h5_path.is_file():
            raise FileNotFoundError(f"{h5_path}: there is no such file; scripts/preprocess_vg.py makes it, see DATA.md")
        try:
            with h5py.File(self.h5_path, "r") as file:
                counts = file["objects_per_image"][:]
                self._refuse_other_vocabulary(file, vocab)
        except (OSError, KeyError) as error:
            raise ValueError(f"{h5_path}: not an h5 of scripts/preprocess_vg.py ({error}); make it again") from None
        self._length = len(counts) if max_samples is None else min(max_samples, len(counts))
        self._first_row = np.cumsum(counts) - counts  # of an image in object_attributes

    def _refuse_other_vocabulary(self, file: h5py.File, vocab: str | Path) -> None:
        for array, names in (
            ("object_names", self.vocab.objects),
            ("relationship_predicates", self.vocab.predicates),
            ("object_attributes", self.vocab.attributes),
        ):
            if file[array].size and (largest := file[array][:].max()) >= len(names):
                raise GraphError(
                    f"{self.h5_path}: {array} go up to {largest}, but {vocab} has {len(names)} of them; "
                    "take the vocab.json that was written along with this file"
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
        return to_tensor(square(image, self.image_size)), self._graph(index, path, *image.size)

    def graph(self, index: int, size: tuple[int, int]) -> SceneGraph:
        """Of image `index` of `size` (width, height), which is not read."""
        return self._graph(index, self.image_path(index), *size)

    def image_path(self, index: int) -> Path:
        return self.image_dir / self._file["image_paths"][index].decode()

    def image_names(self) -> list[str]:
        """Paths of all images within image_dir."""
        return [path.decode() for path in self._file["image_paths"][: len(self)]]

    def summary(self) -> str:
        """The numbers of objects and relations that the file holds, before any are chosen."""
        sums = (self._file[name][: len(self)].sum() for name in ("objects_per_image", "relationships_per_image"))
        return "{} objects, {} relations".format(*sums)

    def check(self) -> Iterator[str]:
        """What is wrong with the images and the relations, each as a sentence 'where: what'."""
        yield from trouble_with([self.image_dir / name for name in self.image_names()])
        objects = self._file["objects_per_image"][: len(self)]
        relations = self._file["relationships_per_image"][: len(self)]
        for name in ("relationship_subjects", "relationship_objects"):
            array = self._file[name][: len(self)]
            real = np.arange(array.shape[1]) < relations[:, None]
            for index, column in np.argwhere(real & ((array < 0) | (array >= objects[:, None]))):
                where = f"{self.h5_path}, {name}[{index}, {column}]"
                yield f"{where}: there is no object {array[index, column]} in the image"

    def _graph(self, index: int, path: Path, width: int, height: int) -> SceneGraph:
        file = self._file
        count, relations = int(file["objects_per_image"][index]), int(file["relationships_per_image"][index])
        columns = (file[f"relationship_{part}"][index, :relations] for part in ("subjects", "predicates", "objects"))
        there = range(count)
        triples = [(s, p, o) for s, p, o in zip(*(c.tolist() for c in columns)) if s != o and s in there and o in there]
        chosen = self._choose(count, {obj for s, _, o in triples for obj in (s, o)}, self._random(index))

        new = {old: place for place, old in enumerate(chosen)}
        names = file["object_names"][index].tolist()
        boxes = file["object_boxes"][index] / (width, height, width, height)
        attributes = file["object_attributes"][self._first_row[index] : self._first_row[index] + count]
        return SceneGraph(
            objects=tuple(self.vocab.objects[names[old]] for old in chosen),
            boxes=tuple(_corners(*boxes[old].tolist()) for old in chosen),
            attributes=tuple(tuple(self.vocab.attributes[a] for a in attributes[old] if a >= 0) for old in chosen),
            triples=tuple(
                (new[s], self.vocab.predicates[p], new[o])
                for s, p, o in triples
                if self.include_relationships and s in new and o in new
            ),
            image=str(path),
        )

    def _choose(self, count: int, related: set[int], rng: random.Random) -> list[int]:
        """At most max_objects of the `count` objects, in their order."""
        chosen = sorted(related)
        if len(chosen) > self.max_objects:
            chosen = rng.sample(chosen, self.max_objects)
        elif self.use_orphaned_objects or not chosen:
            orphans = [obj for obj in range(count) if obj not in related]
            chosen += rng.sample(orphans, min(len(orphans), self.max_objects - len(chosen)))
        return sorted(chosen)

    def _random(self, index: int) -> random.Random:
        return random.Random(f"{self.seed}/{self.epoch}/{index}")

    @property
    def _file(self) -> h5py.File:
        """Opened once in every process: h5py files survive neither a fork nor pickling."""
        if self._opened is None or self._opened[0] != os.getpid():
            self._opened = os.getpid(), h5py.File(self.h5_path, "r")
        return self._opened[1]

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_opened": None}


class VGValidation(VGTrain):
    """The same, but that an index gives the same objects in every epoch and with every seed."""

    def _random(self, index: int) -> random.Random:
        return random.Random(f"{index}")


def _corners(x: float, y: float, width: float, height: float) -> Box | None:
    """x0 y0 x1 y1 within the image, all as fractions of it."""
    x0, y0, x1, y1 = (min(max(edge, 0.0), 1.0) for edge in (x, y, x + width, y + height))
    return (x0, y0, x1, y1) if x0 < x1 and y0 < y1 else None
