"""The table of formats, and the way from a file's parsed content to graphs."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from ldm.graph.importers import coco, gqa, scene_graph_benchmark, sgedit, visual_genome
from ldm.graph.importers.entries import Entry, RawGraph, Source, counted, one_line
from ldm.graph.importers.images import ImageFile, find_image, to_fractions
from ldm.graph.scene_graph import SceneGraph
from ldm.graph.validation import GraphError, shorten
from ldm.util.unicode import composed

logger = logging.getLogger(__name__)


class Format(NamedTuple):
    """A format of another project.

    Args:
        name: as messages call it.
        keys: by which a user recognises it.
        recognises: whether parsed JSON of any type is of this format.
        entries: the images of such a file. Raises GraphError.
    """

    name: str
    keys: str
    recognises: Callable[[Any], bool]
    entries: Callable[[Any, Source], list[Entry]]


FORMATS = (
    Format("SGEdit", "tuples", sgedit.recognises, sgedit.entries),
    Format(
        "Scene-Graph-Benchmark",
        "bbox, rel_pairs",
        scene_graph_benchmark.recognises,
        scene_graph_benchmark.entries,
    ),
    Format("Visual Genome", "image_id", visual_genome.recognises, visual_genome.entries),
    Format("COCO", "annotations, categories", coco.recognises, coco.entries),
    Format("GQA", "objects by id", gqa.recognises, gqa.entries),
)
OWN_KEYS = ("objects", "relationships", "boxes", "attributes", "ids")


def parse_graphs(data: Any, source: Source) -> list[SceneGraph]:
    """The graphs of parsed JSON, in the format of sg2im or of another project, which a log message names.

    Raises:
        GraphError: the data is of no format, or no valid graph.
    """
    formats = [each for each in FORMATS if each.recognises(data)]
    if len(formats) > 1:
        names = " or ".join(each.name for each in formats)
        raise GraphError(f"{source.where}: ambiguous, since it could be {names}; keep the keys of one format")
    if formats:
        return _import(formats[0], data, source)
    items = data if isinstance(data, list) else [data]
    if isinstance(data, (list, dict)) and items and not any(_has_own_keys(item) for item in items):
        listed = ", ".join(f"{each.name} ({each.keys})" for each in FORMATS)
        found = f"a list of {shorten(items[0])}" if isinstance(data, list) else f"the keys {shorten(list(data))}"
        raise GraphError(
            f"{source.where}: no scene graph, but {found}; known formats are sg2im (objects, relationships), {listed}"
        )
    if not isinstance(data, list):
        return [SceneGraph.from_json(data, f"{source.where}: graph")]
    if not data:
        raise GraphError(f"{source.where}: the list is empty; give at least one graph")
    return [SceneGraph.from_json(graph, f"{source.where}: graph {number}") for number, graph in enumerate(data)]


def _has_own_keys(data: Any) -> bool:
    return isinstance(data, dict) and any(key in data for key in OWN_KEYS)


def _import(format_: Format, data: Any, source: Source) -> list[SceneGraph]:
    read_as = replace(source, where=f"{source.where} (read as {format_.name})")
    entries = format_.entries(data, read_as)
    chosen = _of_photograph(entries, source.photograph)
    if not chosen:
        raise GraphError(f"{read_as.where}: there is no object in it; give at least one")
    if len(chosen) > 1:
        read_as = replace(read_as, photograph=None)
    graphs, notes = [], []
    for number, entry in enumerate(chosen):
        where = read_as.where if len(entries) == 1 else f"{read_as.where}: {one_line(entry.image) or number}"
        raw = entry.read()
        graph, lost = _build(raw, entry, find_image(entry, read_as), read_as, where)
        graphs.append(graph)
        notes += [note for note in (raw.note, lost) if note]
    images = f"{len(chosen)} of {len(entries)} images, " if len(entries) > 1 else ""
    details = f"; {'; '.join(notes)}" if notes and len(chosen) == 1 else ""
    logger.info("%s: read as %s: %s%s%s", source.where, format_.name, images, _sizes(graphs), details)
    return graphs


def _sizes(graphs: Sequence[SceneGraph]) -> str:
    """The numbers of objects and relations in words."""
    objects, relations = (
        sum(len(part) for part in parts) for parts in zip(*((g.objects, g.known_triples) for g in graphs))
    )
    known = any(graph.triples is not None for graph in graphs)
    return f"{counted(objects, 'object')}, {counted(relations, 'relation') if known else 'relations unknown'}"


def _of_photograph(entries: Sequence[Entry], photograph: Path | None) -> Sequence[Entry]:
    """The entries whose image has the name of the photograph, or all if none has."""
    if photograph is None or len(entries) < 2:
        return entries
    return [entry for entry in entries if _stem(Path(entry.image)) == _stem(photograph)] or entries


def _stem(path: Path) -> str:
    return composed(path.stem)


def _build(raw: RawGraph, entry: Entry, image: ImageFile | None, source: Source, where: str) -> tuple[SceneGraph, str]:
    """The graph, and a note on boxes that are unknown since they have no area in the image."""
    boxes = to_fractions(raw.boxes, entry, image, where)
    lost = sum(before is not None and after is None for before, after in zip(raw.boxes, boxes))
    data = {
        "objects": raw.objects,
        "boxes": boxes,
        "attributes": raw.attributes,
        "relationships": None if raw.triples is None else [list(triple) for triple in raw.triples],
        "ids": raw.ids,
        "image": _path_from(source.folder, image.path) if image and image.path != source.photograph else None,
    }
    return SceneGraph.from_json(data, where), f"{counted(lost, 'box')} outside of the image" if lost else ""


def _path_from(folder: Path | None, path: Path) -> str:
    return str(path.relative_to(folder) if folder and path.is_relative_to(folder) else path)
