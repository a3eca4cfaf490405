"""Images of scene graphs, sampled from noise."""

from importlib import import_module

_HOMES = {  # name -> module; imported when first used, so that the command line's --help needs no torch
    "SampleOptions": "ldm.sampling.options",
    "sample_images": "ldm.sampling.sample",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
