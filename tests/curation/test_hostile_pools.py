"""Whatever a file of pictures, options, pairs or names holds, the answer is one sentence, and nothing is written."""

import json

import numpy as np
import pytest
from pile import write_pile

from ldm.curation.clusters import cluster_kmeans
from ldm.curation.names import name_clusters
from ldm.curation.options import read_options
from ldm.curation.pictures import METADATA, Picture, read_declared_pairs, read_pictures
from ldm.util.errors import UserError

DEEP = "[" * 50_000 + "]" * 50_000
DIGITS = "9" * 5000
CUP = {"file_name": "a00.png"}
IMAGE = {"id": 1, "file_name": "a00.png", "width": 96, "height": 96}
CATEGORY = {"id": 1, "name": "cup"}
ANNOTATION = {"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4]}


def line(**keys) -> str:
    return json.dumps({**CUP, **keys})


def coco(image=None, annotation=None, **keys) -> str:
    whole = {
        "images": [{**IMAGE, **(image or {})}],
        "annotations": [{**ANNOTATION, **(annotation or {})}],
        "categories": [CATEGORY],
    }
    return json.dumps({**whole, **keys})


def refused(function, *arguments) -> str:
    """The sentence with which the arguments are refused."""
    with pytest.raises(UserError) as error:
        function(*arguments)
    sentence = str(error.value)
    assert sentence.count("\n") == 0 and len(sentence) < 1000
    return sentence


METADATA_LINES = [
    DEEP,
    b"\xff\xfe\x00",
    "3",
    "null",
    '{"file_name": NaN}',
    '{"file_name": "a00.png"',
    line(file_name="a\0.png"),
    line(file_name="a\nb.png"),
    '{"file_name": "\\ud800.png"}',
    line(labels={"a": 1}),
    line(labels=[["a"]]),
    line(objects=5),
    line(objects=[None, [1]]),
    line(graph=3),
    line(graph={"objects": 5}),
    line(graph={"objects": ["a"], "boxes": [[0, 0, 10**300, 1]]}),
    '{"file_name": "a00.png", "graph": {"objects": ["a"], "boxes": [[NaN, 0, 1, 1]]}}',
    line(graph={"objects": ["a"], "relationships": [[0, "x", 9]]}),
    line(text=5),
    '{"file_name": "a00.png", "text": "\\ud800"}',
    line(split="dev"),
    line(split=["train"]),
    '{"file_name": "a00.png", "clip": NaN}',
    '{"file_name": "a00.png", "clip": ' + DIGITS + "}",
    line() + "\n" + line(),
    "",
]


@pytest.mark.parametrize("content", METADATA_LINES, ids=range(len(METADATA_LINES)))
def test_a_hostile_metadata_file_is_one_sentence(tmp_path, content):
    path = tmp_path / METADATA
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    refused(read_pictures, [str(path)])


@pytest.mark.parametrize(
    "content",
    [
        DEEP,
        "[]",
        coco()[:50],
        coco(images=5),
        coco(images=[3]),
        coco(categories=None),
        coco(categories=[{"id": [1], "name": "a"}]),
        coco(categories=[{"id": 1, "name": {"a": 1}}]),
        coco(annotations={"a": 1}),
        coco({"width": 0}),
        coco({"width": "wide"}),
        coco({"width": float("nan")}),
        coco({"width": -5}),
        coco({"width": 10**400}),
        coco({"file_name": 5}),
        coco({"file_name": "a\0b"}),
        coco({"file_name": "\ud800"}),
        coco({"id": [1]}),
        coco(None, {"bbox": [1]}),
        coco(None, {"bbox": "abcd"}),
        coco(None, {"bbox": [float("nan")] * 4}),
        coco(None, {"bbox": [float("inf"), 0, 1, 1]}),
        coco(None, {"bbox": [10**400, 0, 1, 1]}),
        coco(None, {"category_id": 9}),
    ],
    ids=range(24),
)
def test_hostile_annotations_are_one_sentence(tmp_path, content):
    (tmp_path / "c.json").write_text(content)
    sentence = refused(read_pictures, [str(tmp_path / "c.json")])
    assert "c.json" in sentence or "null character" in sentence


@pytest.mark.parametrize(
    "content",
    [
        DEEP,
        "[1]",
        "cap: 1e999",
        "min_cosine: .nan",
        "min_cosine: 2",
        f"clusters: {DIGITS}",
        "clusters: {a: 1}",
        "!!python/object/apply:os.system ['true']",
        "options: [1]",
        "seed: -1",
        "caps: 1",
    ],
)
def test_hostile_options_are_one_sentence_that_names_the_file(tmp_path, content):
    (tmp_path / "o.yaml").write_text(content)
    assert "o.yaml" in refused(read_options, str(tmp_path / "o.yaml"), {})


@pytest.mark.parametrize("content", [DEEP, "3", "{}", "[[1]]", '[["a", "b", "c"]]', '["ab"]', "[null]"])
def test_hostile_declared_pairs_are_one_sentence(tmp_path, content):
    (tmp_path / "p.json").write_text(content)
    assert "p.json" in refused(read_declared_pairs, tmp_path / "p.json", [Picture(tmp_path, "a")])


@pytest.mark.parametrize(
    "content",
    [
        DEEP,
        "word",
        "a: 1",
        "- 1",
        "- {name: [1], pictures: []}",
        "- {name: a, pictures: [[1], {}]}",
        "- {name: a, pictures: []}\n- {name: a, pictures: []}",
        '- {name: "\\ud800", pictures: [a]}',
        "!!python/object/apply:os.system ['true']",
    ],
)
def test_a_hostile_file_of_names_is_one_sentence(tmp_path, content):
    clusters = cluster_kmeans(np.eye(2, dtype=np.float32), 2)
    pictures = [Picture(tmp_path, "a"), Picture(tmp_path, "b")]
    (tmp_path / "clusters.yaml").write_text(content)
    assert "clusters.yaml" in refused(name_clusters, pictures, clusters, tmp_path / "clusters.yaml")


@pytest.mark.parametrize(
    ("again", "what"),
    [
        ("images: 5\noptions: {}", "images"),
        ("images: [3]\noptions: {}", "images"),
        ("tower: [a]\noptions: {}", "tower"),
    ],
)
def test_hostile_sources_of_an_earlier_run_are_one_sentence(load_script, tmp_path, capsys, again, what):
    (tmp_path / "o.yaml").write_text(again)
    code = load_script("curate").main(["--again", str(tmp_path / "o.yaml"), "--out", str(tmp_path / "set")])
    assert code == 2 and f"o.yaml: {what} is not" in capsys.readouterr().err


@pytest.mark.parametrize(
    "names",
    ["- {name: a, pictures: [[1]]}", "a"],
)
def test_nothing_is_half_written_where_a_file_is_refused_late(load_script, tmp_path, capsys, names):
    write_pile(tmp_path / "pile", 4)
    (tmp_path / "set").mkdir()
    (tmp_path / "set/clusters.yaml").write_text(names)
    words = ["--images", str(tmp_path / "pile"), "--tower", "pixels", "--crop-neighbours", "0"]
    assert load_script("curate").main([*words, "--out", str(tmp_path / "set")]) == 2
    assert "Traceback" not in capsys.readouterr().err
    left = {path.name for path in (tmp_path / "set").iterdir()}
    assert left <= {"clusters.yaml", "embeddings", "work"} and (tmp_path / "set/clusters.yaml").read_text() == names
