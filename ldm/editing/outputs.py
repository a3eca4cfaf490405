"""What edits leave in a folder: images for people, and a record of how they were made.

The files:

    edited.png              the edit; of several, the first one, and the others as edited_<difference>.png and in grid.png
    panel.png               photograph, region, edit and graphs, with the operations below
    reconstruction.png      the photograph sampled back without an edit, for methods with inversion
    previews.png            what the edit was heading for at some steps
    attention/<object>.png  where the U-Net attends to each object
    record.json             arguments, options, operations, measurements, versions, and the names of all these files
"""

from __future__ import annotations

import json
import math
import platform
import re
from collections.abc import Sequence
from pathlib import Path

import PIL
import pytorch_lightning
import torch
from PIL import Image

from ldm import plots
from ldm.editing.diagnostics import Reconstruction
from ldm.editing.options import EditRequest
from ldm.editing.pipeline import Edit
from ldm.editing.plan import EditPlan
from ldm.graph.scene_graph import SceneGraph
from ldm.util.colour_profiles import srgb_chunk
from ldm.util.files import atomic_write, locked_folder, remove_leftovers

PREVIEW_HEIGHT = 160  # pixels


def images_of(runs: Sequence[tuple[str, Edit]], columns: int, request: EditRequest) -> dict[str, Image.Image]:
    """The images of one or several edits of a photograph, by file name without .png.

    Args:
        runs: the edits, each with what distinguishes it from the others, such as 'seed 3'.
        columns: of the grid of several edits.
    """
    edit = runs[0][1]
    images = {"edited": edit.image, "panel": panel(edit, request)}
    if again := _inverted_reconstruction(edit):
        images["reconstruction"] = again.image
    images |= {f"edited_{_file_name(difference)}": other.image for difference, other in runs[1:]}
    if len(runs) > 1:
        cells = [plots.panel([(difference, other.image)], height=PREVIEW_HEIGHT) for difference, other in runs]
        images["grid"] = plots.grid(cells, columns)
    if edit.previews:
        steps = [(f"{number} of {len(edit.previews)}", image) for number, image in enumerate(edit.previews, start=1)]
        images["previews"] = plots.panel(steps, height=PREVIEW_HEIGHT)
    if edit.attention is not None:
        graph = request.source_graph or edit.plan.graph
        for index, (name, words) in enumerate(zip(graph.objects, graph.known_attributes)):
            label = _file_name("_".join((str(index), *words, name)))
            images[f"attention/{label}"] = plots.draw_heatmap(request.photograph, edit.attention[index])
    return images


def panel(edit: Edit, request: EditRequest) -> Image.Image:
    """One image of the whole edit: photograph, style, region, result, reconstruction, graphs, and the operations in words."""
    photograph, source = request.photograph, request.source_graph
    items = [("photograph", photograph)]
    items += [("style", request.style)] if request.style else []
    items += [("region", plots.draw_region(photograph, edit.region)), ("edited", edit.image)]
    items += [("reconstruction", again.image)] if (again := _inverted_reconstruction(edit)) else []
    items += [("source graph", plots.draw_graph(source))] if source else []
    items += [("edited graph", plots.draw_graph(edit.plan.graph))]
    return plots.panel(items, sentences(edit, request))


def sentences(edit: Edit, request: EditRequest) -> list[str]:
    """The operations in words, and which places were chosen."""
    if request.source_graph is None:
        whole = ", so the whole image may change" if edit.region.all() else ""
        unknown = f"without a source graph nothing is known about the photograph{whole}"
        return [unknown, *text_sentences(edit.plan)]
    plan = edit.plan
    lines = [str(operation) for operation in plan.operations]
    lines += [f"chosen: {plan.placement}"] if plan.placement else []
    return (lines or ["the two graphs are the same"]) + _assumed(request.source_graph, plan) + text_sentences(plan)


def text_sentences(plan: EditPlan) -> list[str]:
    """The captions by which a model that reads text goes, and what they leave out; nothing for other models."""
    if plan.texts is None:
        return []
    lines = []
    for name, text in zip(("photograph", "edit"), plan.texts):
        if text is None:
            lines.append(f"goes by text; {name}: the empty text")
            continue
        lines.append(f"goes by text; {name}: {text.caption.text!r}")
        if text.caption.dropped:
            lines.append(f"no room in the caption of the {name} for: {', '.join(text.caption.dropped)}")
    return lines


def _assumed(graph: SceneGraph, plan: EditPlan) -> list[str]:
    """What the source graph does not say and the edited graph does, which therefore is no change."""
    complete = plan.source_graph or graph
    taken = [i for i, names in enumerate(graph.attributes) if names is None and complete.attributes[i]]
    lines = [
        f"{complete.describe(i)!r} (object {i}): its attributes are unknown in the source graph, so they are no change; "
        "give [] there if it has none yet"
        for i in taken
    ]
    if graph.triples is None and complete.triples:
        lines.append(
            "the source graph has no relationships key, so those of the edited graph are no change; give [] there"
        )
    return lines


def measurements(edit: Edit) -> dict:
    """Options, operations and figures of an edit, for a JSON record."""
    plan, again = edit.plan, edit.reconstruction
    figures = {name: getattr(again, name, None) for name in ("round_trip_error", "psnr", "psnr_autoencoder")}
    return {
        "settings": edit.settings,
        "operations": [str(operation) for operation in plan.operations],
        "chosen": plan.placement,
        "graph": plan.graph.to_json(),
        **({} if plan.texts is None else {"captions": [text and text.caption.text for text in plan.texts]}),
        "region_share": round(float(edit.region.mean()), 4),
        **{name: None if value == math.inf else value for name, value in figures.items()},  # of equal images
    }


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that an image depends on, for a record."""
    libraries = {"torch": torch, "pytorch_lightning": pytorch_lightning, "pillow": PIL}
    return {"python": platform.python_version(), **{name: it.__version__ for name, it in libraries.items()}}


def write(folder: Path, images: dict[str, Image.Image], record: dict) -> None:
    """Writes images and record.json, each whole or not at all. Images of an earlier edit's record are removed.

    Of several processes that write into one folder, one at a time does, so that the files of one edit stay together.
    """
    names = [f"{name}.png" for name in images]
    text = json.dumps({**record, "files": names, "versions": versions()}, indent=2, allow_nan=False) + "\n"
    with locked_folder(folder):
        remove_leftovers(folder)
        for name in _earlier_images(folder):
            if name not in names:
                (folder / name).unlink(missing_ok=True)
        for name, image in zip(names, images.values()):
            with atomic_write(folder / name) as temporary:
                image.save(temporary, "PNG", pnginfo=srgb_chunk())
        with atomic_write(folder / "record.json") as temporary:
            temporary.write_text(text, encoding="utf-8")


def _inverted_reconstruction(edit: Edit) -> Reconstruction | None:
    """The reconstruction, if the photograph was inverted; else it is the autoencoder's and not worth a file."""
    again = edit.reconstruction
    return again if again is not None and again.round_trip_error is not None else None


def _earlier_images(folder: Path) -> list[str]:
    """The images that a record in the folder lists, if their names are those of an edit."""
    try:
        listed = json.loads((folder / "record.json").read_text())["files"]
        return [name for name in listed if re.fullmatch(r"(attention/)?[\w.,=-]+\.png", name)]
    except (OSError, ValueError, TypeError, KeyError):
        return []


def _file_name(text: str) -> str:
    return re.sub(r"[^\w.,=-]+", "_", text)
