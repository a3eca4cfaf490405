"""CLEVR's own pictures with what their scenes file says, and where an object would be seen that stood elsewhere.

A folder has CLEVR_scenes.json and the pictures, in `images` or beside it; or its subfolders are such folders. Pictures are made
square by padding the shorter side with its edge pixels, which does not change the camera. Distances are in scene units, places
in the picture in shares of the square's side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from ldm.data.clevr import FOCAL_LENGTH, ClevrError, CLEVRValidation, estimate_box
from ldm.graph.scene_graph import SceneGraph
from ldm.graph.validation import Box
from ldm.synthetic.checker import assign, check
from ldm.synthetic.rendered.detector import SIDE
from ldm.synthetic.rendered.pictures import to_square
from ldm.synthetic.rendered.records import CLEVR_INDEX
from ldm.synthetic.rendered.relations import triples_between
from ldm.synthetic.worlds import WorldReader
from ldm.util.files import read_json
from ldm.util.images import read_image

NEAR = 0.1  # largest difference of an edge of two boxes of one object, as a share of the side


class ClevrObject(NamedTuple):
    """An object of a scene.

    Args:
        place: on the floor, to the right and away from the camera.
        half: half its height.
        turn: about the vertical axis, in radians.
        pixel: column and row of its centre in shares of the side, and its distance along the camera's axis.
    """

    kind: str
    size: str
    colour: str
    material: str
    place: tuple[float, float]
    half: float
    turn: float
    pixel: tuple[float, float, float]


class ClevrCamera(NamedTuple):
    """A camera that looks down at the middle of the floor.

    Args:
        cosine, sine: of the angle by which it looks down.
        distance: of the middle of the floor.
        right: by how much the middle of the floor is to the right of the picture's middle.
    """

    cosine: float
    sine: float
    distance: float
    right: float

    @classmethod
    def of(cls, objects: Sequence[ClevrObject]) -> ClevrCamera:
        """The camera that explains where objects are seen, by least squares: `pixel` says the same in reverse."""
        rows, values = [], []
        for each in objects:
            away, (_, row, distance) = each.place[1], each.pixel
            rows += [(away, -each.half, 1.0), (each.half, away, 0.0)]
            values += [distance, distance * (0.5 - row) / FOCAL_LENGTH]
        cosine, sine, distance = np.linalg.lstsq(np.array(rows), np.array(values), rcond=None)[0].tolist()
        across = [each.pixel[2] * (each.pixel[0] - 0.5) / FOCAL_LENGTH - each.place[0] for each in objects]
        return cls(cosine, sine, distance, float(np.mean(across)))

    def pixel(self, place: tuple[float, float], height: float) -> tuple[float, float, float]:
        """Column, row and distance of a point above a place on the floor."""
        right, away = place
        distance = self.distance + self.cosine * away - self.sine * height
        up = self.sine * away + self.cosine * height
        scale = FOCAL_LENGTH / distance
        return 0.5 + scale * (right + self.right), 0.5 - scale * up, distance


@dataclass(frozen=True)
class ClevrScene:
    """A picture and its objects.

    Args:
        path: of the picture.
        right, away: directions along the floor, to the right in the picture and away from the camera.
    """

    path: Path
    objects: tuple[ClevrObject, ...]
    right: tuple[float, float]
    away: tuple[float, float]

    @cached_property
    def camera(self) -> ClevrCamera:
        return ClevrCamera.of(self.objects)

    def picture(self) -> Image.Image:
        """The picture as a square of SIDE pixels."""
        return Image.fromarray(to_square(_padded(read_image(self.path)), SIDE))

    def box(self, item: ClevrObject) -> Box | None:
        """The estimated box (`ldm.data.clevr.estimate_box`); None outside of the picture."""
        return estimate_box(list(item.pixel), item.half, item.turn, item.kind, list(self.right), (1, 1))

    def placed(self, item: ClevrObject, place: tuple[float, float], half: float) -> ClevrObject:
        """The object elsewhere or of another height. By how much it was seen off the camera's place for it stays the same."""
        before, after = self.camera.pixel(item.place, item.half), self.camera.pixel(place, half)
        column, row, distance = (seen + new - old for seen, new, old in zip(item.pixel, after, before))
        return item._replace(place=place, half=half, pixel=(column, row, distance))

    def graph(self, objects: Sequence[ClevrObject], ids: Sequence[str] = (), sizes_only: bool = False) -> SceneGraph:
        """The complete graph of objects, with relations by the rules of rendered scenes.

        Args:
            sizes_only: leaves out colours and materials.
        """
        return SceneGraph(
            tuple(item.kind for item in objects),
            tuple(self.box(item) for item in objects),
            tuple((item.size,) if sizes_only else (item.size, item.colour, item.material) for item in objects),
            tuple(triples_between([item.place for item in objects], [None] * len(objects))),
            tuple(ids),
        )


@dataclass(frozen=True)
class ClevrPictures:
    """The scenes of a folder; one in which an object is outside of the picture is left out.

    Raises (when the scenes are first asked for):
        ClevrError: there are none, or a file is missing or damaged.
    """

    folder: Path

    @cached_property
    def files(self) -> list[Path]:
        """The scenes files."""
        found = [
            path
            for path in (self.folder / CLEVR_INDEX, *sorted(self.folder.glob(f"*/{CLEVR_INDEX}")))
            if path.is_file()
        ]
        if not found:
            raise ClevrError(
                f"{self.folder} has no {CLEVR_INDEX}, nor have its subfolders; put CLEVR's scenes file there"
            )
        return found

    @cached_property
    def scenes(self) -> list[ClevrScene]:
        scenes = [scene for path in self.files for scene in _read_scenes(path)]
        return [scene for scene in scenes if all(map(scene.box, scene.objects))]


def reading_shares(pictures: ClevrPictures, world: WorldReader) -> dict[str, float]:
    """How well a reader reads pictures, by what their scenes file says.

    Returns:
        Numbers of `scenes` and `objects`. Of all objects the shares that are `found` at their box, and of which `kind`, `size`,
        `colour` and `material` are read right there; `kind and size` together; `relations` (of all triples) that hold. Of all
        scenes: `inventory`, every object's kind, size and box right and nothing else; `with relations`, these too; `exact`, colours
        and materials too.
    """
    rows: dict[str, list[float]] = {}
    for scene in pictures.scenes:
        reading, truth = world.read_scene(scene.picture()), scene.objects
        found = reading.graph.boxes if reading.graph else ()
        similarity = np.array([[_nearness(scene.box(item), box) for box in found] for item in truth]).reshape(
            len(truth), -1
        )
        for item, number in zip(truth, assign(similarity)):
            thing = None if number is None else reading.evidence[number]
            right = {field: thing is not None and getattr(thing, field) == getattr(item, field) for field in FIELDS}
            right |= {"found": thing is not None, "kind and size": right["kind"] and right["size"]}
            for name, value in right.items():
                rows.setdefault(name, []).append(value)
        verdict, full = (
            check(scene.graph(truth, sizes_only=True), reading, world),
            check(scene.graph(truth), reading, world),
        )
        rows.setdefault("relations", []).extend(verdict.triples)
        rows.setdefault("inventory", []).append(all(verdict.objects) and not verdict.extra)
        rows.setdefault("with relations", []).append(verdict.passed)
        rows.setdefault("exact", []).append(full.passed)
    counts = {"scenes": len(pictures.scenes), "objects": len(rows.get("found", ()))}
    return counts | {name: float(np.mean(values)) for name, values in rows.items() if values}


FIELDS = ("kind", "size", "colour", "material")


def _nearness(a: Box | None, b: Box | None) -> float:
    """1 for equal boxes, 0 for boxes that are not of one object."""
    return 0.0 if a is None or b is None else max(0.0, 1 - float(np.abs(np.subtract(a, b)).max()) / NEAR)


def _padded(image: Image.Image) -> np.ndarray:
    """(S,S,3): the picture in the middle of a square, with its edges repeated."""
    pixels = np.asarray(image)
    spare = max(pixels.shape[:2]) - np.array(pixels.shape[:2])
    before = spare // 2
    return np.pad(pixels, (*zip(before, spare - before), (0, 0)), "edge")


def _read_scenes(path: Path) -> list[ClevrScene]:
    """The scenes of one file. Raises ClevrError."""
    folder = path.parent / "images" if (path.parent / "images").is_dir() else path.parent
    data = CLEVRValidation(folder, path)  # which refuses what is damaged
    raw = read_json(path, ClevrError, "unpack the scenes there")["scenes"]
    scenes = []
    for number, fields in enumerate(raw):
        image = data.image_path(number)
        try:
            scenes.append(_scene(fields, image))
        except (KeyError, IndexError, TypeError, ValueError) as error:
            what = f"scene {number} lacks places or directions ({str(error)[:100]})"
            raise ClevrError(f"{path}: {what}; name a file such as CLEVR_val_scenes.json") from None
    return scenes


def _scene(fields: dict[str, Any], path: Path) -> ClevrScene:
    right, away = (tuple(map(float, fields["directions"][name][:2])) for name in ("right", "behind"))
    size = np.array(read_image(path).size)
    side, spare = size.max(), (size.max() - size) // 2
    objects = []
    for each in fields["objects"]:
        x, y, half = map(float, each["3d_coords"])
        column, row, distance = map(float, each["pixel_coords"])
        pixel = (column + spare[0]) / side, (row + spare[1]) / side, distance
        place = x * right[0] + y * right[1], x * away[0] + y * away[1]
        words = (each[key] for key in ("shape", "size", "color", "material"))
        objects.append(ClevrObject(*words, place, half, float(each["rotation"]), pixel))
    return ClevrScene(path, tuple(objects), right, away)
