"""Places for the objects of a storyboard that have no box: by layout search at first, and then as new relations ask."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

from ldm.graph.diff import diff
from ldm.graph.inheritance import drop_contradicted, share_known
from ldm.graph.layout import generate_layout
from ldm.graph.placement import place_objects
from ldm.graph.scene_graph import SceneGraph
from ldm.graph.storyboard import Keyframe, Storyboard
from ldm.graph.validation import GraphError

ATTEMPTS = 8  # layouts of the first keyframe


def place_storyboard(storyboard: Storyboard, seed: int) -> tuple[Storyboard, list[str]]:
    """Chooses a box for every object without one.

    The first keyframe gets a layout (`generate_layout`). From one keyframe to the next, what the later one does not say is as in
    the earlier one; an object without a box stays where it is, unless a new relation moves it (`place_objects`).

    Args:
        seed: any integer; the same storyboard and seed give the same boxes.

    Returns:
        The storyboard with all boxes, and sentences on what was chosen and on relations that cannot hold; it is the same one where
        nothing was missing.

    Raises:
        GraphError: a new relation says no place, or there is no room for it.
    """
    if all(None not in keyframe.graph.boxes for keyframe in storyboard.keyframes):
        return storyboard, []
    for attempt in range(ATTEMPTS - 1):
        with suppress(GraphError):  # a first layout may leave no room for what comes later
            return _place_from(storyboard, seed + attempt)
    return _place_from(storyboard, seed + ATTEMPTS - 1)


def _place_from(storyboard: Storyboard, seed: int) -> tuple[Storyboard, list[str]]:
    """Places the objects of each keyframe after another, from one layout of the first."""
    keyframes: list[Keyframe] = []
    remarks = []
    for number, keyframe in enumerate(storyboard.keyframes):
        graph, remark = keyframe.graph, ""
        if keyframes:
            try:
                graph, remark = _follow(keyframes[-1].graph, graph)
            except GraphError as error:
                raise GraphError(f"keyframes[{number}] (frame {keyframe.at}): {error}") from None
        graph, complaint = generate_layout(graph, seed)
        remarks += [f"frame {keyframe.at}: {text}" for text in (remark, complaint) if text]
        keyframes.append(replace(keyframe, graph=graph))
    return replace(storyboard, keyframes=tuple(keyframes)), remarks


def _follow(before: SceneGraph, graph: SceneGraph) -> tuple[SceneGraph, str]:
    """The graph with what it does not say taken from the one before, and with places that its new relations ask for."""
    inherits_relations = graph.triples is None
    before, complete = share_known(before, graph)
    operations = diff(before, complete)
    if not operations:
        return complete, ""
    placed, remark = place_objects(before, complete, operations)
    return (drop_contradicted(before, placed) if inherits_relations else placed), remark
