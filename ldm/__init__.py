"""Scene-graph guided latent editing.

In five lines:

    import ldm

    model = ldm.load_model()
    request = ldm.EditRequest(ldm.read_image("photo.jpg"), ldm.read_graph("edited.json"), ldm.read_graph("photo.json"))
    ldm.edit(model, request).image.save("edited.png")
"""

from importlib import import_module

__version__ = "0.2.0"

_HOMES = {  # public name -> module; imported when first used, so that `import ldm` takes no time
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


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
