"""Visual Genome's data sets, on a real and on a handmade sample, and the report of `trainer.py --check`."""

import json
import multiprocessing
import os
import pickle
import random

import h5py
import numpy as np
import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch.utils.data import DataLoader

from ldm.data import doctor
from ldm.data.vg import VGTrain, VGValidation
from ldm.data.vg_file import DIMENSIONS
from ldm.data.vg_raw import DataError
from ldm.graph.batch import collate
from ldm.graph.validation import GraphError
from ldm.util.errors import ConfigError, UserError
from ldm.util.images import ImageError


@pytest.fixture
def sample(realdata):
    """sample(VGTrain, ...) -> the real training split: 6 photographs with 15 to 24 objects each."""
    folder = realdata / "vg_raw_v1.2"
    files = (folder / "reference/vocab.json", folder / "reference/train.h5", folder / "images")
    return lambda kind=VGTrain, **options: kind(*map(str, files), **options)


@pytest.fixture
def made(tmp_path):
    """made(VGTrain, ...) -> one image of 200 x 100 pixels with five objects, cat on mat, mat under cat, dog by dog.

    The arrays in `changed` replace those of the h5 file.
    """
    vocab = {
        "object_idx_to_name": ["__image__", "cat", "mat", "dog", "sky", "sun"],
        "pred_idx_to_name": ["__in_image__", "on", "under", "by"],
        "attribute_idx_to_name": ["grey", "soft"],
    }
    boxes = [[20, 10, 40, 50], [-10, 60, 500, 60], [0, 0, 1, 1], [250, 0, 50, 50], [199, 99, 1, 1]]
    arrays = {
        "image_paths": [b"VG_100K/7.png"],
        "objects_per_image": [5],
        "object_names": [[1, 2, 3, 4, 5, -1]],
        "object_boxes": [[*boxes, [-1] * 4]],
        "object_attributes": [[1, 0, -1], [-1] * 3, [0, -1, -1], [-1] * 3, [-1] * 3],
        "relationships_per_image": [3],
        "relationship_subjects": [[0, 1, 2, -1]],
        "relationship_predicates": [[1, 2, 3, -1]],
        "relationship_objects": [[1, 0, 2, -1]],
    }

    def make(kind=VGTrain, changed=None, **options):
        (tmp_path / "VG_100K").mkdir(exist_ok=True)
        Image.new("RGB", (200, 100), "red").save(tmp_path / "VG_100K/7.png")
        (tmp_path / "vocab.json").write_text(json.dumps(vocab))
        with h5py.File(tmp_path / "made.h5", "w") as file:
            for name, array in (arrays | (changed or {})).items():
                file[name] = array
        return kind(tmp_path / "vocab.json", tmp_path / "made.h5", tmp_path, **options)

    return make


def samples_equal(a, b) -> bool:
    return a[1] == b[1] and torch.equal(a[0], b[0])


def test_a_sample_has_the_names_of_the_h5_file_and_boxes_as_fractions(made):
    image, graph = made(image_size=32)[0]
    assert image.shape == (3, 32, 32) and image[:, 5, 5].tolist() == [1, -1, -1]
    assert graph.objects == ("cat", "mat", "dog", "sky", "sun")
    assert graph.boxes[0] == pytest.approx((0.1, 0.1, 0.3, 0.6))
    assert graph.boxes[4] == pytest.approx((0.995, 0.99, 1.0, 1.0))
    assert graph.attributes == (("soft", "grey"), (), ("grey",), (), ())
    assert graph.image.endswith("VG_100K/7.png")


def test_a_box_is_clipped_and_one_outside_of_the_image_is_unknown(made):
    boxes = made()[0][1].boxes
    assert boxes[1] == pytest.approx((0.0, 0.6, 1.0, 1.0)) and boxes[3] is None


def test_a_relation_of_an_object_with_itself_is_left_out(made):
    assert made()[0][1].triples == ((0, "on", 1), (1, "under", 0))


def test_include_relationships_false_gives_no_triples(made):
    assert made(include_relationships=False)[0][1].triples == ()


def test_objects_without_relations_can_be_left_out_unless_there_are_no_others(made):
    assert made(use_orphaned_objects=False)[0][1].objects == ("cat", "mat")
    assert len(made(use_orphaned_objects=False, changed={"relationships_per_image": [0]})[0][1].objects) == 5


@pytest.mark.parametrize("max_objects", [1, 2, 3, 5, 9])
def test_max_objects_limits_the_objects_and_related_ones_come_first(made, max_objects):
    graph = made(max_objects=max_objects)[0][1]
    assert len(graph.objects) == min(max_objects, 5)
    assert len({"cat", "mat"} & set(graph.objects)) == min(max_objects, 2)
    assert all(graph.objects[s] != graph.objects[o] for s, _, o in graph.triples)


def test_every_object_is_drawn_in_some_epoch(made):
    dataset, drawn = made(max_objects=3), set()
    for dataset.epoch in range(30):
        drawn.update(dataset[0][1].objects)
    assert drawn == {"cat", "mat", "dog", "sky", "sun"}


def test_training_graphs_depend_on_seed_epoch_and_index_only(sample):
    graphs = {}
    for seed in (0, 1):
        for epoch in (0, 1):
            dataset = sample(seed=seed)
            dataset.epoch = epoch
            random.seed(99)
            graphs[seed, epoch] = [dataset[i][1] for i in (3, 0, 3)]
            assert graphs[seed, epoch][0] == graphs[seed, epoch][2]
    assert len({str(g) for g in graphs.values()}) == 4


def test_validation_samples_are_the_same_in_every_epoch_and_for_every_seed(sample):
    first, later = sample(VGValidation), sample(VGValidation, seed=5)
    later.epoch = 7
    assert all(samples_equal(first[i], later[i]) for i in range(len(first)))


def test_real_samples_can_be_collated(sample):
    dataset = sample(image_size=64, max_samples=4)
    batch = collate([dataset[i] for i in range(len(dataset))], dataset.vocab)
    assert batch.image.shape == (4, 3, 64, 64) and batch.graph.num_images == 4
    assert len(batch.graph.objs) == 4 * 11 and len(batch.graph.attributes) > 20
    assert batch.image.std() > 0.3


def test_real_attributes_are_those_of_the_raw_file(sample, realdata):
    """Objects are matched by the corner of their box."""
    images = json.loads((realdata / "vg_raw_v1.2/attributes.json").read_text())
    raw = {f"{image['image_id']}.jpg": image["attributes"] for image in images}
    compared = 0
    for _, graph in map(sample(max_objects=30).__getitem__, range(6)):
        width, height = Image.open(graph.image).size
        for box, names in zip(graph.boxes, graph.attributes):
            corner = (round(box[0] * width), round(box[1] * height))
            listed = raw[graph.image.rpartition("/")[2]]
            at_corner = [obj.get("attributes") or [] for obj in listed if (obj["x"], obj["y"]) == corner]
            compared += bool(at_corner and names)
            assert not at_corner or any(set(names) <= set(some) for some in at_corner)
    assert compared > 40


@pytest.mark.parametrize("start, workers", [("fork", 2), ("spawn", 1)])
def test_worker_processes_give_the_same_samples(sample, start, workers):
    dataset = sample(image_size=16)
    samples = [dataset[i] for i in range(len(dataset))]  # opens the h5 file before the workers start
    loader = DataLoader(
        dataset, batch_size=None, num_workers=workers, multiprocessing_context=multiprocessing.get_context(start)
    )
    assert all(samples_equal(a, b) for a, b in zip(samples, loader, strict=True))


def test_a_data_set_with_an_open_file_can_be_pickled(made):
    dataset = made()
    assert samples_equal(dataset[0], pickle.loads(pickle.dumps(dataset))[0])


def test_an_error_names_the_missing_image_its_index_and_the_remedy(made):
    dataset = made()
    dataset.image_path(0).unlink()
    with pytest.raises(ImageError, match=r"7.png.*index 0 of .*made.h5.*--check"):
        dataset[0]


def test_an_index_beyond_the_end_is_an_error(made):
    with pytest.raises(IndexError):
        made()[1]


@pytest.mark.parametrize("array, ids", [("object_names", [[9] * 6]), ("object_attributes", [[2] * 3] * 5)])
def test_another_vocabulary_is_an_error(made, array, ids):
    with pytest.raises(GraphError, match=rf"made.h5: {array}\[0, 0\] is .*vocabulary"):
        made(changed={array: ids})


def test_an_error_about_a_missing_or_broken_h5_file_names_the_script_that_writes_it(made, tmp_path):
    made()
    files = (tmp_path / "vocab.json", tmp_path / "other.h5", tmp_path)
    with pytest.raises(DataError, match="other.h5: .*preprocess_vg.py"):
        VGTrain(*files)
    (tmp_path / "other.h5").write_bytes(b"no h5")
    with pytest.raises(DataError, match="other.h5: .*preprocess_vg.py"):
        VGTrain(*files)


@pytest.mark.parametrize(
    "array, values, place",
    [
        ("object_names", [[1, -5, 3, 4, 5, -1]], r"object_names\[0, 1\] is -5"),
        ("object_names", [[1, 0, 3, 4, 5, -1]], r"object_names\[0, 1\] is 0"),
        ("relationship_predicates", [[1, 2, -1, -1]], r"relationship_predicates\[0, 2\] is -1"),
        ("object_attributes", [[-2] * 3] * 5, r"object_attributes\[0, 0\] is -2"),
        ("objects_per_image", [7], r"objects_per_image\[0\] is 7"),
        ("objects_per_image", [-1], r"objects_per_image\[0\] is -1"),
        ("objects_per_image", [0], r"objects_per_image\[0\] is 0"),
        ("relationships_per_image", [5], r"relationships_per_image\[0\] is 5"),
        ("relationships_per_image", [1.5], "relationships_per_image contains numbers that are not whole"),
        ("object_names", [["cat"] * 6], "object_names has the type"),
        ("image_paths", [7], "image_paths has the type"),
        ("object_boxes", [[[1, 2, 3]] * 6], "object_boxes does not consist of four numbers"),
        ("relationship_subjects", np.zeros((0, 4)), "relationship_subjects has 0 rows for 1 images"),
        ("object_attributes", [[-1] * 3] * 4, "object_attributes has 4 rows for 5 objects"),
        ("object_names", 5, "object_names is no array of 2 dimensions"),
    ],
)
def test_impossible_arrays_are_errors_that_name_the_place(made, array, values, place):
    with pytest.raises(DataError, match=f"made.h5: {place}.*preprocess_vg.py"):
        made(changed={array: values})


@pytest.mark.parametrize("array", sorted(DIMENSIONS))
def test_an_absent_array_is_an_error_that_names_it(made, tmp_path, array):
    made()
    with h5py.File(tmp_path / "made.h5", "a") as file:
        del file[array]
    with pytest.raises(DataError, match=f"made.h5: .*it has no {array}"):
        VGTrain(tmp_path / "vocab.json", tmp_path / "made.h5", tmp_path)


def test_whole_numbers_stored_as_floats_are_read(made):
    names = {"object_names": [[1.0, 2, 3, 4, 5, -1]], "objects_per_image": [5.0]}
    assert made(changed=names)[0][1] == made()[0][1]


def test_a_file_for_scene_graph_detection_is_named_for_what_it_is(made, tmp_path):
    made()
    with h5py.File(tmp_path / "sgg.h5", "w") as file:
        for name in ("boxes_1024", "boxes_512", "img_to_first_box", "img_to_last_box", "labels", "predicates"):
            file[name] = [[0]]
    with pytest.raises(DataError, match="sgg.h5: a file for scene graph detection .*preprocess_vg.py"):
        VGTrain(tmp_path / "vocab.json", tmp_path / "sgg.h5", tmp_path)


def test_a_box_that_is_not_finite_is_unknown_and_reported(made):
    boxes = [[[float("nan")] * 4, *[[0, 0, 9.5, 9.5]] * 4, [-1] * 4]]
    dataset = made(changed={"object_boxes": boxes})
    assert dataset[0][1].boxes[0] is None and dataset[0][1].boxes[1] == pytest.approx((0, 0, 0.0475, 0.095))
    assert [problem.partition(": ")[2] for problem in dataset.check()] == ["the box is not finite"]


@pytest.mark.parametrize("option, value", [("max_objects", 0), ("image_size", "256"), ("max_samples", -1)])
def test_an_impossible_value_of_an_option_is_an_error_that_names_both(made, option, value):
    with pytest.raises(ConfigError, match=f"VGTrain: {option} is {value!r}"):
        made(**{option: value})


@pytest.mark.parametrize("name", [b"VG_100K/a b.png", "VG_100K/사진 7.png".encode(), b"VG_100K/\xff\xfe.png"])
def test_images_have_names_of_any_bytes(made, tmp_path, name):
    dataset = made(changed={"image_paths": [name]}, image_size=8)
    (tmp_path / "VG_100K/7.png").rename(tmp_path / os.fsdecode(name))
    image, graph = dataset[0]
    assert image.shape == (3, 8, 8) and os.fsencode(graph.image).endswith(name) and list(dataset.check()) == []


def test_a_report_can_be_printed_whatever_bytes_a_name_has(made, capsys):
    assert doctor.examine({"train": made(changed={"image_paths": [b"VG_100K/\xff\x1b.png"]})}) == 1
    assert capsys.readouterr().out.count("VG_100K/\\udcff\\x1b.png: there is no such file") == 1


def test_a_png_with_a_long_text_is_read_and_passes_the_check(made, tmp_path):
    dataset, text = made(image_size=8), PngInfo()
    text.add_text("history", "0" * (3 << 20), zip=True)
    Image.new("RGB", (200, 100), "red").save(tmp_path / "VG_100K/7.png", pnginfo=text)
    assert dataset[0][0][0].min() == 1 and list(dataset.check()) == []


def test_every_bad_h5_file_is_one_sentence(realdata, bad_inputs, capsys):
    """From the data set, its samples or --check."""
    folder = realdata / "vg_raw_v1.2"
    for path in sorted((bad_inputs / "vg_h5").glob("*.h5")):
        with pytest.raises(UserError, match=r"^[^\n]+$"):
            dataset = VGTrain(folder / "reference/vocab.json", path, folder / "images", image_size=8)
            assert doctor.examine({"train": dataset}) == 1
            for index in range(len(dataset)):
                dataset[index]


def test_the_report_of_the_real_sample_has_no_problems(sample, capsys):
    assert doctor.examine({"train": sample(), "validation": sample(VGValidation, max_samples=2)}) == 0
    out = capsys.readouterr().out
    assert "train: VGTrain, 6 images, 121 objects, 49 relations" in out
    assert "61 objects, 16 predicates, 41 attributes; SGDiff's and sg2im's graph encoders have 179, 46, 80" in out
    assert "so their weights do not fit (those of U-Net, autoencoder and CLIP do)" in out
    assert "No problems" in out


def test_broken_images_and_invalid_indices_are_reported(made, capsys):
    dataset = made(changed={"relationship_objects": [[1, 0, 5, -1]]})
    dataset.image_path(0).write_bytes(b"")
    problems = doctor.find_problems(dataset)
    assert len(problems) == 2 and "7.png" in problems[0] and "relationship_objects[0, 2]" in problems[1]
    assert doctor.find_problems(dataset, limit=1) == problems[:1]
    assert dataset.graph(0, (200, 100)).triples == ((0, "on", 1), (1, "under", 0))
    assert doctor.examine({"train": dataset}) == 1
    assert "2 problems" in capsys.readouterr().out


def test_a_report_groups_problems_of_a_kind_and_prints_the_first_few(made):
    problems = [f"a/{i}.jpg: broken (byte {i} (or so))" for i in range(10)] + ["b.h5: there is no object 4"]
    lines = doctor.report("train", made(), problems)
    assert "  10 x broken ..." in lines and "    and 7 more" in lines
    assert "    a/2.jpg: broken (byte 2 (or so))" in lines and "    a/3.jpg: broken (byte 3 (or so))" not in lines
    assert "  1 x there is no object N" in lines


def test_a_data_set_without_images_is_a_problem(made):
    assert len(doctor.find_problems(made(max_samples=0))) == 1
