"""Graphs from browsers and files, and the explicit form in which sessions keep them."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from ldm.app.limits import GRAPHS
from ldm.graph.importers import Source, parse_graphs
from ldm.graph.inheritance import drop_contradicted, share_known
from ldm.graph.matching import match_objects
from ldm.graph.resolving import Wording
from ldm.graph.scene_graph import SceneGraph
from ldm.graph.validation import GraphError, Triple
from ldm.models.diffusion.latent_diffusion import LatentDiffusion
from ldm.words.open_words import OpenWords


def explicit(graph: SceneGraph, others: Collection[str | None] = ()) -> SceneGraph:
    """The graph with an id for every object, and with nothing unknown but boxes.

    Whoever looks at a picture and lists what it shows says by that what is not there. So a later graph in which an object
    has an attribute more differs from this one.

    Args:
        others: ids that no object is to get.
    """
    taken, ids = {id for id in (*graph.ids, *others) if id is not None}, []
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


def without_contradicted(edited: SceneGraph, source: SceneGraph) -> tuple[SceneGraph, list[Triple]]:
    """The edited graph without relations of the source graph that its new boxes contradict, and those relations.

    A page sends all relations. Whoever drags an object does not ask for those that it leaves, but for those that are new.
    """
    remaining = drop_contradicted(source, edited).known_triples
    match = {j: i for i, j in match_objects(source, edited).items()}

    def is_dropped(triple: Triple) -> bool:
        subject, predicate, object_ = triple
        before = match.get(subject), predicate, match.get(object_)
        return triple not in remaining and before in source.known_triples

    dropped = [triple for triple in edited.known_triples if is_dropped(triple)]
    if not dropped:
        return edited, []
    return replace(edited, triples=tuple(each for each in edited.known_triples if each not in dropped)), dropped


def as_edited(graph: SceneGraph, source: SceneGraph) -> SceneGraph:
    """A graph from a file as the edited graph of a picture: its objects have the ids of those that they match there.

    What the file leaves unknown is as in the picture's graph.
    """
    if not set(filter(None, graph.ids)) & set(source.ids):  # the ids of other files mean something else
        graph = replace(graph, ids=())
    match = {j: i for i, j in match_objects(source, graph).items()}
    _, complete = share_known(source, graph, {i: j for j, i in match.items()})
    matched = [match.get(j) for j in range(len(graph.objects))]
    known = {source.ids[i] for i in match.values()}
    own = [None if id in known or id in source.ids else id for id in graph.ids]
    ids = [own[j] if i is None else source.ids[i] for j, i in enumerate(matched)]
    boxes = [box or (None if i is None else source.boxes[i]) for i, box in zip(matched, graph.boxes)]
    taken = {id for id in source.ids if id not in ids}
    return explicit(replace(complete, ids=tuple(ids), boxes=tuple(boxes)), taken)


def to_json(graph: SceneGraph) -> dict:
    """A graph as the interface tells it: every key is there."""
    unknown = [None] * len(graph.objects)
    return {"relationships": None, "boxes": unknown, "attributes": unknown, "ids": unknown, **graph.to_json()}


def from_json(data: Any, where: str = "graph") -> SceneGraph:
    """A graph that a browser sent. Raises GraphError."""
    return replace(SceneGraph.from_json(data, where), image=None)


def validate(
    graph: SceneGraph, model: LatentDiffusion, where: str = "graph", words: OpenWords | None = None
) -> Wording:
    """Checks that the model can encode the graph.

    Args:
        words: reads words that the vocabulary lacks; None refuses them.

    Returns:
        The graph as it is written, and in the vocabulary's names.

    Raises:
        GraphError: a word has no name, or there are too many objects.
    """
    resolve = words and words.of(graph)
    return Wording(graph, graph.validate(model.vocab, where, model.cond_stage_model.max_objects, resolve))


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
        raise GraphError(f"{name}: byte {error.start} is not UTF-8; save the file as UTF-8 text").coded(
            "not_text", name=name
        ) from None
    except json.JSONDecodeError as error:
        words = f"{name}: line {error.lineno}, column {error.colno}: invalid JSON ({error.msg})"
        raise GraphError(words).coded("not_json", name=name, line=error.lineno, column=error.colno) from None
    except RecursionError:
        raise GraphError(f"{name}: lists are nested too deeply; check the brackets").coded(
            "too_nested", name=name
        ) from None
    except GraphError as error:
        raise GraphError(f"{name}: {error}").coded_like(error) from None
    except ValueError:
        raise GraphError(f"{name}: an integer has more than 4300 digits; check the numbers") from None
    with _notes() as notes:
        graphs = parse_graphs(data, Source(name, None, photograph))
    if len(graphs) > GRAPHS:
        notes.append(f"the first {GRAPHS} of {len(graphs)} graphs")
    return [replace(graph, image=None) for graph in graphs[:GRAPHS]], "; ".join(notes)


def unknown_names(graph: SceneGraph, model: LatentDiffusion, words: OpenWords | None = None) -> dict[str, str]:
    """The names that the model does not know, or not even as words for one that it knows, by a sentence on each place."""
    if words is not None:
        return words.complaints(graph)
    sentences = {}
    vocab = model.vocab
    names = [(f"objects[{index}]", vocab.object_id, name) for index, name in enumerate(graph.objects)]
    names += [(f"relationships[{i}]", vocab.predicate_id, triple[1]) for i, triple in enumerate(graph.known_triples)]
    for index, attributes in enumerate(graph.known_attributes):
        names += [(f"attributes[{index}]", vocab.attribute_id, name) for name in attributes]
    for place, find, name in names:
        try:
            find(name)
        except GraphError as error:
            sentences[f"{place}: {error}"] = name
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
