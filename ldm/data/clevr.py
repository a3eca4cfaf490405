"""CLEVR's scenes as scene graphs.

A scenes file (Johnson et al. 2017; facebookresearch/clevr-dataset-gen) lists for each object its shape, size, colour and
material, the image position of its centre (`pixel_coords`: column, row, and distance from the camera) and its rotation.
relationships["left"][i] lists the objects that are left of object i; likewise for right, front and behind.

Graphs contain the transitive reduction of these relations. `right` and `behind` are the converses of `left` and `front`, and
a relation that follows from two others (j left of k, k left of i) is left out. Which of two objects is the subject is random.

The files have no boxes, so they are estimated. An object stands on the floor, its centre (`3d_coords`) is half its height
above it, and it is as wide as high. A sphere's box follows from its distance and the camera's focal length, which is 35/32 of
the image's longer side; the boxes of cylinders and rotated cubes also depend on the camera's elevation, which is about 28
degrees with some jitter. The error is a few hundredths of the image size; occlusion is ignored.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from ldm.data.files import find_file
from ldm.data.values import real, require_count, whole
from ldm.graph.scene_graph import SceneGraph
from ldm.graph.validation import Box, Triple
from ldm.graph.vocab import Vocab
from ldm.synthetic.annotation import CONVERSE
from ldm.util.errors import UserError
from ldm.util.files import read_json
from ldm.util.images import find_image_errors, read_image, resize_square, to_tensor

SHAPES = ("sphere", "cube", "cylinder")
SIZES = ("small", "large")
COLOURS = ("red", "yellow", "green", "cyan", "blue", "purple", "gray", "brown")
MATERIALS = ("rubber", "metal")
WORDS = {"shape": SHAPES, "size": SIZES, "color": COLOURS, "material": MATERIALS}
VOCAB = Vocab(
    objects=("__image__", *SHAPES),
    predicates=("__in_image__", "left of", "right of", "in front of", "behind"),
    attributes=(*SIZES, *COLOURS, *MATERIALS),
)
FOCAL_LENGTH = 35 / 32  # relative to the image's longer side: Blender's default camera
ELEVATION = math.radians(28)
MAX_LENGTH = 1e6  # in pixels or units of the scene
PREDICATES = {"left": "left of", "front": "in front of"}


class ClevrError(UserError):
    """CLEVR files that are missing or broken."""


class CLEVR(Dataset):
    """CLEVR images with graphs: ds[i] is (image (3,S,S) in [-1,1], SceneGraph), in the order of the scenes file.

    Which object of a relation is the subject is drawn at random, depending on (seed, epoch, index) only.

    Args:
        image_dir: folder of the images.
        scenes_json: the scenes of the training, validation or test split.
        image_size: side length S in pixels.
        max_samples: use only the first scenes, up to this number.
        include_boxes: False for graphs without the estimated boxes.
        include_relationships: False for graphs without triples.
        seed: of the random subjects.

    Raises:
        ClevrError: a file is missing or not in CLEVR's format.
        ConfigError: an option has an impossible value.
    """

    published_vocabulary = None
    vocab = VOCAB

    def __init__(
        self,
        image_dir: str | Path,
        scenes_json: str | Path,
        image_size: int = 128,
        max_samples: int | None = None,
        include_boxes: bool = True,
        include_relationships: bool = True,
        seed: int = 0,
    ):
        kind = type(self).__name__
        self.image_dir, self.image_size = Path(image_dir), require_count(f"{kind}: image_size", image_size)
        if max_samples is not None:
            require_count(f"{kind}: max_samples", max_samples, 0)
        if not self.image_dir.is_dir():
            raise ClevrError(f"image_dir {image_dir} is not a folder; unpack the images there, or correct the path")
        self.include_boxes, self.include_relationships = include_boxes, include_relationships
        self.seed, self.epoch = seed, 0
        scenes = _read(Path(scenes_json), max_samples)
        # One text, since worker processes would copy Python objects when reference counts change
        self._start = np.cumsum([0] + [len(scene) for scene in scenes])
        self._scenes = b"".join(scenes)

    def __len__(self) -> int:
        return len(self._start) - 1

    def __getitem__(self, index: int) -> tuple[Tensor, SceneGraph]:
        graph = self.graph(index)
        return to_tensor(resize_square(read_image(self.image_path(index)), self.image_size)), graph

    def image_path(self, index: int) -> Path:
        """The path of one image, whose name on disk may be in another Unicode form than in the scenes file."""
        return find_file(self.image_dir, self._scene(index)["image"])

    def image_names(self) -> list[str]:
        """The paths of all images, relative to image_dir."""
        return [self._scene(index)["image"] for index in range(len(self))]

    def graph(self, index: int, size: tuple[int, int] | None = None) -> SceneGraph:
        """The graph of one scene.

        Args:
            size: (width, height) of the image in pixels, on which the boxes depend; None reads it from the image file.

        Raises:
            ClevrError: the image file cannot be read.
        """
        scene, path = self._scene(index), self.image_path(index)
        objects = scene["objects"]
        boxes: tuple[Box | None, ...] = ()
        if self.include_boxes:
            size = size or _read_size(path)
            boxes = tuple(
                estimate_box(pixel, half, rotation, shape, scene["right"], size)
                for shape, *_, pixel, half, rotation in objects
            )
        triples: list[Triple] = []
        if self.include_relationships:
            rng = self._rng(index)
            for name, predicate in PREDICATES.items():
                for subject, object in remove_implied_relations(scene[name]):
                    triple = (subject, predicate, object)
                    triples.append(triple if rng.random() < 0.5 else (object, CONVERSE[predicate], subject))
        return SceneGraph(
            tuple(each[0] for each in objects),
            boxes,
            tuple(tuple(each[1:4]) for each in objects),
            tuple(triples),
            image=str(path),
        )

    def summary(self) -> str:
        """The number of objects."""
        return f"{sum(len(self._scene(index)['objects']) for index in range(len(self)))} objects"

    def check(self) -> Iterator[str]:
        """Reads all images and yields each problem as 'where: what'."""
        yield from find_image_errors([self.image_path(index) for index in range(len(self))])

    def _scene(self, index: int) -> dict:
        start, end = self._start[range(len(self))[index] :][:2]
        return json.loads(self._scenes[start:end])

    def _rng(self, index: int) -> random.Random:
        return random.Random(f"{self.seed}/{self.epoch}/{index}")


class CLEVRValidation(CLEVR):
    """CLEVR whose graphs depend on the index only, so that they are the same in every epoch and for every seed."""

    def _rng(self, index: int) -> random.Random:
        return random.Random(f"{index}")


def remove_implied_relations(related: list[list[int]]) -> list[tuple[int, int]]:
    """Returns the transitive reduction of a relation: its pairs (j, i), unless (j, k) and (k, i) are also pairs.

    Args:
        related: for each object i, the objects j that are related to it.
    """
    return [
        (j, i)
        for i, others in enumerate(related)
        for j in others
        if not any(k != j and j in related[k] for k in others)
    ]


def estimate_box(
    pixel: list[float], half: float, rotation: float, shape: str, right: list[float], image_size: tuple[int, int]
) -> Box | None:
    """Estimates the box of an object.

    Args:
        pixel: column and row of the object's centre, and its distance from the camera.
        half: half the object's height, in the unit of the distance.
        rotation: about the vertical axis, in radians. (The files have values up to 360, but Blender takes them as radians.)
        shape: "cube", "sphere" or "cylinder".
        right: direction in the scene that points to the right in the image.
        image_size: width and height in pixels.

    Returns:
        x0 y0 x1 y1 in [0,1], clipped to the image, or None if the object is outside of it.
    """
    column, row, distance = pixel
    across, up = half, half
    if shape == "cube":
        turned = rotation - math.atan2(right[1], right[0])
        across *= abs(math.cos(turned)) + abs(math.sin(turned))
    if shape != "sphere":
        up = half * math.cos(ELEVATION) + across * math.sin(ELEVATION)
    scale = FOCAL_LENGTH * max(image_size) / distance
    width, height = image_size
    edges = [(column + s * across * scale) / width for s in (-1, 1)], [(row + s * up * scale) / height for s in (-1, 1)]
    (x0, x1), (y0, y1) = ([min(max(edge, 0.0), 1.0) for edge in pair] for pair in edges)
    return (x0, y0, x1, y1) if x0 < x1 and y0 < y1 else None


def _read_size(path: Path) -> tuple[int, int]:
    try:
        with Image.open(path) as image:
            return image.size
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ClevrError(f"{path}: cannot be read ({error}); unpack the images again") from None


def _read(path: Path, max_samples: int | None) -> list[bytes]:
    """The part of each scene that graphs are made of, as JSON."""
    data = read_json(path, ClevrError, "unpack the scenes there, or correct the path")
    if not isinstance(data, dict) or not isinstance(data.get("scenes"), list) or not data["scenes"]:
        raise ClevrError(f"{path} has no list of scenes; name a file such as CLEVR_val_scenes.json")
    scenes = []
    for number, scene in enumerate(data["scenes"][:max_samples]):
        try:
            scenes.append(json.dumps(_parse_scene(scene)).encode())
        except (KeyError, IndexError, TypeError, ValueError) as error:
            what = f"scene {number} is not in CLEVR's format ({str(error)[:200]})"
            raise ClevrError(f"{path}: {what}; download it again") from None
    return scenes


def _parse_scene(scene: dict) -> dict:
    """Raises KeyError, IndexError, TypeError or ValueError for a scene that is not in CLEVR's format."""
    objects, image = [], scene["image_filename"]
    for each in scene["objects"]:
        for key, known in WORDS.items():
            if each[key] not in known:
                raise ValueError(f"{key} {str(each[key])[:80]!r}")
        column, row, distance = (_parse_length(value) for value in each["pixel_coords"])
        half, rotation = _parse_length(each["3d_coords"][2]), _parse_length(each["rotation"])
        if distance < 1 / MAX_LENGTH:
            raise ValueError(f"an object at distance {distance}")
        words = (each[key] for key in ("shape", "size", "color", "material"))
        objects.append([*words, [column, row, distance], half, rotation])
    if not objects or not isinstance(image, str):
        raise ValueError("no objects" if not objects else f"image_filename {str(image)[:80]}")
    related = {}
    for name in PREDICATES:
        related[name] = [[whole(other) for other in others] for others in scene["relationships"][name]]
        if len(related[name]) != len(objects) or not all(
            0 <= other < len(objects) and other != index
            for index, others in enumerate(related[name])
            for other in others
        ):
            raise ValueError(f"relationships {name!r} do not match the objects")
    right = [_parse_length(value) for value in scene["directions"]["right"]]
    if len(right) < 2:
        raise ValueError(f"direction {right}")
    return {"image": image, "objects": objects, "right": right, **related}


def _parse_length(value: Any) -> float:
    """A number of a size that a scene can have. Raises ValueError."""
    if abs(length := real(value)) > MAX_LENGTH:
        raise ValueError(f"the length {length}")
    return length
