"""A geometry without meshes and Blender: everything is visible."""

from ldm.synthetic.rendered.scenes import Geometry, Scene, Visibility
from ldm.synthetic.rendered.things import KINDS, Thing


class OpenGeometry(Geometry):
    """Nothing hides anything; supports have level tops."""

    def visibility(self, scene: Scene) -> list[Visibility]:
        return [Visibility(1.0, 100.0, (0.2, 0.2, 0.8, 0.8)) for _ in scene.things]

    def resting_height(self, thing: Thing, support: Thing) -> float:
        return support.z + support.scale * (KINDS[support.kind].top or 0.1)
