"""What a node leaves for others: picture, graph, panel, record, and the command line that repeats it bit for bit."""

from __future__ import annotations

import io
import json
import shlex
import zipfile
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image

from ldm import plots
from ldm.app.editor import Editor
from ldm.app.errors import NotFound
from ldm.app.pictures import encode_png
from ldm.app.store import Node
from ldm.editing.options import EditOptions, EditRequest
from ldm.editing.outputs import panel, versions
from ldm.editing.pipeline import Edit
from ldm.editing.plan import make_plan
from ldm.graph.graph_files import graph_text
from ldm.graph.resolving import Wording
from ldm.graph.scene_graph import SceneGraph
from ldm.util.options import from_mapping

PROGRAM = "scripts/ddim_invert_edit.py"
NO_MODEL = "# add the --run, --ckpt or --config that the model was loaded from"
ZIP_TIME = (1980, 1, 1, 0, 0, 0)  # of every file, so that the same node gives the same file


class Export:
    """The files of one node.

    Args:
        editor: that has the node.
        node: a node that was made by an edit has all files, a root its picture and its graph.
    """

    def __init__(self, editor: Editor, node: Node):
        self.editor, self.node = editor, node
        self.made = node.kind in ("edit", "sample")
        self.folder = f"{node.kind}_{node.id}"
        self.read = editor.store.pictures.read

    def file(self, name: str) -> bytes:
        """One of picture.png, graph.json, panel.png, record.json, command.txt. Raises NotFound."""
        makers: dict[str, Callable[[], bytes]] = {"picture.png": self.picture, "graph.json": self.graph}
        if self.made:
            makers |= {"panel.png": self.panel, "record.json": self.record, "command.txt": self.command_file}
        if name not in makers:
            raise NotFound(f"node {self.node.id} has no {name}, only {', '.join(makers)}")
        return makers[name]()

    def zip(self) -> bytes:
        """All files of the node, with those that its command needs, in one folder. Raises NotFound for a root."""
        if not self.made:
            raise NotFound(
                "this is where the session began, so there is nothing to repeat; take picture.png and graph.json"
            )
        names = ("picture.png", "graph.json", "panel.png", "record.json", "command.txt")
        files = {name: self.file(name) for name in names} | self.inputs()
        content = io.BytesIO()
        with zipfile.ZipFile(content, "w", zipfile.ZIP_STORED) as archive:
            for name, data in files.items():
                archive.writestr(zipfile.ZipInfo(f"{self.folder}/{name}", ZIP_TIME), data)
        return content.getvalue()

    def picture(self) -> bytes:
        if self.node.picture is None:
            raise NotFound("a canvas has no picture").coded("empty_canvas")
        return self.editor.store.pictures.path(self.node.picture).read_bytes()

    def graph(self) -> bytes:
        if self.node.graph is None:
            raise NotFound("nothing is known of this picture yet; draw a box around each object first").coded(
                "no_graph_yet"
            )
        return _graph_file(self.node.graph)

    def panel(self) -> bytes:
        details, picture = self.node.details, self.read(self.node.picture or "")
        if self.node.kind == "sample":
            shown = SceneGraph.from_json(details["measured"]["graph"])
            items = [("sampled", picture), ("graph", plots.draw_graph(shown))]
            return encode_png(plots.panel(items, details["sentences"]))
        request = self._request()
        options = from_mapping(EditOptions, details["options"]["given"])
        plan = make_plan(request, options, self.editor.model)
        region = self.read(details["region"]).resize(picture.size, Image.Resampling.BILINEAR)
        edit = Edit(picture, np.asarray(region, np.float32) / 255, plan)
        return encode_png(panel(edit, request))

    def record(self) -> bytes:
        details = self.node.details
        record = {
            "command": self.command(),
            "model": self.editor.name,
            "weights": details["weights"],
            "device": details["device"],
            "threads": details["threads"],
            "created": self.node.created,
            "seconds": details["seconds"],
            "options": details["options"]["given"],
            **details["measured"],
            "verdict": details["verdict"],
            "versions": versions(),
        }
        return (json.dumps(record, indent=2, allow_nan=False) + "\n").encode()

    def command(self) -> str:
        """The command, to be run in the root of the checkout where the archive's folder is."""
        details = self.node.details
        words = ["python", PROGRAM]
        for name, flag in _FLAGS.items():
            if name in self._input_names():
                words += [flag, f"{self.folder}/{name}"]
        words += self.editor.model_words or []
        words += _option_words(details["options"]["given"])
        words += ["--outdir", f"{self.folder}/repeated"]
        threads = f"OMP_NUM_THREADS={details['threads']} " if details["device"] == "cpu" else ""
        return threads + shlex.join(words)

    def command_file(self) -> bytes:
        note = "" if self.editor.model_words is not None else f"{NO_MODEL}\n"
        return f"{note}{self.command()}\n".encode()

    def inputs(self) -> dict[str, bytes]:
        """The files that the command reads."""
        return {name: read() for name, read in self._input_names().items()}

    def _input_names(self) -> dict[str, Callable[[], bytes]]:
        details, store = self.node.details, self.editor.store
        asked = details["asked"]
        pictures = {"style.png": details["style"], "mask.png": details["mask"]}
        if self.node.kind == "edit":
            pictures["photograph.png"] = store.node(self.node.parent or 0).picture
        names: dict[str, Callable[[], bytes]] = {
            name: store.pictures.path(id).read_bytes for name, id in pictures.items() if id is not None
        }
        graphs = {"source.json": asked["source_graph"], "edited.json": asked["graph"]}
        return names | {name: lambda data=data: _graph_file(data) for name, data in graphs.items() if data is not None}

    def _request(self) -> EditRequest:
        details = self.node.details
        asked, read = details["asked"], self.read
        photograph = read(self.editor.store.node(self.node.parent or 0).picture or "")
        source = asked["source_graph"] and SceneGraph.from_json(asked["source_graph"])
        style, mask = (id and read(id) for id in (details["style"], details["mask"]))
        graph = SceneGraph.from_json(asked["graph"])
        written = [(asked.get("written_source"), source), (asked.get("written"), graph)]  # older sessions have none
        wordings = tuple(Wording(SceneGraph.from_json(data), named) for data, named in written if data and named)
        return EditRequest(photograph, graph, source, style, mask, wordings)


_FLAGS = {
    "photograph.png": "--ref",
    "source.json": "--source-sg",
    "edited.json": "--sg",
    "style.png": "--style",
    "mask.png": "--mask",
}


def _option_words(options: dict) -> list[str]:
    """Options as words of a command line."""
    words: list[str] = []
    for name, value in options.items():
        flag = f"--{name.replace('_', '-')}"
        if isinstance(value, bool):
            words += [flag] if value else []
        elif isinstance(value, Sequence) and not isinstance(value, str):
            words += [flag, *map(_number, value)]
        elif value is not None:
            words += [flag, _number(value)]
    return words


def _number(value: object) -> str:
    return repr(value) if isinstance(value, float) else str(value)


def _graph_file(data: dict) -> bytes:
    return graph_text([SceneGraph.from_json(data)]).encode()
