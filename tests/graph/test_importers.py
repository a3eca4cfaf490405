"""Graphs of other projects become the graphs that they mean, and say how they were read."""

import json
import logging
from dataclasses import replace

import pytest
from foreign_graphs import (
    BOXES,
    BOXES_ONLY,
    COCO,
    EXECUTED_EDIT,
    EXPECTED,
    FULL,
    GQA_GRAPH,
    OBJECTS,
    PREDICTION,
    SGEDIT,
    VG_GRAPH,
    VG_OBJECTS,
    VG_RELATION,
    WITHOUT_ATTRIBUTES,
    write_foreign,
)
from PIL import Image, ImageOps

from ldm.graph.diff import ChangeAttribute, diff
from ldm.graph.graph_files import read_graph, read_graphs
from ldm.graph.importers.scene_graph_benchmark import resized
from ldm.graph.scene_graph import SceneGraph
from ldm.graph.validation import GraphError

ONE, TWO = VG_OBJECTS


def read(folder, content, photograph=None, **options):
    return without_image(read_graph(write_foreign(folder, content), photograph, **options))


def without_image(graph):
    boxes = tuple(box and tuple(round(edge, 9) for edge in box) for box in graph.boxes)
    return replace(graph, boxes=boxes, image=None)


@pytest.mark.parametrize("name", EXPECTED)
def test_each_format_is_recognised_and_says_in_one_line_how_it_was_read(tmp_path, caplog, name):
    content, graph = EXPECTED[name]
    with caplog.at_level(logging.INFO):
        assert read(tmp_path, content) == graph
    (line,) = caplog.messages
    assert line.startswith(f"{tmp_path / 'graph.json'}: read as {name}: 2 objects, ")


@pytest.mark.parametrize(
    "content, graph",
    [
        (EXECUTED_EDIT, replace(WITHOUT_ATTRIBUTES, boxes=(None, BOXES[1]))),
        (
            {
                "objects": OBJECTS,
                "tuples": [],
                "bboxes": [[20, 20, 60, 60], []],
                "width": 200,
                "height": 100,
                "alias": [],
            },
            replace(WITHOUT_ATTRIBUTES, boxes=(BOXES[0], None), triples=()),
        ),
        (PREDICTION, WITHOUT_ATTRIBUTES),
        (GQA_GRAPH, FULL),
        (VG_GRAPH, FULL),
        ({"image_id": 7, "width": 200, "height": 100, "attributes": VG_OBJECTS}, replace(FULL, triples=None)),
        (
            {"image_id": 7, "width": 200, "height": 100, "objects": [ONE | {"attributes": None}, TWO]},
            replace(FULL, triples=None, attributes=((), ())),
        ),
        (COCO | {"images": [COCO["images"][0] | {"width": None}]}, BOXES_ONLY),
    ],
)
def test_the_other_forms_of_a_format_are_read_too(tmp_path, content, graph):
    assert read(tmp_path, content) == graph


def test_an_entry_of_relationships_json_has_its_own_objects(tmp_path):
    ends = {"subject": {**ONE, "names": None, "name": "circle"}, "object": {**TWO, "names": None, "name": "square"}}
    entry = {"image_id": 7, "width": 200, "height": 100, "relationships": [{"predicate": "left of", **ends}]}
    assert read(tmp_path, [entry]) == replace(FULL, attributes=None)


def test_without_an_attributes_key_attributes_are_unknown(tmp_path):
    bare = [{key: value for key, value in record.items() if key != "attributes"} for record in VG_OBJECTS]
    assert read(tmp_path, VG_GRAPH | {"objects": bare}) == replace(FULL, attributes=None)


def test_sizes_of_images_come_from_the_file_the_photograph_or_a_file_of_that_name(tmp_path):
    sizeless = {key: value for key, value in VG_GRAPH.items() if key not in ("width", "height")}
    path = write_foreign(tmp_path, sizeless)
    with pytest.raises(GraphError, match="boxes are in pixels.*--ref"):
        read_graph(path)
    assert without_image(read_graph(path, tmp_path / "photo.png")) == FULL
    (tmp_path / "photo.png").rename(tmp_path / "7.png")
    found = read_graph(path)
    assert found.image == "7.png" and without_image(found) == FULL
    (tmp_path / "7.png").unlink()
    (tmp_path / "image_data.json").write_text(json.dumps([{"image_id": 7, "width": 200, "height": 100}]))
    assert without_image(read_graph(path)) == FULL


def test_boxes_may_be_fractions_in_every_format(tmp_path):
    objects = {
        "11": GQA_GRAPH["objects"]["11"] | {"x": 0.1, "y": 0.2, "w": 0.2, "h": 0.4},
        "12": GQA_GRAPH["objects"]["12"] | {"x": 0.5, "y": 0.2, "w": 0.4, "h": 0.8},
    }
    assert read(tmp_path, {"objects": objects}) == FULL


def test_boxes_outside_of_the_image_or_without_area_are_unknown_and_counted(tmp_path, caplog):
    out = [COCO["annotations"][0] | {"bbox": [300, 20, 40, 40]}, COCO["annotations"][1] | {"bbox": [100, 20, 80, 300]}]
    with caplog.at_level(logging.INFO):
        assert read(tmp_path, COCO | {"annotations": out}) == replace(BOXES_ONLY, boxes=(None, BOXES[1]))
    assert caplog.messages[0].endswith("1 box outside of the image")


def test_boxes_of_stored_pixels_follow_a_photograph_that_is_turned_upright(tmp_path):
    path = write_foreign(tmp_path, {"0": PREDICTION})
    expected = {1: (0.1, 0.2, 0.3, 0.6), 2: (0.7, 0.2, 0.9, 0.6), 3: (0.7, 0.4, 0.9, 0.8), 4: (0.1, 0.4, 0.3, 0.8),
                5: (0.2, 0.1, 0.6, 0.3), 6: (0.4, 0.1, 0.8, 0.3), 7: (0.4, 0.7, 0.8, 0.9), 8: (0.2, 0.7, 0.6, 0.9)}  # fmt: skip
    for orientation, box in expected.items():
        photograph = Image.new("L", (200, 100))
        photograph.paste(255, (20, 20, 60, 60))
        exif = photograph.getexif()
        exif[0x0112] = orientation
        photograph.save(tmp_path / "turned.png", exif=exif)
        found = without_image(read_graph(path, tmp_path / "turned.png")).boxes[0]
        assert found == pytest.approx(box), orientation
        with Image.open(tmp_path / "turned.png") as image:
            upright = ImageOps.exif_transpose(image)
        assert found == pytest.approx([edge / side for edge, side in zip(upright.getbbox(), upright.size * 2)])


def test_the_photograph_selects_its_image_of_a_file_of_many(tmp_path):
    other = {"width": 10, "height": 10, "objects": {"1": {"name": "star", "x": 0, "y": 0, "w": 5, "h": 5}}}
    path = write_foreign(tmp_path, {"6": other, "photo": GQA_GRAPH})
    assert [graph.objects for graph in read_graphs(path)] == [("star",), OBJECTS]
    assert read_graph(path, "somewhere/photo.jpg") == FULL
    with pytest.raises(GraphError, match="holds 2 graphs"):
        read_graph(path, "other.png")


def test_predictions_below_the_score_are_left_out(tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        assert read(tmp_path, PREDICTION, min_score=0.25).triples == ((0, "left of", 1), (1, "right of", 0))
        assert read(tmp_path, PREDICTION, min_score=0).objects == ("circle", "square", "square")
        assert read(tmp_path, PREDICTION, min_score=0.9) == SceneGraph(("circle",), BOXES[:1], triples=())
    assert caplog.messages[0].endswith("1 object with scores below 0.25, 1 relation with scores below 0.25 left out")
    with pytest.raises(GraphError, match="no object has a score of 0.95 or more.*--min-score"):
        read(tmp_path, PREDICTION, min_score=0.95)


def test_predictions_refer_to_the_image_as_the_network_saw_it():
    for size, seen in (
        ((200, 100), (1000, 500)),
        ((800, 600), (800, 600)),
        ((600, 1200), (500, 1000)),
        ((90, 60), (900, 600)),
    ):
        assert resized(size) == seen


def test_an_imported_graph_edits_one_of_this_project(tmp_path):
    """What a format does not know is no change."""
    for content, _ in EXPECTED.values():
        imported = read(tmp_path, content)
        assert not any(isinstance(operation, ChangeAttribute) for operation in diff(imported, replace(FULL, ids=None)))


@pytest.mark.parametrize(
    "content, words",
    [
        ({"graph": [1]}, "no scene graph, but the keys .'graph'.; known formats are sg2im.*SGEdit.*GQA"),
        ([[1]], "no scene graph, but a list of"),
        (SGEDIT | COCO, "ambiguous, since it could be SGEdit or COCO"),
        (SGEDIT | {"tuples": [["circle", "on", "star"]]}, r"read as SGEdit.*tuples\[0\]: there is no object 'star'"),
        (SGEDIT | {"objects": ["circle", "circle"]}, "several objects are named 'circle'"),
        (SGEDIT | {"bboxes": [[0, 0, 1]]}, "bboxes: give a list of 2"),
        (COCO | {"categories": []}, r"annotations\[0\]: there is no category '1'"),
        (COCO | {"annotations": []}, "there is no object in it"),
        (VG_GRAPH | {"width": 0}, "an image is not 0 x 100"),
        (VG_GRAPH | {"objects": [ONE | {"x": "20"}]}, r"objects\[0\]: give a number, not '20'"),
        ({"7": GQA_GRAPH, "8": {"objects": []}}, "image 8, objects: give an object with keys"),
        (PREDICTION | {"bbox_labels": [1, 2, 9]}, r"bbox_labels\[2\]: give an index from 0 to 2, not 9"),
    ],
)
def test_what_cannot_be_read_is_one_sentence(tmp_path, content, words):
    path = write_foreign(tmp_path, content)
    with pytest.raises(GraphError, match=words) as error:
        read_graph(path, tmp_path / "photo.png")
    assert str(error.value).startswith(str(path)) and "\n" not in str(error.value)


def test_predictions_without_their_dictionary_say_where_it_belongs(tmp_path):
    path = write_foreign(tmp_path, PREDICTION)
    (tmp_path / "custom_data_info.json").unlink()
    with pytest.raises(GraphError, match="custom_data_info.json, beside the file"):
        read_graph(path)


def test_relations_with_unlisted_objects_are_left_out_and_counted(tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        lost = VG_RELATION | {"object_id": 99}
        assert read(tmp_path, VG_GRAPH | {"relationships": [lost, VG_RELATION]}) == FULL
    assert caplog.messages[0].endswith("; 1 relation with objects that are not listed left out")


def test_the_real_samples_of_visual_genome_and_coco_are_read(realdata):
    vg = realdata / "vg_raw_v1.2"
    (photograph, *_) = sorted((vg / "images" / "VG_100K").glob("*.jpg"))
    for name in ("objects", "attributes", "relationships"):
        assert len(read_graphs(vg / f"{name}.json")) == 11
    graph = read_graph(vg / "attributes.json", photograph)
    assert None not in graph.attributes and graph.triples is None and all(graph.boxes)
    graphs = read_graphs(realdata / "coco_instances_tiny_coco" / "annotations" / "instances_val2017.json")
    assert len(graphs) == 6 and all(graph.attributes[0] is None and graph.triples is None for graph in graphs)
