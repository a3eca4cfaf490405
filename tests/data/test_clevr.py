"""CLEVR's graphs and boxes, on made-up scenes with known answers and on real samples."""

import json
import math

import numpy as np
import pytest
import torch
from clevr_scenes import make_scene
from PIL import Image

from ldm.data.clevr import CLEVR, ClevrError, CLEVRValidation, estimate_box, remove_implied_relations
from ldm.graph.batch import collate
from ldm.util.errors import UserError
from ldm.util.images import read_image

OPPOSITE = {"left of": "right of", "in front of": "behind"}
OPPOSITE |= {value: key for key, value in OPPOSITE.items()}


@pytest.fixture
def clevr(tmp_path):
    """clevr(scenes, **options) -> CLEVRValidation, with its files in tmp_path."""

    def make(scenes, cls=CLEVRValidation, **options):
        Image.new("RGBA", (120, 80), (200, 100, 0, 255)).save(tmp_path / "one.png")
        (tmp_path / "scenes.json").write_text(json.dumps({"scenes": scenes}))
        return cls(tmp_path, tmp_path / "scenes.json", **options)

    return make


def test_shapes_become_objects_and_the_other_properties_attributes(clevr):
    image, graph = clevr([make_scene()], image_size=32)[0]
    assert image.shape == (3, 32, 32) and image.dtype == torch.float32
    assert graph.objects == ("sphere",) * 3
    assert graph.attributes == (("small", "gray", "metal"),) * 3


def test_the_subject_of_a_relation_is_the_listed_object_or_the_relation_is_converse(clevr):
    triples = set()
    for index in range(8):  # the random subjects differ between indices
        triples |= set(clevr([make_scene()] * 8).graph(index).triples)
    assert {t for t in triples if t[1] == "left of"} == {(0, "left of", 1), (1, "left of", 2)}
    assert {t for t in triples if t[1] == "in front of"} == {(1, "in front of", 2), (2, "in front of", 0)}
    assert {(o, OPPOSITE[p], s) for s, p, o in triples} == triples


def test_relations_that_follow_from_two_others_are_left_out_and_no_others():
    assert remove_implied_relations([[], [0], [0, 1], [0, 1, 2]]) == [(0, 1), (1, 2), (2, 3)]
    assert remove_implied_relations([[], [], [0, 1]]) == [(0, 2), (1, 2)]
    assert remove_implied_relations([[1, 2], [], []]) == [(1, 0), (2, 0)]


def closure(pairs: set) -> set:
    while True:
        more = pairs | {(a, d) for a, b in pairs for c, d in pairs if b == c}
        if more == pairs:
            return pairs
        pairs = more


def test_the_box_of_a_sphere_encloses_its_circle(clevr):
    x0, y0, x1, y1 = clevr([make_scene()]).graph(0).boxes[1]
    radius = 0.35 / 10 * 35 / 32 * 120
    assert (120 * x0, 120 * x1) == pytest.approx((60 - radius, 60 + radius))
    assert (80 * y0, 80 * y1) == pytest.approx((60 - radius, 60 + radius))


def test_the_box_of_a_cube_depends_on_its_rotation_and_boxes_are_clipped_to_the_image():
    straight = estimate_box([60, 40, 10.0], 0.5, 0.0, "cube", [1.0, 0.0, 0.0], (120, 80))
    turned = estimate_box([60, 40, 10.0], 0.5, math.pi / 4, "cube", [1.0, 0.0, 0.0], (120, 80))
    assert turned[2] - turned[0] == pytest.approx(math.sqrt(2) * (straight[2] - straight[0]))
    along = estimate_box([60, 40, 10.0], 0.5, math.pi / 4, "cube", [1.0, 1.0, 0.0], (120, 80))
    assert along == pytest.approx(straight)
    assert estimate_box([0, 40, 10.0], 0.5, 0.0, "sphere", [1.0, 0.0, 0.0], (120, 80))[0] == 0
    assert estimate_box([-90, 40, 10.0], 0.5, 0.0, "sphere", [1.0, 0.0, 0.0], (120, 80)) is None


def test_boxes_and_relations_can_be_left_out(clevr):
    graph = clevr([make_scene()], include_boxes=False, include_relationships=False).graph(0)
    assert graph.boxes == (None,) * 3 and graph.triples == ()


def test_training_graphs_depend_on_seed_epoch_and_index_and_validation_graphs_on_the_index(clevr):
    scenes = [make_scene(range(10, 110, 10), range(10, 60, 5))]
    train = clevr(scenes, CLEVR)
    first = train.graph(0)
    assert clevr(scenes, CLEVR).graph(0) == first
    train.epoch = 1
    assert train.graph(0) != first != clevr(scenes, CLEVR, seed=1).graph(0)
    validation = clevr(scenes, seed=3)
    validation.epoch = 5
    assert validation.graph(0) == clevr(scenes).graph(0)


def test_max_samples_limits_the_number_of_scenes_and_indices(clevr):
    short = clevr([make_scene()] * 5, max_samples=2)
    assert len(short) == 2
    with pytest.raises(IndexError):
        short[2]


def test_the_vocabulary_has_the_words_of_the_published_generator():
    """Those of clevr-dataset-gen's properties.json, and the four relations of its scenes."""
    assert set(CLEVR.vocab.objects[1:]) == {"cube", "sphere", "cylinder"}
    assert set(CLEVR.vocab.predicates[1:]) == {"left of", "right of", "in front of", "behind"}
    colours = {"gray", "red", "blue", "green", "brown", "purple", "cyan", "yellow"}
    assert set(CLEVR.vocab.attributes) == {"large", "small", "rubber", "metal"} | colours


@pytest.mark.parametrize(
    "change, why",
    [
        ({"objects": []}, "no objects"),
        ({"relationships": {"left": [[7], [], []], "front": [[], [], []]}}, "relationships 'left'"),
        ({"image_filename": None}, "image_filename None"),
        ({"directions": {}}, "'right'"),
        ({"directions": {"right": []}}, "direction"),
        ({"directions": {"right": [float("inf"), 0, 0]}}, "finite"),
        ({"relationships": {"left": [[float("inf")], [], []], "front": [[], [], []]}}, "whole number"),
        ({"relationships": {"left": [[0.5], [], []], "front": [[], [], []]}}, "whole number"),
    ],
)
def test_a_scene_in_another_format_is_an_error(clevr, change, why):
    with pytest.raises(ClevrError, match=f"scene 1 .*{why}"):
        clevr([make_scene(), make_scene(**change)])


def test_an_unknown_property_is_an_error(clevr):
    scene = make_scene()
    scene["objects"][2]["color"] = "mauve"
    with pytest.raises(ClevrError, match="mauve"):
        clevr([scene])


@pytest.mark.parametrize("value", [float("inf"), float("nan"), 10**400, 1e300, "far", None, True])
@pytest.mark.parametrize("key, place", [("pixel_coords", 2), ("pixel_coords", 0), ("3d_coords", 2), ("rotation", None)])
def test_a_number_that_no_scene_can_have_is_an_error(clevr, key, place, value):
    scene = make_scene()
    if place is None:
        scene["objects"][0][key] = value
    else:
        scene["objects"][0][key][place] = value
    with pytest.raises(ClevrError, match=r"^.*scenes.json: scene 0 is not in CLEVR's format[^\n]*$"):
        clevr([scene])


def test_numbers_may_be_text_and_a_byte_order_mark_is_read_over(clevr, tmp_path):
    scene, plain = make_scene(), clevr([make_scene()])
    scene["objects"][0]["rotation"] = "0.0"
    scene["relationships"]["left"] = [[float(j) for j in others] for others in scene["relationships"]["left"]]
    (tmp_path / "bom.json").write_bytes(b"\xef\xbb\xbf" + json.dumps({"scenes": [scene]}).encode())
    assert CLEVRValidation(tmp_path, tmp_path / "bom.json").graph(0) == plain.graph(0)


@pytest.mark.parametrize("name", ["a\0b.png", "x" * 300 + ".png", "\ud800.png"])
def test_an_image_name_that_no_file_can_have_is_an_error(clevr, name):
    dataset = clevr([make_scene(image_filename=name)])
    assert len(list(dataset.check())) == 1
    with pytest.raises(UserError):
        dataset[0]


def test_every_bad_scenes_file_is_one_sentence(realdata, bad_inputs):
    for path in sorted((bad_inputs / "clevr").glob("*.json")):
        with pytest.raises(UserError, match=r"^[^\n]+$"):
            dataset = CLEVR(realdata / "clevr/val/images", path, image_size=8)
            for index in range(len(dataset)):
                dataset[index]


def test_missing_and_broken_files_are_errors(tmp_path):
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "other.json").write_text('{"images": []}')
    for arguments, why in [
        ((tmp_path / "none", tmp_path / "broken.json"), "not a folder"),
        ((tmp_path, tmp_path / "none.json"), "cannot be read"),
        ((tmp_path, tmp_path / "broken.json"), "invalid JSON"),
        ((tmp_path, tmp_path / "other.json"), "has no list of scenes"),
    ]:
        with pytest.raises(ClevrError, match=why):
            CLEVR(*arguments)


def test_check_reports_a_missing_image(clevr, tmp_path):
    dataset = clevr([make_scene()])
    assert list(dataset.check()) == []
    (tmp_path / "one.png").unlink()
    assert len(list(dataset.check())) == 1
    with pytest.raises(ClevrError, match="one.png"):
        dataset.graph(0)


@pytest.mark.parametrize("split, count", [("val", 20), ("test", 5)])
def test_relations_of_real_scenes_agree_with_the_coordinates(realdata, split, count):
    folder = realdata / "clevr" / split
    dataset = CLEVRValidation(folder / "images", folder / "CLEVR_scenes.json", image_size=64)
    scenes = json.loads((folder / "CLEVR_scenes.json").read_text())["scenes"]
    assert len(dataset) == count and list(dataset.check()) == []
    batch = collate([dataset[index] for index in range(count)], dataset.vocab)
    assert batch.image.shape == (count, 3, 64, 64)
    for index, scene in enumerate(scenes):
        graph = dataset.graph(index)
        positions = [each["3d_coords"] for each in scene["objects"]]
        for predicate, direction in (("left of", "left"), ("in front of", "front")):
            vector = scene["directions"][direction]
            pairs = {(s, o) for s, p, o in graph.triples if p == predicate}
            pairs |= {(o, s) for s, p, o in graph.triples if p == OPPOSITE[predicate]}
            listed = {(j, i) for i, others in enumerate(scene["relationships"][direction]) for j in others}
            assert pairs <= listed == closure(pairs)
            for subject, object in pairs:
                assert np.dot(np.subtract(positions[subject], positions[object]), vector) > 0


def test_boxes_of_unoccluded_round_objects_end_at_edges_of_the_image(realdata):
    """On the middle row of the box, the strongest gradient nearby is at most 6 pixels from each side of the box."""
    folder = realdata / "clevr" / "val"
    dataset = CLEVRValidation(folder / "images", folder / "CLEVR_scenes.json")
    for index in range(len(dataset)):
        graph, image = dataset.graph(index), read_image(dataset.image_path(index))
        for each in graph.boxes:
            x0, y0, x1, y1 = each
            assert 0.03 < x1 - x0 < 0.35 and 0.03 < y1 - y0 < 0.35
        edges = np.abs(np.diff(np.asarray(image, float).mean(-1), axis=1))
        height, width = edges.shape
        for shape, (x0, y0, x1, y1) in zip(graph.objects, graph.boxes):
            others = [b for b in graph.boxes if b != (x0, y0, x1, y1)]
            unoccluded = not any(x0 - 0.05 < b[2] and b[0] < x1 + 0.05 and y0 < b[3] and b[1] < y1 for b in others)
            if shape != "cube" and unoccluded and 0.05 < x0 and x1 < 0.95:
                row = edges[round(height * (y0 + y1) / 2)]
                for edge in (x0, x1):
                    column = round(width * edge)
                    near = np.arange(column - 7, column + 7)
                    assert abs(near[row[near].argmax()] - column) <= 6
