"""The shapes of the kinds of things, each standing on the floor around the origin at size factor 1. Needs Blender."""

from __future__ import annotations

from collections.abc import Callable
from math import cos, exp, pi, sin

import numpy as np

from ldm.synthetic.rendered.meshes import MeshBuilder, rounded, smooth_profile

# Surfaces of the slots after the first one.
PARTS = {
    "apple": ("stem",),
    "pear": ("stem",),
    "banana": ("stem",),
    "candle": ("wick", "flame"),
    "lamp": ("brass", "bulb"),
    "bottle": ("cap",),
    "stool": ("leg wood",),
}


def _sphere(mesh: MeshBuilder) -> None:
    mesh.lathe([(0.5 * sin(pi * i / 32), 0.5 - 0.5 * cos(pi * i / 32)) for i in range(33)])


def _cube(mesh: MeshBuilder) -> None:
    mesh.box((-0.42, -0.42, 0), (0.42, 0.42, 0.84), 0.035)


def _cylinder(mesh: MeshBuilder) -> None:
    mesh.lathe(rounded([(0, 0), (0.45, 0), (0.45, 0.9), (0, 0.9)], 0.04))


def _donut(mesh: MeshBuilder) -> None:
    angles = np.linspace(0, 2 * pi, 21)
    mesh.lathe([(0.36 + 0.2 * cos(angle), 0.2 + 0.2 * sin(angle)) for angle in angles], segments=64)


def _mug(mesh: MeshBuilder) -> None:
    wall = [(0, 0), (0.36, 0), (0.38, 0.05), (0.38, 0.85), (0.335, 0.85), (0.33, 0.08), (0, 0.06)]
    mesh.lathe(rounded(wall, 0.03))
    handle = [(0.36 + 0.24 * sin(pi * t), 0, 0.2 + 0.48 * t) for t in np.linspace(0, 1, 18)]
    mesh.tube(handle, 0.055, segments=12)


def _bowl(mesh: MeshBuilder) -> None:
    curve = [0.95 * pi / 2 * t for t in np.linspace(0, 1, 12)]
    outside = [(0.32 + 0.42 * sin(angle), 0.06 + 0.46 * (1 - cos(angle))) for angle in curve]
    inside = [(radius - 0.045, height + 0.04 * (1 - i / 11)) for i, (radius, height) in enumerate(outside)][::-1]
    rim = (outside[-1][0] - 0.02, outside[-1][1] + 0.02)
    mesh.lathe([(0, 0), (0.27, 0), (0.30, 0.02), *outside, rim, *inside, (0, inside[-1][1])])


def _crate(mesh: MeshBuilder) -> None:
    width, depth, height = 0.62, 0.46, 0.52
    for row in range(3):
        low = 0.02 + 0.17 * row
        for side in (-1, 1):
            y, x = side * depth, side * width
            mesh.box((-width, y - 0.025, low), (width, y + 0.025, low + 0.145), 0.008, 2)
            mesh.box((x - 0.025, -depth, low), (x + 0.025, depth, low + 0.145), 0.008, 2)
    for x in (0.06 - width, width - 0.06):
        for y in (0.05 - depth, depth - 0.05):
            mesh.box((x - 0.045, y - 0.035, 0), (x + 0.045, y + 0.035, height), 0.008, 2)
    for board in range(4):
        start = -depth + 0.02 + 0.225 * board
        mesh.box((-width, start, 0.015), (width, start + 0.19, 0.05), 0.006, 1)


def _bottle(mesh: MeshBuilder) -> None:
    glass = [(0, 0.04), (0.2, 0), (0.29, 0.02), (0.3, 0.9), (0.27, 1.05), (0.12, 1.25), (0.105, 1.55), (0.135, 1.56)]
    mesh.lathe(rounded([*glass, (0.135, 1.64), (0.1, 1.64)], 0.06))
    mesh.lathe(rounded([(0.1, 1.5), (0.1, 1.66), (0.12, 1.68), (0.12, 1.78), (0, 1.78)], 0.02), segments=32, slot=1)


def _vase(mesh: MeshBuilder) -> None:
    shares = np.linspace(0, 1, 26)
    neck = [0.05 * max(0.0, (t - 0.87) / 0.13) ** 2 for t in shares]
    outside = [(0.2 + 0.24 * sin(pi * min(1, 1.15 * t)) ** 1.2 + extra, 1.35 * t) for t, extra in zip(shares, neck)]
    inside = [(radius - 0.03, height) for radius, height in outside][::-1][:-2]
    rim = (outside[-1][0] - 0.015, 1.365)
    mesh.lathe([(0, 0), *outside, rim, *inside, (0, inside[-1][1])])


def _lamp(mesh: MeshBuilder) -> None:
    foot = [(0, 0), (0.3, 0), (0.3, 0.05), (0.05, 0.09), (0.035, 0.15), (0.035, 0.95), (0, 0.95)]
    mesh.lathe(rounded(foot, 0.03), segments=40, slot=1)
    mesh.lathe([(0.47, 0.72), (0.27, 1.3), (0.262, 1.3), (0.462, 0.72)], segments=48)
    mesh.lathe([(0.09 * sin(pi * i / 12), 0.98 - 0.09 * cos(pi * i / 12)) for i in range(13)], segments=16, slot=2)


def _candle(mesh: MeshBuilder) -> None:
    mesh.lathe(rounded([(0, 0), (0.27, 0), (0.27, 0.93), (0.2, 0.9), (0, 0.86)], 0.04), segments=40)
    mesh.tube([(0, 0, 0.84), (0, 0, 0.97), (0.01, 0, 1.0)], 0.014, segments=8, slot=1)
    flame = [(0, 0.95), (0.03, 0.97), (0.055, 1.03), (0.05, 1.09), (0.03, 1.17), (0.01, 1.24), (0, 1.27)]
    mesh.lathe(flame, segments=20, slot=2)


def _stool(mesh: MeshBuilder) -> None:
    mesh.lathe(rounded([(0, 0.82), (0.47, 0.82), (0.47, 0.92), (0, 0.93)], 0.04))
    corners = [(cos(angle), sin(angle)) for angle in (pi / 4 + pi / 2 * np.arange(5))]
    for (x, y), (u, v) in zip(corners, corners[1:]):
        mesh.tube([(0.46 * x, 0.46 * y, 0), (0.30 * x, 0.30 * y, 0.84)], [0.05, 0.065], slot=1)
        mesh.tube([(0.405 * x, 0.405 * y, 0.3), (0.405 * u, 0.405 * v, 0.3)], 0.03, segments=10, slot=1)


def _apple(mesh: MeshBuilder) -> None:
    def point(t: float) -> tuple[float, float]:
        angle = pi * t
        radius = 0.45 * sin(angle) ** 0.85 * (1 + 0.07 * cos(angle))
        dent = exp(-((radius / 0.16) ** 2))
        return radius, 0.4 - 0.39 * cos(angle) - (0.13 * dent if t > 0.5 else -0.05 * dent)

    def ripple(angle: float, height: float) -> float:
        return 1 + 0.025 * cos(5 * angle) * (1 - min(1, height / 0.8)) + 0.012 * cos(2 * angle + 1)

    profile = [(0, point(0)[1]), *(point(i / 36) for i in range(1, 36)), (0, point(1)[1])]
    mesh.lathe(profile, ripple=ripple)
    stem = [(0, 0, 0.62), (0.01, 0, 0.74), (0.04, 0.01, 0.84), (0.07, 0.01, 0.9)]
    mesh.tube(stem, [0.022, 0.02, 0.022, 0.03], segments=10, slot=1)


def _pear(mesh: MeshBuilder) -> None:
    body = [(0, 0.02), (0.15, 0), (0.3, 0.06), (0.41, 0.2), (0.44, 0.36), (0.40, 0.52), (0.31, 0.68), (0.23, 0.82)]
    body += [(0.19, 0.95), (0.15, 1.04), (0.08, 1.09), (0, 1.07)]
    mesh.lathe(smooth_profile(body, 45), ripple=lambda angle, height: 1 + 0.02 * cos(3 * angle))
    mesh.tube([(0, 0, 1.04), (0.02, 0, 1.15), (0.07, 0, 1.25)], [0.025, 0.02, 0.028], segments=10, slot=1)


def _banana(mesh: MeshBuilder) -> None:
    shares = np.linspace(-1, 1, 40)
    path = [(0.95 * sin(0.85 * t), 0.95 * (1 - cos(0.85 * t)) - 0.15, 0.17 + 0.05 * t**2) for t in shares]
    radii = [0.05 if t > 0.86 else 0.165 * (1 - 0.75 * t**4) * (1 if t > -0.93 else 0.7) for t in shares]
    mesh.tube(path, radii, segments=20, ripple=lambda angle: 1 + 0.045 * cos(5 * angle))
    for end, inner in ((0, 1), (-1, -2)):
        tip = np.add(path[end], 0.6 * np.subtract(path[end], path[inner]))
        mesh.tube([path[end], tip], [1.04 * radii[end], 0.85 * radii[end]], segments=12, slot=1)


MODELS: dict[str, Callable[[MeshBuilder], None]] = {
    "sphere": _sphere,
    "cube": _cube,
    "cylinder": _cylinder,
    "donut": _donut,
    "mug": _mug,
    "bowl": _bowl,
    "crate": _crate,
    "bottle": _bottle,
    "vase": _vase,
    "lamp": _lamp,
    "candle": _candle,
    "stool": _stool,
    "apple": _apple,
    "pear": _pear,
    "banana": _banana,
}
