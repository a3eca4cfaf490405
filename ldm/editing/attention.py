"""What moves keeps its look, by attention to the photograph: what of it the edit is to see is told from the operations."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ldm.editing.region import Region, object_maps
from ldm.graph.batch import encode
from ldm.graph.diff import STILL, Add, ChangeAttribute, Move, Operation, Remove, Replace, Resize, same_objects
from ldm.graph.scene_graph import SceneGraph
from ldm.models.diffusion.ddim import timestep
from ldm.models.diffusion.ddpm import LatentDiffusion
from ldm.models.diffusion.inversion import Inversion
from ldm.models.diffusion.schedule import DDIMSchedule
from ldm.models.preprocess import encode_graph
from ldm.modules.attention_control import Control, Maps, Mutual, Pair, Words
from ldm.modules.conditioning import Conditioning


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
LOOKS = 8  # levels at which the U-Net is asked where it sees the objects


def _seen(
    model: LatentDiffusion, graph: SceneGraph, cond: Conditioning, schedule: DDIMSchedule, inverted: Inversion
) -> Tensor | None:
    """(O,h,w): where each object of the graph is looked at, at levels from little noise to much; None where tokens do not
    stand for objects."""
    if not hasattr(model.cond_stage_model, "layout"):
        return None
    first, last = schedule.timesteps[0], schedule.timesteps[-1]
    wanted = torch.linspace(float(first), float(first + 0.7 * (last - first)), LOOKS)
    levels, maps, eps = (schedule.timesteps[:, None] - wanted).abs().argmin(0).unique(), Maps(), model.denoiser(cond)
    for i in levels.tolist():
        x = inverted.path[i + 1]
        eps(x, timestep(schedule, i, x), control=Control(maps=maps))
    tokens = model.cond_stage_model.layout(encode_graph(graph, model)).object_token[: len(graph.objects)]
    return object_maps(maps.mean()[0].cpu(), tokens.cpu())


def common_tokens(source: SceneGraph, target: SceneGraph, layouts: Sequence, style: bool) -> Tensor:  # -> (N + 1,) long
    """For Words: of each of the target's tokens the source's token that says the same, -1 where none does.

    layouts: of NSGEncoder.layout for each of the two graphs alone. The same is said by an object whose name, attributes
    and box are unchanged, and by a triple between two such objects. The last number is the style's, which the U-Net
    joins after the graph's tokens; `style` tells whether it is the same.
    """
    match = {j: i for i, j in same_objects(source, target).items()}
    same = {j: i for j, i in match.items() if _unchanged(source, i, target, j)}
    same[len(target.objects)] = len(source.objects)  # __image__
    there, here = layouts
    result = torch.full((here.mask.shape[1] + 1,), -1)

    def say(own: Tensor, other: Tensor) -> None:
        if own >= 0 and other >= 0:  # -1: did not fit
            result[int(own)] = int(other)

    for j, i in same.items():
        say(here.object_token[j], there.object_token[i])
    for number, (s, predicate, o) in enumerate(target.triples):
        triple = same.get(s), predicate, same.get(o)
        if triple in source.triples:
            say(here.triple_token[number], there.triple_token[source.triples.index(triple)])
    for j, i in same.items():
        if j < len(target.objects):  # its __in_image__
            say(here.triple_token[len(target.triples) + j], there.triple_token[len(source.triples) + i])
    if style:
        result[-1] = there.mask.shape[1]
    return result


def _unchanged(a: SceneGraph, i: int, b: SceneGraph, j: int) -> bool:
    same_words = a.objects[i] == b.objects[j] and set(a.attributes[i]) == set(b.attributes[j])
    old, new = a.boxes[i], b.boxes[j]
    return same_words and (old == new or None not in (old, new) and max(abs(x - y) for x, y in zip(old, new)) <= STILL)
