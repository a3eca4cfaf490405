"""Annotations of VidVRD and VidOR (Shang et al. 2017 and 2019; xdshang.github.io/docs/vidor.html): a JSON file for each video.

    {"video_id": "2401075277", "frame_count": 219, "fps": 30, "width": 1920, "height": 1080,
     "subject/objects": [{"tid": 0, "category": "bicycle"}],
     "trajectories": [[{"tid": 0, "bbox": {"xmin": 672, "ymin": 560, "xmax": 781, "ymax": 693}, "generated": 0}], ...],
     "relation_instances": [{"subject_tid": 0, "object_tid": 1, "predicate": "move_right", "begin_fid": 0, "end_fid": 210}]}

There is one list of boxes for each frame; `end_fid` is the first frame in which the relation no longer holds.
"""

from __future__ import annotations

import os
from typing import Any

from ldm.graph.importers.entries import declared_size, id_text, mapping, number, sequence, text
from ldm.graph.json_files import read_json
from ldm.graph.tracks import Relation, Tracks
from ldm.graph.validation import Box, GraphError, shorten

OBJECTS = "subject/objects"


def recognises(data: Any) -> bool:
    """Whether parsed JSON is such an annotation."""
    return isinstance(data, dict) and OBJECTS in data and "trajectories" in data


def read_tracks(path: str | os.PathLike) -> Tracks:
    """Reads the annotation of one video.

    Raises:
        GraphError: the file cannot be read, or is no such annotation.
    """
    return parse_tracks(read_json(path), f"{path}")


def parse_tracks(data: Any, where: str = "annotation") -> Tracks:
    """The tracks of a parsed annotation. Underscores in names become spaces.

    Raises:
        GraphError: it is malformed.
    """
    if not recognises(data):
        raise GraphError(f"{where}: no annotation of VidVRD or VidOR, which has the keys {OBJECTS} and trajectories")
    size = declared_size(data, where)
    if size is None:
        raise GraphError(f"{where}: the video's width and height are missing; boxes in pixels need them")
    names: dict[str, str] = {}
    for place, record in _records(data, OBJECTS, where):
        id_ = id_text(record.get("tid"), f"{place}, tid")
        if id_ in names:
            raise GraphError(f"{place}: another object has the tid {id_} too; correct one of them")
        names[id_] = _words(record.get("category"), f"{place}, category")
    frames = sequence(data["trajectories"], f"{where}, trajectories")
    count = data.get("frame_count", len(frames))
    if count != len(frames):
        raise GraphError(
            f"{where}: frame_count is {shorten(count)}, but trajectories has {len(frames)} frames; correct it"
        )
    boxes = [_boxes(frame, names, size, f"{where}, trajectories[{i}]") for i, frame in enumerate(frames)]
    relations: list[set[Relation]] = [set() for _ in frames]
    for place, record in _records(data, "relation_instances", where):
        _add_relation(record, names, relations, place)
    fps = data.get("fps")
    fps = None if fps is None else number(fps, f"{where}, fps")
    if fps is not None and fps <= 0:
        raise GraphError(f"{where}, fps: a video does not have {shorten(fps)} frames per second; correct it")
    return Tracks(names, boxes, [frozenset(each) for each in relations], fps)


def _records(data: dict, key: str, where: str) -> list[tuple[str, dict]]:
    values = sequence(data.get(key) or [], f"{where}, {key}")
    return [(f"{where}, {key}[{i}]", mapping(value, f"{where}, {key}[{i}]")) for i, value in enumerate(values)]


def _words(value: Any, place: str) -> str:
    return text(value, place).replace("_", " ").replace("/", " or ")


def _boxes(frame: Any, names: dict[str, str], size: tuple[float, float], place: str) -> dict[str, Box]:
    """The boxes of a frame in the order of `names`; those without an area in the image are left out."""
    found: dict[str, Box] = {}
    for i, record in enumerate(sequence(frame, place)):
        record = mapping(record, f"{place}[{i}]")
        id_ = _known(record.get("tid"), names, f"{place}[{i}], tid")
        bbox = mapping(record.get("bbox"), f"{place}[{i}], bbox")
        edges = [number(bbox.get(key), f"{place}[{i}], bbox, {key}") for key in ("xmin", "ymin", "xmax", "ymax")]
        x0, y0, x1, y1 = (min(max(edge / side, 0.0), 1.0) for edge, side in zip(edges, (*size, *size)))
        if x0 < x1 and y0 < y1:
            found[id_] = x0, y0, x1, y1
    return {id_: found[id_] for id_ in names if id_ in found}


def _known(value: Any, names: dict[str, str], place: str) -> str:
    id_ = id_text(value, place)
    if id_ not in names:
        raise GraphError(f"{place}: there is no object {shorten(id_)} in {OBJECTS}; add it there")
    return id_


def _add_relation(record: dict, names: dict[str, str], relations: list[set[Relation]], place: str) -> None:
    subject, object_ = (_known(record.get(key), names, f"{place}, {key}") for key in ("subject_tid", "object_tid"))
    begin, end = (number(record.get(key), f"{place}, {key}") for key in ("begin_fid", "end_fid"))
    if not 0 <= begin < end <= len(relations) or begin != int(begin) or end != int(end):
        raise GraphError(
            f"{place}: from frame {shorten(begin)} to before {shorten(end)} in a video of {len(relations)} frames; correct them"
        )
    predicate = _words(record.get("predicate"), f"{place}, predicate")
    if subject != object_:
        for frame in range(int(begin), int(end)):
            relations[frame].add((subject, predicate, object_))
