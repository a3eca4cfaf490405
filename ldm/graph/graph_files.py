"""Files of scene graphs, in the JSON format of sg2im (github.com/google/sg2im, scene_graphs/*.json).

A file holds one graph or a list of graphs. Only `objects` is required. Null or a missing key means unknown, which in an edit
is as in the other graph (`ldm.graph.inheritance`); an empty list of relationships or attributes means that there are none:

    {"objects": ["sheep", "grass"],                     names from the vocabulary
     "relationships": [[0, "standing on", 1]],          subject index, predicate, object index
     "boxes": [[0.2, 0.4, 0.6, 0.9], null],             x0 y0 x1 y1 as fractions of the image's width and height
     "attributes": [["white"], []],                     a list of names per object
     "ids": ["a", null],                                identify an object in the source graph and the edited graph
     "image": "sheep.png"}                              the photograph that the graph describes

`boxes`, `attributes`, `ids` and `image` extend sg2im's format. Graphs of other projects are converted when they are read
(`ldm.graph.importers`). Published files contain two things that a SceneGraph does
not represent. Reading drops them: relations of an object with itself (with a warning), and the `__image__` object with
its `__in_image__` relations, which `encode` adds to every graph. Repeated triples are kept.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ldm.graph.importers.entries import Source
from ldm.graph.importers.formats import parse_graphs
from ldm.graph.json_files import read_json, write_text
from ldm.graph.scene_graph import SceneGraph
from ldm.graph.validation import GraphError
from ldm.util.score_option import MIN_SCORE


def read_graphs(
    path: str | os.PathLike, photograph: str | os.PathLike | None = None, min_score: float = MIN_SCORE
) -> list[SceneGraph]:
    """Reads all graphs of a file, of sg2im's format or of one that `ldm.graph.importers` knows.

    Args:
        path: the file.
        photograph: the image that the graph describes. It tells the size to which boxes in pixels refer, and its name
            selects one image of an imported file.
        min_score: objects and relations that were predicted with a lower score are left out.

    Raises:
        GraphError: the file cannot be read, is not JSON, or holds no valid graph.
    """
    image = Path(photograph) if photograph else None
    return parse_graphs(read_json(path), Source(f"{path}", Path(path).parent, image, min_score))


def read_graph(
    path: str | os.PathLike, photograph: str | os.PathLike | None = None, min_score: float = MIN_SCORE
) -> SceneGraph:
    """Reads a file with exactly one graph, or one graph of the photograph; arguments are those of `read_graphs`.

    Raises:
        GraphError: as `read_graphs`, or the file holds several graphs.
    """
    return single_graph(read_graphs(path, photograph, min_score), f"{path}")


def single_graph(graphs: Sequence[SceneGraph], where: str) -> SceneGraph:
    """The only one of the graphs. Raises GraphError, which begins with `where`, if there are several."""
    if len(graphs) != 1:
        raise GraphError(f"{where}: holds {len(graphs)} graphs, but one is needed; put it into a file of its own")
    return graphs[0]


def write_graphs(path: str | os.PathLike, graphs: Sequence[SceneGraph]) -> None:
    """Writes graphs atomically: a single one as a JSON object, several as a list.

    Raises:
        GraphError: `graphs` is empty, or the file cannot be written.
    """
    if not graphs:
        raise GraphError(f"{path}: there is no graph to write; give at least one")
    write_text(path, graph_text(graphs))


def graph_text(graphs: Sequence[SceneGraph]) -> str:
    """The content of such a file."""
    texts = []
    for graph in graphs:  # one line per key; json.dumps offers only one line in all or one line per number
        lines = (f'  "{key}": {_to_text(value)}' for key, value in graph.to_json().items())
        texts.append("{\n" + ",\n".join(lines) + "\n}")
    return (texts[0] if len(texts) == 1 else "[\n" + ",\n".join(texts) + "\n]") + "\n"


def _to_text(value: Any) -> str:
    """JSON in readable characters, in escapes if there is a path of bytes that are no text."""
    text = json.dumps(value, ensure_ascii=False)
    return text if text.encode("utf-8", "replace").decode() == text else json.dumps(value)
