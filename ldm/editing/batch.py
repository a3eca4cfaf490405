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

import codecs
import dataclasses
import json
import os
import sys
from collections.abc import Collection, Sequence
from datetime import timedelta
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from PIL import Image
from tqdm import tqdm

from ldm import plots
from ldm.editing.options import EditOptions, EditRequest
from ldm.editing.outputs import measurements
from ldm.editing.pipeline import edit
from ldm.graph.graph_files import read_graph, single_graph
from ldm.graph.importers import Source, parse_graphs
from ldm.graph.scene_graph import SceneGraph
from ldm.models.diffusion.latent_diffusion import LatentDiffusion
from ldm.util.errors import UserError, did_you_mean
from ldm.util.files import digest, remove_leftovers
from ldm.util.image_folder import INDEX, SHEET, is_made, read_record, save_image, write_index
from ldm.util.images import read_image
from ldm.util.options import from_mapping
from ldm.util.score_option import MIN_SCORE
from ldm.words.naming import Naming

PICTURES = ("ref", "style", "mask")
FILES = ("sg", "source_sg", *PICTURES, "out")
OPTIONS = tuple(field.name for field in dataclasses.fields(EditOptions))
SHEET_EDITS = 24  # maximum number of edits on the contact sheet
LONGEST_NAME = 255  # bytes
EDIT_LINE = '{"ref": "photo.jpg", "sg": ...}'


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


def numbered_lines(path: Path, kind: str = "edits", example: str = EDIT_LINE) -> list[tuple[int, bytes]]:
    """The lines that are not empty, numbered from 1. Raises UserError if the file cannot be read or has no lines.

    Lines end at a line feed only: other line separators of Unicode may stand within a JSON string.

    Args:
        kind: what the lines are, for the message.
        example: one of them.
    """
    try:
        content = path.read_bytes().removeprefix(codecs.BOM_UTF8)
    except (OSError, ValueError) as error:  # ValueError: a path that no file can have
        raise UserError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from None
    lines = [(number, line) for number, line in enumerate(content.split(b"\n"), 1) if line.strip()]
    if not lines:
        raise UserError(f"{path}: contains no {kind}; write a JSON object per line, such as {example}")
    return lines


def edit_all(
    model: LatentDiffusion,
    path: Path,
    lines: Sequence[tuple[int, bytes]],
    folder: Path,
    shared: dict[str, Any],
    provenance: dict[str, Any],
    rank: int = 0,
    world: int = 1,
    min_score: float = MIN_SCORE,
    naming: Naming | None = None,
) -> int:
    """Makes the edits that the folder lacks, and reports each failed line on stderr.

    Args:
        path: the JSON Lines file.
        lines: its `numbered_lines`.
        shared: options of all lines.
        provenance: further entries of each record, such as the weights.
        rank, world: index of this process and number of processes.
        min_score: of objects and relations in imported predictions.
        naming: what to do with words that the vocabulary lacks; None refuses them.

    Returns:
        How many lines failed, over all processes.
    """
    remove_leftovers(folder)
    edits, failures = _parse_lines(lines), 0
    for number, _ in tqdm(lines[rank::world], desc="editing", unit="edit", disable=rank > 0):
        try:
            name, values = edits[number]
            if isinstance(values, UserError):
                raise values
            line = read_line(values, path.parent, model, min_score, naming)
            read_as = naming.record_of(line.graph, line.source) if naming else {}
            _make(model, line, folder, {"file": name, "line": number, **read_as}, shared, provenance)
        except (UserError, NotADirectoryError, IsADirectoryError, FileExistsError) as error:
            failures += 1
            print(f"{path}, line {number}: {error}", file=sys.stderr)
    made = [name for name, _ in edits.values() if name and read_record(folder / name, check_pixels=False)]
    if made:
        write_index(folder, made, lambda: sheet(folder, made))
    return sum_over_processes(failures, world)


def read_line(
    line: dict, folder: Path, model: LatentDiffusion, min_score: float = MIN_SCORE, naming: Naming | None = None
) -> Line:
    """One line's graphs, images and options. Raises UserError for anything missing, unknown, unreadable or mistyped."""
    for key in line:
        if key not in (*FILES, *OPTIONS):
            raise UserError(f"unknown key {key!r}{did_you_mean(key, (*FILES, *OPTIONS))}")
    options = {key: line[key] for key in line if key in OPTIONS}
    from_mapping(EditOptions, options)
    if line.get("sg") is None:
        raise UserError("'sg' is missing: give the graph of what the edited image should show")
    files = {key: folder / str(line[key]) for key in PICTURES if line.get(key) is not None}
    given = {key: line[key] for key in ("sg", "source_sg") if line.get(key) is not None}
    reading = model, files.get("ref"), min_score, naming or Naming()
    graphs = {key: _graph(value, key, folder, *reading) for key, value in given.items()}
    graph, source = graphs["sg"], graphs.get("source_sg")
    if "ref" not in files:
        if not graph.image:
            raise UserError("there is no photograph to edit: name one as 'ref', or as the graph's 'image'")
        beside = (folder / line["sg"]).parent if isinstance(line["sg"], str) else folder
        files["ref"] = beside / graph.image
    return Line(graph, source, files, {key: _hash(file) for key, file in files.items()}, options)


def sheet(folder: Path, names: Sequence[str]) -> Image.Image:
    """A contact sheet of the first edits, each with its photograph's name and operations."""
    cells = []
    for name in names[:SHEET_EDITS]:
        record = read_record(folder / name, check_pixels=False)
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
    if is_made(folder, record):
        return
    ground = {"mask": "black"}
    images = {key: read_image(file, True, ground.get(key, "white")) for key, file in line.files.items()}
    request = EditRequest(images["ref"], line.graph, line.source, images.get("style"), images.get("mask"))
    result = edit(model, request, from_mapping(EditOptions, options))
    save_image(folder / record["file"], result.image, {**record, "ref": str(line.files["ref"]), **measurements(result)})


def _parse_lines(lines: Sequence[tuple[int, bytes]]) -> dict[int, tuple[str, dict | UserError]]:
    """Line number -> the name of its image and its values, or '' and what is wrong with the line."""
    edits: dict[int, tuple[str, dict | UserError]] = {}
    taken: set[PurePosixPath] = {PurePosixPath(INDEX), PurePosixPath(SHEET)}
    for number, text in lines:
        try:
            values = parse_line(text)
            path = _output_path(values.get("out", f"{number:06}.png"), taken)
        except UserError as error:
            edits[number] = "", error
        else:
            taken.add(path)
            edits[number] = str(path), values
    return edits


def parse_line(text: bytes) -> dict:
    """The JSON object of a line. Raises UserError for anything else."""
    try:
        values = json.loads(text.decode())
    except UnicodeDecodeError as error:
        raise UserError(f"byte {error.start} is not UTF-8; save the file as UTF-8 text") from None
    except ValueError as error:
        raise UserError(f"not JSON ({error})") from None
    except RecursionError:
        raise UserError("lists are nested too deeply; check the brackets") from None
    if not isinstance(values, dict):
        raise UserError("not a JSON object")
    return values


def _output_path(name: Any, taken: Collection[PurePosixPath]) -> PurePosixPath:
    """The path of an image below the output folder. Raises UserError for a name that no file can have, or a taken one."""
    path = PurePosixPath(name) if isinstance(name, str) else PurePosixPath()
    if not path.parts or ".." in path.parts or path.is_absolute() or path.suffix != ".png":
        raise UserError(f"out: {name!r} is not the name of a .png file within the output folder")
    try:
        parts = [part.encode() for part in path.parts]
    except UnicodeEncodeError:
        raise UserError(f"out: {name!r} cannot be encoded as a file name") from None
    if b"\0" in b"".join(parts) or max(map(len, parts)) > LONGEST_NAME:
        raise UserError(f"out: {name[:60]!r}... has a null character or a part of more than {LONGEST_NAME} bytes")
    if path in taken:
        raise UserError(f"out: {name!r} is already taken; give each line a different name")
    if clash := next((other for other in taken if other in path.parents or path in other.parents), None):
        raise UserError(f"out: {name!r} and {str(clash)!r} need a file and a folder of the same name; rename one")
    return path


def _graph(
    value: Any,
    key: str,
    folder: Path,
    model: LatentDiffusion,
    photograph: Path | None,
    min_score: float,
    naming: Naming,
) -> SceneGraph:
    if isinstance(value, str):
        graph = read_graph(folder / value, photograph, min_score)
    else:
        graph = single_graph(parse_graphs(value, Source(key, folder, photograph, min_score)), key)
    if naming.embeds:
        model.open_vocabulary([graph])
    where = value if isinstance(value, str) else key
    return naming.name(graph, model.vocab, where, model.cond_stage_model.max_objects)


def _hash(file: Path) -> str:
    try:
        return digest(file)[:16]
    except (OSError, ValueError) as error:  # ValueError: a path that no file can have
        raise UserError(f"{str(file)[:200]}: {getattr(error, 'strerror', None) or error}") from None


def sum_over_processes(failures: int, world: int) -> int:
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
