"""Editing a photograph by its scene graph: plan, invert, locate, sample, compose."""

from ldm.editing.edit import Edit, edit, variants
from ldm.editing.options import Settings

__all__ = ["Edit", "Settings", "edit", "variants"]
