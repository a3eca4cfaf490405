"""What moves keeps its look, by attention to the photograph: what of it the edit is to see is told from the operations."""

from __future__ import annotations

from collections.abc import Sequence

from ldm.diff import Add, ChangeAttribute, Move, Operation, Remove, Replace, Resize
from ldm.graph import SceneGraph, encode
from ldm.models.diffusion.ddpm import LatentDiffusion
from ldm.modules.attention_control import Control, Mutual, Pair, Words, common_tokens
from ldm.region import Region


def keeping(
    model: LatentDiffusion,
    source: SceneGraph,
    graph: SceneGraph,
    operations: Sequence[Operation],
    everywhere: bool,
    restyled: bool,
) -> Control | None:
    """What the target's row, the second, sees of the source's, the first; None where that would change nothing.

    Mutual self-attention carries moved things to their new boxes, and shows no thing that goes or is to look otherwise;
    places that are to look new look at themselves. Without a region, words that both graphs say are also looked at from
    the same places; within one the rest of the picture keeps itself.
    """
    shifts, new = [], []
    for operation in operations:
        if isinstance(operation, (Move, Resize)):
            shifts.append(operation.boxes)  # of a thing that does both, twice the same
        elif isinstance(operation, Remove):
            shifts += [(box, None) for box in operation.boxes]
        elif isinstance(operation, (Add, Replace, ChangeAttribute)):
            new += operation.boxes
            shifts += [(box, None) for box in operation.boxes[:1] if not isinstance(operation, Add)]
    moved = {old for old, goal in shifts if goal is not None}
    shifts = list(dict.fromkeys(shift for shift in shifts if shift[1] is not None or shift[0] not in moved))
    mutual = words = None
    if any(goal is not None for _, goal in shifts):
        size = model.latent_size, model.latent_size
        covered = Region.of([Add(0, "", (box,)) for box in dict.fromkeys(new)], size, size, margin=0.0)
        mutual = Mutual(tuple(shifts), where=1 - covered.latent[0, 0])
    if everywhere and hasattr(model.cond_stage_model, "layout"):
        layouts = [model.cond_stage_model.layout(encode([it], model.vocab).to(model.device)) for it in (source, graph)]
        words = Words(common_tokens(source, graph, layouts, style=not restyled and model.null_style is not None))
    return Control((Pair(0, 1, mutual, words),)) if mutual or words else None
