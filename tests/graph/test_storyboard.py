"""Storyboards: where things are between keyframes, what is refused, and how long clips are cut into windows."""

import json
import math

import pytest

from ldm.graph.scene_graph import SceneGraph
from ldm.graph.storyboard import Keyframe, Storyboard, is_storyboard
from ldm.graph.validation import GraphError
from ldm.graph.vocab import Vocab

LEFT, RIGHT, TOP = (0.0, 0.4, 0.2, 0.6), (0.8, 0.4, 1.0, 0.6), (0.4, 0.0, 0.6, 0.2)


def ball(box, **fields):
    return SceneGraph(("ball",), (box,), ids=("b",), **fields)


def crossing(easing="linear", **fields):
    return Storyboard(9, (Keyframe(0, ball(LEFT)), Keyframe(8, ball(RIGHT))), easing=easing, **fields)


def middle(box):
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2


def test_a_box_moves_along_a_straight_line_at_constant_speed():
    middles = [middle(graph.boxes[0]) for graph in crossing().graphs()]
    assert middles == [pytest.approx((0.1 + 0.1 * frame, 0.5)) for frame in range(9)]


def test_an_eased_box_starts_and_ends_slowly_and_is_halfway_at_half_time():
    x = [middle(graph.boxes[0])[0] for graph in crossing("ease").graphs()]
    steps = [b - a for a, b in zip(x, x[1:])]
    assert x[4] == pytest.approx(0.5) and x[0] == pytest.approx(0.1) and x[8] == pytest.approx(0.9)
    assert steps[0] == pytest.approx(steps[-1]) and steps[0] < 0.5 * max(steps) and min(steps) > 0


def test_a_curve_goes_through_the_box_of_every_keyframe_and_stays_within_the_picture():
    boxes = LEFT, TOP, RIGHT
    frames = Storyboard(9, tuple(Keyframe(4 * i, ball(box)) for i, box in enumerate(boxes)), easing="through").graphs()
    assert [frames[4 * i].boxes[0] for i in range(3)] == list(boxes)
    assert all(0 <= edge <= 1 for graph in frames for edge in graph.boxes[0])
    straight = Storyboard(9, tuple(Keyframe(4 * i, ball(box)) for i, box in enumerate(boxes))).graphs()
    assert frames[2].boxes[0] != pytest.approx(straight[2].boxes[0])


def test_relations_and_attributes_hold_from_one_keyframe_to_the_next():
    first = SceneGraph(("a", "b"), (LEFT, RIGHT), (("red",), ()), ((0, "left of", 1),), ("x", "y"))
    second = SceneGraph(("a", "b"), (RIGHT, LEFT), (("blue",), ()), ((1, "left of", 0),), ("x", "y"))
    board = Storyboard(6, (Keyframe(0, first), Keyframe(3, second)))
    for frame, graph in enumerate(board.graphs()):
        now = first if frame < 3 else second
        assert (graph.triples, graph.attributes) == (now.triples, now.attributes)


def test_an_object_appears_with_the_keyframe_that_adds_it_and_is_gone_with_the_one_that_lacks_it():
    alone, both = ball(LEFT), SceneGraph(("ball", "cat"), (LEFT, RIGHT), ids=("b", "c"))
    board = Storyboard(9, (Keyframe(0, alone), Keyframe(3, both), Keyframe(6, alone)))
    assert [len(graph.objects) for graph in board.graphs()] == [1, 1, 1, 2, 2, 2, 1, 1, 1]


def test_objects_are_followed_by_their_ids_whatever_their_order():
    first = SceneGraph(("ball", "ball"), (LEFT, TOP), ids=("x", "y"))
    second = SceneGraph(("ball", "ball"), (RIGHT, LEFT), ids=("y", "x"))
    graph = Storyboard(3, (Keyframe(0, first), Keyframe(2, second))).graph_at(1)
    assert middle(graph.boxes[0]) == pytest.approx((0.1, 0.5))  # x stays
    assert middle(graph.boxes[1]) == pytest.approx((0.7, 0.3))  # y moves from the top to the right


def test_a_box_that_only_one_keyframe_states_stays_or_is_unknown():
    board = Storyboard(5, (Keyframe(0, ball(LEFT)), Keyframe(4, ball(None))))
    assert [graph.boxes[0] for graph in board.graphs()] == [LEFT] * 4 + [None]


def test_nothing_changes_after_the_last_keyframe():
    board = Storyboard(6, (Keyframe(0, ball(LEFT)), Keyframe(2, ball(RIGHT))))
    assert all(graph == ball(RIGHT) for graph in board.graphs()[2:])


def test_a_storyboard_survives_json():
    board = crossing("ease", fps=12)
    assert Storyboard.from_json(json.loads(json.dumps(board.to_json()))) == board


def test_a_keyframe_may_hold_its_graph_under_a_key():
    data = crossing().to_json()
    for keyframe in data["keyframes"]:
        keyframe["graph"] = {key: keyframe.pop(key) for key in list(keyframe) if key != "at"}
    assert Storyboard.from_json(data) == crossing()


def test_changes_between_keyframes_are_sentences():
    assert crossing().changes() == [["move 'ball' (object 0) right by 0.80"]]


def test_the_words_of_every_keyframe_must_be_in_the_vocabulary():
    vocab = Vocab(("__image__", "ball"), ("__in_image__",))
    crossing().validate(vocab)
    other = Storyboard(3, (Keyframe(0, ball(LEFT)), Keyframe(2, SceneGraph(("bull",)))))
    with pytest.raises(GraphError, match=r"keyframes\[1\].*bull.*ball"):
        other.validate(vocab)


@pytest.mark.parametrize("frames, length, overlap", [(16, 16, 8), (10, 16, 4), (40, 16, 8), (33, 16, 4), (17, 16, 15)])
def test_windows_cover_every_frame_and_overlap_as_asked(frames, length, overlap):
    windows = Storyboard.still(ball(LEFT), frames).windows(length, overlap)
    assert sorted({frame for window in windows for frame in window}) == list(range(frames))
    assert all(len(window) == min(length, frames) for window in windows)
    assert all(len(set(a) & set(b)) >= overlap for a, b in zip(windows, windows[1:]))


VALID = {"frames": 4, "keyframes": [{"at": 0, "objects": ["ball"]}]}


@pytest.mark.parametrize(
    "change, problem",
    [
        ({"frames": 0}, "frames"),
        ({"frames": True}, "frames"),
        ({"frames": "4"}, "frames"),
        ({"frames": 10**9}, "frames"),
        ({"fps": -1}, "fps"),
        ({"fps": math.nan}, "fps"),
        ({"easing": "bouncy"}, "linear, ease, through"),
        ({"keyframes": []}, "at least one"),
        ({"keyframes": {}}, "no list"),
        ({"keyframes": [[]]}, r"keyframes\[0\]"),
        ({"keyframes": [{"objects": ["ball"]}]}, "'at' is missing"),
        ({"keyframes": [{"at": 1, "objects": ["ball"]}]}, r"keyframes\[0\].at"),
        ({"keyframes": [{"at": 0, "objects": ["ball"]}, {"at": 0, "objects": ["ball"]}]}, r"keyframes\[1\].at.*1 to 3"),
        ({"keyframes": [{"at": 0, "objects": ["ball"]}, {"at": 4, "objects": ["ball"]}]}, r"keyframes\[1\].at"),
        ({"keyframes": [{"at": 0, "objects": ["ball"], "boxs": []}]}, "boxs"),
        ({"keyframes": [{"at": 0, "objects": ["ball"], "graph": {}}]}, "both 'graph' and"),
        ({"keyframes": [{"at": 0, "objects": ["ball"], "boxes": [[0, 0, 2, 1]]}]}, r"keyframes\[0\]"),
        ({"frame": 4}, "frame"),
    ],
)
def test_a_faulty_storyboard_is_refused_in_one_sentence(change, problem):
    with pytest.raises(GraphError, match=problem) as error:
        Storyboard.from_json({**VALID, **change}, "board.json")
    assert f"{error.value}".startswith("board.json") and "\n" not in f"{error.value}"


def test_a_storyboard_is_told_from_a_graph():
    assert is_storyboard(VALID) and not is_storyboard(ball(LEFT).to_json()) and not is_storyboard([VALID])
