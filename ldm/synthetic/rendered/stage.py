"""Draws scenes with Blender's path tracer (Cycles on the CPU). Needs Blender.

The same scene gives the same pixels, in any order and on any number of threads: the seed is fixed, adaptive sampling and
caustics are off, and nothing persists between pictures. Meshes and materials are built once and objects are pooled.
"""

# pyright: reportMissingImports=false
from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import bpy
from mathutils import Vector
from PIL import Image

from ldm.synthetic.rendered.geometry import MeshGeometry, matrix_of
from ldm.synthetic.rendered.materials import Rgb, floor_material, part_material, thing_material, wall_material
from ldm.synthetic.rendered.models import PARTS
from ldm.synthetic.rendered.scenes import SENSOR, Scene, random_scene
from ldm.synthetic.rendered.things import KINDS
from ldm.util.cli import interrupt_deferred

SAMPLES = 8  # per pixel; the denoiser does the rest at 128 px

COOL, NEUTRAL, WARM = (0.80, 0.89, 1.0), (1.0, 1.0, 1.0), (1.0, 0.93, 0.84)
TUNGSTEN, SUNSET, DUSK = (1.0, 0.86, 0.70), (1.0, 0.72, 0.45), (0.5, 0.6, 1.0)


class Lamp(NamedTuple):
    """An area lamp that points at the middle of the table.

    Args:
        azimuth, elevation: in degrees; azimuth 0 is the camera's side, positive to the right.
        distance, size: in scene units.
        power: in watts.
        colour: linear RGB.
    """

    azimuth: float
    elevation: float
    distance: float
    size: float
    power: float
    colour: Rgb


class Light(NamedTuple):
    """Key, fill and rim lamp, the sky's colour and strength, and the exposure in stops."""

    lamps: tuple[Lamp, Lamp, Lamp]
    sky: Rgb
    sky_strength: float
    exposure: float


LIGHTS = {
    "studio": Light(
        (Lamp(58, 44, 7, 1.8, 1350, NEUTRAL), Lamp(-60, 35, 9, 6, 170, NEUTRAL), Lamp(165, 42, 8, 3, 380, NEUTRAL)),
        (0.85, 0.88, 0.92),
        0.17,
        0.0,
    ),
    "daylight": Light(
        (Lamp(82, 32, 8, 1.3, 1900, WARM), Lamp(-70, 40, 9, 7, 120, COOL), Lamp(150, 50, 9, 4, 120, COOL)),
        (0.62, 0.76, 1.0),
        0.30,
        0.0,
    ),
    "overcast": Light(
        (Lamp(50, 62, 8, 4.5, 1650, COOL), Lamp(-90, 30, 9, 7, 120, COOL), Lamp(120, 40, 9, 6, 120, COOL)),
        (0.80, 0.88, 1.0),
        0.32,
        -0.1,
    ),
    "evening": Light(
        (Lamp(74, 22, 8, 0.9, 1500, SUNSET), Lamp(-60, 30, 9, 6, 70, DUSK), Lamp(160, 45, 9, 4, 90, DUSK)),
        (0.34, 0.42, 0.8),
        0.17,
        0.2,
    ),
    "lamplit": Light(
        (Lamp(35, 62, 5, 0.6, 620, TUNGSTEN), Lamp(-80, 35, 9, 6, 45, TUNGSTEN), Lamp(170, 40, 9, 4, 60, TUNGSTEN)),
        (1.0, 0.78, 0.52),
        0.10,
        0.3,
    ),
}


class Stage:
    """One Blender scene that shows each of ours in turn. Blender holds one per process.

    Args:
        side: of the pictures in pixels.
        samples: light paths per pixel.
        threads: of the path tracer.
    """

    def __init__(self, side: int = 128, samples: int = SAMPLES, threads: int = 2):
        bpy.ops.wm.read_factory_settings(use_empty=True)
        self.scene = bpy.context.scene
        self.side = side
        self.geometry = MeshGeometry()
        self._pool: list[bpy.types.Object] = []
        self._material = cache(thing_material)
        self._part = cache(part_material)
        self._floor_material = cache(floor_material)
        self._wall_material = cache(wall_material)
        _set_up_renderer(self.scene, side, samples, threads)
        self._floor = self._add("floor", _plane("floor", [(-14, -14, 0), (14, -14, 0), (14, 5, 0), (-14, 5, 0)]))
        edge = [(-14, 5, 0), (14, 5, 0), (14, 5, -0.35), (-14, 5, -0.35)]
        self._edge = self._add("edge", _plane("edge", edge))
        wall = [(-16, 6.5, -6), (16, 6.5, -6), (16, 6.5, 14), (-16, 6.5, 14)]
        self._wall = self._add("wall", _plane("wall", wall))
        self._camera = self._add("camera", bpy.data.cameras.new("camera"))
        self._camera.data.sensor_fit, self._camera.data.sensor_width = "HORIZONTAL", SENSOR
        self._camera.data.dof.use_dof = True
        self.scene.camera = self._camera
        self._lamps = [self._add(name, bpy.data.lights.new(name, "AREA")) for name in ("key", "fill", "rim")]
        self._sky, self._background = _add_sky(self.scene)

    def random_scene(self, seed: int) -> Scene:
        """The scene of a seed."""
        return random_scene(seed, self.geometry)

    def more_files(self, records: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """What a shard holds besides its usual files: names and what to write there as JSON.

        Args:
            records: the lines of scenes.jsonl.
        """
        return {}

    def render(self, scene: Scene) -> Image.Image:
        """The picture of a scene, RGB."""
        self._show(scene)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "picture.png"
            self.scene.render.filepath = str(path)
            with interrupt_deferred():  # Blender prints what its own Python code raises, and renders on
                bpy.ops.render.render(write_still=True)
            with Image.open(path) as picture:
                return picture.convert("RGB")

    def _add(self, name: str, data: bpy.types.ID) -> bpy.types.Object:
        item = bpy.data.objects.new(name, data)
        self.scene.collection.objects.link(item)
        return item

    def _show(self, scene: Scene) -> None:
        self._show_things(scene)
        self._show_surroundings(scene)
        camera, item = scene.camera, self._camera
        direction = Vector(camera.target) - Vector(camera.location)
        item.location, item.rotation_euler = camera.location, direction.to_track_quat("-Z", "Y").to_euler()
        item.data.lens, item.data.dof.focus_distance = camera.lens, camera.focus
        item.data.dof.aperture_fstop = camera.aperture

    def _show_surroundings(self, scene: Scene) -> None:
        floor = self._floor_material(scene.style.floor)
        wall = self._wall_material(scene.style.wall)
        for item, material in ((self._floor, floor), (self._edge, floor), (self._wall, wall)):
            set_material(item, 0, material)
        self._light(LIGHTS[scene.style.light], 1 if scene.style.side == "right" else -1)

    def _show_things(self, scene: Scene) -> None:
        while len(self._pool) < len(scene.things):
            self._pool.append(self._add(f"thing {len(self._pool)}", self.geometry.mesh("sphere")))
        for index, item in enumerate(self._pool):
            item.hide_render = index >= len(scene.things)
            if item.hide_render:
                continue
            thing = scene.things[index]
            mesh = self.geometry.mesh(thing.kind)
            if item.data != mesh:
                item.data = mesh
            item.matrix_world = matrix_of(thing)
            surface = thing.material or KINDS[thing.kind].surface
            set_material(item, 0, self._material(surface, thing.colour))
            for slot, part in enumerate(PARTS.get(thing.kind, ()), 1):
                set_material(item, slot, self._part(part))

    def _light(self, light: Light, direction: int) -> None:
        for item, lamp in zip(self._lamps, light.lamps):
            azimuth, elevation = math.radians(direction * lamp.azimuth), math.radians(lamp.elevation)
            level = lamp.distance * math.cos(elevation)
            place = Vector((level * math.sin(azimuth), -level * math.cos(azimuth), lamp.distance * math.sin(elevation)))
            item.location = place
            item.rotation_euler = (Vector((0, 0.3, 0.3)) - place).to_track_quat("-Z", "Y").to_euler()
            item.data.size, item.data.energy, item.data.color = lamp.size, lamp.power, lamp.colour
        self._sky.inputs[6].default_value = (*light.sky, 1)
        self._background.inputs[1].default_value = light.sky_strength
        self.scene.view_settings.exposure = light.exposure


def set_material(item: bpy.types.Object, slot: int, material: bpy.types.Material) -> None:
    item.material_slots[slot].link = "OBJECT"
    item.material_slots[slot].material = material


def _plane(name: str, corners: list[tuple[float, float, float]]) -> bpy.types.Mesh:
    mesh = bpy.data.meshes.new(name)
    mesh.from_pydata(corners, [], [(0, 1, 2, 3)])
    mesh.materials.append(None)
    return mesh


def _set_up_renderer(scene: bpy.types.Scene, side: int, samples: int, threads: int) -> None:
    render, cycles = scene.render, scene.cycles
    render.engine = "CYCLES"
    settings = {
        "device": "CPU",
        "samples": samples,
        "seed": 7,
        "use_adaptive_sampling": False,
        "use_denoising": True,
        "denoiser": "OPENIMAGEDENOISE",
        "denoising_prefilter": "FAST",
        "denoising_input_passes": "RGB_ALBEDO_NORMAL",
        "max_bounces": 6,
        "diffuse_bounces": 3,
        "glossy_bounces": 3,
        "transmission_bounces": 6,
        "caustics_reflective": False,
        "caustics_refractive": False,
        "sample_clamp_indirect": 4.0,
        "pixel_filter_type": "BLACKMAN_HARRIS",
        "filter_width": 1.4,
    }
    for name, value in settings.items():
        setattr(cycles, name, value)
    render.resolution_x = render.resolution_y = side
    render.resolution_percentage = 100
    render.use_persistent_data = False  # pixels would depend on the pictures before
    render.threads_mode, render.threads = "FIXED", threads
    render.image_settings.file_format, render.image_settings.color_mode = "PNG", "RGB"
    render.image_settings.compression = 0
    render.use_compositing = render.use_sequencer = False
    scene.view_settings.view_transform, scene.view_settings.look = "AgX", "AgX - Medium High Contrast"


def _add_sky(scene: bpy.types.Scene) -> tuple[bpy.types.Node, bpy.types.Node]:
    """A sky that is brighter above. Returns the node of its colour and the background node."""
    scene.world = bpy.data.worlds.new("sky")
    scene.world.use_nodes = True
    scene.world.cycles.sampling_method = "MANUAL"  # the default map takes half of the time
    scene.world.cycles.sample_map_resolution = 64
    tree = scene.world.node_tree
    background = tree.nodes["Background"]
    direction = tree.nodes.new("ShaderNodeTexCoord").outputs["Generated"]
    split = tree.nodes.new("ShaderNodeSeparateXYZ")
    tree.links.new(direction, split.inputs[0])
    level = tree.nodes.new("ShaderNodeMapRange")
    tree.links.new(split.outputs[2], level.inputs[0])
    for index, value in enumerate((-0.2, 0.9, 0.25, 1.9), 1):
        level.inputs[index].default_value = value
    grey = tree.nodes.new("ShaderNodeCombineXYZ")
    sky = tree.nodes.new("ShaderNodeMix")
    sky.data_type, sky.blend_type = "RGBA", "MULTIPLY"
    sky.inputs[0].default_value = 1.0
    for index in range(3):
        tree.links.new(level.outputs[0], grey.inputs[index])
    tree.links.new(grey.outputs[0], sky.inputs[7])
    tree.links.new(sky.outputs[2], background.inputs[0])
    return sky, background
