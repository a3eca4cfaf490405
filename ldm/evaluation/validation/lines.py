"""The lines of a validation file: what each picture should show, and from which seed.

`validation.jsonl` holds a JSON object per line:

    id                            names the picture; letters, digits, '.', '_' and '-'
    sg                            graph of what the picture should show: a file name, or the graph itself
    prompt                        the same in words, for CLIP and for functions of the user's that take a text
    seed                          of the noise (default: one that follows from the id)
    ref, source_sg, source_prompt the photograph to edit, its graph and its caption; a line with a photograph is an edit
    mask, style, truth            images: white where the edit may change, the look to take, the picture that should result
    label                         class that the picture should show, for a classifier
    type                          kind of the line, such as 'remove'; averages are also given for each type
    unit                          lines of one unit (a clip, a scene) are not independent of each other (default: the id)
    steps, graph_scale, ...       any option of sampling or of editing, for this line alone

File names are relative to the file. PIE-Bench's mapping_file.json and the JSON of aligned photographs are read as well.
"""

from __future__ import annotations

import dataclasses
import json
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ldm.editing.batch import numbered_lines, parse_line
from ldm.editing.options import EditOptions
from ldm.graph.graph_files import read_graph, single_graph
from ldm.graph.importers import Source, parse_graphs
from ldm.graph.scene_graph import SceneGraph
from ldm.sampling.options import SampleOptions
from ldm.util.errors import UserError, did_you_mean
from ldm.util.files import digest
from ldm.util.images import read_image
from ldm.util.options import from_mapping

PICTURES = {"ref": "photograph", "truth": "truth", "mask": "mask", "style": "style"}
TEXTS = {"prompt": "prompt", "source_prompt": "source_prompt", "label": "label", "type": "type", "unit": "unit"}
GRAPHS = {"sg": "graph", "source_sg": "source_graph"}
KEYS = ("id", "seed", *GRAPHS, *PICTURES, *TEXTS)
ID = re.compile(r"[\w-][\w.-]{0,99}")


@dataclass(frozen=True)
class ValidationLine:
    """What a picture should show, and how it is made.

    Args:
        id: names the picture; unique.
        place: where the line stands, for messages.
        seed: of the noise.
        graph: of what the picture should show.
        source_graph: of the photograph.
        prompt, source_prompt: what the picture should show, and what the photograph shows, in words.
        photograph: the image to edit; None for a picture that is sampled from noise.
        truth: the picture that should result.
        mask: white where the edit may change.
        style: the image to take the look from.
        region: (H,W) bool, where the edit may change, of forms that hold no mask file.
        label: class that the picture should show.
        type: kind of the line; averages are also given for each.
        unit: lines of one unit are not independent of each other.
        options: of sampling or editing, for this line alone.
        picture_path: where sets of published results keep the picture of this line, relative to their folder.
    """

    id: str
    place: str = ""
    seed: int = 0
    graph: SceneGraph | None = None
    source_graph: SceneGraph | None = None
    prompt: str | None = None
    source_prompt: str | None = None
    photograph: Path | None = None
    truth: Path | None = None
    mask: Path | None = None
    style: Path | None = None
    region: np.ndarray | None = field(default=None, repr=False, compare=False)
    label: str | None = None
    type: str = "all"
    unit: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    picture_path: str | None = None

    def __post_init__(self):
        if not ID.fullmatch(self.id):
            raise UserError(f"{self.place}: id {self.id!r} is not made of letters, digits, '.', '_' and '-', up to 100")
        object.__setattr__(self, "unit", self.unit or self.id)

    @property
    def is_edit(self) -> bool:
        """Whether a photograph is edited; otherwise a picture is sampled from noise."""
        return self.photograph is not None

    def identity(self) -> str:
        """16 hexadecimal digits of everything that the picture and its scores depend on, contents of files included.

        Raises:
            UserError: a file cannot be read.
        """
        values: dict[str, Any] = {}
        for item in dataclasses.fields(self):
            value = getattr(self, item.name)
            if isinstance(value, SceneGraph):
                value = value.to_json()
            elif isinstance(value, Path):
                value = _digest_of(value, self.place)
            elif isinstance(value, np.ndarray):
                value = digest(np.packbits(value).tobytes() + str(value.shape).encode())
            if item.name not in ("place", "type", "unit", "picture_path"):
                values[item.name] = value
        return digest(json.dumps(values, sort_keys=True, default=list).encode())[:16]

    def change_mask(self, size: tuple[int, int]) -> np.ndarray | None:  # (H,W) bool
        """Where the picture may change; None if neither a mask nor a region tells.

        Args:
            size: width and height of the picture.

        Raises:
            UserError: the mask's size is another one.
        """
        if self.region is not None:
            region = self.region
        elif self.mask is not None:
            region = np.asarray(read_image(self.mask, True, "black").convert("L")) > 127
        else:
            return None
        if region.shape != size[::-1]:
            there, here = "x".join(map(str, region.shape[::-1])), "x".join(map(str, size))
            raise UserError(f"{self.place}: its mask is {there}, its picture {here}; give both the same size")
        return region


def default_seed(id: str) -> int:
    """A seed that follows from the id alone, so that a line's picture does not depend on the other lines."""
    return random.Random(f"validation/{id}").getrandbits(48)


def read_lines(path: str | Path) -> list[ValidationLine]:
    """Reads a validation file.

    Args:
        path: validation.jsonl, PIE-Bench's mapping_file.json, or an edits_*.json of aligned photographs.

    Raises:
        UserError: the file cannot be read, holds another form, or a line is wrong; the message names it.
    """
    from ldm.evaluation.validation import photo_pairs, pie_bench
    from ldm.util.files import read_json

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
    for number, text in numbered_lines(path):
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
    kind = EditOptions if is_edit else SampleOptions
    known = [item.name for item in dataclasses.fields(kind) if item.name != "seed"]
    for key in options:
        if key not in known:
            raise UserError(f"unknown key {key!r}{did_you_mean(key, (*KEYS, *known))}")
    from_mapping(kind, options)
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
    texts: dict[str, Any] = {name: values[key] for key, name in TEXTS.items() if values.get(key) is not None}
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


def _digest_of(file: Path, place: str) -> str:
    try:
        return digest(file)[:16]
    except OSError as error:
        raise UserError(f"{place}: {file}: {error.strerror}; check the path") from None
