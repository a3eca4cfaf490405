"""CLEVR's scenes on a made-up file, where everyone can see the answer, and on real samples."""

import json
import math

import numpy as np
import pytest
import torch
from PIL import Image

from ldm.data.clevr import CLEVR, ClevrError, CLEVRValidation, box, thinned
from ldm.graph.batch import collate
from ldm.synthetic import solids
from ldm.util.images import read_image

OPPOSITE = {"left of": "right of", "in front of": "behind"}
OPPOSITE |= {value: key for key, value in OPPOSITE.items()}


def made_up(columns=(20, 60, 100), rows=(40, 60, 50), **more) -> dict:
    """A scene of spheres that are left of each other as their columns say, and in front of each other as their rows."""
    objects = [
        {
            "shape": "sphere",
            "size": "small",
            "color": "gray",
            "material": "metal",
            "rotation": 0.0,
            "pixel_coords": [column, row, 10.0],
            "3d_coords": [0.0, 0.0, 0.35],
        }
        for column, row in zip(columns, rows)
    ]
    order = {
        "left": lambda j, i: columns[j] < columns[i],
        "right": lambda j, i: columns[j] > columns[i],
        "front": lambda j, i: rows[j] > rows[i],
        "behind": lambda j, i: rows[j] < rows[i],
    }
    count = range(len(columns))
    related = {name: [[j for j in count if is_so(j, i)] for i in count] for name, is_so in order.items()}
    scene = {"objects": objects, "relationships": related, "image_filename": "one.png"}
    return scene | {"directions": {"right": [1.0, 0.0, 0.0]}} | more


@pytest.fixture
def clevr(tmp_path):
    """clevr(scenes, **options) -> CLEVRValidation, with its files in tmp_path."""

    def make(scenes, cls=CLEVRValidation, **options):
        Image.new("RGBA", (120, 80), (200, 100, 0, 255)).save(tmp_path / "one.png")
        (tmp_path / "scenes.json").write_text(json.dumps({"scenes": scenes}))
        return cls(tmp_path, tmp_path / "scenes.json", **options)

    return make


def test_words_become_objects_and_attributes(clevr):
    image, graph = clevr([made_up()], image_size=32)[0]
    assert image.shape == (3, 32, 32) and image.dtype == torch.float32
    assert graph.objects == ("sphere",) * 3
    assert graph.attributes == (("small", "gray", "metal"),) * 3


def test_relations_name_the_listed_object_as_the_subject(clevr):
    said = set()
    for index in range(8):  # draws differ with the index, so that each of the two becomes the subject
        said |= set(clevr([made_up()] * 8).graph(index).triples)
    assert {t for t in said if t[1] == "left of"} == {(0, "left of", 1), (1, "left of", 2)}
    assert {t for t in said if t[1] == "in front of"} == {(1, "in front of", 2), (2, "in front of", 0)}
    assert {(o, OPPOSITE[p], s) for s, p, o in said} == said


def test_what_follows_from_two_others_is_left_out_and_nothing_else():
    assert thinned([[], [0], [0, 1], [0, 1, 2]]) == [(0, 1), (1, 2), (2, 3)]
    assert thinned([[], [], [0, 1]]) == [(0, 2), (1, 2)]
    assert thinned([[1, 2], [], []]) == [(1, 0), (2, 0)]


def closure(pairs: set) -> set:
    while True:
        more = pairs | {(a, d) for a, b in pairs for c, d in pairs if b == c}
        if more == pairs:
            return pairs
        pairs = more


def test_a_sphere_s_box_is_its_circle(clevr):
    x0, y0, x1, y1 = clevr([made_up()]).graph(0).boxes[1]
    radius = 0.35 / 10 * 35 / 32 * 120
    assert (120 * x0, 120 * x1) == pytest.approx((60 - radius, 60 + radius))
    assert (80 * y0, 80 * y1) == pytest.approx((60 - radius, 60 + radius))


def test_a_cube_looks_widest_on_edge_and_boxes_are_clipped():
    straight = box([60, 40, 10.0], 0.5, 0.0, "cube", [1.0, 0.0, 0.0], (120, 80))
    turned = box([60, 40, 10.0], 0.5, math.pi / 4, "cube", [1.0, 0.0, 0.0], (120, 80))
    assert turned[2] - turned[0] == pytest.approx(math.sqrt(2) * (straight[2] - straight[0]))
    along = box([60, 40, 10.0], 0.5, math.pi / 4, "cube", [1.0, 1.0, 0.0], (120, 80))
    assert along == pytest.approx(straight)
    assert box([0, 40, 10.0], 0.5, 0.0, "sphere", [1.0, 0.0, 0.0], (120, 80))[0] == 0
    assert box([-90, 40, 10.0], 0.5, 0.0, "sphere", [1.0, 0.0, 0.0], (120, 80)) is None


def test_boxes_and_relations_can_be_left_out(clevr):
    graph = clevr([made_up()], include_boxes=False, include_relationships=False).graph(0)
    assert graph.boxes == (None,) * 3 and graph.triples == ()


def test_draws_follow_seed_epoch_and_index_and_validation_s_the_index_alone(clevr):
    scenes = [made_up(range(10, 110, 10), range(10, 60, 5))]
    train = clevr(scenes, CLEVR)
    first = train.graph(0)
    assert clevr(scenes, CLEVR).graph(0) == first
    train.epoch = 1
    assert train.graph(0) != first != clevr(scenes, CLEVR, seed=1).graph(0)
    held_out = clevr(scenes, seed=3)
    held_out.epoch = 5
    assert held_out.graph(0) == clevr(scenes).graph(0)


def test_max_samples_shortens_the_set_and_its_end_is_an_end(clevr):
    short = clevr([made_up()] * 5, max_samples=2)
    assert len(short) == 2
    with pytest.raises(IndexError):
        short[2]


def test_the_vocabulary_begins_as_that_of_the_drawn_solids_does():
    assert CLEVR.vocab.objects == solids.VOCAB.objects and CLEVR.vocab.predicates == solids.VOCAB.predicates
    assert set(CLEVR.vocab.attributes) == {*solids.VOCAB.attributes, "gray", "brown"}


@pytest.mark.parametrize(
    "change, why",
    [
        ({"objects": []}, "no objects"),
        ({"relationships": {"left": [[7], [], []], "front": [[], [], []]}}, "relationships 'left'"),
        ({"image_filename": None}, "image_filename None"),
        ({"directions": {}}, "'right'"),
    ],
)
def test_a_scene_that_is_none_is_refused(clevr, change, why):
    with pytest.raises(ClevrError, match=f"scene 1 is not in CLEVR's form .*{why}"):
        clevr([made_up(), made_up(**change)])


def test_an_unknown_word_is_refused(clevr):
    scene = made_up()
    scene["objects"][2]["color"] = "mauve"
    with pytest.raises(ClevrError, match="color 'mauve'"):
        clevr([scene])


def test_missing_and_broken_files_are_told_in_a_sentence(tmp_path):
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "other.json").write_text('{"images": []}')
    for arguments, why in [
        ((tmp_path / "none", tmp_path / "broken.json"), "is no folder"),
        ((tmp_path, tmp_path / "none.json"), "cannot be read"),
        ((tmp_path, tmp_path / "broken.json"), "is broken"),
        ((tmp_path, tmp_path / "other.json"), "has no list of scenes"),
    ]:
        with pytest.raises(ClevrError, match=why):
            CLEVR(*arguments)


def test_the_data_doctor_names_a_missing_rendering(clevr, tmp_path):
    dataset = clevr([made_up()])
    assert list(dataset.check()) == []
    (tmp_path / "one.png").unlink()
    assert len(list(dataset.check())) == 1
    with pytest.raises(ClevrError, match="one.png: cannot be read"):
        dataset.graph(0)


@pytest.mark.parametrize("split, count", [("val", 20), ("test", 5)])
def test_real_scenes_say_what_their_coordinates_say(realdata, split, count):
    folder = realdata / "clevr" / split
    dataset = CLEVRValidation(folder / "images", folder / "CLEVR_scenes.json", image_size=64)
    scenes = json.loads((folder / "CLEVR_scenes.json").read_text())["scenes"]
    assert len(dataset) == count and list(dataset.check()) == []
    batch = collate([dataset[index] for index in range(count)], dataset.vocab)
    assert batch.image.shape == (count, 3, 64, 64)
    for index, scene in enumerate(scenes):
        graph = dataset.graph(index)
        where = [each["3d_coords"] for each in scene["objects"]]
        for predicate, direction in (("left of", "left"), ("in front of", "front")):
            towards = scene["directions"][direction]
            said = {(s, o) for s, p, o in graph.triples if p == predicate}
            said |= {(o, s) for s, p, o in graph.triples if p == OPPOSITE[predicate]}
            listed = {(j, i) for i, others in enumerate(scene["relationships"][direction]) for j in others}
            assert said <= listed == closure(said)
            for subject, object in said:
                assert np.dot(np.subtract(where[subject], where[object]), towards) > 0


def test_real_boxes_hold_their_objects(realdata):
    """Spheres that nothing hides: inside the box's circle the picture differs from the floor right below it."""
    folder = realdata / "clevr" / "val"
    dataset = CLEVRValidation(folder / "images", folder / "CLEVR_scenes.json")
    for index in range(len(dataset)):
        graph, picture = dataset.graph(index), read_image(dataset.image_path(index))
        for each in graph.boxes:
            x0, y0, x1, y1 = each
            assert 0.03 < x1 - x0 < 0.35 and 0.03 < y1 - y0 < 0.35
        edges = np.abs(np.diff(np.asarray(picture, float).mean(-1), axis=1))
        height, width = edges.shape
        for shape, (x0, y0, x1, y1) in zip(graph.objects, graph.boxes):
            others = [b for b in graph.boxes if b != (x0, y0, x1, y1)]
            alone = not any(x0 - 0.05 < b[2] and b[0] < x1 + 0.05 and y0 < b[3] and b[1] < y1 for b in others)
            if shape != "cube" and alone and 0.05 < x0 and x1 < 0.95:
                row = edges[round(height * (y0 + y1) / 2)]
                for edge in (x0, x1):
                    column = round(width * edge)
                    near = np.arange(column - 7, column + 7)
                    assert abs(near[row[near].argmax()] - column) <= 6
