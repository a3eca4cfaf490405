"""Validation files in their three forms."""

import json
from pathlib import Path

import numpy as np
import pytest
from paths import SHARED
from PIL import Image

from ldm.evaluation.validation.drawn import drawn_lines
from ldm.evaluation.validation.lines import ValidationLine, default_seed
from ldm.evaluation.validation.pie_bench import decode_mask
from ldm.evaluation.validation.reading import read_lines
from ldm.util.errors import UserError

GRAPH = {"objects": ["circle", "square"]}


def write(folder, *lines):
    path = folder / "validation.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture
def photograph(tmp_path):
    Image.new("RGB", (16, 12), "red").save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def test_a_line_gives_what_to_sample_or_to_edit(tmp_path, photograph):
    edited = {
        "id": "b",
        "ref": "photo.png",
        "sg": GRAPH,
        "prompt": "a cat",
        "seed": 3,
        "type": "x",
        "unit": "u",
        "margin": 2,
    }
    first, second = read_lines(write(tmp_path, {"id": "a", "sg": GRAPH, "steps": 7}, edited))
    assert (first.is_edit, first.options, first.seed, first.unit) == (False, {"steps": 7}, default_seed("a"), "a")
    assert (second.is_edit, second.photograph, second.seed, second.type) == (True, photograph, 3, "x")
    assert second.graph.objects == ("circle", "square") and second.options == {"margin": 2}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"sg": GRAPH}, "line 2: 'id' is missing"),
        ({"id": "a", "sg": GRAPH}, "line 2: id 'a' is already that of"),
        ({"id": "A", "sg": GRAPH}, "line 2: id 'A' is already that of"),
        ({"id": "a/b", "sg": GRAPH}, "line 2: id 'a/b' is not made of letters"),
        ({"id": "b"}, "line 2: neither 'sg' nor 'prompt' says"),
        ({"id": "b", "sg": GRAPH, "stepz": 3}, "unknown key 'stepz'; did you mean 'steps'"),
        ({"id": "b", "sg": GRAPH, "margin": 3}, "unknown key 'margin'"),  # of edits only
        ({"id": "b", "sg": GRAPH, "seed": "x"}, "line 2: seed: 'x' is not a whole number"),
        ({"id": "b", "sg": GRAPH, "ref": "no.png"}, "line 2: ref: there is no file"),
        ({"id": "b", "sg": {"objects": []}}, "line 2: "),
    ],
)
def test_a_wrong_line_is_named_in_one_sentence(tmp_path, line, message):
    with pytest.raises(UserError) as error:
        read_lines(write(tmp_path, {"id": "a", "sg": GRAPH}, line))
    assert message in str(error.value) and "\n" not in str(error.value)


def test_the_identity_of_a_line_depends_on_the_content_of_its_files(tmp_path, photograph):
    def identity():
        (line,) = read_lines(write(tmp_path, {"id": "a", "ref": "photo.png", "sg": GRAPH}))
        return line.identity()

    before = identity()
    assert identity() == before
    Image.new("RGB", (16, 12), "blue").save(photograph)
    assert identity() != before


def test_the_identity_of_a_line_depends_on_its_seed_and_region_but_not_on_its_type():
    region = np.eye(4, dtype=bool)
    lines = [
        ValidationLine("a"),
        ValidationLine("a", seed=1),
        ValidationLine("a", region=region),
        ValidationLine("a", region=~region),
    ]
    assert len({line.identity() for line in lines}) == 4
    assert ValidationLine("a", type="x", unit="y").identity() == lines[0].identity()


def test_drawn_scenes_come_with_and_without_boxes_and_form_units():
    lines = drawn_lines("shapes", 3)
    assert len(lines) == 6 and len({line.unit for line in lines}) == 3
    assert all(box is not None for box in lines[0].graph.boxes) and not any(lines[1].graph.boxes)
    assert drawn_lines("shapes", 1)[1] == lines[1]


# PIE-Bench -----------------------------------------------------------------------------------------------------------


def slowly_decoded(runs, size):
    """The published definition, pixel by pixel."""
    flat = [0] * (size * size)
    for start, length in zip(runs[::2], runs[1::2]):
        for index in range(min(length, len(flat) - start)):
            flat[start + index] = 1
    rows = [flat[row * size : (row + 1) * size] for row in range(size)]
    edge = (0, size - 1)
    return [[bool(rows[y][x] or x in edge or y in edge) for x in range(size)] for y in range(size)]


@pytest.mark.parametrize("runs", [[], [0, 5], [10, 3, 40, 100], [60, 99]])
def test_masks_are_decoded_as_published_with_the_outermost_pixels(runs):
    assert decode_mask(runs, size=8).tolist() == slowly_decoded(runs, 8)


@pytest.mark.parametrize("runs", [[1], [64, 1], [-1, 2], [0, -1], ["a", 1], None, [True, 2]])
def test_broken_masks_are_refused(runs):
    with pytest.raises(UserError, match="mask"):
        decode_mask(runs, size=8)


def write_pie(folder, **changes):
    entry = {
        "image_path": "1_change/0.jpg",
        "original_prompt": "a [round] cake",
        "editing_prompt": "a [square] cake",
        "editing_type_id": "1",
        "mask": [5000, 100],
    }
    path = folder / "mapping_file.json"
    path.write_text(json.dumps({"000000000000": {**entry, **changes}}))
    file = folder / "annotation_images" / "1_change" / "0.jpg"
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (512, 512)).save(file)
    return path


def test_a_mapping_file_is_read_with_prompts_type_and_mask(tmp_path):
    (line,) = read_lines(write_pie(tmp_path))
    assert (line.prompt, line.source_prompt) == ("a square cake", "a round cake")
    assert line.type == "1 change object" and line.is_edit and line.picture_path == "1_change/0.jpg"
    assert line.region[9, 392:492].all() and line.region.sum() == 100 + 4 * 511


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"editing_type_id": "12"}, "none of 0 to 9"),
        ({"mask": None}, "has no mask"),
        ({"image_path": "no"}, "no photograph"),
    ],
)
def test_a_broken_mapping_file_is_refused(tmp_path, change, message):
    with pytest.raises(UserError, match=message):
        read_lines(write_pie(tmp_path, **change))


# Aligned photographs -------------------------------------------------------------------------------------------------


def write_pairs(folder, kind="replace"):
    """Two pictures of 100 x 50 in the form of the photographs: a cat stays, a dog is replaced or moves."""
    (folder / "images").mkdir()
    for name in ("before.png", "after.png"):
        Image.new("RGB", (100, 50), "grey").save(folder / "images" / name)
    images = [
        {"id": 1, "file_name": "before.png", "width": 100, "height": 50, "clip": 7},
        {"id": 2, "file_name": "after.png", "width": 100, "height": 50, "clip": 7},
    ]
    boxes = [(1, 1, [0, 0, 20, 10]), (1, 2, [50, 25, 10, 10]), (2, 1, [0, 0, 20, 10])]
    boxes.append((2, 3, [50, 25, 10, 10]) if kind == "replace" else (2, 2, [80, 25, 10, 10]))
    annotations = [{"image_id": image, "category_id": category, "bbox": box} for image, category, box in boxes]
    categories = [{"id": index, "name": name} for index, name in enumerate(("cat", "dog", "cow"), 1)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "instances_val.json").write_text(json.dumps(content))
    pair = {"kind": kind, "source": 1, "target": 2, "stays": "cat", "thing": "dog"}
    (folder / "edits_val.json").write_text(json.dumps([pair | ({"by": "cow"} if kind == "replace" else {})]))
    return folder / "edits_val.json"


@pytest.mark.parametrize(("kind", "name"), [("replace", "cow"), ("move", "dog")])
def test_pairs_of_photographs_become_graphs_with_equal_ids(tmp_path, kind, name):
    (line,) = read_lines(write_pairs(tmp_path, kind))
    assert line.source_graph.objects == ("cat", "dog") and line.graph.objects == ("cat", name)
    assert line.source_graph.ids == line.graph.ids == ("0", "1")
    assert line.graph.boxes[0] == (0, 0, 0.2, 0.2) and (line.type, line.unit) == (kind, "clip 7")
    assert line.photograph.name == "before.png" and line.truth.name == "after.png"


def test_the_pairs_of_the_real_photographs_are_read(monkeypatch):
    path = SHARED / "photos" / "edits_val.json"
    if not path.is_file():
        pytest.skip("the photographs are not beside the checkout")
    lines = read_lines(path)
    assert len(lines) == 600 and len({line.unit for line in lines}) == 14
    assert {line.type for line in lines} == {"add", "remove", "replace", "move"}
    for line in lines:
        sides = [dict(zip(graph.ids, zip(graph.objects, graph.boxes))) for graph in (line.source_graph, line.graph)]
        changed = {id for id in sides[0].keys() | sides[1].keys() if sides[0].get(id) != sides[1].get(id)}
        assert len(changed) == 1, line.place


def test_other_json_is_refused(tmp_path):
    path = Path(tmp_path / "x.json")
    path.write_text('{"objects": ["cat"]}')
    with pytest.raises(UserError, match=r"neither PIE-Bench's mapping_file.json nor"):
        read_lines(path)
