"""Meshes from a few operations: lathes, tubes and bevelled boxes. Needs Blender (`bpy`).

A profile is a list of points (radius, height); turning it about the vertical axis makes a lathe. A slot is the index of a
material: 0 for the one that graphs name, higher ones for fixed parts such as stems.
"""

# pyright: reportMissingImports=false
from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import bmesh
import bpy
import numpy as np
from mathutils import Vector

Point = Sequence[float]
Profile = Sequence[tuple[float, float]]


class MeshBuilder:
    """Collects vertices and faces, and makes a Blender mesh of them."""

    def __init__(self):
        self.vertices: list[tuple[float, ...]] = []
        self.faces: list[tuple[int, ...]] = []
        self.slots: list[int] = []

    def add(self, vertices: Iterable[Point], faces: Iterable[Sequence[int]], slot: int = 0) -> None:
        start = len(self.vertices)
        self.vertices += [tuple(map(float, vertex)) for vertex in vertices]
        new = [tuple(start + index for index in face) for face in faces]
        self.faces += new
        self.slots += [slot] * len(new)

    def lathe(
        self,
        profile: Profile,
        segments: int = 56,
        slot: int = 0,
        ripple: Callable[[float, float], float] = lambda angle, height: 1.0,
    ) -> None:
        """Turns a profile about the vertical axis.

        Args:
            ripple: factor of the radius at an angle (radians) and a height.
        """
        vertices: list[Point] = []
        rings: list[list[int]] = []
        for radius, height in profile:
            if radius < 1e-6:
                rings.append([len(vertices)] * segments)
                vertices.append((0.0, 0.0, height))
                continue
            rings.append(list(range(len(vertices), len(vertices) + segments)))
            for step in range(segments):
                angle = 2 * math.pi * step / segments
                length = radius * ripple(angle, height)
                vertices.append((length * math.cos(angle), length * math.sin(angle), height))
        faces = []
        for lower, upper in zip(rings, rings[1:]):
            for step in range(segments):
                following = (step + 1) % segments
                corners = (lower[step], lower[following], upper[following], upper[step])
                face = tuple(dict.fromkeys(corners))  # a triangle where a ring is a point
                if len(face) > 2:
                    faces.append(face)
        self.add(vertices, faces, slot)

    def tube(
        self,
        path: Sequence[Point],
        radius: float | Sequence[float],
        segments: int = 14,
        slot: int = 0,
        ripple: Callable[[float], float] = lambda angle: 1.0,
    ) -> None:
        """A closed tube along a path, with one radius or one for each point."""
        points = [Vector(point) for point in path]
        last = len(points) - 1
        radii = [radius] * len(points) if isinstance(radius, float) else list(radius)
        tangents = [(points[min(i + 1, last)] - points[max(i - 1, 0)]).normalized() for i in range(last + 1)]
        upright = Vector((0, 0, 1)) if abs(tangents[0].z) < 0.9 else Vector((1, 0, 0))
        across = tangents[0].cross(upright).normalized()
        vertices: list[Point] = []
        for point, tangent, width in zip(points, tangents, radii):
            across = (across - tangent * across.dot(tangent)).normalized()  # carried along without twisting
            along = tangent.cross(across)
            for step in range(segments):
                angle = 2 * math.pi * step / segments
                length = width * ripple(angle)
                vertices.append(point + across * (length * math.cos(angle)) + along * (length * math.sin(angle)))
        faces: list[tuple[int, ...]] = [tuple(reversed(range(segments)))]
        for ring in range(last):
            for step in range(segments):
                here, there = ring * segments, (ring + 1) * segments
                following = (step + 1) % segments
                faces.append((here + step, here + following, there + following, there + step))
        faces.append(tuple(range(last * segments, (last + 1) * segments)))
        self.add(vertices, faces, slot)

    def box(self, low: Point, high: Point, bevel: float = 0.02, segments: int = 3, slot: int = 0) -> None:
        """A box between two corners with rounded edges."""
        shape = bmesh.new()
        bmesh.ops.create_cube(shape, size=1)
        centre, extent = np.add(low, high) / 2, np.subtract(high, low)
        for vertex in shape.verts:
            vertex.co = Vector(np.multiply(vertex.co, extent) + centre)
        if bevel:
            edges = [*shape.edges, *shape.verts]
            bmesh.ops.bevel(shape, geom=edges, offset=bevel, segments=segments, profile=0.5, affect="EDGES")
        shape.verts.index_update()
        self.add([v.co for v in shape.verts], [[v.index for v in face.verts] for face in shape.faces], slot)
        shape.free()

    def build(self, name: str, sharp_angle: float = 40) -> bpy.types.Mesh:
        """The Blender mesh, smooth but for edges sharper than an angle in degrees."""
        mesh = bpy.data.meshes.new(name)
        mesh.from_pydata(self.vertices, [], self.faces)
        mesh.update()
        for _ in range(max(self.slots) + 1):
            mesh.materials.append(None)
        mesh.polygons.foreach_set("material_index", self.slots)
        shape = bmesh.new()
        shape.from_mesh(mesh)
        bmesh.ops.recalc_face_normals(shape, faces=shape.faces)
        shape.to_mesh(mesh)
        shape.free()
        mesh.shade_smooth()
        mesh.set_sharp_from_angle(angle=math.radians(sharp_angle))
        mesh.update()
        return mesh


def rounded(profile: Profile, radius: float, steps: int = 4) -> list[tuple[float, float]]:
    """The profile with its inner corners rounded by quadratic Bezier curves."""
    result = [profile[0]]
    for before, corner, after in zip(profile, profile[1:], profile[2:]):
        before, corner, after = (np.asarray(point, float) for point in (before, corner, after))
        to_before, to_after = before - corner, after - corner
        lengths = np.linalg.norm(to_before), np.linalg.norm(to_after)
        to_before, to_after = to_before / lengths[0], to_after / lengths[1]
        if abs(to_before[0] * to_after[1] - to_before[1] * to_after[0]) < 0.05:  # nearly straight
            result.append((float(corner[0]), float(corner[1])))
            continue
        cut = min(radius, 0.45 * lengths[0], 0.45 * lengths[1])
        start, end = corner + cut * to_before, corner + cut * to_after
        for t in np.linspace(0, 1, steps + 1):
            x, y = (1 - t) ** 2 * start + 2 * t * (1 - t) * corner + t**2 * end
            result.append((float(x), float(y)))
    return [*result, profile[-1]]


def smooth_profile(points: Profile, count: int) -> list[tuple[float, float]]:
    """`count` points on the Catmull-Rom spline through the given ones; the ends lie on the axis."""
    known = np.asarray(points, float)
    padded = np.concatenate([known[:1], known, known[-1:]])
    result = []
    for position in np.linspace(0, len(known) - 1, count):
        index = min(int(position), len(known) - 2)
        t = position - index
        p0, p1, p2, p3 = padded[index : index + 4]
        value = (
            2 * p1 + (p2 - p0) * t + (2 * p0 - 5 * p1 + 4 * p2 - p3) * t**2 + (3 * p1 - p0 - 3 * p2 + p3) * t**3
        ) / 2
        result.append((max(0.0, float(value[0])), float(value[1])))
    result[0], result[-1] = (0.0, result[0][1]), (0.0, result[-1][1])
    return result
