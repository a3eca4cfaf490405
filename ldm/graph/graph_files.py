"""Files of scene graphs, in the JSON format of sg2im (github.com/google/sg2im, scene_graphs/*.json).

A file holds one graph or a list of graphs. Only `objects` is required; null or a missing key means unknown:

    {"objects": ["sheep", "grass"],                     names from the vocabulary
     "relationships": [[0, "standing on", 1]],          subject index, predicate, object index
     "boxes": [[0.2, 0.4, 0.6, 0.9], null],             x0 y0 x1 y1 as fractions of the image's width and height
     "attributes": [["white"], []],                     a list of names per object
     "ids": ["a", null],                                identify an object in the source graph and the edited graph
     "image": "sheep.png"}                              the photograph that the graph describes

`boxes`, `attributes`, `ids` and `image` extend sg2im's format. Published files contain two things that a SceneGraph does
not represent. Reading drops them: relations of an object with itself (with a warning), and the `__image__` object with
its `__in_image__` relations, which `encode` adds to every graph. Repeated triples are kept.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence

from ldm.graph.json_files import read_json, write_text
from ldm.graph.scene_graph import SceneGraph
from ldm.graph.validation import GraphError


def read_graphs(path: str | os.PathLike) -> list[SceneGraph]:
    """Reads all graphs of a file.

    Raises:
        GraphError: the file cannot be read, is not JSON, or holds no valid graph.
    """
    data = read_json(path)
    if not isinstance(data, list):
        return [SceneGraph.from_json(data, f"{path}: graph")]
    if not data:
        raise GraphError(f"{path}: the list is empty; give at least one graph")
    return [SceneGraph.from_json(graph, f"{path}: graph {index}") for index, graph in enumerate(data)]


def read_graph(path: str | os.PathLike) -> SceneGraph:
    """Reads a file with exactly one graph.

    Raises:
        GraphError: as `read_graphs`, or the file holds several graphs.
    """
    graphs = read_graphs(path)
    if len(graphs) != 1:
        raise GraphError(f"{path}: holds {len(graphs)} graphs, but one is needed; put it into a file of its own")
    return graphs[0]


def write_graphs(path: str | os.PathLike, graphs: Sequence[SceneGraph]) -> None:
    """Writes graphs atomically: a single one as a JSON object, several as a list.

    Raises:
        GraphError: `graphs` is empty, or the file cannot be written.
    """
    if not graphs:
        raise GraphError(f"{path}: there is no graph to write; give at least one")
    texts = []
    for graph in graphs:  # one line per key; json.dumps offers only one line in all or one line per number
        lines = (f'  "{key}": {json.dumps(value, ensure_ascii=False)}' for key, value in graph.to_json().items())
        texts.append("{\n" + ",\n".join(lines) + "\n}")
    write_text(path, (texts[0] if len(texts) == 1 else "[\n" + ",\n".join(texts) + "\n]") + "\n")
