"""Measures of clips: what true clips, frozen ones and clips with a known fault get."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from ldm.evaluation.clip_edits import make_clip_task
from ldm.evaluation.clip_measures import flicker, measure_clip, moving_area, read_frame
from ldm.evaluation.clip_sources import DrawnClipSource
from ldm.graph.diff import ChangeAttribute, Replace, diff
from ldm.graph.scene_graph import SceneGraph
from ldm.graph.storyboard import Keyframe, Storyboard, moves
from ldm.synthetic.shapes import Background, ShapesWorld, render

CELL = 1 / 8
CLIPS = DrawnClipSource(16)
GREY = Background((220, 220, 220), (220, 220, 220), 0.0)
IDS = ("a", "b")


def graph(x=0.0, colour="red", shape="circle", side=0.25):
    words = (("small", colour, "plain"), ("small", "blue", "plain"))
    return SceneGraph((shape, "square"), ((x, 0.25, x + side, 0.25 + side), (0.5, 0.75, 0.75, 1)), words, (), IDS)


def board(frames=5):
    return Storyboard(frames, (Keyframe(0, graph(0.0)), Keyframe(frames - 1, graph(0.5))))


def drawn(graphs):
    return [render(each, GREY) for each in graphs]


def measured(graphs):
    return measure_clip(board(len(graphs)), drawn(graphs), "shapes", CELL)


def test_a_true_clip_is_right_in_everything():
    row = measured(board().graphs())
    assert (row["in_place"], row["nothing_else"], row["kept_objects"], row["objects"]) == (1, 1, 2, 2)
    assert row["complaints"] == [] and row["per_frame"] == [True] * 5


def test_a_frozen_clip_is_in_place_only_while_what_moves_is_near():
    row = measured([graph(0.0)] * 5)  # the circle moves by an eighth of the picture, a cell, in each frame
    assert row["per_frame"] == [True, False, False, False, False] and row["kept_objects"] == 2


@pytest.mark.parametrize("offset, inside", [(3, True), (6, False)])
def test_half_a_latent_cell_is_the_limit(offset, inside):
    place = graph(0.25 + offset / 64)
    assert read_frame(graph(0.25), render(place, GREY), "shapes", CELL).placed == (inside, True)


def test_an_object_that_changes_its_colour_or_shape_once_is_not_kept():
    for fault in ({"colour": "green"}, {"shape": "triangle"}):
        graphs = board().graphs()
        graphs[2] = graph(0.25, **fault)
        assert measured(graphs)["kept_objects"] == 1


def test_an_object_that_is_hardly_ever_found_is_not_kept():
    graphs = board().graphs()
    alone = [replace(each, objects=each.objects[1:], boxes=each.boxes[1:], attributes=each.attributes[1:], ids=IDS[1:]) for each in graphs]  # fmt: skip
    row = measured([*graphs[:1], *alone[1:]])
    assert row["kept_objects"] == 1 and row["in_place"] == pytest.approx(0.2)


def test_flicker_counts_what_rests_and_not_what_moves():
    frames = drawn(board().graphs())
    assert flicker(board(), frames, CELL) == 0
    brighter = [Image.fromarray(np.asarray(frame) - np.uint8(10 * (number % 2))) for number, frame in enumerate(frames)]
    assert flicker(board(), brighter, CELL) == pytest.approx(10)


def test_what_comes_or_goes_moves():
    before, after = board().graphs()[0], SceneGraph(("square",), ((0.5, 0.75, 0.75, 1),), ids=("b",))
    area = moving_area(before, after, (64, 64), 0.0)
    assert area.sum() == 16 * 16 and area[16:32, 0:16].all()
    assert not moving_area(before, before, (64, 64), 0.1).any()


def test_held_out_storyboards_move_by_two_latent_cells_and_are_the_same_each_time():
    assert all(max(moves(CLIPS.storyboard(number))) >= 2 * CELL for number in range(10))
    assert CLIPS.storyboard(3) == CLIPS.storyboard(3) != CLIPS.storyboard(4)
    assert np.array_equal(np.asarray(CLIPS.style(2)), np.asarray(CLIPS.style(2)))
    assert len(DrawnClipSource(6).clip(0)) == 6


def test_true_held_out_clips_pass():
    for number in range(3):
        row = measure_clip(CLIPS.storyboard(number), CLIPS.clip(number), "shapes", CELL)
        assert row["in_place"] == 1 and row["kept_objects"] == row["objects"] and row["nothing_else"] == 1


def test_an_edit_of_a_clip_changes_one_object_in_every_keyframe():
    for number in range(6):
        task = make_clip_task(CLIPS.storyboard(number), CLIPS.clip(number), ShapesWorld(), number)
        for before, after in zip(task.request.source.keyframes, task.request.storyboard.keyframes):
            (operation,) = diff(before.graph, after.graph)
            assert isinstance(operation, (ChangeAttribute, Replace))
            assert before.graph.ids[operation.source] == task.target
