"""Editing a photograph by its scene graph: plan, invert, locate, sample, compose."""

from importlib import import_module

_HOMES = {  # name -> module; imported when first used, so that the command line's --help needs no torch
    "Edit": "ldm.editing.pipeline",
    "EditOptions": "ldm.editing.options",
    "EditRequest": "ldm.editing.options",
    "edit": "ldm.editing.pipeline",
    "make_plan": "ldm.editing.plan",
    "variants": "ldm.editing.pipeline",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
