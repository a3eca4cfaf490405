"""How well a detector reads true renders, and which planted faults a check with its readings finds."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from ldm.graph.scene_graph import SceneGraph
from ldm.synthetic.annotation import box_of
from ldm.synthetic.checker import check
from ldm.synthetic.readings import SceneReading
from ldm.synthetic.rendered.decoding import Detection, detect, to_pixels
from ldm.synthetic.rendered.detector import STYLE, Detector
from ldm.synthetic.rendered.records import Record
from ldm.synthetic.rendered.relations import floor_position
from ldm.synthetic.rendered.vocabulary import TABLE, DetectorVocabulary
from ldm.synthetic.rendered.world import reading_of

WORLDS = {"table": "rendered", "clevr": "clevr"}  # name of the world whose rules hold for scenes of a look
LEAST_MOVE = 1 / 16  # of a box in a planted fault, as a share of the picture's side


def read_all(detector: Detector, pictures: np.ndarray, batch: int = 64) -> list[SceneReading]:
    """Readings of pictures (N,SIDE,SIDE,3) uint8 on the detector's device."""
    device = next(detector.parameters()).device
    detector.eval()
    return [
        reading_of(found)
        for start in range(0, len(pictures), batch)
        for found in detect(detector, to_pixels(pictures[start : start + batch]).to(device))
    ]


def score(records: Sequence[Record], readings: Sequence[SceneReading], world: str = "rendered") -> dict[str, float]:
    """Shares of scenes, and of things, that are read right, and mean errors.

    Returns:
        'exact': scenes whose graph passes the check and whose style is read. 'graph' and each part of the style: scenes.
        'things': scenes with every kind and word right, and no other thing. 'kind', 'size', 'colour', 'material' and
        'support': things, of those that were found. 'box': mean error of an edge as a share of the side; 'position':
        mean error of a distance between things in scene units.
    """
    scenes: dict[str, list[float]] = {name: [] for name in ("exact", "graph", "things", *STYLE)}
    things: dict[str, list[float]] = {name: [] for name in ("kind", "size", "colour", "material", "support", "box")}
    distances: list[float] = []
    for record, reading in zip(records, readings):
        right = [getattr(record.scene.style, part) == getattr(reading.style, part) for part in STYLE]
        graph = check(record.graph(), reading, world).passed
        scenes["exact"].append(graph and all(right))
        scenes["graph"].append(graph)
        scenes["things"].append(_inventory(record.graph()) == _inventory(reading.graph))
        for part, value in zip(STYLE, right):
            scenes[part].append(value)
        pairs = list(_nearest(record, reading))
        for index, found in pairs:
            thing = record.scene.things[index]
            for field in ("kind", "size", "colour", "material"):
                things[field].append(getattr(thing, field) == getattr(found, field))
            things["support"].append(thing.relation == found.relation)
            things["box"].append(float(np.abs(np.subtract(record.boxes[index], found.box)).mean()))
        positions = [floor_position(record.scene.things[index], record.scene.camera) for index, _ in pairs]
        errors = np.array([np.subtract(found.position, place) for place, (_, found) in zip(positions, pairs)])
        if len(errors) > 1:
            distances.append(float(np.abs(errors - errors.mean(0)).mean()))
    means = {name: float(np.mean(values)) for name, values in (scenes | things).items() if values}
    return means | ({"position": float(np.mean(distances))} if distances else {})


def _inventory(graph: SceneGraph | None) -> list[tuple[str, ...]]:
    return sorted((name, *words) for name, words in zip(graph.objects, graph.known_attributes)) if graph else []


def _nearest(record: Record, reading: SceneReading) -> Iterator[tuple[int, Detection]]:
    """Each thing with the detection whose box is nearest, if that is near at all."""
    for index, box in enumerate(record.boxes):
        found = min(reading.evidence or (), key=lambda thing: np.abs(np.subtract(thing.box, box)).max(), default=None)
        if found is not None and np.abs(np.subtract(found.box, box)).max() < 0.1:
            yield index, found


# Planted faults --------------------------------------------------------------------------------------------------------


def _wrong_kind(graph: SceneGraph, rng: random.Random, words: DetectorVocabulary) -> SceneGraph:
    index = rng.randrange(len(graph.objects))
    names = list(graph.objects)
    names[index] = rng.choice([kind for kind in words.kinds if kind != names[index]])
    return replace(graph, objects=tuple(names))


def _wrong_look(graph: SceneGraph, rng: random.Random, words: DetectorVocabulary) -> SceneGraph | None:
    """Another colour or another material."""
    looks = [_looks(words, kind) for kind in graph.objects]
    choices = [index for index, of_kind in enumerate(looks) if len(of_kind) > 1]
    if not choices:
        return None
    index = rng.choice(choices)
    size, *look = graph.known_attributes[index]
    attributes = list(graph.known_attributes)
    attributes[index] = (size, *rng.choice([other for other in looks[index] if other != tuple(look)]))
    return replace(graph, attributes=tuple(attributes))


def _looks(words: DetectorVocabulary, kind: str) -> list[tuple[str, ...]]:
    """The words of colour and material that a kind can have."""
    return [tuple(word for word in look if word) for name, *look in words.looks if name == kind]


def _missing(graph: SceneGraph, rng: random.Random, words: DetectorVocabulary) -> SceneGraph:
    """A thing that the picture lacks."""
    kind = rng.choice(words.kinds)
    x, y = rng.uniform(0.1, 0.7), rng.uniform(0.3, 0.7)
    return replace(
        graph,
        objects=(*graph.objects, kind),
        boxes=(*graph.boxes, (x, y, x + 0.15, y + 0.15)),
        attributes=(*graph.known_attributes, (rng.choice(words.sizes), *rng.choice(_looks(words, kind)))),
        ids=(),
    )


def _extra(graph: SceneGraph, rng: random.Random, words: DetectorVocabulary) -> SceneGraph | None:
    """The picture shows a thing that the graph lacks; a graph must be left with one."""
    if len(graph.objects) == 1:
        return None
    gone = rng.randrange(len(graph.objects))
    kept = [index for index in range(len(graph.objects)) if index != gone]
    return replace(
        graph,
        objects=tuple(graph.objects[index] for index in kept),
        boxes=tuple(graph.boxes[index] for index in kept),
        attributes=tuple(graph.known_attributes[index] for index in kept),
        triples=tuple((kept.index(s), p, kept.index(o)) for s, p, o in graph.known_triples if gone not in (s, o)),
        ids=(),
    )


def _moved(graph: SceneGraph, rng: random.Random, words: DetectorVocabulary) -> SceneGraph:
    index = rng.randrange(len(graph.objects))
    x0, y0, x1, y1 = box_of(graph, index)
    dx, dy = rng.choice(((LEAST_MOVE, 0), (-LEAST_MOVE, 0), (0, LEAST_MOVE), (0, -LEAST_MOVE)))
    if min(x0 + dx, y0 + dy) < 0 or max(x1 + dx, y1 + dy) > 1:
        dx, dy = -dx, -dy
    boxes = list(graph.boxes)
    boxes[index] = tuple(float(np.clip(edge, 0, 1)) for edge in (x0 + dx, y0 + dy, x1 + dx, y1 + dy))
    return replace(graph, boxes=tuple(boxes))


FAULTS: dict[str, Callable[[SceneGraph, random.Random, DetectorVocabulary], SceneGraph | None]] = {
    "kind": _wrong_kind,
    "colour or material": _wrong_look,
    "missing": _missing,
    "extra": _extra,
    "moved": _moved,
}


def faults_caught(
    records: Sequence[Record],
    readings: Sequence[SceneReading],
    world: str = "rendered",
    vocabulary: DetectorVocabulary = TABLE,
) -> dict[str, float]:
    """Share of planted faults for which the check fails, by fault: one of each in every scene that passes without."""
    caught: dict[str, list[bool]] = {fault: [] for fault in FAULTS}
    for record, reading in zip(records, readings):
        if not check(record.graph(), reading, world).passed:
            continue
        for fault, plant in FAULTS.items():
            graph = plant(record.graph(), random.Random(f"fault/{fault}/{record.file}"), vocabulary)
            if graph is not None:
                caught[fault].append(not check(graph, reading, world).passed)
    return {fault: float(np.mean(values)) for fault, values in caught.items() if values}
