"""Images of scene graphs, sampled from noise."""

from ldm.util.lazy import lazy_exports

_HOMES = {
    "SampleOptions": "ldm.sampling.options",
    "sample_images": "ldm.sampling.sample",
}
__all__ = sorted(_HOMES)
__getattr__ = lazy_exports(__name__, _HOMES)
