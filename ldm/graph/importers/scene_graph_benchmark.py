"""Predictions of Scene-Graph-Benchmark (Tang et al. 2020; KaihuaTang/Scene-Graph-Benchmark.pytorch) and its descendants.

    custom_prediction.json   {"0": {"bbox": [[x0, y0, x1, y1], ...], "bbox_labels": [...], "bbox_scores": [...],
                              "rel_pairs": [[0, 1], ...], "rel_labels": [...], "rel_scores": [...]}, ...}
    custom_data_info.json    {"idx_to_files": [...], "ind_to_classes": [...], "ind_to_predicates": [...]}

The second file, the dictionary, lies beside the first. Boxes are in pixels of the image as the network saw it: its shorter
side has 600 pixels, or fewer if the longer one would exceed 1000. Label 0 is the background.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

from ldm.graph.importers.entries import (
    Entry,
    RawGraph,
    Size,
    Source,
    corners,
    declared_size,
    describe_left_out,
    index,
    mapping,
    number,
    one_line,
    sequence,
    text,
)
from ldm.graph.validation import GraphError

SHORTER_SIDE, LONGEST_SIDE = 600, 1000  # pixels; the project's INPUT.MIN_SIZE_TEST and MAX_SIZE_TEST
DICTIONARY = "custom_data_info.json"


class _Words(NamedTuple):
    classes: Sequence[Any]
    predicates: Sequence[Any]
    files: Sequence[Any]


def recognises(data: Any) -> bool:
    """Whether a parsed file has the predictions of many images, or of one."""
    return isinstance(data, dict) and (_is_prediction(data) or any(map(_is_prediction, data.values())))


def entries(data: dict, source: Source) -> list[Entry]:
    """One entry per image. Raises GraphError without the dictionary."""
    words, found = _read_dictionary(source), []
    for key, prediction in ({"0": data} if _is_prediction(data) else data).items():
        where = f"{source.where}: image {one_line(key)}"
        size = declared_size(mapping(prediction, where), where)
        place = int(key) if key.isdecimal() and len(key) < 10 else len(words.files)
        name = words.files[place] if place < len(words.files) else ""
        name = text(name, f"{DICTIONARY}, idx_to_files")
        found.append(Entry(name, size, partial(_read, prediction, words, source.min_score, where), resized))
    return found


def resized(size: Size) -> Size:
    """The size to which the project resizes an image, in whole pixels."""
    shorter, longer = sorted(size)
    scaled = SHORTER_SIDE
    if longer / shorter * scaled > LONGEST_SIDE:
        scaled = round(LONGEST_SIDE * shorter / longer)
    width, height = size
    if width <= height:
        return scaled, int(scaled * height / width)
    return int(scaled * width / height), scaled


def _is_prediction(data: Any) -> bool:
    return isinstance(data, dict) and {"bbox", "bbox_labels"} <= data.keys()


def _read_dictionary(source: Source) -> _Words:
    data = source.read_beside(DICTIONARY)
    if data is None:
        raise GraphError(
            f"{source.where}: predictions have numbers for names; put their dictionary, {DICTIONARY}, beside the file"
        )
    data = mapping(data, DICTIONARY)
    keys = ("ind_to_classes", "ind_to_predicates", "idx_to_files")
    return _Words(*(sequence(data.get(key, []), f"{DICTIONARY}, {key}") for key in keys))


def _read(prediction: dict, words: _Words, min_score: float, where: str) -> RawGraph:
    boxes = sequence(prediction["bbox"], f"{where}, bbox")
    labels = sequence(prediction["bbox_labels"], f"{where}, bbox_labels", len(boxes))
    scores = _scores(prediction, "bbox_scores", len(boxes), where)
    chosen = [i for i, score in enumerate(scores) if score >= min_score and labels[i] != 0]
    if not chosen:
        raise GraphError(f"{where}: no object has a score of {min_score:g} or more; lower the minimum with --min-score")
    objects = [_name(words.classes, labels[i], f"{where}, bbox_labels[{i}]") for i in chosen]
    position = {i: place for place, i in enumerate(chosen)}
    pairs = sequence(prediction.get("rel_pairs", []), f"{where}, rel_pairs")
    predicates = sequence(prediction.get("rel_labels", []), f"{where}, rel_labels", len(pairs))
    strengths = _scores(prediction, "rel_scores", len(pairs), where)
    triples = []
    for number_, (pair, label, score) in enumerate(zip(pairs, predicates, strengths)):
        place = f"{where}, rel_pairs[{number_}]"
        ends = [index(end, len(boxes), place) for end in sequence(pair, place, 2)]
        if score >= min_score and label != 0 and ends[0] in position and ends[1] in position:
            name = _name(words.predicates, label, f"{where}, rel_labels[{number_}]")
            triples.append((position[ends[0]], name, position[ends[1]]))
    reason = f"with scores below {min_score:g}"
    lost = [(len(boxes) - len(objects), "object", reason), (len(pairs) - len(triples), "relation", reason)]
    return RawGraph(
        objects,
        [corners(boxes[i], f"{where}, bbox[{i}]") for i in chosen],
        triples=triples,
        note=describe_left_out(lost),
    )


def _scores(prediction: dict, key: str, count: int, where: str) -> list[float]:
    """The scores of a list; 1 for each if the file has none."""
    if prediction.get(key) is None:
        return [1.0] * count
    return [number(score, f"{where}, {key}") for score in sequence(prediction[key], f"{where}, {key}", count)]


def _name(names: Sequence[Any], label: Any, place: str) -> str:
    return text(label if isinstance(label, str) else names[index(label, len(names), place)], f"{place}, {DICTIONARY}")
