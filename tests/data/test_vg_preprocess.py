"""Preprocessing of Visual Genome: a real sample against sg2im's output, and made-up and broken raw files."""

import json
import multiprocessing
import os
import resource
import signal
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from raw_vg import inputs, write_raw_vg

from ldm.data import vg_preprocess, vg_raw
from ldm.data.vg_preprocess import Options, preprocess
from ldm.data.vg_raw import DataError, read_array
from ldm.util.errors import UserError
from ldm.util.files import atomic_write


def arrays(path: Path) -> dict[str, np.ndarray]:
    with h5py.File(path) as file:
        return {name: array[:] for name, array in file.items()}


@pytest.fixture
def raw(tmp_path) -> Callable:
    """raw(...) writes a tiny Visual Genome and returns the options to preprocess it."""

    def write(splits: dict, ids=(1, 2), change: Callable = lambda *files: None, **options) -> Options:
        write_raw_vg(tmp_path, splits, ids, change)
        few = {f"min_{what}_instances": 1 for what in ("object", "attribute", "relationship")}
        out = {"output_vocab_json": str(tmp_path / "out" / "vocab.json"), "output_h5_dir": str(tmp_path / "out")}
        return inputs(tmp_path, **few | {"min_objects_per_image": 2} | out | options)

    return write


def test_preprocessing_a_real_sample_gives_sg2ims_files(realdata, tmp_path):
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


def test_the_arrays_of_a_made_up_image_are_as_expected(raw, tmp_path):
    limits = {"max_objects_per_image": 3, "max_relationships_per_image": 2, "max_attributes_per_image": 4}
    preprocess(raw({"train": [2, 1]}, **limits))
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


def test_an_empty_split_has_the_shapes_of_a_full_one_and_is_reported(raw, tmp_path, capsys):
    preprocess(raw({"train": [1, 2], "test": []}))
    full, empty = arrays(tmp_path / "out/train.h5"), arrays(tmp_path / "out/test.h5")
    assert full.keys() == empty.keys()
    for name, array in empty.items():
        assert array.shape == (0, *full[name].shape[1:]) and array.dtype == full[name].dtype
    assert "test: NO images" in capsys.readouterr().out


def test_images_of_a_split_without_data_are_left_out_and_counted(raw, tmp_path, capsys):
    def remove(images, objects, attributes, relationships):
        del objects[2], attributes[2], relationships[2]  # image 3 is in image_data only

    preprocess(raw({"train": [1, 2, 3], "val": [7, 8]}, ids=(1, 2, 3), change=remove))
    assert arrays(tmp_path / "out/train.h5")["image_ids"].tolist() == [1, 2]
    assert "val: 2 more left out" in capsys.readouterr().out


def test_missing_lists_of_names_attributes_and_relationships_count_as_empty(raw, tmp_path):
    def strip(images, objects, attributes, relationships):
        del objects[0]["objects"][2]["names"]
        del attributes[0]["attributes"]
        attributes[1]["attributes"][0]["attributes"] = None
        del relationships[1]["relationships"]

    preprocess(raw({"train": [1, 2]}, change=strip))
    h5 = arrays(tmp_path / "out/train.h5")
    assert h5["image_ids"].tolist() == [1] and (h5["object_attributes"] == -1).all()


def test_an_object_has_its_first_name_that_is_in_the_vocabulary(raw, tmp_path):
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
    "option, value, count",
    [
        ("min_image_size", 201, 0),
        ("min_image_size", 200, 2),
        ("min_object_size", 41, 0),
        ("min_objects_per_image", 3, 0),
        ("max_objects_per_image", 1, 0),
        ("max_objects_per_image", 2, 2),
        ("min_relationships_per_image", 2, 0),
        ("max_relationships_per_image", 0, 0),
    ],
)
def test_limits_are_inclusive_and_leaving_nothing_to_train_on_is_an_error(raw, tmp_path, option, value, count):
    options = raw({"train": [1, 2]}, **{option: value})
    if count:
        preprocess(options)
        assert len(arrays(tmp_path / "out/train.h5")["image_ids"]) == count
    else:
        with pytest.raises(DataError, match="splits.json: nothing of the split 'train' .* is left"):
            preprocess(options)
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("option", ["min_object_instances", "min_relationship_instances"])
def test_a_part_of_visual_genome_too_small_for_a_vocabulary_is_an_error_that_names_the_option(raw, option):
    with pytest.raises(DataError, match=f"occurs 3 times; lower --{option}"):
        preprocess(raw({"train": [1, 2]}, **{option: 3}))


@pytest.mark.parametrize("name", ["../../escaped", "a/b", "..", ".", "", "/tmp/x", "a\0b", ".hidden", "x" * 300])
def test_a_split_whose_name_is_no_file_name_is_an_error_and_nothing_is_written(raw, tmp_path, name):
    before = sorted(tmp_path.rglob("*"))
    options = raw({"train": [1, 2], name: [1]})
    with pytest.raises(DataError, match="splits.json: the split .* cannot be the name of a file"):
        preprocess(options)
    assert {path.suffix for path in set(tmp_path.rglob("*")) - set(before)} == {".json", ".txt"}


def test_numbers_may_be_text_or_whole_floats_and_files_may_have_a_byte_order_mark(raw, tmp_path):
    def as_text(images, objects, attributes, relationships):
        images[0].update(image_id="1", width="300", height=200.0)
        objects[0]["image_id"] = 1.0
        objects[0]["objects"][0].update(object_id="10", w="40", h=50.0)
        relationships[0]["relationships"][0]["subject"]["object_id"] = 10.0

    preprocess(raw({"train": [1, 2]}))
    expected = arrays(tmp_path / "out/train.h5")
    options = raw({"train": ["1", 2.0]}, change=as_text)
    for path in (*tmp_path.glob("*.json"), *tmp_path.glob("*.txt")):
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    preprocess(options)
    result = arrays(tmp_path / "out/train.h5")
    assert all(np.array_equal(result[name], expected[name]) for name in expected)


def test_names_match_whatever_their_unicode_form_and_those_that_no_graph_can_have_are_left_out(raw, tmp_path):
    def rename(images, objects, attributes, relationships):
        objects[0]["objects"][0]["names"], objects[1]["objects"][0]["names"] = ["cafe\u0301"], ["caf\u00e9"]
        objects[0]["objects"][1]["names"] = ["__image__", "a\nb", " ", "mat"]

    preprocess(raw({"train": [1, 2]}, change=rename))
    vocab = json.loads((tmp_path / "out/vocab.json").read_text())
    assert vocab["object_idx_to_name"] == ["__image__", "caf\u00e9", "mat", "rug"]


@pytest.mark.parametrize(
    "kind, change",
    [
        ("objects", {"names": "dog"}),
        ("objects", {"names": [5]}),
        ("objects", {"x": float("inf")}),
        ("objects", {"w": None}),
        ("objects", {"object_id": 10**30}),
        ("objects", {"object_id": [1]}),
        ("attributes", {"attributes": {"brown": 1}}),
        ("relationships", {"predicate": 5}),
        ("relationships", {"subject": None}),
        ("relationships", {"relationship_id": "first"}),
        ("image_data", {"url": 7}),
        ("image_data", {"url": "http://a/\ud800.jpg"}),
        ("image_data", {"width": "wide"}),
    ],
)
def test_an_entry_in_another_format_is_one_sentence_that_names_the_file(raw, tmp_path, kind, change):
    def damage(*files):
        entries = dict(zip(("image_data", "objects", "attributes", "relationships"), files))[kind]
        (entries[0] if kind == "image_data" else entries[0][kind][0]).update(change)

    with pytest.raises(DataError, match=rf"^[^\n]*{kind}.json: an entry [^\n]*$"):
        preprocess(raw({"train": [1, 2]}, change=damage))


@pytest.mark.parametrize("option, value", [("max_objects_per_image", 10**9), ("max_attributes_per_image", -1)])
def test_an_impossible_number_is_an_error_that_names_the_option(raw, option, value):
    with pytest.raises(UserError, match=f"--{option} is {value}"):
        preprocess(raw({"train": [1, 2]}, **{option: value}))


def test_a_full_disk_is_one_sentence_and_leaves_existing_files_as_they_were(raw, tmp_path, capsys):
    options = raw({"train": [1, 2]})
    preprocess(options)
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
        with pytest.raises(DataError, match=r"^[^\n]*cannot be written \(File too large\)[^\n]*$"):
            preprocess(options)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_files_that_a_killed_run_left_behind_are_removed(raw, tmp_path):
    options = raw({"train": [1, 2]})
    preprocess(options)
    process = multiprocessing.get_context("fork").Process(target=_die_while_writing, args=(tmp_path / "out/train.h5",))
    process.start()
    process.join()
    assert len(list((tmp_path / "out").glob(".*.part*"))) == 1
    preprocess(options)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["train.h5", "vocab.json"]


def _die_while_writing(path: Path) -> None:
    with atomic_write(path) as temporary:
        temporary.write_bytes(b"half")
        os.kill(os.getpid(), signal.SIGKILL)


def test_every_bad_raw_file_is_one_sentence(realdata, bad_inputs, tmp_path):
    folder = realdata / "vg_raw_v1.2"
    few = {"min_object_instances": 2, "min_attribute_instances": 2, "min_relationship_instances": 1}
    out = {"output_vocab_json": str(tmp_path / "out/vocab.json"), "output_h5_dir": str(tmp_path / "out")}
    replaced = {"splits": "splits_json", "prep_splits": "splits_json", "prep_objects": "objects_json"}
    replaced |= {"prep_relationships": "relationships_json"}
    for path in sorted((bad_inputs / "preprocess").glob("*.json")):
        option = next(option for start, option in replaced.items() if path.name.startswith(start))
        files = {"splits_json": str(folder / "splits_sample.json"), option: str(path)}
        with pytest.raises(DataError, match=rf"^[^\n]*{path.name}: [^\n]*$"):
            preprocess(inputs(folder, **files, **few, **out))
        assert not (tmp_path / "out").exists() and not list(tmp_path.parent.glob("escaped*"))


@pytest.mark.parametrize("full, warned", [(2, True), (3, False)])
def test_a_vocabulary_of_the_full_data_that_differs_from_the_published_one_gives_a_warning(
    raw, monkeypatch, capsys, full, warned
):
    monkeypatch.setattr(vg_preprocess, "FULL_SIZE", full)
    preprocess(raw({"train": [1, 2]}))
    assert ("WARNING" in capsys.readouterr().out) == warned


def test_after_an_error_existing_files_are_unchanged(raw, tmp_path, monkeypatch):
    options = raw({"train": [1, 2]})
    preprocess(options)
    before = {path: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    monkeypatch.setattr(vg_preprocess.json, "dumps", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        preprocess(options)
    assert {path: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


@given(st.lists(st.dictionaries(st.text(), st.integers() | st.text() | st.none())), st.integers(1, 20), st.booleans())
def test_reading_an_array_in_chunks_gives_the_same_as_the_json_module(tmp_path_factory, items, chunk, indented):
    path = tmp_path_factory.mktemp("json") / "array.json"
    path.write_text(json.dumps(items, indent=1 if indented else None))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vg_raw, "CHUNK", chunk)
        patch.setattr(vg_raw, "MAX_STRING", 10_000)
        assert list(read_array(path)) == items


@pytest.mark.parametrize(
    "content, reason",
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
def test_an_error_about_a_broken_array_names_the_file(tmp_path, monkeypatch, content, reason):
    monkeypatch.setattr(vg_raw, "CHUNK", 10)
    monkeypatch.setattr(vg_raw, "MAX_STRING", 50)
    if content is not None:
        (tmp_path / "objects.json").write_bytes(content)
    with pytest.raises(DataError, match=f"objects.json: .*{reason}"):
        list(read_array(tmp_path / "objects.json"))


@pytest.mark.parametrize("name", ["objects.json", "attributes.json", "relationships.json", "image_data.json"])
@pytest.mark.parametrize("content", [[{"image_id": 1}], [{"id": 1}], [1], []])
def test_an_error_names_the_file_with_the_wrong_content(raw, tmp_path, name, content):
    options = raw({"train": [1, 2]})
    (tmp_path / name).write_text(json.dumps(content))
    with pytest.raises(DataError, match=name):
        preprocess(options)


def test_the_script_prints_one_line_about_a_missing_file_and_exits_with_2(load_script, tmp_path, capsys):
    assert load_script("preprocess_vg").main(["--images_json", str(tmp_path / "nothing.json")]) == 2
    message = capsys.readouterr().err
    assert message.startswith("preprocess_vg.py: ") and message.count("\n") == 1 and "nothing.json" in message


def test_output_that_cannot_be_written_is_an_error(raw, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        preprocess(raw({"train": [1, 2]}, output_h5_dir=str(tmp_path / "file")))
