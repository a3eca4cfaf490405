"""Graphs from browsers and files, and the explicit form in which sessions keep them."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from ldm.app.limits import GRAPHS
from ldm.graph.importers import Source, parse_graphs
from ldm.graph.scene_graph import SceneGraph
from ldm.graph.validation import GraphError
from ldm.models.diffusion.ddpm import LatentDiffusion


def explicit(graph: SceneGraph) -> SceneGraph:
    """The graph with an id for every object, and with nothing unknown but boxes.

    Whoever looks at a picture and lists what it shows says by that what is not there. So a later graph in which an object
    has an attribute more differs from this one.
    """
    taken, ids = {id for id in graph.ids if id is not None}, []
    fresh = (f"o{number}" for number in range(1, len(graph.objects) + len(taken) + 1))
    for id in graph.ids:
        ids.append(next(name for name in fresh if name not in taken) if id is None else id)
    return replace(graph, ids=tuple(ids), attributes=graph.known_attributes, triples=graph.known_triples, image=None)


def without_kept_boxes(edited: SceneGraph, source: SceneGraph) -> SceneGraph:
    """The edited graph without boxes that are those of the same objects in the source graph.

    A page sends all boxes. One that nobody changed says nothing about where the object is to be, so a relation may move it.
    """
    before = {id: box for id, box in zip(source.ids, source.boxes) if id is not None}
    kept = [id is not None and box is not None and before.get(id) == box for id, box in zip(edited.ids, edited.boxes)]
    return replace(edited, boxes=tuple(None if same else box for same, box in zip(kept, edited.boxes)))


def to_json(graph: SceneGraph) -> dict:
    """A graph as the interface tells it: every key is there."""
    unknown = [None] * len(graph.objects)
    return {"relationships": None, "boxes": unknown, "attributes": unknown, "ids": unknown, **graph.to_json()}


def from_json(data: Any, where: str = "graph") -> SceneGraph:
    """A graph that a browser sent. Raises GraphError."""
    return replace(SceneGraph.from_json(data, where), image=None)


def validate(graph: SceneGraph, model: LatentDiffusion, where: str = "graph") -> None:
    """Checks that the model can encode the graph. Raises GraphError."""
    graph.validate(model.vocab, where, model.cond_stage_model.max_objects)


def read_file(content: bytes, name: str, photograph: Path | None) -> tuple[list[SceneGraph], str]:
    """The graphs of a file of any known format, at most `limits.GRAPHS`, and a sentence on how it was read.

    No other file is opened: neither one beside it nor one that it names.

    Args:
        name: of the file, for messages.
        photograph: the picture that the graph describes, whose size boxes in pixels refer to.

    Raises:
        GraphError: it is not UTF-8 or JSON, or holds no valid graph.
    """
    try:
        data = json.loads(content.decode("utf-8-sig"), object_pairs_hook=_unique_keys)
    except UnicodeDecodeError as error:
        raise GraphError(f"{name}: byte {error.start} is not UTF-8; save the file as UTF-8 text") from None
    except json.JSONDecodeError as error:
        raise GraphError(f"{name}: line {error.lineno}, column {error.colno}: invalid JSON ({error.msg})") from None
    except RecursionError:
        raise GraphError(f"{name}: lists are nested too deeply; check the brackets") from None
    except GraphError as error:
        raise GraphError(f"{name}: {error}") from None
    except ValueError:
        raise GraphError(f"{name}: an integer has more than 4300 digits; check the numbers") from None
    with _notes() as notes:
        graphs = parse_graphs(data, Source(name, None, photograph))
    if len(graphs) > GRAPHS:
        notes.append(f"the first {GRAPHS} of {len(graphs)} graphs")
    return [replace(graph, image=None) for graph in graphs[:GRAPHS]], "; ".join(notes)


def unknown_names(graph: SceneGraph, model: LatentDiffusion) -> list[str]:
    """A sentence for each name that the model does not know."""
    sentences = []
    vocab = model.vocab
    names = [(f"objects[{index}]", vocab.object_id, name) for index, name in enumerate(graph.objects)]
    names += [(f"relationships[{i}]", vocab.predicate_id, triple[1]) for i, triple in enumerate(graph.known_triples)]
    for index, attributes in enumerate(graph.known_attributes):
        names += [(f"attributes[{index}]", vocab.attribute_id, name) for name in attributes]
    for place, find, name in names:
        try:
            find(name)
        except GraphError as error:
            sentences.append(f"{place}: {error}")
    return sentences


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict:
    data = dict(pairs)
    if len(data) < len(pairs):
        keys = [key for key, _ in pairs]
        raise GraphError(
            f"the key {next(key for key in keys if keys.count(key) > 1)!r} is there twice; keep one of them"
        )
    return data


@contextmanager
def _notes() -> Iterator[list[str]]:
    """Collects what the importers log in this thread, which is how a file was read."""
    notes: list[str] = []
    thread = threading.get_ident()

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.thread == thread:
                notes.append(record.getMessage())

    logger, collector = logging.getLogger("ldm.graph.importers"), Collector()
    logger.addHandler(collector)
    level = logger.level
    logger.setLevel(logging.INFO)
    try:
        yield notes
    finally:
        logger.removeHandler(collector)
        logger.setLevel(level)
