"""Draws scenes as CLEVR looks: grey all around, three lamps, a camera without depth of field. Needs Blender."""

# pyright: reportMissingImports=false
from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import bpy
from mathutils import Vector

from ldm.synthetic.rendered.clevr import COLOURS, lamp_places, random_clevr_scene
from ldm.synthetic.rendered.clevr_files import clevr_fields
from ldm.synthetic.rendered.materials import NodeGraph
from ldm.synthetic.rendered.records import CLEVR_INDEX
from ldm.synthetic.rendered.scenes import Scene
from ldm.synthetic.rendered.stage import SAMPLES, Stage, set_material

POWERS, LAMP_SIZES = (112.0, 33.0, 61.0), (1.0, 0.5, 1.0)  # of key, fill and back lamp, in watts and scene units
SKY_STRENGTH = 0.18
FLOOR = (0.47, 0.46, 0.45)
FLOOR_SCALE = (200, 200, 1)  # beyond the horizon


class ClevrStage(Stage):
    """A `Stage` for the scenes of `random_clevr_scene`.

    Args:
        side: of the pictures in pixels.
        samples: light paths per pixel.
        threads: of the path tracer.
    """

    def __init__(self, side: int = 128, samples: int = SAMPLES, threads: int = 2):
        super().__init__(side, samples, threads)
        self._material = cache(_solid_material)
        self._edge.hide_render = self._wall.hide_render = True
        self._floor.scale = FLOOR_SCALE
        set_material(self._floor, 0, NodeGraph("grey").surface(FLOOR, 0.75, Specular_IOR_Level=0.3))
        self._camera.data.dof.use_dof = False
        for item, power, size in zip(self._lamps, POWERS, LAMP_SIZES):
            item.data.energy, item.data.size, item.data.color = power, size, (1, 1, 1)
        self._sky.inputs[6].default_value = (1, 1, 1, 1)
        self._background.inputs[1].default_value = SKY_STRENGTH
        self.scene.view_settings.look, self.scene.view_settings.view_transform = "None", "Standard"

    def random_scene(self, seed: int) -> Scene:
        return random_clevr_scene(seed, self.geometry)

    def more_files(self, records: Sequence[dict[str, Any]]) -> dict[str, Any]:
        scenes = [clevr_fields(Scene.from_json(record["scene"]), record["file"], self.side) for record in records]
        return {CLEVR_INDEX: {"scenes": scenes}}

    def _show_surroundings(self, scene: Scene) -> None:
        for item, place in zip(self._lamps, lamp_places(scene.seed)):
            item.location = place
            item.rotation_euler = (-Vector(place)).to_track_quat("-Z", "Y").to_euler()


def _solid_material(surface: str, colour: str) -> bpy.types.Material:
    red, green, blue = (level / 255 for level in COLOURS[colour])
    graph = NodeGraph(f"CLEVR {surface} {colour}")
    if surface == "metal":
        return graph.surface((red, green, blue), 0.2, Metallic=1.0, Specular_IOR_Level=0.35)
    return graph.surface((red, green, blue), 0.6, Specular_IOR_Level=0.35)
