"""COCO's instances and stuff as scene graphs: boxes from the annotations, relations from the geometry of the masks.

The rules are those of sg2im (Johnson et al. 2018, section 4; google/sg2im, sg2im/data/coco.py). Every annotation whose box
covers more than 2 % of the image is an object. Each object is related to one other, drawn at random, with either as the
subject. An object's centre is computed from its mask: at full resolution, or resized to 16 x 16 as for published weights.
An annotation without mask, as in files for detection, has the centre of its box.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from ldm.data.coco_annotations import AnnotationFilter, CocoError, read_annotations
from ldm.data.coco_masks import Point, decode_mask, has_mask, mask_centre, small_mask_centre
from ldm.data.files import find_file
from ldm.data.style_groups import StyleGroups
from ldm.data.values import require_count, require_share
from ldm.graph.scene_graph import SceneGraph
from ldm.graph.validation import Box
from ldm.util.errors import ConfigError
from ldm.util.images import find_image_errors, read_image, resize_square, to_tensor

UNSUPPORTED_OPTIONS = {"normalize_images": "; images are always in [-1,1]"}


class COCOTrain(Dataset):
    """COCO images with graphs: ds[i] is (image (3,S,S) in [-1,1], SceneGraph with boxes), in the order of the file.

    Attributes are unknown (None), since the annotations have none.

    Relations are drawn at random, depending on (seed, epoch, index) only. Boxes are clipped to the image. Annotations of
    images that `instances_json` does not list are left out, and reported by `check`.

    Args:
        image_dir: folder of the photographs.
        instances_json: annotations of things, which also list the photographs.
        stuff_json: annotations of stuff on the same photographs, if any.
        stuff_only: leave out photographs without any annotation in `stuff_json`.
        image_size: side length S in pixels.
        max_samples: use only the first photographs, up to this number.
        include_relationships: False for graphs without triples.
        min_object_size: leave out objects whose box covers at most this share of the image.
        min_objects_per_image: leave out photographs with fewer objects.
        max_objects_per_image: leave out photographs with more objects.
        include_other: include the stuff category "other", which covers everything that is not stuff.
        instance_whitelist: names of the thing categories to use (default: all).
        stuff_whitelist: names of the stuff categories to use (default: all).
        seed: of the random relations.
        mask_size: side of the resized masks that objects' centres are computed from, sg2im's 16 for the relations that
            published weights learned; None for masks at full resolution.
        reference: add another photograph in the same style, drawn at random; one without such a partner is its own. With
            cached latents, the style is that of the reference.
        style_fields: with `reference`, the fields of the file's images whose values are the style, such as a photograph's
            ground and light.

    Raises:
        CocoError: files are missing, broken or inconsistent, or no photograph passes the limits.
        ConfigError: an option is unknown, or has an impossible value.
    """

    published_params = UNSUPPORTED_OPTIONS
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
        mask_size: int | None = None,
        reference: bool = False,
        style_fields: Sequence[str] = (),
        **others,
    ):
        kind = type(self).__name__
        for name in others:
            raise ConfigError(f"{kind} has no option {name}; leave it out{UNSUPPORTED_OPTIONS.get(name, '')}")
        for name, value, least in (
            ("image_size", image_size, 1),
            ("min_objects_per_image", min_objects_per_image, 0),
            ("max_objects_per_image", max_objects_per_image, 1),
            ("max_samples", max_samples, 0),
            ("mask_size", mask_size, 1),
        ):
            if value is not None:
                require_count(f"{kind}: {name}", value, least)
        require_share(f"{kind}: min_object_size", min_object_size)
        if stuff_only and not stuff_json:
            raise CocoError("stuff_only requires stuff_json; name that file, or set stuff_only: false")
        if reference and not style_fields:
            raise ConfigError(
                f"{kind}: reference needs style_fields, the fields of the file's images that say how a photograph looks; name "
                "them, or set reference: false"
            )
        self.image_dir, self.image_size, self.mask_size = Path(image_dir), image_size, mask_size
        if not self.image_dir.is_dir():
            raise CocoError(f"image_dir {image_dir} is not a folder; unpack the photographs there, or correct the path")
        self.include_relationships = include_relationships
        self.seed, self.epoch = seed, 0
        filters = AnnotationFilter(
            stuff_only=stuff_only,
            min_object_size=min_object_size,
            min_objects_per_image=min_objects_per_image,
            max_objects_per_image=max_objects_per_image,
            include_other=include_other,
            instance_whitelist=instance_whitelist,
            stuff_whitelist=stuff_whitelist,
            max_samples=max_samples,
            style_fields=tuple(style_fields),
        )
        self.annotations = read_annotations(Path(instances_json), Path(stuff_json) if stuff_json else None, filters)
        self.vocab, self.reference = self.annotations.vocab, reference
        self._styles = StyleGroups(self.annotations.styles)

    def __len__(self) -> int:
        return len(self.annotations.file_names)

    def __getitem__(self, index: int) -> tuple:
        """Photograph (3,S,S) and its graph; with `reference` a second photograph."""
        sample = self._image(index), self.graph(index)
        return (*sample, self._image(self.style_reference(index))) if self.reference else sample

    def _image(self, index: int) -> Tensor:
        return to_tensor(resize_square(read_image(self.image_path(index)), self.image_size))

    def style_reference(self, index: int) -> int:
        """The index of the photograph that shows the style of photograph `index`: itself without `reference`."""
        index = range(len(self))[index]
        return self._styles.another(index, self._rng(index, "reference/")) if self.reference else index

    def image_path(self, index: int) -> Path:
        """The path of one photograph, whose name on disk may be in another Unicode form than in the annotations."""
        return find_file(self.image_dir, str(self.annotations.file_names[index]))

    def image_names(self) -> list[str]:
        """The paths of all photographs, relative to image_dir."""
        return [str(name) for name in self.annotations.file_names]

    def graph(self, index: int, size: tuple[int, int] | None = None) -> SceneGraph:
        """The graph of one photograph, which is not read.

        Args:
            size: ignored, since the annotations contain the photograph's size.

        Raises:
            CocoError: a mask cannot be decoded.
        """
        rows = self._rows(index)
        boxes: list[Box] = [(x0, y0, x1, y1) for x0, y0, x1, y1 in self.annotations.boxes[rows].tolist()]
        triples = []
        if self.include_relationships and len(boxes) > 1:
            rng = self._rng(index)
            centres = [self._centre(index, row, box) for row, box in zip(rows, boxes)]
            for current in range(len(boxes)):
                other = rng.choice([row for row in range(len(boxes)) if row != current])
                s, o = (current, other) if rng.random() > 0.5 else (other, current)
                triples.append((s, find_relation(boxes[s], boxes[o], centres[s], centres[o]), o))
        objects = tuple(self.vocab.objects[category] for category in self.annotations.categories[rows])
        return SceneGraph(objects, tuple(boxes), triples=tuple(triples), image=str(self.image_path(index)))

    def summary(self) -> str:
        """The number of objects; the number of relations is not fixed, since they are drawn at random."""
        objects, dropped = len(self.annotations.ids), self.annotations.dropped
        return f"{objects} objects" + (f" ({dropped} with boxes outside of the image left out)" if dropped else "")

    def check(self) -> Iterator[str]:
        """Reads all photographs and masks and yields each problem as 'where: what'."""
        yield from self.annotations.warnings
        yield from find_image_errors([self.image_path(index) for index in range(len(self))])
        for index in range(len(self)):
            path, size = self.image_path(index), tuple(self.annotations.sizes[index].tolist())
            try:
                with Image.open(path) as image:
                    if image.size != size:
                        yield f"{path}: the annotations are for {size[0]} x {size[1]} pixels, unlike the file"
            except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
                pass  # reported above
            for row in self._rows(index):
                try:
                    mask = self._mask(index, row)
                    if mask is not None and not mask.any():
                        yield f"{path}, annotation {self.annotations.ids[row]}: the mask is empty"
                except CocoError as error:
                    yield str(error)

    def _rng(self, index: int, purpose: str = "") -> random.Random:
        return random.Random(f"{purpose}{self.seed}/{self.epoch}/{index}")

    def _rows(self, index: int) -> range:
        index = range(len(self))[index]
        return range(*self.annotations.first[index : index + 2].tolist())

    def _mask(self, index: int, row: int) -> np.ndarray | None:
        """The mask (H,W) of an object, or None if the annotation has none."""
        start, end = self.annotations.start[row : row + 2]
        width, height = self.annotations.sizes[index].tolist()
        try:
            segmentation = json.loads(self.annotations.segmentations[start:end])
            return decode_mask(segmentation, width, height) if has_mask(segmentation) else None
        except Exception as error:  # pycocotools raises Exception itself, besides TypeError, ValueError, ...
            raise CocoError(
                f"{self.image_path(index)}, annotation {self.annotations.ids[row]}: "
                f"the mask cannot be decoded ({error}); correct it, or remove the annotation from its file"
            ) from None

    def _centre(self, index: int, row: int, box: Box) -> Point:
        """The centre of an object's mask, or of its box if it has none or an empty one."""
        mask = self._mask(index, row)
        centre = None
        if mask is not None:
            centre = mask_centre(mask) if self.mask_size is None else small_mask_centre(mask, box, self.mask_size)
        return centre or _box_centre(box)


class COCOValidation(COCOTrain):
    """COCOTrain whose relations depend on the index only, so that they are the same in every epoch and for every seed."""

    def _rng(self, index: int, purpose: str = "") -> random.Random:
        return random.Random(f"{purpose}{index}")


def find_relation(subject: Box, object: Box, subject_centre: Point, object_centre: Point) -> str:
    """Returns the predicate between two objects by sg2im's rules.

    It is "surrounding" or "inside" if one box strictly contains the other, else the direction from the object's centre to
    the subject's, in quadrants that the image's diagonals separate.

    Args:
        subject: x0 y0 x1 y1 in [0,1]; `object` likewise.
        subject_centre: x, y in [0,1]; `object_centre` likewise.
    """
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


def _box_centre(box: Box) -> Point:
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
