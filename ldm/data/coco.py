"""COCO's instances and stuff as scene graphs: boxes and masks say where objects are, geometry says how they relate.

The rules are sg2im's (Johnson et al. 2018, section 4; google/sg2im, sg2im/data/coco.py). An object is an annotation
whose box covers more than 2 % of the image. Each object meets one other at random, either of the two as the subject.
Where an object's middle is, its whole mask says; sg2im takes the mask reduced to 16 x 16.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from pycocotools import mask as coding
from torch import Tensor
from torch.utils.data import Dataset

from ldm.data.coco_annotations import CocoError, read_annotations
from ldm.graph.scene_graph import SceneGraph
from ldm.graph.validation import Box
from ldm.util.images import read_image, square, to_tensor, trouble_with

NOT_NEEDED = {
    "mask_size": "; an object's middle is that of its whole mask",
    "normalize_images": "; images are always in [-1,1]",
}

Point = tuple[float, float]


class COCOTrain(Dataset):
    """ds[i] -> (image (3,S,S) in [-1,1] with S = `image_size`, SceneGraph with boxes), images in the file's order.

    image_dir, instances_json   photographs, and the annotations that list them
    stuff_json                  annotations of stuff on the same photographs; None does without
    stuff_only                  leave out photographs that stuff_json does not annotate
    min_object_size             leave out objects whose box covers no more than this share of the image
    min_objects_per_image, max_objects_per_image   leave out photographs with fewer or more objects than that
    include_other               take the stuff category "other" too: whatever is no stuff
    instance_whitelist, stuff_whitelist   names of the only categories to take
    include_relationships       whether to give any triples
    max_samples                 the first so many photographs only

    Draws depend on (seed, epoch, index) alone. Boxes are clipped to the image. Raises CocoError for files that are
    missing or broken and for annotations of unknown categories; `check` tells of those of unknown images, left out.
    """

    published_vocabulary = (184, 7, 0)  # objects, predicates, attributes

    def __init__(
        self,
        image_dir: str | Path,
        instances_json: str | Path,
        stuff_json: str | Path | None = None,
        stuff_only: bool = True,
        image_size: int = 256,
        max_samples: int | None = None,
        include_relationships: bool = True,
        min_object_size: float = 0.02,
        min_objects_per_image: int = 3,
        max_objects_per_image: int = 8,
        include_other: bool = False,
        instance_whitelist: Sequence[str] | None = None,
        stuff_whitelist: Sequence[str] | None = None,
        seed: int = 0,
        **others,
    ):
        for name in others:
            raise TypeError(f"{type(self).__name__} has no option {name}; leave it out{NOT_NEEDED.get(name, '')}")
        if stuff_only and not stuff_json:
            raise CocoError("stuff_only needs a stuff_json; name one, or set stuff_only: false")
        self.image_dir, self.image_size = Path(image_dir), image_size
        if not self.image_dir.is_dir():
            raise CocoError(f"image_dir {image_dir} is no folder; unpack the photographs there, or correct the path")
        self.include_relationships = include_relationships
        self.seed, self.epoch = seed, 0
        self.annotations = read_annotations(
            Path(instances_json),
            Path(stuff_json) if stuff_json else None,
            stuff_only,
            min_object_size,
            min_objects_per_image,
            max_objects_per_image,
            include_other,
            instance_whitelist,
            stuff_whitelist,
            max_samples,
        )
        self.vocab = self.annotations.vocab

    def __len__(self) -> int:
        return len(self.annotations.file_names)

    def __getitem__(self, index: int) -> tuple[Tensor, SceneGraph]:
        graph = self.graph(index)
        return to_tensor(square(read_image(self.image_path(index)), self.image_size)), graph

    def image_path(self, index: int) -> Path:
        return self.image_dir / self.annotations.file_names[index]

    def image_names(self) -> list[str]:
        """Paths of all photographs within image_dir."""
        return list(map(str, self.annotations.file_names))

    def graph(self, index: int, size: tuple[int, int] | None = None) -> SceneGraph:
        """The graph of photograph `index`, which is not read: the annotations know its size, so none need be given.
        Raises CocoError for a mask that cannot be decoded."""
        rows = self._rows(index)
        boxes = [tuple(box) for box in self.annotations.boxes[rows].tolist()]
        triples = []
        if self.include_relationships and len(boxes) > 1:
            rng = self._rng(index)
            centres = [self._centre(index, row) or _middle(box) for row, box in zip(rows, boxes)]
            for current in range(len(boxes)):
                other = rng.choice([row for row in range(len(boxes)) if row != current])
                s, o = (current, other) if rng.random() > 0.5 else (other, current)
                triples.append((s, relation(boxes[s], boxes[o], centres[s], centres[o]), o))
        objects = [self.vocab.objects[category] for category in self.annotations.categories[rows]]
        return SceneGraph(objects, boxes, triples=triples, image=str(self.image_path(index)))

    def summary(self) -> str:
        """The number of objects; relations are drawn anew at every look."""
        return f"{len(self.annotations.ids)} objects"

    def check(self) -> Iterator[str]:
        """What is wrong with the photographs and the annotations, each as a sentence 'where: what'."""
        yield from self.annotations.left_out
        yield from trouble_with([self.image_path(index) for index in range(len(self))])
        for index in range(len(self)):
            path, size = self.image_path(index), tuple(self.annotations.sizes[index].tolist())
            try:
                with Image.open(path) as image:
                    if image.size != size:
                        yield f"{path}: its annotations are for {size[0]} x {size[1]} pixels, and it has others"
            except OSError:
                pass  # told above
            for row in self._rows(index):
                try:
                    if self._centre(index, row) is None:
                        yield f"{path}, annotation {self.annotations.ids[row]}: the mask is empty"
                except CocoError as error:
                    yield str(error)

    def _rng(self, index: int) -> random.Random:
        return random.Random(f"{self.seed}/{self.epoch}/{index}")

    def _rows(self, index: int) -> range:
        index = range(len(self))[index]
        return range(*self.annotations.first[index : index + 2].tolist())

    def _centre(self, index: int, row: int) -> Point | None:
        start, end = self.annotations.start[row : row + 2]
        width, height = self.annotations.sizes[index].tolist()
        try:
            mask = decode_mask(json.loads(self.annotations.segmentations[start:end]), width, height)
        except Exception as error:  # the decoder raises TypeError, ValueError, IndexError, ... on what it does not know
            raise CocoError(
                f"{self.image_path(index)}, annotation {self.annotations.ids[row]}: "
                f"the mask cannot be decoded ({error}); mend it, or take the annotation out of its file"
            ) from None
        return mask_centre(mask)


class COCOValidation(COCOTrain):
    """The same graph at every look: draws depend on the index alone."""

    def _rng(self, index: int) -> random.Random:
        return random.Random(f"{index}")


def relation(subject: Box, object: Box, subject_centre: Point, object_centre: Point) -> str:
    """The predicate between two objects: strict containment of the boxes, else the quadrant, cut along the diagonals,
    in which the subject's centre lies as seen from the object's."""
    if subject[0] < object[0] and subject[1] < object[1] and subject[2] > object[2] and subject[3] > object[3]:
        return "surrounding"
    if subject[0] > object[0] and subject[1] > object[1] and subject[2] < object[2] and subject[3] < object[3]:
        return "inside"
    angle = math.atan2(subject_centre[1] - object_centre[1], subject_centre[0] - object_centre[0])
    if abs(angle) >= 3 * math.pi / 4:
        return "left of"
    if -math.pi / 4 <= angle < math.pi / 4:
        return "right of"
    return "above" if angle < 0 else "below"


def decode_mask(segmentation: list | dict, width: int, height: int) -> np.ndarray:  # (H,W) of 0 and 1
    """From polygons [[x, y, x, y, ...], ...], or from a run-length code, of a crowd say, as numbers or as text."""
    if isinstance(segmentation, list):
        polygons = [polygon for polygon in segmentation if len(polygon) >= 6]  # pycocotools takes four for a box
        if not polygons:
            return np.zeros((height, width), np.uint8)
        return coding.decode(coding.merge(coding.frPyObjects(polygons, height, width)))
    if isinstance(segmentation["counts"], list):
        segmentation = coding.frPyObjects(segmentation, height, width)
    return coding.decode(segmentation)


def mask_centre(mask: np.ndarray) -> Point | None:  # (H,W)
    """The mean position of a mask's pixels, in [0,1], or None of an empty one."""
    if not mask.any():
        return None
    columns, rows = mask.sum(0, dtype=np.int64), mask.sum(1, dtype=np.int64)
    x, y = (counts @ (np.arange(len(counts)) + 0.5) / counts.sum() / len(counts) for counts in (columns, rows))
    return float(x), float(y)


def _middle(box: Box) -> Point:
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
