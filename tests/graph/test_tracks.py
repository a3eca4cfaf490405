import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ldm.graph.importers.video_relations import parse_tracks, read_tracks, recognises
from ldm.graph.storyboard import Storyboard
from ldm.graph.tracks import Tracks, keyframe_numbers
from ldm.graph.validation import GraphError


def moving(positions, relations=None, names=None):
    """Boxes of width and height 0.1 whose left edges are given for each frame, None where the object is absent."""
    boxes = [{id_: (x, 0.2, x + 0.1, 0.3) for id_, x in frame.items() if x is not None} for frame in positions]
    relations = relations or [frozenset()] * len(boxes)
    return Tracks(names or {"0": "dog", "1": "ball"}, boxes, relations, 8.0)


def test_a_straight_path_needs_its_ends_only_and_a_bounce_one_keyframe_more():
    straight = moving([{"0": 0.1 + 0.05 * t} for t in range(9)])
    assert keyframe_numbers(straight) == [0, 8]
    bounce = moving([{"0": 0.1 + 0.05 * min(t, 10 - t)} for t in range(9)])
    assert keyframe_numbers(bounce) == [0, 5, 8]


def test_what_enters_or_leaves_and_relations_that_change_become_keyframes():
    enters = moving([{"0": 0.1, "1": 0.5 if t >= 4 else None} for t in range(8)])
    assert keyframe_numbers(enters) == [0, 3, 4, 7]
    holds = [frozenset({("0", "chases", "1")}) if 2 <= t < 5 else frozenset() for t in range(8)]
    related = moving([{"0": 0.1, "1": 0.5}] * 8, holds)
    storyboard = related.storyboard().to_json()
    assert [keyframe["at"] for keyframe in storyboard["keyframes"]] == [0, 2, 5, 7]
    assert [keyframe["relationships"] for keyframe in storyboard["keyframes"]] == [[], [[0, "chases", 1]], [], []]
    assert related.graph(3).triples == ((0, "chases", 1),) and related.graph(5).triples == ()
    assert (storyboard["frames"], storyboard["fps"]) == (8, 8.0)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.fixed_dictionaries({"0": st.floats(0, 0.9), "1": st.none() | st.floats(0, 0.9)}), min_size=1, max_size=12
    ),
    st.floats(0, 0.3),
)
def test_a_storyboard_moves_no_box_further_than_the_tolerance_from_its_place(positions, tolerance):
    tracks = moving(positions)
    storyboard = Storyboard.from_json(json.loads(json.dumps(tracks.storyboard(tolerance).to_json())))
    for boxes, graph in zip(tracks.boxes, storyboard.graphs(), strict=True):
        assert set(graph.ids) == set(boxes)
        for name, found in zip(graph.ids, graph.boxes):
            assert max(abs(a - b) for a, b in zip(found, boxes[name])) <= tolerance + 1e-9


def test_clips_begin_where_something_is_seen_in_each_frame():
    tracks = moving([{"0": None if t == 5 else 0.1} for t in range(12)])
    assert tracks.clip_starts(3, step=1) == [0, 1, 2, 6, 7, 8, 9]
    assert tracks.clip_starts(3, stride=2, step=1) == [0, 2, 4, 6, 7]
    assert tracks.clip_starts(3) == [0, 6, 9]
    with pytest.raises(GraphError, match="frame 5: no object"):
        tracks.storyboard()


ANNOTATION = {
    "video_id": "2401075277",
    "frame_count": 4,
    "fps": 30,
    "width": 100,
    "height": 50,
    "subject/objects": [{"tid": 3, "category": "red_panda"}, {"tid": 7, "category": "bench"}],
    "trajectories": [
        [
            {"tid": 7, "bbox": {"xmin": 0, "ymin": 10, "xmax": 50, "ymax": 50}, "generated": 0},
            {"tid": 3, "bbox": {"xmin": 10 + 10 * t, "ymin": 0, "xmax": 30 + 10 * t, "ymax": 25}, "generated": 1},
        ][: 2 if t < 3 else 1]
        for t in range(4)
    ],
    "relation_instances": [
        {"subject_tid": 3, "object_tid": 7, "predicate": "jump_over", "begin_fid": 1, "end_fid": 3},
    ],
}


def test_an_annotation_of_vidor_is_read():
    assert recognises(ANNOTATION)
    tracks = parse_tracks(ANNOTATION)
    assert tracks.names == {"3": "red panda", "7": "bench"}
    assert tracks.boxes[1] == {"3": (0.2, 0.0, 0.4, 0.5), "7": (0.0, 0.2, 0.5, 1.0)}
    assert set(tracks.boxes[3]) == {"7"}
    assert [set(frame) for frame in tracks.relations] == [set(), *[{("3", "jump over", "7")}] * 2, set()]
    storyboard = tracks.select([0, 1, 2], 15).storyboard().to_json()
    assert storyboard["fps"] == 15
    assert storyboard["keyframes"][1] == {
        "at": 1,
        "objects": ["red panda", "bench"],
        "boxes": [[0.2, 0.0, 0.4, 0.5], [0.0, 0.2, 0.5, 1.0]],
        "relationships": [[0, "jump over", 1]],
        "ids": ["3", "7"],
    }


def changed(path, value):
    data = json.loads(json.dumps(ANNOTATION))
    place = data
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return data


@pytest.mark.parametrize(
    "path, value, message",
    [
        (["frame_count"], 5, "trajectories has 4 frames"),
        (["width"], None, "width and height are missing"),
        (["width"], 0, "an image is not 0 x 50"),
        (["fps"], 0, "frames per second"),
        (["fps"], "fast", "fps"),
        (["subject/objects", 1, "tid"], 3, "another object has the tid 3"),
        (["subject/objects", 1, "category"], 5, "category"),
        (["trajectories", 0, 0, "tid"], 99, "no object '99'"),
        (["trajectories", 0, 0, "bbox", "xmin"], "left", "xmin"),
        (["trajectories", 0, 0, "bbox"], None, "bbox"),
        (["trajectories", 2], None, r"trajectories\[2\]"),
        (["relation_instances", 0, "end_fid"], 5, "in a video of 4 frames"),
        (["relation_instances", 0, "begin_fid"], 3, "in a video of 4 frames"),
        (["relation_instances", 0, "object_tid"], 1, "no object '1'"),
        (["relation_instances", 0, "predicate"], None, "predicate"),
    ],
)
def test_a_malformed_annotation_is_refused_at_its_place(path, value, message):
    with pytest.raises(GraphError, match=message):
        parse_tracks(changed(path, value))


def test_another_file_is_refused(tmp_path):
    (tmp_path / "graph.json").write_text('{"objects": ["dog"]}')
    with pytest.raises(GraphError, match="no annotation of VidVRD or VidOR"):
        read_tracks(tmp_path / "graph.json")
