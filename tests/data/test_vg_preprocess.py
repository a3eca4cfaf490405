"""Visual Genome's raw files, real and odd ones, to vocab.json and h5."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ldm.data import vg_preprocess, vg_raw
from ldm.data.vg_preprocess import Options, preprocess
from ldm.data.vg_raw import DataError, read_array

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "preprocess_vg.py"


def inputs(folder: Path, **options) -> Options:
    """Options that read everything from `folder`."""
    files = {
        "splits_json": "splits.json",
        "images_json": "image_data.json",
        "objects_json": "objects.json",
        "attributes_json": "attributes.json",
        "relationships_json": "relationships.json",
        "object_aliases": "object_alias.txt",
        "relationship_aliases": "relationship_alias.txt",
    }
    return Options(**{key: str(folder / name) for key, name in files.items()} | options)


def arrays(path: Path) -> dict[str, np.ndarray]:
    with h5py.File(path) as file:
        return {name: array[:] for name, array in file.items()}


@pytest.fixture
def raw(tmp_path) -> Callable:
    """raw(...) writes a tiny Visual Genome and returns the options to preprocess it; by default two images in train,
    each with a dog on a mat beside a nameless thing."""

    def image(id_: int) -> tuple[dict, dict, dict, dict]:
        objects = [
            {"object_id": 10 * id_ + i, "names": names, "x": i, "y": 2, "w": 40, "h": 50}
            for i, names in enumerate((["pup"], ["rug", "mat"], []))
        ]
        attributes = [dict(objects[0], attributes=["brown", "wet"]), objects[1]]
        ends = {"subject": {"object_id": 10 * id_}, "object": {"object_id": 10 * id_ + 1}}
        relationships = [{"relationship_id": id_, "predicate": "ON Top of ", **ends}]
        return (
            {"image_id": id_, "width": 300, "height": 200, "url": f"https://host/rak/VG_100K/{id_}.jpg"},
            {"image_id": id_, "objects": objects},
            {"image_id": id_, "attributes": attributes},
            {"image_id": id_, "relationships": relationships},
        )

    def write(splits: dict, ids=(1, 2), change: Callable = lambda *files: None, **options) -> Options:
        files = [list(file) for file in zip(*map(image, ids))]
        change(*files)
        for name, content in zip(("image_data", "objects", "attributes", "relationships"), files):
            (tmp_path / f"{name}.json").write_text(json.dumps(content))
        (tmp_path / "splits.json").write_text(json.dumps(splits))
        (tmp_path / "object_alias.txt").write_text("dog,pup,puppy\n")
        (tmp_path / "relationship_alias.txt").write_text("on,on top of\n")
        few = {f"min_{what}_instances": 1 for what in ("object", "attribute", "relationship")}
        out = {"output_vocab_json": str(tmp_path / "out" / "vocab.json"), "output_h5_dir": str(tmp_path / "out")}
        return inputs(tmp_path, **few | {"min_objects_per_image": 2} | out | options)

    return write


def test_the_sample_comes_out_as_sg2im_makes_it(realdata, tmp_path):
    folder, reference = realdata / "vg_raw_v1.2", realdata / "vg_raw_v1.2" / "reference"
    few = {"min_object_instances": 2, "min_attribute_instances": 2, "min_relationship_instances": 1}
    out = {"output_vocab_json": str(tmp_path / "vocab.json"), "output_h5_dir": str(tmp_path)}
    preprocess(inputs(folder, splits_json=str(folder / "splits_sample.json"), **few, **out))

    assert (tmp_path / "vocab.json").read_text() == (reference / "vocab.json").read_text()
    for split in ("train", "val"):
        ours, theirs = arrays(tmp_path / f"{split}.h5"), arrays(reference / f"{split}.h5")
        assert ours.keys() == theirs.keys()
        for name in theirs:
            assert ours[name].dtype == theirs[name].dtype and np.array_equal(ours[name], theirs[name]), name
    assert len(arrays(tmp_path / "test.h5")["image_ids"]) == 0


def test_an_image_becomes_the_rows_one_would_write_by_hand(raw, tmp_path):
    most = {"max_objects_per_image": 3, "max_relationships_per_image": 2, "max_attributes_per_image": 4}
    preprocess(raw({"train": [2, 1]}, **most))
    vocab, h5 = json.loads((tmp_path / "out/vocab.json").read_text()), arrays(tmp_path / "out/train.h5")
    assert vocab["object_idx_to_name"] == ["__image__", "dog", "rug", "mat"]
    assert vocab["pred_idx_to_name"] == ["__in_image__", "on"]
    assert sorted(vocab["attribute_idx_to_name"]) == ["brown", "wet"]
    assert h5["image_ids"].tolist() == [2, 1] and h5["image_paths"].tolist() == [b"VG_100K/2.jpg", b"VG_100K/1.jpg"]
    assert h5["object_ids"].tolist() == [[20, 21, -1], [10, 11, -1]]
    assert h5["object_names"].tolist() == [[1, 2, -1]] * 2
    assert h5["object_boxes"][0].tolist() == [[0, 2, 40, 50], [1, 2, 40, 50], [-1] * 4]
    triples = [h5[f"relationship_{what}"][0].tolist() for what in ("ids", "subjects", "predicates", "objects")]
    assert triples == [[2, -1], [0, -1], [1, -1], [1, -1]]
    assert h5["objects_per_image"].tolist() == [2, 2] and h5["relationships_per_image"].tolist() == [1, 1]
    assert h5["attributes_per_object"].tolist() == [[2, 0, -1]] * 2
    assert [sorted(row) for row in h5["object_attributes"].tolist()] == [[-1, -1, 0, 1], [-1] * 4] * 2


def test_an_empty_split_has_the_shapes_of_a_full_one_and_is_announced(raw, tmp_path, capsys):
    preprocess(raw({"train": [1, 2], "test": []}))
    full, empty = arrays(tmp_path / "out/train.h5"), arrays(tmp_path / "out/test.h5")
    assert full.keys() == empty.keys()
    for name, array in empty.items():
        assert array.shape == (0, *full[name].shape[1:]) and array.dtype == full[name].dtype
    assert "test: NO images kept" in capsys.readouterr().out


def test_split_ids_that_are_nowhere_are_left_out_and_counted(raw, tmp_path, capsys):
    def forget(images, objects, attributes, relationships):
        del objects[2], attributes[2], relationships[2]  # image 3 is in image_data only

    preprocess(raw({"train": [1, 2, 3], "val": [7, 8]}, ids=(1, 2, 3), change=forget))
    assert arrays(tmp_path / "out/train.h5")["image_ids"].tolist() == [1, 2]
    assert "val: 2 more left out" in capsys.readouterr().out


def test_missing_lists_of_names_attributes_and_relationships_are_empty_ones(raw, tmp_path):
    def strip(images, objects, attributes, relationships):
        del objects[0]["objects"][2]["names"]
        del attributes[0]["attributes"]
        attributes[1]["attributes"][0]["attributes"] = None
        del relationships[1]["relationships"]

    preprocess(raw({"train": [1, 2]}, change=strip))
    h5 = arrays(tmp_path / "out/train.h5")
    assert h5["image_ids"].tolist() == [1] and (h5["object_attributes"] == -1).all()


def test_an_object_takes_the_first_of_its_names_that_is_in_the_vocabulary(raw, tmp_path):
    def rename(images, objects, attributes, relationships):
        objects[1]["objects"][1]["names"] = ["carpet", "mat"]

    preprocess(raw({"train": [1, 2]}, change=rename, min_object_instances=2))
    vocab, h5 = json.loads((tmp_path / "out/vocab.json").read_text()), arrays(tmp_path / "out/train.h5")
    assert vocab["object_idx_to_name"] == ["__image__", "dog", "mat"]
    assert h5["object_names"][:, :2].tolist() == [[1, 2], [1, 2]]


def test_predicates_are_normalised_in_the_training_split_only(raw, tmp_path):
    def lower(images, objects, attributes, relationships):
        relationships[2]["relationships"][0]["predicate"] = "on"

    preprocess(raw({"train": [1], "val": [2, 3]}, ids=(1, 2, 3), change=lower))
    assert arrays(tmp_path / "out/val.h5")["image_ids"].tolist() == [3]


@pytest.mark.parametrize(
    "option, value, kept",
    [
        ("min_image_size", 201, 0),
        ("min_object_size", 41, 0),
        ("min_objects_per_image", 3, 0),
        ("max_objects_per_image", 1, 0),
        ("max_objects_per_image", 2, 2),
        ("min_relationships_per_image", 2, 0),
        ("max_relationships_per_image", 0, 0),
    ],
)
def test_limits_are_inclusive(raw, tmp_path, option, value, kept):
    preprocess(raw({"train": [1, 2]}, **{option: value}))
    assert len(arrays(tmp_path / "out/train.h5")["image_ids"]) == kept


@pytest.mark.parametrize("full, warned", [(2, True), (3, False)])
def test_another_vocabulary_than_the_published_one_is_said_on_full_data(raw, monkeypatch, capsys, full, warned):
    monkeypatch.setattr(vg_preprocess, "FULL", full)
    preprocess(raw({"train": [1, 2]}))
    assert ("179 objects and 46" in capsys.readouterr().out) == warned


def test_a_failure_leaves_the_files_of_the_last_run(raw, tmp_path, monkeypatch):
    preprocess(raw({"train": [1, 2]}))
    before = {path: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    monkeypatch.setattr(vg_preprocess.json, "dumps", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        preprocess(inputs(tmp_path, output_vocab_json=f"{tmp_path}/out/vocab.json", output_h5_dir=f"{tmp_path}/out"))
    assert {path: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


@given(st.lists(st.dictionaries(st.text(), st.integers() | st.text() | st.none())), st.integers(1, 20), st.booleans())
def test_an_array_read_in_chunks_is_what_json_reads(tmp_path_factory, items, chunk, indented):
    path = tmp_path_factory.mktemp("json") / "array.json"
    path.write_text(json.dumps(items, indent=1 if indented else None))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vg_raw, "CHUNK", chunk)
        patch.setattr(vg_raw, "LONGEST", 10_000)
        assert list(read_array(path)) == items


@pytest.mark.parametrize(
    "content, says",
    [
        (b"", "ends early"),
        (b'[{"a": 1}, {"b"', "ends early"),
        (b'[{"a": 1}', "ends early"),
        (b'{"a": 1}', "not a list"),
        (b'[{"a": 1} {"b": 2}' + b" " * 200 + b"]", "not JSON .* before byte"),
        (b'[{"a": nonsense}' + b" " * 200 + b"]", "not JSON .* before byte"),
        (b"PK\x03\x04\xff\xff\xff", "unpack"),
        (None, "No such file"),
    ],
)
def test_a_broken_array_is_one_sentence_that_names_the_file(tmp_path, monkeypatch, content, says):
    monkeypatch.setattr(vg_raw, "CHUNK", 10)
    monkeypatch.setattr(vg_raw, "LONGEST", 50)
    if content is not None:
        (tmp_path / "objects.json").write_bytes(content)
    with pytest.raises(DataError, match=f"objects.json: .*{says}"):
        list(read_array(tmp_path / "objects.json"))


@pytest.mark.parametrize("name", ["objects.json", "attributes.json", "relationships.json", "image_data.json"])
@pytest.mark.parametrize("content", [[{"image_id": 1}], [{"id": 1}], [1], []])
def test_the_wrong_file_is_told_from_an_odd_one(raw, tmp_path, name, content):
    options = raw({"train": [1, 2]})
    (tmp_path / name).write_text(json.dumps(content))
    with pytest.raises(DataError, match=name):
        preprocess(options)


def test_the_script_ends_with_one_sentence_and_a_code(tmp_path):
    command = [sys.executable, SCRIPT, "--images_json", tmp_path / "nothing.json"]
    run = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert run.returncode == 2
    assert run.stderr.count("\n") == 1 and "nothing.json" in run.stderr
