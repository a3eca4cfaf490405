"""Scenes in the form of CLEVR's scenes files, which `ldm.data.clevr` reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ldm.synthetic.rendered.clevr import DIAMETERS
from ldm.synthetic.rendered.relations import floor_position
from ldm.synthetic.rendered.scenes import SENSOR, Camera, Scene

EPSILON = 0.2  # least difference of a relation in the generator, in scene units


def clevr_fields(scene: Scene, file: str, side: int) -> dict[str, Any]:
    """One entry of a file's `scenes`.

    Args:
        file: name of the picture.
        side: of the picture in pixels.
    """
    centres = np.array([(thing.x, thing.y, DIAMETERS[thing.size] / 2) for thing in scene.things])
    pixels = project(centres, scene.camera, side)
    objects = [
        {
            "shape": thing.kind,
            "size": thing.size,
            "color": thing.colour,
            "material": thing.material,
            "rotation": thing.turn,
            "3d_coords": centre.tolist(),
            "pixel_coords": pixel.round(3).tolist(),
        }
        for thing, centre, pixel in zip(scene.things, centres, pixels)
    ]
    right, away = np.array([floor_position(thing, scene.camera) for thing in scene.things]).T
    values = {"right": right, "left": -right, "behind": away, "front": -away}
    return {
        "image_filename": file,
        "objects": objects,
        "relationships": {name: _related(value) for name, value in values.items()},
        "directions": _directions(scene.camera),
    }


def project(points: np.ndarray, camera: Camera, side: int) -> np.ndarray:  # (N,3) -> (N,3)
    """Column and row of points in pixels, and their distance along the camera's axis."""
    forward = np.subtract(camera.target, camera.location)
    forward /= np.linalg.norm(forward)
    right = np.cross(forward, (0, 0, 1))
    right /= np.linalg.norm(right)
    along = (points - camera.location) @ np.stack([right, np.cross(forward, right), forward], -1)
    return np.concatenate([side / 2 + camera.lens / SENSOR * side * along[:, :2] / along[:, 2:], along[:, 2:]], 1)


def _related(values: np.ndarray) -> list[list[int]]:
    """For each thing those whose value is clearly larger."""
    return [np.flatnonzero(values > value + EPSILON).tolist() for value in values]


def _directions(camera: Camera) -> dict[str, Sequence[float]]:
    x, y = np.subtract(camera.target, camera.location)[:2]
    length = float(np.hypot(x, y))
    x, y = float(x) / length, float(y) / length
    return {
        "behind": (x, y, 0.0),
        "front": (-x, -y, 0.0),
        "right": (y, -x, 0.0),
        "left": (-y, x, 0.0),
        "above": (0.0, 0.0, 1.0),
        "below": (0.0, 0.0, -1.0),
    }
