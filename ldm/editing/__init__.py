"""Editing a photograph by its scene graph: plan, invert, locate, sample, compose."""

from ldm.util.lazy import lazy_exports

_HOMES = {
    "Edit": "ldm.editing.pipeline",
    "EditOptions": "ldm.editing.options",
    "EditRequest": "ldm.editing.options",
    "edit": "ldm.editing.pipeline",
    "make_plan": "ldm.editing.plan",
    "variants": "ldm.editing.pipeline",
}
__all__ = sorted(_HOMES)
__getattr__ = lazy_exports(__name__, _HOMES)
