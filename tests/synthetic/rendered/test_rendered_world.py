"""The reader of the world 'rendered': relations, boxes and style from detections, and planted faults."""

import math
import random
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ldm.graph.scene_graph import SceneGraph
from ldm.synthetic.checker import check
from ldm.synthetic.rendered.decoding import Detection, Detections, decode
from ldm.synthetic.rendered.detector import STYLE, Detector, save_detector
from ldm.synthetic.rendered.pictures import read_pictures, read_scenes
from ldm.synthetic.rendered.scenes import Style
from ldm.synthetic.rendered.targets import encode, to_tensors
from ldm.synthetic.rendered.validation import FAULTS, faults_caught, score
from ldm.synthetic.rendered.vocabulary import TABLE
from ldm.synthetic.rendered.world import RenderedWorld, reading_of
from ldm.synthetic.worlds import find_reader
from ldm.util.errors import UserError

SCENES = Path(__file__).parents[2] / "data" / "rendered"
WORLD = RenderedWorld()
CERTAIN = {part: tuple(float(word == words[0]) for word in words) for part, words in STYLE.items()}
FIRST = Style(*(words[0] for words in STYLE.values()))


def thing(kind: str, right: float, away: float, relation=None, support=None) -> Detection:
    x, y = 0.5 + right / 4, 0.5 - (away - 5) / 8
    box = (x - 0.05, y - 0.05, x + 0.05, y + 0.05)
    return Detection(kind, "large", "red", None, box, (right, away), relation, support, 1.0)


def reading(*things: Detection, style: Style = FIRST, probabilities=None):
    return reading_of(Detections(things, style, probabilities or CERTAIN))


@pytest.fixture(scope="module")
def truth():
    records, _ = read_scenes(SCENES)
    return records, [reading_of(found) for found in decode(encode(to_tensors(records)))]


def test_the_world_is_known_by_its_name():
    assert find_reader("rendered").image_size == 128


def test_exact_readings_pass_the_check_and_planted_faults_do_not(truth):
    records, readings = truth
    scores = score(records, readings)
    assert scores.pop("box") == pytest.approx(0, abs=1e-5) and scores.pop("position") == pytest.approx(0, abs=1e-5)
    assert set(scores.values()) == {1.0}
    assert faults_caught(records, readings) == dict.fromkeys(FAULTS, 1.0)


def test_a_graph_of_one_thing_cannot_lack_another(truth):
    graph = truth[0][0].graph()
    alone = SceneGraph(graph.objects[:1], graph.boxes[:1], graph.attributes[:1], ())
    planted = {fault: plant(alone, random.Random(0), TABLE) for fault, plant in FAULTS.items()}
    assert planted.pop("extra") is None
    assert all(graph is None or graph.objects for graph in planted.values())


def test_relations_follow_from_places_on_the_floor():
    found = reading(thing("vase", 0, 6), thing("lamp", 1, 5.5))
    assert found.graph.triples == ((1, "right of", 0),)
    assert WORLD.triple_holds(found, 0, "left of", 1) and WORLD.triple_holds(found, 1, "right of", 0)
    assert WORLD.triple_holds(found, 1, "in front of", 0)  # true, though another relation is more evident
    assert not WORLD.triple_holds(found, 0, "in front of", 1)
    assert not WORLD.triple_holds(found, 0, "right of", 1)


def test_a_distance_that_is_a_little_too_small_is_taken_for_an_error_of_measurement():
    assert WORLD.triple_holds(reading(thing("vase", 0, 5), thing("lamp", 0.35, 5)), 1, "right of", 0)
    assert not WORLD.triple_holds(reading(thing("vase", 0, 5), thing("lamp", 0.25, 5)), 1, "right of", 0)


def test_what_stands_on_a_thing_has_no_other_relation():
    found = reading(thing("stool", 0, 5), thing("vase", 1, 5), thing("apple", 0, 5, "on", 0))
    assert found.graph.triples == ((1, "right of", 0), (2, "on", 0))
    assert WORLD.triple_holds(found, 2, "on", 0)
    for predicate, object in (("on", 1), ("inside", 0), ("left of", 1)):
        assert not WORLD.triple_holds(found, 2, predicate, object)


def test_boxes_end_at_the_edges_of_the_picture():
    outside = thing("vase", 0, 5)._replace(box=(-0.02, 0.3, 0.2, 1.3))
    beyond = thing("lamp", 0, 5)._replace(box=(1.1, 1.1, 1.2, 1.2))
    found = reading(outside, beyond)
    assert found.graph.boxes[0] == (0.0, 0.3, 0.2, 1.0)
    x0, y0, x1, y1 = found.graph.boxes[1]
    assert 0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1


def test_a_picture_without_things_has_no_graph_but_a_style():
    found = reading()
    assert found.graph is None and found.style[:4] == FIRST
    assert not check(reading(thing("vase", 0, 5)).graph, found, "rendered").passed


def test_styles_are_the_same_if_floor_wall_light_and_side_are():
    one, other = reading().style, reading(style=FIRST._replace(wall="navy")).style
    assert WORLD.same_style(one, one) and not WORLD.same_style(one, other)


def test_a_style_follows_from_the_source_to_the_reference():
    source = reading().style
    walls = tuple(float(word == "navy") for word in STYLE["wall"])
    reference = reading(style=FIRST._replace(wall="navy"), probabilities=CERTAIN | {"wall": walls}).style
    half = tuple((a + b) / 2 for a, b in zip(CERTAIN["wall"], walls))
    between = reading(probabilities=CERTAIN | {"wall": half}).style
    assert WORLD.style_distance(source, reference) == {"floor": 0, "wall": 1, "light": 0, "side": 0}
    follows = WORLD.style_follows(between, source, reference)
    assert follows.pop("wall") == pytest.approx(0.5)
    assert all(math.isnan(value) for value in follows.values())


def test_pictures_of_any_size_are_read(tmp_path):
    path = tmp_path / "checker.safetensors"
    save_detector(Detector(0.25), path)
    world = RenderedWorld(path)
    for size in ((128, 128), (64, 64), (300, 200)):
        assert world.read_scene(Image.new("RGB", size, "white")).style.floor in STYLE["floor"]
    same = [world.read_scene(np.full((side, side, 3), 200, np.uint8)).style for side in (128, 512)]
    assert same[0] == same[1]  # box averages of a plain picture are plain


def test_without_weights_a_picture_is_not_read(tmp_path):
    with pytest.raises(UserError, match="train them"):
        RenderedWorld(tmp_path / "none.safetensors").read_scene(Image.new("RGB", (128, 128)))


def test_pictures_are_read_as_they_were_written():
    _, paths = read_scenes(SCENES)
    pictures = read_pictures(paths, 128)
    assert pictures.shape == (4, 128, 128, 3) and pictures.dtype == np.uint8
    with Image.open(paths[2]) as image:
        assert (pictures[2] == np.asarray(image.convert("RGB"))).all()
