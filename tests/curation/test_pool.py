"""Pictures come as folders, metadata.jsonl or COCO's JSON."""

import json

import pytest
from pile import picture, save

from ldm.curation.errors import CurationError
from ldm.curation.pictures import Picture, read_declared_pairs, read_pictures, select


def test_subfolders_are_labels_and_text_files_captions(tmp_path):
    save(picture(0), tmp_path / "cats" / "a.png")
    save(picture(1), tmp_path / "b.png")
    save(picture(2), tmp_path / ".hidden" / "c.png")
    (tmp_path / "cats" / "a.txt").write_text("a cat\n")
    first, second = sorted(read_pictures([str(tmp_path)]), key=lambda p: p.name)
    assert (first.name, first.labels, first.caption) == ("b.png", (), None)
    assert (second.name, second.labels, second.caption) == ("cats/a.png", ("cats",), "a cat")
    assert second.group("folder") == str(tmp_path / "cats") and second.group(None) is None


def test_metadata_gives_captions_labels_objects_and_properties(tmp_path):
    lines = [
        {"file_name": "a.png", "text": "x", "label": "cat", "objects": ["cat", "sofa"], "clip": 3},
        {"file_name": "b.png", "caption": "y", "split": "test"},
        {"file_name": "c.png", "kept": False},
    ]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    first, second = read_pictures([f"validation={tmp_path}"])
    assert (first.split, first.caption, first.labels, first.objects) == ("validation", "x", ("cat",), ("cat", "sofa"))
    assert first.group("clip") == "3" and first.properties == {"clip": 3}
    assert (second.split, second.caption) == ("test", "y")


@pytest.fixture
def coco(tmp_path):
    data = {
        "images": [
            {"id": 1, "file_name": "a.png", "width": 100, "height": 50, "kind": "real"},
            {"id": 2, "file_name": "b.png", "kind": "mix"},
        ],
        "annotations": [
            {"image_id": 1, "category_id": 5, "bbox": [10, 10, 50, 20]},
            {"image_id": 1, "category_id": 6, "bbox": [90, 0, 20, 10]},
        ],
        "categories": [{"id": 5, "name": "cup"}, {"id": 6, "name": "pen"}],
    }
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(data))
    return path


def test_coco_gives_objects_and_boxes_within_the_picture(coco):
    first, second = read_pictures([str(coco)])
    assert first.graph == {"objects": ["cup", "pen"], "boxes": [[0.1, 0.2, 0.6, 0.6], [0.9, 0.0, 1.0, 0.2]]}
    assert first.objects == ("cup", "pen") and second.graph is None
    assert [p.name for p in select([first, second], {"kind": "real"})] == ["a.png"]
    with pytest.raises(CurationError, match="no picture is like that"):
        select([first], {"kind": "drawn"})


def test_declared_pairs_are_named_by_id_or_name(coco, tmp_path):
    pictures, path = read_pictures([str(coco)]), tmp_path / "pairs.json"
    for pair in ({"source": 2, "target": 1}, ["b.png", "a.png"]):
        path.write_text(json.dumps([pair, ["elsewhere.png", "a.png"]]))
        assert read_declared_pairs(path, pictures) == {(0, 1)}
    path.write_text('{"a": 1}')
    with pytest.raises(CurationError, match="declare pairs as a list"):
        read_declared_pairs(path, pictures)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("metadata.jsonl", '{"file": 1}', "line 1"),
        ("x.json", '{"images": 3}', "not in COCO's form"),
        ("x.json", "{", "invalid JSON"),
        ("x.csv", "a,b", "neither a folder"),
        ("metadata.jsonl", "", "holds no picture"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(CurationError, match=message):
        read_pictures([str(tmp_path / name)])


def test_a_missing_source_and_a_picture_named_twice_are_errors(tmp_path):
    with pytest.raises(CurationError, match="there is no such file or folder"):
        read_pictures([str(tmp_path / "nowhere")])
    save(picture(0), tmp_path / "a.png")
    with pytest.raises(CurationError, match="a.png: is in train twice"):
        read_pictures([str(tmp_path), str(tmp_path)])
    assert isinstance(read_pictures([str(tmp_path), f"test={tmp_path}"])[1], Picture)
