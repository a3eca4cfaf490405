"""CLEVR's own scenes as scene graphs: its words are those of `ldm.data.solids`, with two colours more.

A scenes file (Johnson et al. 2017; facebookresearch/clevr-dataset-gen) lists for each object its shape, size, colour and
material, where its middle is seen (`pixel_coords`: column, row, and distance from the camera) and how it is turned. Under
relationships["left"][i] it lists the objects that are left of object i, and in the same way for right, front and behind.

Of these relations graphs tell what the rest follows from. `right` and `behind` repeat `left` and `front` from the other
end, and what is left of something that is left of a third is left of the third: such steps are left out. Which of two
objects becomes the subject is drawn.

The files have no boxes, but graphs should have them, and what they have comes close. All that stands on the floor has
its middle (`3d_coords`) half its height above it, and is as wide as high. So a sphere's box follows from its distance
and the camera's focal length, which is 35/32 of the picture's longer side; a cylinder's and a turned cube's follow too,
for a camera that looks down by 28 degrees, about which CLEVR's is jittered. They are right to a few hundredths of the
picture, and take no account of what hides an object.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from ldm.graph.scene_graph import SceneGraph, Vocab
from ldm.graph.validation import Box, Triple
from ldm.synthetic import solids
from ldm.util.errors import UserError
from ldm.util.images import read_image, square, to_tensor, trouble_with

COLOURS = (*solids.COLOURS, "gray", "brown")
VOCAB = Vocab(solids.VOCAB.objects, solids.VOCAB.predicates, (*solids.SIDES, *COLOURS, *solids.MATERIALS))
FOCAL = 35 / 32  # focal length to the picture's longer side: Blender's camera
ELEVATION = math.radians(28)
WORDS = {"shape": solids.SHAPES, "size": tuple(solids.SIDES), "color": COLOURS, "material": solids.MATERIALS}
PREDICATES = {"left": "left of", "front": "in front of"}


class ClevrError(UserError):
    """What is wrong with the scenes, where, and what to do about it, in one sentence."""


class CLEVR(Dataset):
    """ds[i] -> (image (3,S,S) in [-1,1] with S = `image_size`, SceneGraph), scenes in the file's order.

    image_dir, scenes_json   renderings, and the file that lists their scenes: train's, val's or test's
    include_boxes            whether to give the boxes, which are no part of the file
    include_relationships    whether to give any triples
    max_samples              the first so many scenes only

    Draws depend on (seed, epoch, index) alone. Raises ClevrError for files that are missing or not in CLEVR's form.
    """

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
        self.image_dir, self.image_size = Path(image_dir), image_size
        if not self.image_dir.is_dir():
            raise ClevrError(f"image_dir {image_dir} is no folder; unpack the renderings there, or correct the path")
        self.include_boxes, self.include_relationships = include_boxes, include_relationships
        self.seed, self.epoch = seed, 0
        scenes = _read(Path(scenes_json), max_samples)
        # One text rather than many objects, which worker processes would copy by merely counting references to them.
        self._start = np.cumsum([0] + [len(scene) for scene in scenes])
        self._scenes = b"".join(scenes)

    def __len__(self) -> int:
        return len(self._start) - 1

    def __getitem__(self, index: int) -> tuple[Tensor, SceneGraph]:
        graph = self.graph(index)
        return to_tensor(square(read_image(self.image_path(index)), self.image_size)), graph

    def image_path(self, index: int) -> Path:
        return self.image_dir / self._scene(index)["image"]

    def image_names(self) -> list[str]:
        """Paths of all renderings within image_dir."""
        return [self._scene(index)["image"] for index in range(len(self))]

    def graph(self, index: int, size: tuple[int, int] | None = None) -> SceneGraph:
        """The graph of scene `index`; of its rendering no more than the size (width, height) is read, for the boxes,
        and that only if it is not given."""
        scene, path = self._scene(index), self.image_path(index)
        objects = scene["objects"]
        boxes: list[Box | None] = []
        if self.include_boxes:
            try:
                if size is None:
                    with Image.open(path) as image:
                        size = image.size
                boxes = [box(*each[4:], each[0], scene["right"], size) for each in objects]
            except OSError as error:
                raise ClevrError(f"{path}: cannot be read ({error}); unpack the renderings again") from None
        triples: list[Triple] = []
        if self.include_relationships:
            rng = self._rng(index)
            for name, predicate in PREDICATES.items():
                for subject, object in thinned(scene[name]):
                    said = (subject, predicate, object)
                    triples.append(said if rng.random() < 0.5 else (object, solids.CONVERSE[predicate], subject))
        return SceneGraph(
            tuple(each[0] for each in objects),
            tuple(boxes),
            tuple(tuple(each[1:4]) for each in objects),
            tuple(triples),
            image=str(path),
        )

    def summary(self) -> str:
        """The number of objects."""
        return f"{sum(len(self._scene(index)['objects']) for index in range(len(self)))} objects"

    def check(self) -> Iterator[str]:
        """What is wrong with the renderings, each as a sentence 'where: what'."""
        yield from trouble_with([self.image_path(index) for index in range(len(self))])

    def _scene(self, index: int) -> dict:
        start, end = self._start[range(len(self))[index] :][:2]
        return json.loads(self._scenes[start:end])

    def _rng(self, index: int) -> random.Random:
        return random.Random(f"{self.seed}/{self.epoch}/{index}")


class CLEVRValidation(CLEVR):
    """The same graph at every look: draws depend on the index alone."""

    def _rng(self, index: int) -> random.Random:
        return random.Random(f"{index}")


def thinned(related: list[list[int]]) -> list[tuple[int, int]]:
    """Pairs (j, i) with j in related[i], less those that follow from two others: j from k and k from i."""
    return [
        (j, i)
        for i, others in enumerate(related)
        for j in others
        if not any(k != j and j in related[k] for k in others)
    ]


def box(
    pixel: list[float], half: float, rotation: float, shape: str, right: list[float], image_size: tuple[int, int]
) -> Box | None:
    """About where an object is in a picture of `image_size` (width, height), clipped to it; None if it is not in it.

    pixel     column and row of its middle, and its distance from the camera
    half      half its height, in the room's measure, as the distance
    rotation  about the vertical, in radians: it is drawn from 0 to 360, but Blender takes it for radians
    right     the direction in the room that is right in the picture
    """
    column, row, distance = pixel
    across, up = half, half
    if shape == "cube":
        turned = rotation - math.atan2(right[1], right[0])
        across *= abs(math.cos(turned)) + abs(math.sin(turned))
    if shape != "sphere":
        up = half * math.cos(ELEVATION) + across * math.sin(ELEVATION)
    scale = FOCAL * max(image_size) / distance
    width, height = image_size
    edges = [(column + s * across * scale) / width for s in (-1, 1)], [(row + s * up * scale) / height for s in (-1, 1)]
    (x0, x1), (y0, y1) = ([min(max(edge, 0.0), 1.0) for edge in pair] for pair in edges)
    return (x0, y0, x1, y1) if x0 < x1 and y0 < y1 else None


def _read(path: Path, max_samples: int | None) -> list[bytes]:
    """Of each scene what graphs are made of, as JSON."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        remedy = "unpack the scenes there, or correct the path"
        raise ClevrError(f"{path} cannot be read ({error.strerror}); {remedy}") from None
    except (ValueError, RecursionError) as error:
        raise ClevrError(f"{path} is broken ({error}); download it again") from None
    if not isinstance(data, dict) or not isinstance(data.get("scenes"), list) or not data["scenes"]:
        raise ClevrError(f"{path} has no list of scenes; name a file such as CLEVR_val_scenes.json")
    scenes = []
    for number, scene in enumerate(data["scenes"][:max_samples]):
        try:
            scenes.append(json.dumps(_scene(scene)).encode())
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise ClevrError(f"{path}: scene {number} is not in CLEVR's form ({error!r}); download it again") from None
    return scenes


def _scene(scene: dict) -> dict:
    """Raises KeyError, IndexError, TypeError or ValueError for a scene that is not in CLEVR's form."""
    objects, image = [], scene["image_filename"]
    for each in scene["objects"]:
        for key, known in WORDS.items():
            if each[key] not in known:
                raise ValueError(f"{key} {each[key]!r}")
        column, row, distance = map(float, each["pixel_coords"])
        if not distance > 0:
            raise ValueError(f"an object at distance {distance}")
        words = (each[key] for key in ("shape", "size", "color", "material"))
        objects.append([*words, [column, row, distance], float(each["3d_coords"][2]), float(each["rotation"])])
    if not objects or not isinstance(image, str):
        raise ValueError("no objects" if not objects else f"image_filename {image!r}")
    related = {}
    for name in PREDICATES:
        related[name] = [[int(other) for other in others] for others in scene["relationships"][name]]
        if len(related[name]) != len(objects) or not all(
            0 <= other < len(objects) and other != index
            for index, others in enumerate(related[name])
            for other in others
        ):
            raise ValueError(f"relationships {name!r} of other objects")
    return {"image": image, "objects": objects, "right": [float(x) for x in scene["directions"]["right"]], **related}
