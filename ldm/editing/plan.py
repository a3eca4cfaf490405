"""The plan of an edit: operations, placement of what has no box yet, and complete options. No tensors are computed."""

from __future__ import annotations

from dataclasses import dataclass

from ldm.editing.options import (
    FEATHER,
    GLOBAL_METHOD,
    LOCAL_METHOD,
    MARGIN,
    RESTYLE_PASSES,
    EditOptions,
    EditRequest,
    default_guidance_scale,
    default_sampler,
)
from ldm.editing.region import touched_places
from ldm.editing.text import edit_texts
from ldm.graph.diff import Operation, diff
from ldm.graph.inheritance import drop_contradicted, share_known
from ldm.graph.perspective import Floor
from ldm.graph.placement import place_objects
from ldm.graph.scene_graph import SceneGraph
from ldm.graph.spatial_relations import is_background
from ldm.graph.validation import Box
from ldm.models.diffusion import inversion
from ldm.models.diffusion.ddpm import LatentDiffusion
from ldm.models.diffusion.samplers import SAMPLERS
from ldm.models.diffusion.schedule import DDIMSchedule
from ldm.modules.graph_text import GraphText
from ldm.util.errors import UserError

NO_REACH = (0.0, 0.0, 0.0, 0.0)


@dataclass(frozen=True)
class EditPlan:
    """What an edit will do.

    Args:
        request: what was asked for.
        operations: changes from the source graph to the edited graph, each with the boxes that it touches; empty without
            a source graph.
        graph: the edited graph, with a box for each object whose place is known or was chosen, and with the attributes and
            relations that only the source graph says.
        placement: a sentence on the places that were chosen; empty where there was nothing to choose.
        everywhere: whether the whole image may change.
        options: all options, with defaults filled in.
        source_graph: the source graph, with the attributes and relations that only the edited graph says; None without one.
        texts: captions of the source graph (None without one) and of the edited graph, for a model that reads text.
    """

    request: EditRequest
    operations: tuple[Operation, ...]
    graph: SceneGraph
    placement: str
    everywhere: bool
    options: EditOptions
    source_graph: SceneGraph | None = None
    texts: tuple[GraphText | None, GraphText] | None = None

    @property
    def words(self) -> tuple[list[str] | None, list[str] | None]:
        """The captions of the source graph and of the edited graph, for `LatentDiffusion.condition`."""
        first, second = self.texts or (None, None)
        return first and [first.caption.text], second and [second.caption.text]

    @property
    def places(self) -> list:
        """What the operations touch: boxes, or indices of source objects without one, or None where nothing is known."""
        return touched_places(self.operations)

    @property
    def untouched_boxes(self) -> list[Box]:
        """Boxes of the objects that no operation touches, those of a background apart."""
        graphs = [graph for graph in (self.source_graph, self.graph) if graph is not None]
        boxes = dict.fromkeys(box for graph in graphs for box in graph.boxes if box is not None)
        return [box for box in boxes if box not in self.places and not is_background(box)]

    @property
    def changes_nothing(self) -> bool:
        """Whether the two graphs say the same, or differ in nothing that can be seen, and no style is given."""
        request = self.request
        if request.source_graph is None or request.style is not None:
            return False
        return not (self.operations if self.everywhere or request.mask else self.places)

    @property
    def needs_attention(self) -> bool:
        """Whether the region depends on where the U-Net attends to objects that have no box."""
        if self.everywhere or self.request.mask:
            return False
        return not all(isinstance(place, tuple) for place in self.places)


def make_plan(request: EditRequest, options: EditOptions, model: LatentDiffusion) -> EditPlan:
    """Works out what an edit will do.

    Raises:
        GraphError: a new relation is not spatial, or there is no room for it.
        UserError: the method does not exist or does not work with the sampler or the model, or the model's `edit_defaults` are invalid.
    """
    options = options.or_defaults(model.edit_defaults)
    half_a_cell = 1 / (2 * model.latent_size)  # as fine as a U-Net can place
    floor = options.floor and Floor(*options.floor)
    operations, graph, placement = understand(request.source_graph, request.graph, half_a_cell, floor)
    everywhere = may_change_everywhere(request, options)
    method = options.method or default_method(request, options, model)
    if model.inpaints and method != LOCAL_METHOD:
        raise UserError(
            f"the method {method} follows the photograph through noise levels that an inpainting U-Net was not trained for; use "
            f"the method {LOCAL_METHOD}, or a U-Net that reads the latents alone"
        )
    sampler = options.sampler or default_sampler(method)
    inversion.get_method(method, sampler)
    scale = default_guidance_scale(model)
    graph_scale = scale if options.graph_scale is None else options.graph_scale
    passes = options.passes or (RESTYLE_PASSES if method == GLOBAL_METHOD else 1)
    complete = options.replace(
        method=method,
        sampler=sampler,
        steps=SAMPLERS[sampler].default_steps if options.steps is None else options.steps,
        graph_scale=graph_scale,
        text_scale=options.text_scale if options.text_scale is not None else graph_scale,
        style_scale=scale if options.style_scale is None else options.style_scale,
        passes=1 if request.style is None else passes,
        margin=MARGIN if options.margin is None else options.margin,
        feather=FEATHER if options.feather is None else options.feather,
        reach=options.reach or NO_REACH,
        spare=1.0 if options.spare is None else options.spare,
    )
    source = request.source_graph and share_known(request.source_graph, request.graph)[0]
    reads_text = model.text_stage_model is not None
    texts = edit_texts(source, graph, operations, complete.caption) if reads_text else None
    return EditPlan(request, tuple(operations), graph, placement, everywhere, complete, source, texts)


def understand(
    source: SceneGraph | None, graph: SceneGraph, step: float = 0.0, floor: Floor | None = None
) -> tuple[list[Operation], SceneGraph, str]:
    """Finds the operations from one graph to another and a place for each object that needs one.

    Args:
        step: objects move by multiples of this share of the image's side; 0 for any distance.
        floor: where objects stand, if it is known.

    Returns:
        The operations, the graph with the boxes that are known or were chosen and with the attributes and relations that
        only the source graph says, and a sentence on what was chosen.

    Raises:
        GraphError: a new relation is not spatial, or there is no room for it.
    """
    if source is None:
        return [], graph, ""
    inherits_relations = graph.triples is None
    source, graph = share_known(source, graph)
    operations = diff(source, graph)
    if not operations:
        return [], graph, ""
    graph, placement = place_objects(source, graph, operations, step, floor)
    if inherits_relations:
        graph = drop_contradicted(source, graph)
    return diff(source, graph), graph, placement


def may_change_everywhere(request: EditRequest, options: EditOptions) -> bool:
    """Whether an edit has no region: a style is transferred, nothing is known of the photograph, or it was asked for."""
    return request.mask is None and (
        request.source_graph is None or request.style is not None or options.region == "none"
    )


def default_method(request: EditRequest, options: EditOptions, model: LatentDiffusion) -> str:
    """The inversion method where none is given; an inpainting U-Net has one only."""
    return GLOBAL_METHOD if may_change_everywhere(request, options) and not model.inpaints else LOCAL_METHOD


def make_schedule(model: LatentDiffusion, options: EditOptions) -> DDIMSchedule:
    """The timesteps that an edit goes through. Raises UserError for a number of steps that the model cannot take."""
    schedule = inversion.make_schedule(model.schedule, options.sampler, options.steps)
    return schedule.up_to(options.strength * len(model.schedule))
