"""Many edits from a JSON Lines file, into a folder that several processes fill and that a restarted command completes.

Each line is a JSON object:

    sg                    the edited graph: a file name, or the graph itself; the only required key
    ref                   the photograph; default: the `image` that the graph names
    source_sg             the photograph's graph, like sg
    style, mask           images
    out                   name of the edited image in the folder, ending in .png; default: the line's number
    method, steps, ...    any of EditOptions; overrides the command line

File names are relative to the folder of the JSON Lines file. A line that fails does not affect the others.
"""

from __future__ import annotations

import dataclasses
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
from ldm.editing.options import EditOptions, EditRequest
from ldm.editing.outputs import measurements
from ldm.editing.pipeline import edit
from ldm.graph.graph_files import read_graph
from ldm.graph.scene_graph import SceneGraph
from ldm.models.diffusion.ddpm import LatentDiffusion
from ldm.util import gallery
from ldm.util.errors import UserError, did_you_mean
from ldm.util.files import digest
from ldm.util.images import read_image
from ldm.util.options import from_mapping

PICTURES = ("ref", "style", "mask")
FILES = ("sg", "source_sg", *PICTURES, "out")
OPTIONS = tuple(field.name for field in dataclasses.fields(EditOptions))
SHEET = 24  # maximum number of edits on the contact sheet


class Line(NamedTuple):
    """One edit of the file.

    Args:
        files: path of each image.
        hashes: start of the SHA-256 of each image.
        options: the options given on this line.
    """

    graph: SceneGraph
    source: SceneGraph | None
    files: dict[str, Path]
    hashes: dict[str, str]
    options: dict[str, Any]


def numbered_lines(path: Path) -> list[tuple[int, str]]:
    """The lines that are not empty, numbered from 1. Raises UserError if the file cannot be read or has no lines."""
    try:
        texts = [(number, text) for number, text in enumerate(path.read_text().splitlines(), 1) if text.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or 'not text'})") from error
    if not texts:
        raise UserError(
            f'{path}: contains no edits; write a JSON object per line, such as {{"ref": "photo.jpg", "sg": ...}}'
        )
    return texts


def edit_all(
    model: LatentDiffusion,
    path: Path,
    texts: Sequence[tuple[int, str]],
    folder: Path,
    shared: dict[str, Any],
    provenance: dict[str, Any],
    rank: int = 0,
    world: int = 1,
) -> int:
    """Makes the edits that the folder lacks, and reports each failed line on stderr.

    Args:
        path: the JSON Lines file.
        texts: its `numbered_lines`.
        shared: options of all lines.
        provenance: further entries of each record, such as the weights.
        rank, world: index of this process and number of processes.

    Returns:
        How many lines failed, over all processes.
    """
    names, failures = _output_names(texts), 0
    for number, text in tqdm(texts[rank::world], desc="editing", unit="edit", disable=rank > 0):
        try:
            name = names[number]
            if isinstance(name, UserError):
                raise name
            line = read_line(json.loads(text), path.parent, model)
            _make(model, line, folder, {"file": name, "line": number}, shared, provenance)
        except UserError as error:
            failures += 1
            print(f"{path}, line {number}: {error}", file=sys.stderr)
    made = [name for name in names.values() if isinstance(name, str) and gallery.record_of(folder / name, whole=False)]
    if made:
        gallery.finish(folder, made, lambda: sheet(folder, made))
    return _sum_over_processes(failures, world)


def read_line(line: dict, folder: Path, model: LatentDiffusion) -> Line:
    """One line's graphs, images and options. Raises UserError for anything missing, unknown, unreadable or mistyped."""
    for key in line:
        if key not in (*FILES, *OPTIONS):
            raise UserError(f"unknown key {key!r}{did_you_mean(key, (*FILES, *OPTIONS))}")
    options = {key: line[key] for key in line if key in OPTIONS}
    from_mapping(EditOptions, options)
    if "sg" not in line:
        raise UserError("'sg' is missing: give the graph of what the edited image should show")
    graph = _graph(line["sg"], "sg", folder, model)
    source = None if line.get("source_sg") is None else _graph(line["source_sg"], "source_sg", folder, model)
    files = {key: folder / str(line[key]) for key in PICTURES if line.get(key) is not None}
    if "ref" not in files:
        if not graph.image:
            raise UserError("there is no photograph to edit: name one as 'ref', or as the graph's 'image'")
        beside = (folder / line["sg"]).parent if isinstance(line["sg"], str) else folder
        files["ref"] = beside / graph.image
    return Line(graph, source, files, {key: _hash(file) for key, file in files.items()}, options)


def sheet(folder: Path, names: Sequence[str]) -> Image.Image:
    """A contact sheet of the first edits, each with its photograph's name and operations."""
    cells = []
    for name in names[:SHEET]:
        record = gallery.record_of(folder / name, whole=False)
        with Image.open(folder / name) as image:
            cells.append(plots.panel([(Path(record["ref"]).name, image)], record["operations"][:2], height=192))
    return plots.grid(cells, columns=4)


def _make(model: LatentDiffusion, line: Line, folder: Path, record: dict, shared: dict, provenance: dict) -> None:
    options = {**shared, **line.options}
    record |= {
        **provenance,
        "options": options,
        "sg": line.graph.to_json(),
        "source_sg": line.source and line.source.to_json(),
        "inputs": line.hashes,
    }
    record = json.loads(json.dumps(record))  # as it will be read back
    if gallery.has(folder, record):
        return
    ground = {"mask": "black"}
    images = {key: read_image(file, True, ground.get(key, "white")) for key, file in line.files.items()}
    request = EditRequest(images["ref"], line.graph, line.source, images.get("style"), images.get("mask"))
    result = edit(model, request, from_mapping(EditOptions, options))
    gallery.save(
        folder / record["file"], result.image, {**record, "ref": str(line.files["ref"]), **measurements(result)}
    )


def _output_names(texts: Sequence[tuple[int, str]]) -> dict[int, str | UserError]:
    """Line number -> the name of its image, or what is wrong with the line."""
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
            names[number] = UserError(f"out: {name!r} is not the name of a .png file within the output folder")
        elif name in names.values() or name == "sheet.png":
            names[number] = UserError(f"out: {name!r} is already taken; give each line a different name")
        else:
            names[number] = name
    return names


def _graph(value: Any, key: str, folder: Path, model: LatentDiffusion) -> SceneGraph:
    graph = read_graph(folder / value) if isinstance(value, str) else SceneGraph.from_json(value, key)
    graph.validate(model.vocab, value if isinstance(value, str) else key, model.cond_stage_model.max_objects)
    return graph


def _hash(file: Path) -> str:
    try:
        return digest(file)[:16]
    except OSError as error:
        raise UserError(f"{file}: {error.strerror}") from error


def _sum_over_processes(failures: int, world: int) -> int:
    """The sum, once all processes are done: torchrun stops the others as soon as one of them fails."""
    if world == 1 or "MASTER_ADDR" not in os.environ:
        return failures
    import torch
    import torch.distributed as processes

    processes.init_process_group("gloo", timeout=timedelta(days=30))
    count = torch.tensor(failures)
    processes.all_reduce(count)
    processes.destroy_process_group()
    return int(count)
