"""What an edit would do, for the page: sentences, boxes and the region, before anything runs."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from typing import Any

import numpy as np
from PIL import Image

from ldm.app import graphs
from ldm.app.pictures import encode_png
from ldm.app.requests import EditAsked, stand_in
from ldm.app.sampling import complete_options
from ldm.editing.options import RANDOM_METHODS, EditOptions, EditRequest
from ldm.editing.outputs import sentences
from ldm.editing.pipeline import Edit, planned_region
from ldm.editing.plan import EditPlan, make_plan, make_schedule
from ldm.editing.region import Region
from ldm.graph.diff import (
    Add,
    AddRelation,
    ChangeAttribute,
    ChangeRelation,
    Move,
    Operation,
    Remove,
    RemoveRelation,
    Replace,
    Resize,
)
from ldm.graph.scene_graph import SceneGraph
from ldm.graph.validation import Box
from ldm.models.diffusion.latent_diffusion import LatentDiffusion
from ldm.sampling.sample import apply_layout
from ldm.util.options import from_mapping

REGION_SIDE = 512  # pixels; the region on the page is no larger
KINDS: dict[type, str] = {
    Replace: "replace",
    Remove: "remove",
    Add: "add",
    Move: "move",
    Resize: "resize",
    ChangeAttribute: "attribute",
    AddRelation: "add_relation",
    RemoveRelation: "remove_relation",
    ChangeRelation: "change_relation",
}


def describe_plan(model: LatentDiffusion, asked: EditAsked, size: tuple[int, int], mask: Image.Image | None) -> dict:
    """The plan of an edit, as the interface tells it.

    Args:
        size: of the photograph.
        mask: the request's, if it has one.

    Raises:
        UserError: the request does not fit the model, or there is no place for what is to move.
    """
    scale = min(1.0, REGION_SIDE / max(size))
    small = max(1, round(size[0] * scale)), max(1, round(size[1] * scale))
    request = stand_in(asked, small, mask)
    plan = make_plan(request, from_mapping(EditOptions, asked.options), model)
    region, code, note = _region(model, plan)
    shown = region if region is not None else Region.everywhere((1, 1), small)
    return {
        "sentences": [*asked.readings, *sentences(Edit(request.photograph, shown.pixels, plan), request)],
        "operations": tell_operations(plan.operations, plan.source_graph, plan.graph),
        "graph": graphs.to_json(asked.in_own_words(plan.graph)),
        "placed": _placed(request, plan.graph),
        "dropped": [list(each) for each in asked.dropped],
        "placement": plan.placement,
        "nothing": plan.changes_nothing,
        "everywhere": plan.everywhere,
        "region": region and _as_data_url(region),
        "region_share": None if region is None else round(float(region.pixels.mean()), 4),
        "region_note": note,
        "region_code": code,
        "options": plan.options.as_dict(),
        "steps": 0 if plan.changes_nothing else count_steps(model, plan.options),
    }


def describe_canvas(model: LatentDiffusion, asked: EditAsked) -> dict:
    """The same for a picture that is sampled from a graph alone."""
    options = {name: value for name, value in asked.options.items() if name != "seed"}
    complete, seed = complete_options(model, options), asked.options.get("seed", 0)
    graph, complaint = apply_layout(asked.graph, seed, complete)
    request = EditRequest(Image.new("L", (1, 1)), asked.graph)
    return {
        "sentences": [*asked.readings, "sample a picture of the graph", *([complaint] if complaint else [])],
        "operations": [],
        "graph": graphs.to_json(asked.in_own_words(graph)),
        "placed": _placed(request, graph),
        "dropped": [],
        "placement": "",
        "nothing": False,
        "everywhere": True,
        "region": None,
        "region_share": None,
        "region_note": "the whole picture is new",
        "region_code": "region_new",
        "options": {**vars(complete), "seed": seed},
        "steps": complete.steps,
    }


def count_passes(options: EditOptions) -> int:
    """How often an edit goes through the noise levels, inversions included. `options` are a plan's."""
    return (options.passes or 1) * (1 if options.method in RANDOM_METHODS else 2)


def count_steps(model: LatentDiffusion, options: EditOptions) -> int:
    """The number of steps of an edit. `options` are a plan's. Raises UserError for a number that the model cannot take."""
    return count_passes(options) * len(make_schedule(model, options))


def _region(model: LatentDiffusion, plan: EditPlan) -> tuple[Region | None, str, str]:
    """The region as far as it is known before the edit, and why it is not, as a code and in words."""
    cells, size = (model.latent_size, model.latent_size), plan.request.photograph.size
    if plan.request.mask is not None:
        return Region.of_mask(plan.request.mask, cells, size), "", ""
    if plan.everywhere:
        return None, "region_everywhere", "the whole picture may change"
    if plan.needs_attention:
        if None in plan.places:
            words = "a new object has no box, so the whole picture may change; draw one to limit the edit"
            return None, "region_without_box", words
        words = "the region follows from where the model attends to objects without a box, when the edit runs"
        return None, "region_by_attention", words
    return planned_region(plan, cells, size), "", ""


def tell_operations(operations: Iterable[Operation], source: SceneGraph | None, target: SceneGraph) -> list[dict]:
    """Operations with the ids of their objects, of which a page makes sentences."""
    return [_operation(each, source, target) for each in operations]


def _operation(operation: Operation, source: SceneGraph | None, target: SceneGraph) -> dict[str, Any]:
    told: dict[str, Any] = {"kind": KINDS[type(operation)], "text": str(operation)}
    if isinstance(operation, RemoveRelation):
        assert source is not None
        told |= {"object": source.ids[operation.source[0]], "other": source.ids[operation.source[2]]}
    elif isinstance(operation, (AddRelation, ChangeRelation)):
        told |= {"object": target.ids[operation.target[0]], "other": target.ids[operation.target[2]]}
    elif isinstance(operation, Remove):
        assert source is not None
        told["object"] = source.ids[operation.source]
    else:
        told["object"] = target.ids[operation.target]
    return told | {"boxes": [list(box) for box in operation.boxes]}


def _placed(request: EditRequest, graph: SceneGraph) -> list[dict]:
    """The objects whose box was chosen: new ones without a box, and those that a relation moves."""
    given, source = request.graph, request.source_graph
    before: dict[str | None, Box | None] = dict(zip(source.ids, source.boxes)) if source else {}
    placed = []
    for asked, box, id in zip(given.boxes, graph.boxes, graph.ids):
        known = asked or (before.get(id) if id is not None else None)
        if box is not None and box != known:
            placed.append({"object": id, "box": list(box), "before": known and list(known)})
    return placed


def _as_data_url(region: Region) -> dict:
    """White with the region as alpha."""
    height, width = region.pixels.shape
    alpha = Image.fromarray((region.pixels * 255).round().astype(np.uint8))
    image = Image.new("LA", (width, height), 255)
    image.putalpha(alpha)
    text = base64.b64encode(encode_png(image.convert("RGBA"))).decode()
    return {"png": f"data:image/png;base64,{text}", "width": width, "height": height}
