"""What an edit is going to do: operations, the places of what has none yet, the method and its schedule."""

from __future__ import annotations

from PIL import Image

from ldm.editing.options import EVERYWHERE, WITHIN, Settings
from ldm.graph.diff import Operation, diff
from ldm.graph.placement import place_objects
from ldm.graph.scene_graph import SceneGraph
from ldm.models.diffusion import inversion
from ldm.models.diffusion.ddpm import LatentDiffusion
from ldm.models.diffusion.schedule import DDIMSchedule


def understood(
    source: SceneGraph | None, graph: SceneGraph, step: float = 0.0
) -> tuple[list[Operation], SceneGraph, str]:
    """What to do, the graph with a box for each object that one is known of or was chosen for, and what was chosen. Moves
    go by whole steps, shares of the picture's side: half a latent cell is as fine as a U-Net can place.

    Raises GraphError where a relation is new that says nothing about places, or that there is no room for."""
    if source is None:
        return [], graph, ""
    operations = diff(source, graph)
    if not operations:
        return [], graph, ""
    graph, chosen = place_objects(source, graph, operations, step)
    return diff(source, graph), graph, chosen


def _way(
    method: str | None, source: SceneGraph | None, style: Image.Image | None, mask: Image.Image | None, region: str | None
) -> tuple[bool, str]:
    """Whether the whole picture may change, and the method: where none is asked for, the one that suits that."""
    everywhere = mask is None and (source is None or style is not None or region == "none")
    return everywhere, method or (EVERYWHERE if everywhere else WITHIN)


def _schedule(model: LatentDiffusion, settings: Settings) -> DDIMSchedule:
    """The timesteps that the edit goes through."""
    every = inversion.make_schedule(model.schedule, settings.sampler, settings.steps)
    return every.below(settings.strength * len(model.schedule))
