"""Random scenes of the renderer, sampled without Blender."""

import json
from dataclasses import replace

import pytest
from fake_geometry import OpenGeometry

from ldm.synthetic.rendered.relations import triples_of
from ldm.synthetic.rendered.scenes import (
    MAX_THINGS,
    MIN_THINGS,
    REACH_X,
    REACH_Y,
    Scene,
    Visibility,
    all_visible,
    random_scene,
)
from ldm.synthetic.rendered.things import HOLDERS, KINDS, collide

SEEDS = range(120)
SCENES = [random_scene(seed, OpenGeometry()) for seed in SEEDS]


class OneSeen(OpenGeometry):
    """All things are seen alike."""

    def __init__(self, share: float = 1.0, cells: float = 100.0, box=(0.2, 0.2, 0.8, 0.8)):
        self.seen = Visibility(share, cells, box)

    def visibility(self, scene: Scene) -> list[Visibility]:
        return [self.seen] * len(scene.things)


def test_a_seed_gives_the_same_scene_twice_and_another_seed_another_one():
    assert random_scene(3, OpenGeometry()) == SCENES[3] != SCENES[4]
    assert len(set(SCENES)) == len(SCENES)


def test_a_scene_survives_json():
    for scene in SCENES[:20]:
        assert Scene.from_json(json.loads(json.dumps(scene.to_json()))) == scene


def test_counts_are_from_two_to_seven_and_about_equally_frequent():
    counts = [len(scene.things) for scene in SCENES]
    assert set(counts) == set(range(MIN_THINGS, MAX_THINGS + 1)) == {2, 3, 4, 5, 6, 7}
    assert all(counts.count(count) >= 8 for count in set(counts))  # 20 on average


def test_no_two_things_of_a_scene_share_kind_and_colour():
    for scene in SCENES:
        identities = [thing.identity for thing in scene.things]
        assert len(set(identities)) == len(identities)


def test_things_stand_within_reach_and_apart():
    for scene in SCENES:
        standing = [thing for thing in scene.things if thing.support is None]
        for number, thing in enumerate(standing):
            assert REACH_X[0] <= thing.x <= REACH_X[1] and REACH_Y[0] <= thing.y <= REACH_Y[1] and thing.z == 0
            assert not any(collide(thing, other) for other in standing[:number])


def test_supports_are_large_and_can_hold_what_is_small():
    pairs = [(thing, scene.things[thing.support]) for scene in SCENES for thing in scene.things if thing.relation]
    assert 40 <= len(pairs) <= 80  # half of the scenes
    for thing, support in pairs:
        assert (thing.size, support.size) == ("small", "large") and thing.kind != support.kind and thing.z > 0
        assert support.kind in HOLDERS if thing.relation == "inside" else KINDS[support.kind].top
    assert {thing.relation for thing, _ in pairs} == {"on", "inside"}


def test_every_kind_style_and_relation_occurs():
    assert {thing.kind for scene in SCENES for thing in scene.things} == set(KINDS)
    assert [len(set(values)) for values in zip(*(scene.style for scene in SCENES))] == [6, 7, 5, 2]
    assert {predicate for scene in SCENES for _, predicate, _ in triples_of(scene)} == {
        "left of", "right of", "in front of", "behind", "on", "inside"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("seen", "relation", "visible"),
    [
        ({}, None, True),
        ({"share": 0.59}, None, False),
        ({"share": 0.6}, None, True),
        ({"share": 0.31}, "on", False),
        ({"share": 0.31}, "inside", True),
        ({"share": 0.29}, "inside", False),
        ({"cells": 23.0}, None, False),
        ({"box": (0.005, 0.2, 0.8, 0.8)}, None, False),
        ({"box": (0.2, 0.2, 0.8, 0.995)}, None, False),
    ],
)
def test_a_thing_counts_as_visible_by_share_area_and_distance_from_the_edge(seen, relation, visible):
    thing = SCENES[0].things[0]._replace(support=None, relation=relation)
    assert all_visible(replace(SCENES[0], things=(thing,)), OneSeen(**seen)) == visible


def test_a_scene_that_is_never_visible_is_an_error():
    with pytest.raises(RuntimeError, match="seed 5"):
        random_scene(5, OneSeen(share=0.0, cells=0.0))
