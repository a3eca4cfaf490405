"""Truth about a rendered scene by casting rays at its meshes: which thing each pixel shows, boxes, visibility. Needs Blender."""

# pyright: reportMissingImports=false
from __future__ import annotations

from typing import NamedTuple

import bpy
import numpy as np
from mathutils import Euler, Matrix, Vector
from mathutils.bvhtree import BVHTree

from ldm.synthetic.rendered.meshes import MeshBuilder
from ldm.synthetic.rendered.models import MODELS
from ldm.synthetic.rendered.scenes import SENSOR, Camera, Scene, Visibility
from ldm.synthetic.rendered.things import Thing

COARSE = 64  # pixels of a side when only visibility is asked for
NEVER = np.inf


class Truth(NamedTuple):
    """What a scene's picture shows, of a side of R pixels and T things.

    Args:
        ids: (R,R) uint8, index of the thing that a pixel's middle shows plus one; 0 is the background.
        depth: (R,R) float32, distance from the camera in scene units, infinite for the background.
        boxes: (T,4) of the whole things, x0 y0 x1 y1 as shares of the side; may exceed 0..1.
        visible_boxes: (T,4) of the visible parts; zeros for a hidden thing.
        visible: (T,) visible share of each thing's pixels.
    """

    ids: np.ndarray
    depth: np.ndarray
    boxes: np.ndarray
    visible_boxes: np.ndarray
    visible: np.ndarray


def matrix_of(thing: Thing) -> Matrix:
    """From the mesh's coordinates to the scene's."""
    scale = thing.scale
    turn = Euler((0, 0, thing.turn)).to_matrix().to_4x4()
    return Matrix.Translation((thing.x, thing.y, thing.z)) @ turn @ Matrix.Diagonal((scale, scale, scale, 1))


def camera_rotation(camera: Camera) -> np.ndarray:  # (3,3), camera to scene
    direction = Vector(camera.target) - Vector(camera.location)
    return np.array(direction.to_track_quat("-Z", "Y").to_matrix())


class MeshGeometry:
    """A `ldm.synthetic.rendered.scenes.Geometry`: builds each kind's mesh once; answers where things are and what hides what."""

    def __init__(self):
        self._meshes: dict[str, bpy.types.Mesh] = {}
        self._outlines: dict[str, tuple[np.ndarray, list[tuple[int, ...]]]] = {}

    def mesh(self, kind: str) -> bpy.types.Mesh:
        if kind not in self._meshes:
            builder = MeshBuilder()
            MODELS[kind](builder)
            self._meshes[kind] = builder.build(kind)
            self._outlines[kind] = np.array(builder.vertices), builder.faces
        return self._meshes[kind]

    def truth(self, scene: Scene, side: int) -> Truth:
        """Casts a ray through the middle of every pixel that a thing's box covers."""
        rotation, origin = camera_rotation(scene.camera), np.array(scene.camera.location)
        focal = scene.camera.lens / SENSOR * side  # in pixels
        ids, depth = np.zeros((side, side), np.uint8), np.full((side, side), NEVER, np.float32)
        count = len(scene.things)
        boxes, areas = np.zeros((count, 4)), np.zeros(count)
        for index, thing in enumerate(scene.things):
            tree, vertices = self._tree(thing)
            seen = (vertices - origin) @ rotation
            u, v = side / 2 - focal * seen[:, 0] / seen[:, 2], side / 2 + focal * seen[:, 1] / seen[:, 2]
            boxes[index] = np.array((u.min(), v.min(), u.max(), v.max())) / side
            left, top = max(0, int(u.min())), max(0, int(v.min()))
            right, bottom = min(side, int(u.max()) + 1), min(side, int(v.max()) + 1)
            if left >= right or top >= bottom:
                continue
            columns, rows = np.meshgrid(np.arange(left, right), np.arange(top, bottom))
            x, y = (columns + 0.5 - side / 2) / focal, (side / 2 - rows - 0.5) / focal
            rays = np.stack([x, y, -np.ones_like(x)], -1) @ rotation.T
            rays /= np.linalg.norm(rays, axis=-1, keepdims=True)
            start = Vector(origin)
            distances = [tree.ray_cast(start, ray)[3] for ray in rays.reshape(-1, 3).tolist()]
            found = np.array([NEVER if d is None else d for d in distances], np.float32).reshape(rows.shape)
            areas[index] = np.isfinite(found).sum()
            window = depth[top:bottom, left:right]
            nearer = found < window
            ids[top:bottom, left:right][nearer] = index + 1
            window[nearer] = found[nearer]
        visible_boxes = np.array([_bounds(ids == index + 1) for index in range(count)])
        shown = np.bincount(ids.ravel(), minlength=count + 1)[1:]
        return Truth(ids, depth, boxes, visible_boxes, shown / np.maximum(1, areas))

    def visibility(self, scene: Scene) -> list[Visibility]:
        truth = self.truth(scene, COARSE)
        cells = np.bincount(truth.ids.ravel(), minlength=len(scene.things) + 1)[1:]
        return [
            Visibility(float(share), float(area), tuple(box))
            for share, area, box in zip(truth.visible, cells, truth.boxes)
        ]

    def resting_height(self, thing: Thing, support: Thing) -> float:
        """By bisection on whether the two meshes overlap."""
        base, vertices = self._tree(support)
        low, high = 0.0, float(vertices[:, 2].max()) + 0.01
        for _ in range(10):
            middle = (low + high) / 2
            if self._tree(thing._replace(z=middle))[0].overlap(base):
                low = middle
            else:
                high = middle
        return high + 0.002

    def _tree(self, thing: Thing) -> tuple[BVHTree, np.ndarray]:
        self.mesh(thing.kind)
        vertices, faces = self._outlines[thing.kind]
        matrix = np.array(matrix_of(thing))
        moved = vertices @ matrix[:3, :3].T + matrix[:3, 3]
        return BVHTree.FromPolygons(moved.tolist(), faces), moved


def _bounds(mask: np.ndarray) -> tuple[float, float, float, float]:
    rows, columns = np.nonzero(mask)
    if not len(rows):
        return 0.0, 0.0, 0.0, 0.0
    side = len(mask)
    return columns.min() / side, rows.min() / side, (columns.max() + 1) / side, (rows.max() + 1) / side
