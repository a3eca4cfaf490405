"""Places in storyboards: relations that come move things, and everything else stays."""

import pytest

from ldm.graph.scene_graph import SceneGraph
from ldm.graph.spatial_relations import relation_holds
from ldm.graph.storyboard import Keyframe, Storyboard
from ldm.graph.storyboard_layout import place_storyboard
from ldm.graph.validation import GraphError

NAMES = ("circle", "square", "triangle")
IDS = ("a", "b", "c")


def board(*triples, frames=16):
    at = [round(number * (frames - 1) / max(1, len(triples) - 1)) for number in range(len(triples))]
    graphs = [SceneGraph(NAMES, triples=each, ids=IDS) for each in triples]
    return Storyboard(frames, tuple(map(Keyframe, at, graphs)))


def test_a_changed_relation_moves_one_of_its_things_and_nothing_else():
    placed, _ = place_storyboard(board([(0, "left of", 1)], [(0, "right of", 1)]), seed=1)
    first, last = (keyframe.graph for keyframe in placed.keyframes)
    assert relation_holds(first.boxes[0], "left of", first.boxes[1])
    assert relation_holds(last.boxes[0], "right of", last.boxes[1])
    assert first.boxes[2] == last.boxes[2] and sum(a != b for a, b in zip(first.boxes, last.boxes)) == 1


def test_in_between_the_thing_is_on_its_way():
    placed, _ = place_storyboard(board([(0, "left of", 1)], [(0, "right of", 1)]), seed=1)
    lead = [graph.boxes[0][0] - graph.boxes[1][0] for graph in placed.graphs()]
    assert lead == sorted(lead) and lead[0] < 0 < lead[-1] and lead[0] < lead[7] < lead[-1]


def test_what_a_keyframe_does_not_say_is_as_before():
    silent = Storyboard(4, (Keyframe(0, SceneGraph(NAMES, triples=((0, "above", 1),), ids=IDS)), Keyframe(3, SceneGraph(NAMES, ids=IDS))))  # fmt: skip
    first, last = (keyframe.graph for keyframe in place_storyboard(silent, seed=0)[0].keyframes)
    assert first.boxes == last.boxes and first.triples == last.triples


def test_boxes_that_are_given_stay_and_complete_storyboards_are_returned_as_they_are():
    box = (0.1, 0.1, 0.3, 0.3)
    given = Storyboard(2, (Keyframe(0, SceneGraph(NAMES[:2], (box, None))),))
    placed, _ = place_storyboard(given, seed=0)
    assert placed.keyframes[0].graph.boxes[0] == box and None not in placed.keyframes[0].graph.boxes
    assert place_storyboard(placed, seed=5)[0] is placed


def test_the_same_seed_gives_the_same_places_and_another_one_others():
    boards = [place_storyboard(board([(0, "left of", 1)]), seed)[0] for seed in (1, 1, 2)]
    assert boards[0] == boards[1] != boards[2]


def test_a_relation_that_says_no_place_is_refused_with_its_keyframe():
    with pytest.raises(GraphError, match=r"keyframes\[1\] \(frame 15\).*'inspects'"):
        place_storyboard(board([(0, "left of", 1)], [(0, "inspects", 1)]), seed=0)
