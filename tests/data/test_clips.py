"""Clips of the drawn world: what moves, which graphs are true, and how loaders keep frames together."""

import random

import numpy as np
import pytest

from ldm.data.clips import DrawnClips
from ldm.data.datamodule import DataModuleFromConfig, EpochSampler
from ldm.data.protocols import ClipDataset, DrawnDataset
from ldm.graph.storyboard import moves
from ldm.synthetic.shapes import read_scene, relation_holds, render
from ldm.synthetic.shapes.clips import CELLS, MIN_DISTANCE, drawn, random_storyboard
from ldm.util.errors import ConfigError

BOARDS = [random_storyboard(random.Random(f"test/{i}")) for i in range(40)]


def test_something_moves_by_two_latent_cells_in_nearly_every_clip():
    far = [max(moves(board)) >= MIN_DISTANCE / CELLS for board in BOARDS]
    assert sum(far) >= 36  # where only the thing that moves comes or goes, it moves less far
    assert max(moves(random_storyboard(random.Random(0), still=True))) == 0


def test_relations_hold_in_every_frame():
    for board in BOARDS:
        for graph in board.graphs():
            for s, predicate, o in graph.triples:
                assert relation_holds(graph.boxes[s], predicate, graph.boxes[o], in_front=s > o, slack=1)


def test_things_come_and_go_bounce_and_cover_each_other():
    counts = [{len(graph.objects) for graph in board.graphs()} for board in BOARDS]
    assert 2 <= sum(len(count) > 1 for count in counts) <= 20
    fronts = [{t[1] for graph in board.graphs() for t in graph.triples} for board in BOARDS]
    assert any("in front of" in front for front in fronts)
    assert any(len(board.keyframes) > 2 for board in BOARDS)


def test_boxes_stay_within_the_picture():
    assert all(0 <= edge <= 1 for board in BOARDS for graph in board.graphs() for box in graph.boxes for edge in box)


def test_frames_are_read_as_their_graphs_say():
    data = DrawnClips(2, seed=5)
    for index in (0, 7, 15, 20, 31):
        graph, found = data.graph(index, (64, 64)), read_scene(data.picture(index)).graph
        mine = sorted(
            zip(graph.objects, map(set, graph.attributes), graph.boxes), key=lambda thing: (thing[0], sorted(thing[1]))
        )
        read = sorted(
            zip(found.objects, map(set, found.attributes), found.boxes), key=lambda thing: (thing[0], sorted(thing[1]))
        )
        assert [thing[:2] for thing in mine] == [thing[:2] for thing in read]
        assert np.allclose([thing[2] for thing in mine], [thing[2] for thing in read], atol=2.5 / 64)


def test_light_grows_or_falls_evenly_over_a_clip_and_moves_nothing():
    steady, lit = DrawnClips(8, seed=3), DrawnClips(8, seed=3, light=0.4)
    ends = []
    for clip in range(8):
        brightness = lit.brightness(clip)
        assert brightness[0] == 1 and np.ptp(np.diff(brightness)) < 1e-12
        ends.append(brightness[-1])
        for frame in (0, 9):
            index = 16 * clip + frame
            assert lit.graph(index, (64, 64)) == steady.graph(index, (64, 64))
            expected = np.minimum(brightness[frame] * np.asarray(steady.picture(index), float), 255)
            assert np.abs(np.asarray(lit.picture(index)) - expected).max() <= 1
    assert 0.6 <= min(ends) < 1 < max(ends) <= 1.4
    assert not set(lit.image_names()) & set(steady.image_names())  # a cache of one is none of the other
    with pytest.raises(ConfigError, match="light"):
        DrawnClips(2, light=1.5)


def test_all_frames_of_two_clips_have_one_background():
    data = DrawnClips(4, seed=1, reference=True)
    assert data.background(0) == data.background(1) != data.background(2)
    assert {data.style_reference(index) for index in range(16)} == {16}
    assert {data.style_reference(index) for index in range(16, 32)} == {0}
    assert np.array_equal(
        np.asarray(data.picture(3)), np.asarray(render(drawn(data.graph(3, (64, 64))), data.background(0)))
    )


def test_a_clip_and_the_one_that_shows_its_style_are_generated_once(monkeypatch):
    data, made = DrawnClips(4, frames=4, reference=True), []
    generate = data.storyboard
    monkeypatch.setattr(data, "storyboard", lambda clip: made.append(clip) or generate(clip))
    for index in range(8):
        data[index]
    assert sorted(made) == [0, 1]
    assert data.graph(9, (64, 64)) == generate(2).graphs()[1] and data.graph(2, (64, 64)) == generate(0).graphs()[2]


def test_clips_can_be_cached_and_kept_together():
    data = DrawnClips(3)
    assert isinstance(data, DrawnDataset) and isinstance(data, ClipDataset)
    assert len(data) == 48 == len(set(data.image_names()))


def test_shuffling_keeps_the_frames_of_a_clip_in_their_order():
    data = DrawnClips(6, frames=4)
    order = list(EpochSampler(data, seed=3, clip=4))
    clips = np.array(order).reshape(6, 4)
    assert sorted(order) == list(range(24)) and order != list(range(24))
    assert (np.diff(clips, axis=1) == 1).all() and (clips[:, 0] % 4 == 0).all()


def test_processes_share_the_clips():
    data = DrawnClips(5, frames=4)
    shares = [list(EpochSampler(data, seed=3, rank=rank, world=2, clip=4)) for rank in range(2)]
    assert {len(share) for share in shares} == {12} == {len(EpochSampler(data, world=2, clip=4))}
    assert set(shares[0]) | set(shares[1]) == set(range(20))


def test_a_resumed_epoch_goes_on_behind_the_batches_that_were_done():
    data = DrawnClips(6, frames=4)
    whole, rest = (EpochSampler(data, seed=3, clip=4) for _ in range(2))
    rest.start = 8
    assert list(rest) == list(whole)[8:]


def module(**params):
    clips = {"target": "ldm.data.clips.DrawnClips", "params": {"size": 2, "frames": 4}}
    return DataModuleFromConfig(**{"batch_size": 8, "train": clips, "num_workers": 0, **params})


def test_batches_are_whole_clips():
    data = module(batch_size=4)
    data.setup()
    images = [batch.image for batch in data.train_dataloader()]
    assert [len(image) for image in images] == [4, 4]


@pytest.mark.parametrize("params, problem", [({"batch_size": 6}, "multiple of the 4 frames"), ({"flip": 0.5}, "clip")])
def test_batches_that_break_clips_and_flips_are_refused(params, problem):
    data = module(**params)
    with pytest.raises(ConfigError, match=problem):
        data.setup()
        data.train_dataloader()


@pytest.mark.parametrize("params", [{"size": -1}, {"size": 2, "frames": 1}, {"size": 2.5}])
def test_numbers_that_make_no_clips_are_refused(params):
    with pytest.raises(ConfigError, match="DrawnClips"):
        DrawnClips(**params)


def test_pictures_have_their_edges_on_the_grid_and_near_those_of_the_graph():
    for graph in (graph for board in BOARDS[:10] for graph in board.graphs()):
        for box, near in zip(drawn(graph).boxes, graph.boxes):
            assert all(16 * edge == pytest.approx(round(16 * edge)) for edge in box)
            assert max(abs(a - b) for a, b in zip(box, near)) <= 2 / 64 + 1e-9
