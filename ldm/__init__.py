"""Scene-graph guided latent editing.

In five lines:

    import ldm

    model = ldm.load_model()
    request = ldm.EditRequest(ldm.read_image("photo.jpg"), ldm.read_graph("edited.json"), ldm.read_graph("photo.json"))
    ldm.edit(model, request).image.save("edited.png")
"""

from ldm.util.lazy import lazy_exports

__version__ = "0.2.0"

_HOMES = {
    "EditOptions": "ldm.editing.options",
    "EditRequest": "ldm.editing.options",
    "SampleOptions": "ldm.sampling.options",
    "SceneGraph": "ldm.graph.scene_graph",
    "edit": "ldm.editing.pipeline",
    "load_model": "ldm.models.loading",
    "read_graph": "ldm.graph",
    "read_graphs": "ldm.graph",
    "read_image": "ldm.util.images",
    "sample_images": "ldm.sampling.sample",
    "write_graphs": "ldm.graph",
}
__all__ = sorted(_HOMES)
__getattr__ = lazy_exports(__name__, _HOMES)
