"""Many edits out of a file, into a folder that several processes fill and any of them can go on with.

A line of the file is an edit, a JSON object:

    sg                    the edited graph: a file's name, or the graph itself; the only key that a line needs
    ref                   the photograph; else the `image` that the graph names
    source_sg             the photograph's graph, as sg
    style, mask           pictures
    out                   name of the edited picture in the folder, ending in .png; else its line's number
    method, steps, ...    what `edit` takes besides, instead of what all lines share

Names of files count from the folder that the file lies in. A line that cannot be edited costs the others nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from PIL import Image
from tqdm import tqdm

from ldm import plots
from ldm.editing.edit import edit
from ldm.editing.options import fits, kinds, said
from ldm.editing.outputs import figures
from ldm.graph.scene_graph import SceneGraph, read_graphs
from ldm.graph.validation import GraphError
from ldm.models.diffusion.ddpm import LatentDiffusion
from ldm.util import gallery
from ldm.util.errors import UserError, did_you_mean
from ldm.util.images import read_image

PICTURES = ("ref", "style", "mask")
OWN = ("sg", "source_sg", *PICTURES, "out")
NOT_FOR_LINES = ("model", "photograph", "graph", "source", "style", "mask", "previews", "attention", "reconstruct", "progress")
OPTIONS = kinds(edit, NOT_FOR_LINES)
SHEET = 24  # edits at most on the sheet


class Line(NamedTuple):
    """An edit to make. files: each picture's; hashes: of what is in them."""

    graph: SceneGraph
    source: SceneGraph | None
    files: dict[str, Path]
    hashes: dict[str, str]
    options: dict[str, Any]


def numbered_lines(path: Path) -> list[tuple[int, str]]:
    """Those that are not empty, from 1 on. Raises UserError where the file is not to be read, or has none."""
    try:
        texts = [(number, text) for number, text in enumerate(path.read_text().splitlines(), 1) if text.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or 'not text'})") from error
    if not texts:
        raise UserError(f"{path}: holds no edits; each line is to be a JSON object such as " + '{"ref": "photo.jpg", "sg": ...}')
    return texts


def edit_all(
    model: LatentDiffusion,
    path: Path,
    texts: Sequence[tuple[int, str]],
    folder: Path,
    shared: dict[str, Any],
    made_by: dict[str, Any],
    rank: int = 0,
    world: int = 1,
) -> int:
    """How many lines, of all processes, could not be edited; each has been complained of on stderr, in a sentence.

    path, texts: the file, and its `numbered_lines`. shared: options of `edit`. made_by: what else the records say, such
    as the weights.
    """
    names, failures = _names(texts), 0
    for number, text in tqdm(texts[rank::world], desc="editing", unit="edit", disable=rank > 0):
        try:
            name = names[number]
            if isinstance(name, UserError):
                raise name
            line = read_line(json.loads(text), path.parent, model)
            _make(model, line, folder, {"file": name, "line": number}, shared, made_by)
        except UserError as error:
            failures += 1
            print(f"{path}, line {number}: {error}", file=sys.stderr)
    there = [name for name in names.values() if isinstance(name, str) and gallery.record_of(folder / name, whole=False)]
    if there:
        gallery.finish(folder, there, lambda: sheet(folder, there))
    return _of_all(failures, world)


def read_line(line: dict, folder: Path, model: LatentDiffusion) -> Line:
    """Raises UserError for what is missing, unknown, unreadable or of another kind."""
    for key, value in line.items():
        if key not in (*OWN, *OPTIONS):
            raise UserError(f"{key!r} is nothing that an edit takes{did_you_mean(key, (*OWN, *OPTIONS))}")
        if key in OPTIONS and not fits(value, OPTIONS[key]):
            raise UserError(f"{key} takes {said(OPTIONS[key])}, not {json.dumps(value)}")
    if "sg" not in line:
        raise UserError("there is no 'sg', the graph of what the edited picture should show")
    graph = _graph(line["sg"], "sg", folder, model)
    source = None if line.get("source_sg") is None else _graph(line["source_sg"], "source_sg", folder, model)
    files = {key: folder / str(line[key]) for key in PICTURES if line.get(key) is not None}
    if "ref" not in files:
        if not graph.image:
            raise UserError("there is no photograph to edit: name one as 'ref', or as the graph's 'image'")
        beside = (folder / line["sg"]).parent if isinstance(line["sg"], str) else folder
        files["ref"] = beside / graph.image
    hashes = {key: _hash(file) for key, file in files.items()}
    return Line(graph, source, files, hashes, {key: line[key] for key in line if key in OPTIONS})


def sheet(folder: Path, names: Sequence[str]) -> Image.Image:
    """The first edits, each under its photograph's name."""
    cells = []
    for name in names[:SHEET]:
        record = gallery.record_of(folder / name, whole=False)
        with Image.open(folder / name) as image:
            cells.append(plots.panel([(Path(record["ref"]).name, image)], record["operations"][:2], height=192))
    return plots.grid(cells, columns=4)


def _make(model: LatentDiffusion, line: Line, folder: Path, record: dict, shared: dict, made_by: dict) -> None:
    options = {**shared, **line.options}
    record |= {
        **made_by,
        "options": options,
        "sg": line.graph.to_json(),
        "source_sg": line.source and line.source.to_json(),
        "inputs": line.hashes,
    }
    record = json.loads(json.dumps(record))  # as it comes back
    if gallery.has(folder, record):
        return
    ground = {"mask": "black"}
    images = {key: read_image(file, True, ground.get(key, "white")) for key, file in line.files.items()}
    pictures = images["ref"], line.graph, line.source, images.get("style")
    result = edit(model, *pictures, mask=images.get("mask"), reconstruct=False, **options)
    gallery.save(folder / record["file"], result.image, {**record, "ref": str(line.files["ref"]), **figures(result)})


def _names(texts: Sequence[tuple[int, str]]) -> dict[int, str | UserError]:
    """Line number -> the name of its picture, or what is wrong with it."""
    names: dict[int, str | UserError] = {}
    for number, text in texts:
        try:
            line = json.loads(text)
        except ValueError as error:
            names[number] = UserError(f"not JSON ({error})")
            continue
        if not isinstance(line, dict):
            names[number] = UserError("not a JSON object")
            continue
        name = line.get("out", f"{number:06}.png")
        parts = PurePosixPath(name).parts if isinstance(name, str) else ()
        if not parts or ".." in parts or name.startswith("/") or not name.endswith(".png"):
            names[number] = UserError(f"out: {name!r} is not the name of a .png within the output folder")
        elif name in names.values() or name == "sheet.png":
            names[number] = UserError(f"out: {name!r} is taken already; give each line a name of its own")
        else:
            names[number] = name
    return names


def _graph(said: Any, key: str, folder: Path, model: LatentDiffusion) -> SceneGraph:
    if isinstance(said, str):
        graphs, where = read_graphs(folder / said), said
        if len(graphs) != 1:
            raise GraphError(f"{said}: holds {len(graphs)} graphs; an edit takes one, so put it in a file of its own")
        (graph,) = graphs
    else:
        graph, where = SceneGraph.from_json(said, key), key
    graph.validate(model.vocab, where, model.cond_stage_model.max_objects)
    return graph


def _hash(file: Path) -> str:
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest()[:16]
    except OSError as error:
        raise UserError(f"{file}: {error.strerror}") from error


def _of_all(failures: int, world: int) -> int:
    """The sum over processes, when all of them are done: torchrun stops the others as soon as one of them ends badly."""
    if world == 1 or "MASTER_ADDR" not in os.environ:
        return failures
    import torch
    import torch.distributed as processes

    processes.init_process_group("gloo", timeout=timedelta(days=30))
    count = torch.tensor(failures)
    processes.all_reduce(count)
    processes.destroy_process_group()
    return int(count)
