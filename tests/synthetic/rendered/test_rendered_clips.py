"""Clips of rendered scenes: how things move, and what stays as it is; nothing is rendered."""

import math

from fake_geometry import OpenGeometry

from ldm.synthetic.rendered.clips import MIN_DISTANCE, Frame, random_clip
from ldm.synthetic.rendered.scenes import REACH_X, REACH_Y, Visibility, is_free
from ldm.synthetic.rendered.things import Thing

FRAMES = 12
CLIPS = {seed: random_clip(seed, OpenGeometry(), FRAMES) for seed in range(60)}


def places(clip: list[Frame]) -> dict[int, list[tuple[float, float]]]:
    """The places of each thing, by its number."""
    found: dict[int, list[tuple[float, float]]] = {}
    for scene, things in clip:
        for number, thing in zip(things, scene.things):
            found.setdefault(number, []).append((thing.x, thing.y))
    return found


def looks(thing: Thing) -> tuple:
    return thing.kind, thing.size, thing.colour, thing.material, thing.turn, thing.z


def test_a_seed_gives_the_same_clip_twice_and_another_seed_another_one():
    assert random_clip(7, OpenGeometry(), FRAMES) == CLIPS[7] != CLIPS[8]
    assert all(frame.scene.seed == seed for seed, clip in CLIPS.items() for frame in clip)


def test_a_thing_moves_far_in_every_clip():
    for clip in CLIPS.values():
        ways = [max(math.dist(a, b) for a in way for b in way) for way in places(clip).values()]
        assert max(ways) >= MIN_DISTANCE - 1e-9 or any(len(way) < FRAMES for way in places(clip).values())


def test_things_stay_where_things_stand_and_never_collide():
    for clip in CLIPS.values():
        for scene, _ in clip:
            standing = [thing for thing in scene.things if thing.support is None]
            assert all(REACH_X[0] <= t.x <= REACH_X[1] and REACH_Y[0] <= t.y <= REACH_Y[1] for t in standing)
            assert all(is_free(thing, standing[:i]) for i, thing in enumerate(standing))


def test_ways_are_straight_and_even_but_for_one_turn():
    for clip in CLIPS.values():
        for way in places(clip).values():
            steps = [(c - a, d - b) for (a, b), (c, d) in zip(way, way[1:])]
            turns = [math.dist(a, b) > 1e-9 for a, b in zip(steps, steps[1:])]
            assert sum(turns) <= 1


def test_only_places_change():
    for clip in CLIPS.values():
        known: dict[int, tuple] = {}
        for scene, things in clip:
            assert scene.style == clip[0].scene.style and scene.camera == clip[0].scene.camera
            for number, thing in zip(things, scene.things):
                assert known.setdefault(number, looks(thing)) == looks(thing)


def test_what_stands_on_another_thing_moves_with_it():
    carried = 0
    for clip in CLIPS.values():
        offsets = set()
        for scene, things in clip:
            for number, thing in zip(things, scene.things):
                if thing.support is not None:
                    under = scene.things[thing.support]
                    offsets.add(
                        (number, things[thing.support], round(thing.x - under.x, 9), round(thing.y - under.y, 9))
                    )
        carried += bool(offsets)
        assert len(offsets) <= 1
    assert carried > 10


def test_in_some_clips_one_thing_comes_or_goes_and_then_stays_so():
    visits = 0
    for clip in CLIPS.values():
        counts = [len(things) for _, things in clip]
        changes = [after - before for before, after in zip(counts, counts[1:]) if after != before]
        assert changes in ([], [1], [-1])
        visits += bool(changes)
    assert 4 <= visits <= 24  # a fifth of 60


def test_a_scene_whose_things_would_be_hidden_gives_way_to_another_one():
    class FirstSceneHidden(OpenGeometry):
        def visibility(self, scene):
            hidden = len(scene.things) > 3
            return [Visibility(0.0 if hidden else 1.0, 100.0, (0.2, 0.2, 0.8, 0.8)) for _ in scene.things]

    clip = random_clip(3, FirstSceneHidden(), FRAMES)
    assert max(len(things) for _, things in clip) <= 3 and clip[0].scene.seed == 3


def test_four_frames_are_enough_for_a_far_move():
    for seed in range(30):
        ways = places(random_clip(seed, OpenGeometry(), 4)).values()
        far = [max(math.dist(a, b) for a in way for b in way) >= MIN_DISTANCE - 1e-9 for way in ways]
        assert any(far) or any(len(way) < 4 for way in ways)  # the only thing that moves may come or go on its way
