"""Reads validation files.

`validation.jsonl` holds a JSON object per line:

    id                            names the picture; letters, digits, '.', '_' and '-'
    sg                            graph of what the picture should show: a file name, or the graph itself
    prompt                        the same in words, for CLIP; without sg, models with a text encoder sample it
    seed                          of the noise (default: one that follows from the id)
    ref, source_sg, source_prompt the photograph to edit, its graph and its caption; a line with a photograph is an edit
    mask, style, truth            images: white where the edit may change, the look to take, the picture that should result
    label                         class that the picture should show, for a classifier
    type                          kind of the line, such as 'remove'; averages are also given for each type
    unit                          lines of one unit (a clip, a scene) are not independent of each other (default: the id)
    steps, graph_scale, ...       any option of sampling (of texts, where there is no sg) or of editing, for this line alone

File names are relative to the file. PIE-Bench's mapping_file.json and the JSON of aligned photographs are read as well.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ldm.editing.batch import numbered_lines, parse_line
from ldm.editing.options import EditOptions
from ldm.evaluation.validation import photo_pairs, pie_bench
from ldm.evaluation.validation.lines import ValidationLine, default_seed
from ldm.graph.graph_files import read_graph, single_graph
from ldm.graph.importers import Source, parse_graphs
from ldm.graph.scene_graph import SceneGraph
from ldm.sampling.options import SampleOptions
from ldm.sampling.text_options import TextOptions
from ldm.util.errors import UserError, did_you_mean
from ldm.util.files import read_json
from ldm.util.options import from_mapping

PICTURES = {"ref": "photograph", "truth": "truth", "mask": "mask", "style": "style"}
TEXTS = ("prompt", "source_prompt", "label", "type", "unit")
GRAPHS = {"sg": "graph", "source_sg": "source_graph"}
EXAMPLE = '{"id": "cat", "sg": "cat.json"}'
KEYS = ("id", "seed", *GRAPHS, *PICTURES, *TEXTS)


def read_lines(path: str | Path) -> list[ValidationLine]:
    """Reads a validation file.

    Args:
        path: validation.jsonl, PIE-Bench's mapping_file.json, or an edits_*.json of aligned photographs.

    Raises:
        UserError: the file cannot be read, holds another form, or a line is wrong; the message names it.
    """
    path = Path(path)
    if path.suffix.lower() == ".json":
        content = read_json(path)
        for form in (pie_bench, photo_pairs):
            if form.recognises(content):
                return unique(form.lines_of(content, path), path)
        raise UserError(
            f"{path}: neither PIE-Bench's mapping_file.json nor a list of aligned photographs; write a validation.jsonl"
        )
    lines = []
    for number, text in numbered_lines(path, "lines", EXAMPLE):
        place = f"{path}, line {number}"
        try:
            lines.append(_read_line(parse_line(text), place, path.parent))
        except UserError as error:
            message = str(error)
            raise UserError(message if message.startswith(place) else f"{place}: {message}") from None
    return unique(lines, path)


def unique(lines: Sequence[ValidationLine], path: str | Path) -> list[ValidationLine]:
    """The lines. Raises UserError if there are none, or two have one id (or two ids that differ in case only)."""
    places: dict[str, str] = {}
    for line in lines:
        if (first := places.setdefault(line.id.lower(), line.place)) != line.place:
            raise UserError(f"{line.place}: id {line.id!r} is already that of {first}; give each line another one")
    if not lines:
        raise UserError(f"{path}: contains no lines; write a JSON object per line, with an id")
    return list(lines)


def _read_line(values: dict, place: str, folder: Path) -> ValidationLine:
    options = {key: value for key, value in values.items() if key not in KEYS}
    is_edit = values.get("ref") is not None
    kind = EditOptions if is_edit else TextOptions if values.get("sg") is None else SampleOptions
    known = [item.name for item in dataclasses.fields(kind) if item.name != "seed"]
    for key in options:
        if key not in known:
            raise UserError(f"unknown key {key!r}{did_you_mean(key, (*KEYS, *known))}")
    from_mapping(kind, options)
    try:
        json.dumps(values, ensure_ascii=False).encode()
    except ValueError:
        raise UserError("a text has half of a surrogate pair, which is no Unicode; correct it") from None
    if not isinstance(values.get("id"), str):
        raise UserError("'id' is missing: give each line a text that names its picture")
    for key in (*PICTURES, *TEXTS):
        if not isinstance(values.get(key), str | None):
            raise UserError(f"{key}: is not a text")
    seed = values.get("seed", default_seed(values["id"]))
    if not isinstance(seed, int) or isinstance(seed, bool):
        raise UserError(f"seed: {seed!r} is not a whole number")
    if values.get("sg") is None and values.get("prompt") is None:
        raise UserError("neither 'sg' nor 'prompt' says what the picture should show")
    files = {name: folder / values[key] for key, name in PICTURES.items() if values.get(key) is not None}
    for key, name in PICTURES.items():
        if name in files and not _is_file(files[name]):
            raise UserError(f"{key}: there is no file {str(files[name])[:200]}")
    graphs = {
        name: _read_graph(values[key], key, folder, files.get("photograph"))
        for key, name in GRAPHS.items()
        if values.get(key) is not None
    }
    texts: dict[str, Any] = {key: values[key] for key in TEXTS if values.get(key) is not None}
    return ValidationLine(values["id"], place, seed, options=options, **graphs, **files, **texts)


def _read_graph(value: Any, key: str, folder: Path, photograph: Path | None) -> SceneGraph:
    if isinstance(value, str):
        return read_graph(folder / value, photograph)
    return single_graph(parse_graphs(value, Source(key, folder, photograph)), key)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that no file can have
        return False
