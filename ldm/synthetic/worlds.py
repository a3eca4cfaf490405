"""The synthetic worlds by their names."""

from __future__ import annotations

from types import ModuleType

from ldm.synthetic import shapes, solids

# What each kind of scenes is: its VOCAB, its IMAGE_SIZE, random_graph, random_background, told and render.
SCENES: dict[str, ModuleType] = {"shapes": shapes, "hard": solids}
