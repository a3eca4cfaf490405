"""Materials as Blender shader nodes: the surfaces of things, floors and walls. Needs Blender."""

# pyright: reportMissingImports=false
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import bpy

Rgb = tuple[float, float, float]  # linear


def srgb(code: str) -> Rgb:
    """The linear colour of a hexadecimal sRGB code (IEC 61966-2-1)."""
    levels = (int(code[start : start + 2], 16) / 255 for start in (0, 2, 4))
    red, green, blue = (x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in levels)
    return red, green, blue


def blend(a: Rgb, b: Rgb, share: float) -> Rgb:
    """`a` with a share of `b`."""
    red, green, blue = ((1 - share) * x + share * y for x, y in zip(a, b))
    return red, green, blue


TINTS = {
    "red": srgb("b3161b"),
    "yellow": srgb("eab91e"),
    "green": srgb("2c8a3c"),
    "blue": srgb("1f4fb0"),
    "purple": srgb("6f35a0"),
    "white": srgb("e9e6df"),
}
WALL_TINTS = {
    "cream": srgb("e6dcc8"),
    "sage": srgb("a3b09a"),
    "slate": srgb("6f7f8e"),
    "blush": srgb("d9b3a6"),
    "white": srgb("e8e8e6"),
    "navy": srgb("2f3d56"),
    "ochre": srgb("c69a4e"),
}
PALE = srgb("ece9e4")
DARK_WOOD, LIGHT_WOOD = srgb("4f2c17"), srgb("a4693a")


class NodeGraph:
    """A material under construction."""

    def __init__(self, name: str):
        self.material = bpy.data.materials.new(name)
        self.material.use_nodes = True
        self.tree = self.material.node_tree
        self.tree.nodes.clear()
        self._output = self.node("OutputMaterial")

    def node(self, kind: str, inputs: dict[str | int, Any] | None = None, **settings: Any) -> bpy.types.Node:
        """Adds a node; inputs are values or the outputs of other nodes."""
        node = self.tree.nodes.new("ShaderNode" + kind)
        for name, value in settings.items():
            setattr(node, name, value)
        for name, value in (inputs or {}).items():
            if isinstance(value, bpy.types.NodeSocket):
                self.tree.links.new(value, node.inputs[name])
            else:
                node.inputs[name].default_value = value
        return node

    def coordinates(self, scale: Sequence[float] = (1, 1, 1), rotation: Sequence[float] = (0, 0, 0)) -> Any:
        """The object's own coordinates, scaled."""
        own = self.node("TexCoord").outputs["Object"]
        return self.node("Mapping", {0: own, "Scale": scale, "Rotation": rotation}).outputs[0]

    def noise(self, vector: Any = None, **inputs: float) -> Any:
        vector = self.coordinates() if vector is None else vector
        return self.node("TexNoise", {0: vector, **inputs}).outputs[0]

    def ramp(self, value: Any, stops: Sequence[tuple[float, Rgb]]) -> Any:
        """A colour by the value, between stops (position, colour)."""
        node = self.node("ValToRGB", {"Fac": value})
        elements = node.color_ramp.elements
        while len(elements) < len(stops):
            elements.new(0.5)
        for element, (position, colour) in zip(elements, stops):
            element.position, element.color = position, (*colour, 1)
        return node.outputs[0]

    def add(self, a: Any, b: Any, factor: float = 1.0) -> Any:
        """a * factor + b."""
        return self.node("Math", {0: a, 1: factor, 2: b}, operation="MULTIPLY_ADD").outputs[0]

    def bump(self, height: Any, strength: float, distance: float) -> Any:
        return self.node("Bump", {"Height": height, "Strength": strength, "Distance": distance}).outputs[0]

    def surface(self, colour: Any, roughness: Any, **inputs: Any) -> bpy.types.Material:
        """Ends the graph with a principled shader.

        Args:
            colour: linear RGB, or a node's output.
            inputs: names of the shader's further inputs, with underscores for spaces.
        """
        base = (*colour, 1) if isinstance(colour, tuple) else colour
        names: dict[str | int, Any] = {name.replace("_", " "): value for name, value in inputs.items()}
        shader = self.node("BsdfPrincipled", {"Base Color": base, "Roughness": roughness, **names})
        self.tree.links.new(shader.outputs[0], self._output.inputs[0])
        return self.material


def thing_material(kind_surface: str, colour: str | None) -> bpy.types.Material:
    """The material of a thing's main part.

    Args:
        kind_surface: a material word, or the surface of a kind without a choice of materials.
        colour: a key of `TINTS`, or None where the material has its own colour.
    """
    graph = NodeGraph(f"{kind_surface} {colour}")
    return SURFACES[kind_surface](graph, TINTS[colour or "white"], colour or "")


def _rubber(graph: NodeGraph, tint: Rgb, _: str) -> bpy.types.Material:
    grain = graph.noise(Scale=90.0, Detail=2.0)
    return graph.surface(tint, 0.6, Specular_IOR_Level=0.3, Normal=graph.bump(grain, 0.08, 0.01))


def _metal(graph: NodeGraph, tint: Rgb, _: str) -> bpy.types.Material:
    streaks = graph.noise(graph.coordinates((1, 1, 30)), Scale=8.0, Detail=3.0)
    roughness = graph.node("MapRange", {0: streaks, 3: 0.13, 4: 0.24}).outputs[0]
    red, green, blue = (min(1.0, 1.35 * level + 0.02) for level in tint)
    return graph.surface(blend((red, green, blue), (0.9, 0.9, 0.9), 0.1), roughness, Metallic=1.0)


def _wood(graph: NodeGraph, *_: Any, dark: Rgb = DARK_WOOD, light: Rgb = LIGHT_WOOD) -> bpy.types.Material:
    rings = graph.noise(graph.coordinates((1.2, 9, 9)), Scale=1.6, Detail=6.0, Roughness=0.6, Distortion=1.2)
    fibres = graph.noise(graph.coordinates((2, 60, 60)), Scale=2.0, Detail=3.0)
    grain = graph.add(fibres, rings, 0.35)
    colour = graph.ramp(grain, [(0.42, dark), (0.62, blend(dark, light, 0.55)), (0.85, light)])
    return graph.surface(colour, 0.38, Coat_Weight=0.15, Coat_Roughness=0.25, Normal=graph.bump(grain, 0.15, 0.01))


def _marble(graph: NodeGraph, *_: Any) -> bpy.types.Material:
    veins = graph.noise(Scale=2.2, Detail=8.0, Roughness=0.62, Distortion=1.6)
    dark = srgb("55524f")
    stops = [(0.40, PALE), (0.48, blend(PALE, dark, 0.4)), (0.505, dark), (0.54, blend(PALE, dark, 0.35)), (0.62, PALE)]
    return graph.surface(graph.ramp(veins, stops), 0.12, Coat_Weight=0.3)


def _ceramic(graph: NodeGraph, tint: Rgb, _: str) -> bpy.types.Material:
    return graph.surface(tint, 0.18, Coat_Weight=0.6, Coat_Roughness=0.06)


def _enamel(graph: NodeGraph, tint: Rgb, _: str) -> bpy.types.Material:
    return graph.surface(tint, 0.28, Coat_Weight=0.4, Coat_Roughness=0.12)


def _paint(graph: NodeGraph, tint: Rgb, _: str) -> bpy.types.Material:
    return graph.surface(tint, 0.35, Coat_Weight=0.15)


def _wax(graph: NodeGraph, tint: Rgb, _: str) -> bpy.types.Material:
    return graph.surface(tint, 0.4, Subsurface_Weight=0.25, Subsurface_Radius=(0.25, 0.12, 0.08))


def _shade(graph: NodeGraph, tint: Rgb, _: str) -> bpy.types.Material:
    glow = (*blend(tint, (1, 0.75, 0.45), 0.15), 1)
    return _unsampled(graph.surface(tint, 0.8, Emission_Color=glow, Emission_Strength=0.25))


def _fruit(graph: NodeGraph, _: Rgb, colour: str) -> bpy.types.Material:
    base = {"red": srgb("a01016"), "green": srgb("5f8f22"), "yellow": srgb("ecc23a")}[colour]
    blush = {"red": srgb("d98b2b"), "green": srgb("a9b53f"), "yellow": srgb("c9a12a")}[colour]
    patches = graph.noise(graph.coordinates((1, 1, 0.25)), Scale=9.0, Detail=5.0)
    spots = graph.noise(Scale=45.0)
    tint = graph.ramp(patches, [(0.35, base), (0.62, blend(base, blush, 0.25)), (0.8, blend(base, blush, 0.8))])
    return graph.surface(
        tint,
        0.3,
        Subsurface_Weight=0.08,
        Subsurface_Radius=(0.2, 0.08, 0.04),
        Coat_Weight=0.2,
        Coat_Roughness=0.2,
        Normal=graph.bump(spots, 0.05, 0.01),
    )


SURFACES: dict[str, Callable[..., bpy.types.Material]] = {
    "rubber": _rubber,
    "metal": _metal,
    "wood": _wood,
    "marble": _marble,
    "ceramic": _ceramic,
    "enamel": _enamel,
    "paint": _paint,
    "wax": _wax,
    "shade": _shade,
    "fruit": _fruit,
}


def part_material(name: str) -> bpy.types.Material:
    """The material of a fixed part (`ldm.synthetic.rendered.models.PARTS`)."""
    graph = NodeGraph(name)
    if name == "leg wood":
        return _wood(graph, dark=srgb("6b4023"), light=srgb("b98149"))
    if name == "flame":
        glow = {"Emission_Color": (1, 0.55, 0.15, 1), "Emission_Strength": 9.0}
        return _unsampled(graph.surface((0.0, 0.0, 0.0), 0.5, **glow))
    if name == "bulb":
        glow = {"Emission_Color": (1, 0.75, 0.45, 1), "Emission_Strength": 14.0}
        return _unsampled(graph.surface((0.0, 0.0, 0.0), 0.5, **glow))
    colour, roughness, metallic = {
        "stem": (srgb("3d2817"), 0.7, 0.0),
        "wick": ((0.01, 0.01, 0.01), 0.9, 0.0),
        "brass": (srgb("b08d4c"), 0.25, 1.0),
        "cap": (srgb("c9c6c0"), 0.3, 1.0),
    }[name]
    return graph.surface(colour, roughness, Metallic=metallic)


def _unsampled(material: bpy.types.Material) -> bpy.types.Material:
    """A light that is seen, but not sampled as a lamp: small ones would add noise."""
    material.cycles.emission_sampling = "NONE"
    return material


def wall_material(name: str) -> bpy.types.Material:
    graph = NodeGraph(f"wall {name}")
    plaster = graph.noise(Scale=35.0, Detail=4.0)
    return graph.surface(WALL_TINTS[name], 0.85, Normal=graph.bump(plaster, 0.08, 0.02))


def floor_material(name: str) -> bpy.types.Material:
    return _FLOORS[name](NodeGraph(f"floor {name}"))


def _oak(graph: NodeGraph) -> bpy.types.Material:
    dark, light = srgb("b58a58"), srgb("e6c796")
    planks = graph.node(
        "TexBrick",
        {
            0: graph.coordinates(),
            "Color1": (0.3, 0.3, 0.3, 1),
            "Color2": (0.75, 0.75, 0.75, 1),
            "Mortar": (0, 0, 0, 1),
            "Scale": 0.55,
            "Mortar Size": 0.004,
            "Brick Width": 3.2,
            "Row Height": 0.5,
        },
        offset=0.4,
    )
    which = graph.node("Math", {0: planks.outputs[0], 1: 9.0}, operation="MULTIPLY").outputs[0]
    rings = graph.node(
        "TexNoise",
        {
            0: graph.coordinates((0.5, 5, 5)),
            "W": which,
            "Scale": 1.6,
            "Detail": 6.0,
            "Roughness": 0.6,
            "Distortion": 1.0,
        },
        noise_dimensions="4D",
    ).outputs[0]
    grain = graph.add(planks.outputs[0], rings, 0.28)
    colour = graph.ramp(grain, [(0.4, dark), (0.6, blend(dark, light, 0.5)), (0.95, light)])
    joints = {0: planks.outputs["Fac"], 6: colour, 7: (*blend(dark, (0, 0, 0), 0.7), 1)}
    colour = graph.node("Mix", joints, data_type="RGBA").outputs[2]
    return graph.surface(colour, 0.34, Coat_Weight=0.1, Normal=graph.bump(grain, 0.08, 0.02))


def _granite(graph: NodeGraph) -> bpy.types.Material:
    crystals = graph.noise(Scale=26.0, Detail=4.0, Roughness=0.7)
    colour = graph.ramp(crystals, [(0.36, srgb("1f2226")), (0.52, srgb("3a3e44")), (0.68, srgb("767a80"))])
    return graph.surface(colour, 0.28)


def _linen(graph: NodeGraph) -> bpy.types.Material:
    threads = [
        graph.node(
            "TexWave", {0: graph.coordinates(), "Scale": 14.0, "Distortion": 1.5, "Detail": 2.0}, bands_direction=axis
        ).outputs[1]
        for axis in "XY"
    ]
    weave = graph.add(threads[0], threads[1])
    half = graph.node("Math", {0: weave, 1: 0.5}, operation="MULTIPLY").outputs[0]
    colour = graph.ramp(half, [(0, srgb("b9ac95")), (1, srgb("ded3bf"))])
    return graph.surface(colour, 0.9, Sheen_Weight=0.2, Normal=graph.bump(weave, 0.35, 0.02))


def _concrete(graph: NodeGraph) -> bpy.types.Material:
    patches = graph.noise(Scale=1.6, Detail=10.0, Roughness=0.7)
    colour = graph.ramp(patches, [(0.3, srgb("6d6c69")), (0.7, srgb("a5a39e"))])
    return graph.surface(colour, 0.6, Normal=graph.bump(patches, 0.1, 0.03))


def _terracotta(graph: NodeGraph) -> bpy.types.Material:
    tiles = graph.node(
        "TexBrick",
        {
            0: graph.coordinates(rotation=(0, 0, 0.35)),
            "Color1": (*srgb("a9623f"), 1),
            "Color2": (*srgb("bd7650"), 1),
            "Mortar": (*srgb("b9ab98"), 1),
            "Scale": 0.62,
            "Mortar Size": 0.012,
            "Brick Width": 1.0,
            "Row Height": 1.0,
        },
        offset=0.0,
        squash=1.0,
    )
    patches = graph.ramp(graph.noise(Scale=6.0, Detail=6.0), [(0.3, (0.65, 0.6, 0.55)), (0.7, (1.0, 1.0, 1.0))])
    shaded = {0: 0.5, 6: tiles.outputs[0], 7: patches}
    colour = graph.node("Mix", shaded, data_type="RGBA", blend_type="MULTIPLY").outputs[2]
    return graph.surface(colour, 0.45, Normal=graph.bump(tiles.outputs["Fac"], -0.5, 0.03))


def _laminate(graph: NodeGraph) -> bpy.types.Material:
    return graph.surface(srgb("c9d3d6"), 0.3)


_FLOORS: dict[str, Callable[[NodeGraph], bpy.types.Material]] = {
    "oak": _oak,
    "granite": _granite,
    "linen": _linen,
    "concrete": _concrete,
    "terracotta": _terracotta,
    "laminate": _laminate,
}
