"""Scenes in CLEVR's look, sampled and written without Blender."""

import json
import math

import numpy as np
import pytest
from fake_geometry import OpenGeometry

from ldm.data import clevr as data
from ldm.synthetic.rendered.clevr import (
    CAMERA,
    COLOURS,
    DIAMETERS,
    EXTENTS,
    LAMPS,
    MATERIALS,
    lamp_places,
    random_clevr_scene,
    scene_from_json,
)
from ldm.synthetic.rendered.clevr_files import clevr_fields, project
from ldm.synthetic.rendered.pictures import read_scenes
from ldm.synthetic.rendered.records import RenderedError
from ldm.synthetic.rendered.relations import complete_graph, floor_position
from ldm.synthetic.rendered.scenes import Camera

SCENES = [random_clevr_scene(seed, OpenGeometry()) for seed in range(40)]


def test_a_seed_gives_the_same_scene_twice_and_json_keeps_it():
    assert random_clevr_scene(3, OpenGeometry()) == SCENES[3] != SCENES[4]
    assert scene_from_json(json.loads(json.dumps(SCENES[3].to_json(), allow_nan=False))) == SCENES[3]


def test_words_are_those_of_the_data_set():
    assert set(EXTENTS) == set(data.SHAPES) and set(DIAMETERS) == set(data.SIZES)
    assert set(COLOURS) == set(data.COLOURS) and set(MATERIALS) == set(data.MATERIALS)
    for scene in SCENES:
        graph = complete_graph(scene, [(0.1, 0.1, 0.2, 0.2)] * len(scene.things))
        assert {*graph.objects} <= {*data.VOCAB.objects}
        assert {word for words in graph.attributes for word in words} <= {*data.VOCAB.attributes}
        assert {predicate for _, predicate, _ in graph.triples} <= {*data.VOCAB.predicates}


def test_there_are_three_to_ten_solids_apart_from_each_other():
    assert {len(scene.things) for scene in SCENES} == set(range(3, 11))
    for scene in SCENES:
        for number, a in enumerate(scene.things):
            for b in scene.things[:number]:
                gap = math.dist((a.x, a.y), (b.x, b.y)) - (DIAMETERS[a.size] + DIAMETERS[b.size]) / 2
                (right_a, away_a), (right_b, away_b) = (floor_position(thing, scene.camera) for thing in (a, b))
                assert gap >= 0.25 and abs(right_a - right_b) >= 0.4 and abs(away_a - away_b) >= 0.4


def test_camera_and_lamps_are_jittered_by_as_much_as_in_the_generator():
    cameras = np.array([scene.camera.location for scene in SCENES]) - CAMERA
    assert 0.4 < np.abs(cameras).max() <= 0.5
    lamps = np.array([lamp_places(scene.seed) for scene in SCENES]) - list(LAMPS.values())
    assert 0.9 < np.abs(lamps).max() <= 1.0


def test_the_target_of_a_camera_is_in_the_middle_of_the_picture():
    camera = Camera((3.0, -4.0, 12.0), (0.0, 0.0, 0.0), 36.0, 13.0, math.inf)
    points = np.array([(0.0, 0.0, 0.0), (0.8, 0.6, 0.0), (0.0, 0.0, 1.0)])  # the second one to the right
    (u, v, distance), right, above = project(points, camera, 128)
    assert (u, v, distance) == pytest.approx((64, 64, 13))
    # The focal length is the picture's side: one unit at a distance of 13.
    assert right == pytest.approx((64 + 128 / 13, 64, 13))
    # Along the axis by 12/13, across it by 5/13.
    assert above == pytest.approx((64, 64 - 128 * (5 / 13) / (13 - 12 / 13), 13 - 12 / 13))


def test_the_data_set_reads_the_scenes_file(tmp_path):
    path = tmp_path / "CLEVR_scenes.json"
    scenes = [clevr_fields(scene, f"{scene.seed}.png", 128) for scene in SCENES]
    path.write_text(json.dumps({"scenes": scenes}))
    graphs = data.CLEVR(tmp_path, path)
    for index, scene in enumerate(SCENES):
        (tmp_path / f"{index}.png").touch()
        graph = graphs.graph(index, (128, 128))
        assert graph.objects == tuple(thing.kind for thing in scene.things)
        assert graph.attributes == tuple(thing.words for thing in scene.things)
        places = [floor_position(thing, scene.camera) for thing in scene.things]
        for subject, predicate, object in graph.known_triples:
            right, away = np.subtract(places[subject], places[object])
            assert {"left of": -right, "right of": right, "behind": away, "in front of": -away}[predicate] > 0
        assert len(graph.known_triples) >= len(scene.things) - 1


def test_the_checker_of_things_on_a_table_says_which_class_reads_a_folder_in_clevr_s_look(tmp_path):
    for name in ("scenes.jsonl", "CLEVR_scenes.json"):
        (tmp_path / "shard-00000").mkdir(exist_ok=True)
        (tmp_path / "shard-00000" / name).touch()
    with pytest.raises(RenderedError, match=r"ldm\.data\.clevr\.CLEVR"):
        read_scenes(tmp_path)
