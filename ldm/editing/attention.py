"""Attention in edits: which parts of the photograph the edit attends to, and where the U-Net attends to each object."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ldm.editing.region import Region, object_maps
from ldm.editing.text import shared_tokens, text_maps
from ldm.graph.diff import MIN_BOX_CHANGE, Add, ChangeAttribute, Move, Operation, Remove, Replace, Resize
from ldm.graph.matching import match_objects
from ldm.graph.scene_graph import SceneGraph
from ldm.models.diffusion.ddim import timestep_batch
from ldm.models.diffusion.ddpm import LatentDiffusion
from ldm.models.diffusion.inversion import Inversion
from ldm.models.diffusion.schedule import DDIMSchedule
from ldm.models.preprocess import encode_graph
from ldm.modules.attention_control import AttentionStore, Control, MutualSelfAttention, RowPair, TokenInjection
from ldm.modules.conditioning import Conditioning
from ldm.modules.graph_text import GraphText

MAP_LEVELS = 8  # noise levels at which attention maps are read
MAP_SHARE = 0.7  # of all noise levels, from the lowest on: above, there is little of the photograph to attend to


def appearance_control(
    model: LatentDiffusion,
    source: SceneGraph,
    graph: SceneGraph,
    operations: Sequence[Operation],
    everywhere: bool,
    restyled: bool,
    texts: tuple[GraphText | None, GraphText] | None = None,
) -> Control | None:
    """Attention control by which objects keep their appearance (the option `keep`).

    The target is the second row of the batch and attends to the source, the first. MutualSelfAttention self-attention (MasaCtrl,
    2304.08465) carries moved objects to their new boxes and hides objects that are removed or change their look; boxes with
    new content attend to themselves. Where everything may change, cross-attention to the tokens that both graphs share is
    taken from the source (prompt-to-prompt, 2208.01626); within a region, the rest of the image is kept anyway.

    Returns:
        None where this would change nothing.
    """
    mutual = tokens = None
    shifts, new_boxes = _shifts(operations)
    if any(new is not None for _, new in shifts):
        size = model.latent_size, model.latent_size
        covered = Region.of([Add(0, "", (box,)) for box in dict.fromkeys(new_boxes)], size, size, margin=0.0)
        mutual = MutualSelfAttention(shifts, blend=1 - covered.latent[0, 0])
    if everywhere and texts is not None and texts[0] is not None:
        unchanged = unchanged_objects(texts[0].graph, texts[1].graph)
        tokens = TokenInjection(shared_tokens(texts[0], texts[1], unchanged))
    elif everywhere and model.cond_stage_model.has_layout:
        layouts = [model.cond_stage_model.layout(encode_graph(each, model)) for each in (source, graph)]
        tokens = TokenInjection(
            common_tokens(source, graph, layouts, style=not restyled and model.null_style is not None)
        )
    return Control((RowPair(0, 1, mutual, tokens),)) if mutual or tokens else None


def attention_maps(
    model: LatentDiffusion,
    graph: SceneGraph,
    cond: Conditioning,
    schedule: DDIMSchedule,
    inversion: Inversion,
    text: GraphText | None = None,
) -> Tensor | None:
    """Mean cross-attention to each object of a graph, over layers and over noise levels from low to high.

    Args:
        text: the caption of the graph, for a model that reads text.

    Returns:
        (O,h,w), or None for a graph encoder whose tokens do not stand for single objects.
    """
    if text is None and not model.cond_stage_model.has_layout:
        return None
    first, last = float(schedule.timesteps[0]), float(schedule.timesteps[-1])
    wanted = torch.linspace(first, first + MAP_SHARE * (last - first), MAP_LEVELS)
    levels = (schedule.timesteps[:, None] - wanted).abs().argmin(0).unique()
    maps, denoiser = AttentionStore(), model.denoiser(cond)
    for i in levels.tolist():
        x = inversion.path[i + 1]
        denoiser(x, timestep_batch(schedule, i, x), control=Control(maps=maps))
    if text is not None:
        return text_maps(maps.mean()[0].cpu(), text)
    tokens = model.cond_stage_model.layout(encode_graph(graph, model)).object_token[: len(graph.objects)]
    return object_maps(maps.mean()[0].cpu(), tokens.cpu())


def common_tokens(source: SceneGraph, target: SceneGraph, layouts: Sequence, style: bool) -> Tensor:
    """For each token of the target graph, the token of the source graph with the same meaning.

    Two objects have the same meaning if name, attributes and box are unchanged, two triples if they connect such objects
    by the same predicate.

    Args:
        layouts: NSGEncoder.layout of the source graph and of the target graph.
        style: whether both have the same style. The U-Net appends the style token after the graph's tokens.

    Returns:
        (N + 1,) long, with -1 where there is no such token; the last element is the style token's.
    """
    unchanged = unchanged_objects(source, target)
    unchanged[len(target.objects)] = len(source.objects)  # the __image__ object, the last one of each graph
    of_source, of_target = layouts
    pairs = [(of_target.object_token[j], of_source.object_token[i]) for j, i in unchanged.items()]
    for number, (subject, predicate, object_) in enumerate(target.known_triples):
        triple = unchanged.get(subject), predicate, unchanged.get(object_)
        if triple in source.known_triples:
            pairs.append((of_target.triple_token[number], of_source.triple_token[source.known_triples.index(triple)]))
    for j, i in unchanged.items():
        if j < len(target.objects):  # the __in_image__ triples follow the graph's own
            first, second = len(target.known_triples), len(source.known_triples)
            pairs.append((of_target.triple_token[first + j], of_source.triple_token[second + i]))
    tokens = torch.full((of_target.mask.shape[1] + 1,), -1)
    for target_token, source_token in pairs:
        if target_token >= 0 and source_token >= 0:  # -1: the token did not fit into the encoder's limit
            tokens[int(target_token)] = int(source_token)
    if style:
        tokens[-1] = of_source.mask.shape[1]
    return tokens


def unchanged_objects(source: SceneGraph, target: SceneGraph) -> dict[int, int]:
    """Index in the target graph -> index in the source graph, of objects with the same name, attributes and box."""
    return {j: i for i, j in match_objects(source, target).items() if _unchanged(source, i, target, j)}


def _shifts(operations: Sequence[Operation]) -> tuple[tuple, list]:
    """Pairs of a source box and the box that its content moves to (None: it is hidden); and boxes with new content."""
    shifts, new_boxes = [], []
    for operation in operations:
        if isinstance(operation, (Move, Resize)):
            shifts.append(operation.boxes)  # twice the same for an object that does both
        elif isinstance(operation, Remove):
            shifts += [(box, None) for box in operation.boxes]
        elif isinstance(operation, (Add, Replace, ChangeAttribute)):
            new_boxes += operation.boxes
            shifts += [(box, None) for box in operation.boxes[:1] if not isinstance(operation, Add)]
    moved = {old for old, new in shifts if new is not None}
    return tuple(dict.fromkeys(pair for pair in shifts if pair[1] is not None or pair[0] not in moved)), new_boxes


def _unchanged(a: SceneGraph, i: int, b: SceneGraph, j: int) -> bool:
    same_words = a.objects[i] == b.objects[j] and set(a.known_attributes[i]) == set(b.known_attributes[j])
    old, new = a.boxes[i], b.boxes[j]
    if old is None or new is None:
        return same_words and old is new
    return same_words and max(abs(x - y) for x, y in zip(old, new)) <= MIN_BOX_CHANGE
