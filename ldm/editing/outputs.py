"""What edits leave in a folder: pictures for people, and a record of how they were made.

    edited.png            the edit; of several, the first, and the others as edited_<what they differ in>.png in grid.png
    panel.png             photograph, region, edit and graphs, with the operations below
    reconstruction.png    of a method that inverts: what comes back without an edit
    previews.png          what the edit was heading for at some steps
    attention/<object>.png  where each object is looked at
    record.json           arguments, settings, operations, figures, versions and the names of all these files
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
from ldm.editing.edit import Edit
from ldm.graph.scene_graph import SceneGraph
from ldm.plots import heat, shown_region

PREVIEW_HEIGHT = 160  # pixels


def pictures(
    runs: Sequence[tuple[str, Edit]],
    columns: int,
    photograph: Image.Image,
    source: SceneGraph | None,
    style: Image.Image | None = None,
) -> dict[str, Image.Image]:
    """By their names without .png. runs: edits, each with what it differs in from the others; in the grid in so many columns."""
    edit = runs[0][1]
    found = {"edited": edit.image, "panel": panel(edit, photograph, source, style)}
    if edit.round_trip_error is not None:
        found["reconstruction"] = edit.reconstruction
    found |= {f"edited_{_file_name(what)}": other.image for what, other in runs[1:]}
    if len(runs) > 1:
        cells = [plots.panel([(what, other.image)], height=PREVIEW_HEIGHT) for what, other in runs]
        found["grid"] = plots.grid(cells, columns)
    if edit.previews:
        steps = [(f"{number} of {len(edit.previews)}", image) for number, image in enumerate(edit.previews, start=1)]
        found["previews"] = plots.panel(steps, height=PREVIEW_HEIGHT)
    if edit.attention is not None:
        objects = edit.graph if source is None else source
        for index, (name, words) in enumerate(zip(objects.objects, objects.attributes)):
            label = _file_name("_".join((str(index), *words, name)))
            found[f"attention/{label}"] = heat(photograph, edit.attention[index])
    return found


def panel(
    edit: Edit, photograph: Image.Image, source: SceneGraph | None, style: Image.Image | None = None
) -> Image.Image:
    items = [("photograph", photograph), ("region", shown_region(photograph, edit.region)), ("edited", edit.image)]
    if style:
        items.insert(1, ("style", style))
    if edit.round_trip_error is not None:
        items.append(("reconstruction", edit.reconstruction))
    items += [("source graph", plots.draw_graph(source))] if source else []
    return plots.panel([*items, ("edited graph", plots.draw_graph(edit.graph))], sentences(edit, source))


def sentences(edit: Edit, source: SceneGraph | None) -> list[str]:
    """What was understood, and what was chosen."""
    if source is None:
        whole = ", so the whole of it may change" if edit.region.all() else ""
        return [f"without a source graph nothing is known of the photograph{whole}"]
    said = [str(operation) for operation in edit.operations]
    said += [f"chosen: {edit.chosen}"] if edit.chosen else []
    return said or ["the two graphs say the same"]


def figures(edit: Edit) -> dict:
    """Of a record, for JSON."""
    numbers = {name: getattr(edit, name) for name in ("round_trip_error", "psnr", "psnr_autoencoder")}
    return {
        "settings": edit.settings._asdict(),
        "operations": [str(operation) for operation in edit.operations],
        "chosen": edit.chosen,
        "graph": edit.graph.to_json(),
        "region_share": round(float(edit.region.mean()), 4),
        **{name: None if value == math.inf else value for name, value in numbers.items()},  # of equal pictures
    }


def write(folder: Path, pictures: dict[str, Image.Image], record: dict) -> None:
    """Every file beside its place first, then renamed, so that none is ever half written. What an earlier edit's record
    lists, and this one has not, goes."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"{name}.png" for name in pictures]
    for name in _earlier(folder):
        if name not in names:
            (folder / name).unlink(missing_ok=True)
    for name, picture in zip(names, pictures.values()):
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        beside = path.with_name(f".{path.name}")
        picture.save(beside)
        beside.replace(path)
    versions = {"torch": torch, "pytorch_lightning": pytorch_lightning, "pillow": PIL}
    versions = {"python": platform.python_version(), **{name: it.__version__ for name, it in versions.items()}}
    record = {**record, "files": names, "versions": versions}
    (folder / ".record.json").write_text(json.dumps(record, indent=2, allow_nan=False) + "\n")
    (folder / ".record.json").replace(folder / "record.json")


def _earlier(folder: Path) -> list[str]:
    """The pictures that a record in the folder lists, by names that an edit's have."""
    try:
        listed = json.loads((folder / "record.json").read_text())["files"]
        return [name for name in listed if re.fullmatch(r"(attention/)?[\w.,=-]+\.png", name)]
    except (OSError, ValueError, TypeError, KeyError):
        return []


def _file_name(text: str) -> str:
    return re.sub(r"[^\w.,=-]+", "_", text)
