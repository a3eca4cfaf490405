"""COCO's graphs, on masks with known answers and on real samples."""

import json
import math
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coding
from torch.utils.data import DataLoader

from ldm.data.coco import COCOTrain, COCOValidation, decode_mask, find_relation, mask_centre
from ldm.data.coco_annotations import CocoError
from ldm.graph.batch import collate
from ldm.graph.scene_graph import SceneGraph
from ldm.util.images import ImageError, read_image

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools, on numpy 2

CATEGORIES = [{"id": 1, "name": "dog"}, {"id": 3, "name": "cat"}, {"id": 4, "name": "ball"}]
STUFF = [{"id": 92, "name": "grass"}, {"id": 183, "name": "other"}]
OPPOSITE = {"left of": "right of", "above": "below", "inside": "surrounding"}
OPPOSITE |= {value: key for key, value in OPPOSITE.items()}
WIDTH, HEIGHT = 60, 40


def rectangle(x, y, w, h, category=1, image=1, **fields):
    """An annotation whose mask fills its box, in pixels."""
    polygon = [x, y, x + w, y, x + w, y + h, x, y + h]
    return {"image_id": image, "category_id": category, "bbox": [x, y, w, h], "segmentation": [polygon], **fields}


def run_lengths(mask) -> list[int]:
    """COCO's uncompressed encoding: run lengths in column-major order, beginning with zeros."""
    flat = np.asarray(mask).T.ravel()
    changes = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff([0, *changes, len(flat)]).tolist()
    return [0, *runs] if flat[0] else runs


@pytest.fixture
def coco(tmp_path):
    """coco(annotations, stuff=None, **options) -> COCOValidation, with its files in tmp_path."""

    def make(annotations, stuff=None, images=(1, 2, 3), kind=COCOValidation, **options):
        listed = [{"id": i, "file_name": f"{i}.png", "width": WIDTH, "height": HEIGHT} for i in images]
        for i in images:
            if not (tmp_path / f"{i}.png").exists():
                Image.new("RGB", (WIDTH, HEIGHT), (40 * i, 0, 255)).save(tmp_path / f"{i}.png")
        paths = {}
        for name, items, categories in (("instances", annotations, CATEGORIES), ("stuff", stuff, STUFF)):
            if items is not None:
                items = [{"id": number, **item} for number, item in enumerate(items)]
                paths[f"{name}_json"] = tmp_path / f"{name}.json"
                data = {"images": listed, "annotations": items, "categories": categories}
                paths[f"{name}_json"].write_text(json.dumps(data))
        options = {"stuff_only": stuff is not None, "min_objects_per_image": 1, "image_size": 32, **options}
        return kind(tmp_path, **paths, **options)

    return make


@pytest.mark.parametrize(
    "subject, object, predicate",
    [
        ((0, 0, 60, 40), (10, 10, 10, 10), "surrounding"),
        ((10, 10, 10, 10), (5, 5, 40, 30), "inside"),
        ((0, 10, 10, 10), (40, 10, 10, 10), "left of"),
        ((40, 10, 10, 10), (0, 10, 10, 10), "right of"),
        ((20, 0, 10, 10), (20, 25, 10, 10), "above"),
        ((20, 25, 10, 10), (20, 0, 10, 10), "below"),
        (
            (0, 0, 20, 20),
            (10, 5, 20, 20),
            "left of",
        ),  # overlapping; relative to the image size, the distance in x is larger
        ((0, 0, 20, 20), (5, 5, 20, 20), "above"),
    ],
)
def test_relations_of_rectangles_are_as_expected(coco, subject, object, predicate):
    pictures = range(1, 7)  # the random subjects differ between indices
    dataset = coco([rectangle(*box, image=image) for image in pictures for box in (subject, object)], images=pictures)
    found = {triple for index in range(6) for triple in dataset.graph(index).triples}
    assert found == {(0, predicate, 1), (1, OPPOSITE[predicate], 0)}


@pytest.mark.parametrize(
    "degrees, predicate",
    [(0, "right of"), (44, "right of"), (46, "below"), (90, "below"), (134, "below"), (136, "left of")]
    + [(180, "left of"), (-136, "left of"), (-134, "above"), (-90, "above"), (-46, "above"), (-44, "right of")],
)
def test_the_diagonals_separate_the_directions(degrees, predicate):
    box, other = (0.0, 0.0, 0.5, 0.5), (0.1, 0.1, 0.5, 0.6)
    angle = math.radians(degrees)
    assert (
        find_relation(box, other, (0.5 + 0.1 * math.cos(angle), 0.5 + 0.1 * math.sin(angle)), (0.5, 0.5)) == predicate
    )


@pytest.mark.parametrize("edge", range(4))
def test_a_box_that_shares_an_edge_with_another_is_not_inside_it(edge):
    outer, inner = (0.0, 0.0, 1.0, 1.0), [0.2, 0.2, 0.8, 0.8]
    assert find_relation(outer, tuple(inner), (0.4, 0.5), (0.6, 0.5)) == "surrounding"
    inner[edge] = outer[edge]
    assert find_relation(outer, tuple(inner), (0.4, 0.5), (0.6, 0.5)) == "left of"
    assert find_relation(tuple(inner), outer, (0.6, 0.5), (0.4, 0.5)) == "right of"


def test_the_centre_of_an_object_is_that_of_its_mask_and_not_of_its_box(coco):
    # two L shapes with the same box: one has its mass at the left, the other at the right
    left = {**rectangle(0, 0, 40, 40), "segmentation": [[0, 0, 4, 0, 4, 36, 40, 36, 40, 40, 0, 40]]}
    right = {**rectangle(0, 0, 40, 40), "segmentation": [[0, 36, 36, 36, 36, 0, 40, 0, 40, 40, 0, 40]]}
    for subject, predicate, _ in coco([left, right]).graph(0).triples:
        assert predicate == ("left of" if subject == 0 else "right of")


def test_polygons_and_both_run_length_encodings_give_the_same_mask():
    polygon = [[5, 3, 20, 3, 20, 30, 5, 30]]
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[3:30, 5:20] = 1
    text = coding.encode(np.asfortranarray(mask))
    for segmentation in (
        polygon,
        {"size": [HEIGHT, WIDTH], "counts": run_lengths(mask)},
        {"size": [HEIGHT, WIDTH], "counts": text["counts"].decode()},
    ):
        assert (decode_mask(segmentation, WIDTH, HEIGHT) == mask).all()
    assert mask_centre(mask) == pytest.approx((12.5 / WIDTH, 16.5 / HEIGHT))


def test_a_crowd_annotation_is_an_object(coco):
    mask = np.zeros((HEIGHT, WIDTH), int)
    mask[:, 50:] = 1
    crowd = rectangle(50, 0, 10, 40, category=3, iscrowd=1)
    crowd["segmentation"] = {"size": [HEIGHT, WIDTH], "counts": run_lengths(mask)}
    graph = coco([rectangle(0, 0, 10, 40), crowd]).graph(0)
    assert graph.objects == ("dog", "cat")
    assert set(graph.triples) <= {(0, "left of", 1), (1, "right of", 0)} and len(graph.triples) == 2


def test_several_polygons_give_one_mask():
    two = [[0, 0, 10, 0, 10, 10, 0, 10], [50, 30, 60, 30, 60, 40, 50, 40]]
    mask = decode_mask(two, WIDTH, HEIGHT)
    assert mask.sum() == 200 and mask_centre(mask) == pytest.approx((0.5, 0.5))


@pytest.mark.parametrize("segmentation", [[], [[1, 2, 3, 4]], {"size": [HEIGHT, WIDTH], "counts": [WIDTH * HEIGHT]}])
def test_an_object_with_an_empty_mask_has_the_centre_of_its_box(coco, segmentation):
    empty = {**rectangle(30, 0, 20, 20), "segmentation": segmentation}
    dataset = coco([empty, rectangle(0, 0, 20, 20)])
    assert set(dataset.graph(0).triples) <= {(0, "right of", 1), (1, "left of", 0)}
    assert ["1.png, annotation 0" in problem and "empty" in problem for problem in dataset.check()] == [True]


def test_boxes_are_fractions_of_the_image_size_and_clipped(coco):
    graph = coco([rectangle(15, 10, 30, 20), rectangle(-6, 30, 36, 20)]).graph(0)
    assert graph.boxes == (pytest.approx((0.25, 0.25, 0.75, 0.75)), pytest.approx((0, 0.75, 0.5, 1)))


def test_objects_of_at_most_two_percent_of_the_image_are_left_out(coco):
    at_limit, above = rectangle(0, 0, 8, 6), rectangle(0, 0, 8, 6.1, category=3)  # 48 of 2400 pixels are 2 %
    assert coco([at_limit, above]).graph(0).objects == ("cat",)
    assert coco([at_limit, above], min_object_size=0.0).graph(0).objects == ("dog", "cat")


def test_images_with_too_few_or_too_many_objects_are_left_out(coco):
    counts = {1: 2, 2: 3, 3: 0, 4: 8, 5: 9}
    annotations = [rectangle(0, 0, 20, 20, image=image) for image in counts for _ in range(counts[image])]
    dataset = coco(annotations, images=(1, 2, 3, 4, 5), min_objects_per_image=3)
    assert [len(dataset.graph(index).objects) for index in range(len(dataset))] == [3, 8]
    assert [dataset.image_path(index).name for index in range(len(dataset))] == ["2.png", "4.png"]


def test_images_without_annotations_are_left_out_whatever_the_limits(coco):
    dataset = coco([rectangle(0, 0, 20, 20, image=2)], min_objects_per_image=0)
    assert len(dataset) == 1 and dataset.image_path(0).name == "2.png"


def test_stuff_follows_the_instances_and_other_is_left_out(coco):
    things = [rectangle(0, 0, 20, 20, category=4)]
    stuff = [rectangle(0, 20, 60, 20, category=92), rectangle(0, 0, 60, 20, category=183)]
    assert coco(things, stuff).graph(0).objects == ("ball", "grass")
    assert coco(things, stuff, include_other=True).graph(0).objects == ("ball", "grass", "other")


def test_stuff_only_leaves_out_images_without_stuff(coco):
    things = [rectangle(0, 0, 20, 20, image=image) for image in (1, 2)]
    stuff = [rectangle(0, 0, 1, 1, category=92, image=2)]  # too small for an object, but the image counts as annotated
    assert [coco(things, stuff).image_path(0).name] == ["2.png"] and len(coco(things, stuff)) == 1
    assert len(coco(things, stuff, stuff_only=False)) == 2


def test_whitelists_select_categories(coco):
    things = [rectangle(0, 0, 20, 20, category=category) for category in (1, 3, 4)]
    stuff = [rectangle(0, 20, 60, 20, category=92)]
    assert coco(things, stuff, instance_whitelist=["cat", "ball"]).graph(0).objects == ("cat", "ball", "grass")
    assert coco(things, stuff, stuff_whitelist=[]).graph(0).objects == ("dog", "cat", "ball")
    with pytest.raises(CocoError, match="'cats'"):
        coco(things, stuff, instance_whitelist=["cats"])


def test_category_ids_are_vocabulary_indices_and_gaps_are_named_none(coco):
    vocab = coco([rectangle(0, 0, 20, 20)], [rectangle(0, 0, 20, 20, category=92)]).vocab
    assert len(vocab.objects) == 184 and vocab.objects[0] == "__image__"
    assert [vocab.object_id(name) for name in ("dog", "cat", "ball", "grass", "other")] == [1, 3, 4, 92, 183]
    assert vocab.objects[2] == "NONE"
    assert vocab.predicates == ("__in_image__", "left of", "right of", "above", "below", "inside", "surrounding")


def test_every_object_is_related_to_a_random_other_one_and_is_the_subject_half_of_the_time(coco):
    pictures = range(1, 61)
    annotations = [rectangle(14 * k, 0, 12, 40, image=image) for image in pictures for k in range(4)]
    dataset = coco(annotations, images=pictures)
    pairs, subjects_first = Counter(), 0
    for index in range(60):
        triples = dataset.graph(index).triples
        assert len(triples) == 4
        for current, (subject, predicate, object) in enumerate(triples):
            assert current in (subject, object)
            assert predicate == ("left of" if subject < object else "right of")
            pairs[current, object if subject == current else subject] += 1
            subjects_first += subject == current
    assert len(pairs) == 12  # each of the four objects is related to each of the three others
    assert 80 < subjects_first < 160  # of 240


def test_a_single_object_has_no_relation_and_relations_can_be_left_out(coco):
    assert coco([rectangle(0, 0, 20, 20)]).graph(0).triples == ()
    assert coco([rectangle(0, 0, 20, 20)] * 3, include_relationships=False).graph(0).triples == ()


def test_training_graphs_depend_on_seed_epoch_and_index_and_validation_graphs_on_the_index(coco):
    annotations = [rectangle(7 * k, 0, 7, 40, image=1) for k in range(8)]
    train = coco(annotations, kind=COCOTrain)
    first = train.graph(0)
    assert train.graph(0) == first == coco(annotations, kind=COCOTrain).graph(0)
    assert coco(annotations, kind=COCOTrain, seed=1).graph(0) != first
    train.epoch = 1
    assert train.graph(0) != first
    validation = coco(annotations, seed=9)
    once = validation.graph(0)
    validation.epoch = 1
    assert validation.graph(0) == once == coco(annotations).graph(0)


def test_max_samples_takes_the_first_images_that_pass_the_filter(coco):
    annotations = [rectangle(0, 0, 20, 20, image=image) for image in (3, 2)]
    assert [coco(annotations, max_samples=1).image_path(0).name] == ["2.png"]
    assert len(coco(annotations, max_samples=1)) == 1 and len(coco(annotations, max_samples=5)) == 2
    with pytest.raises(IndexError):
        coco(annotations)[2]


def test_stuff_is_optional_but_stuff_only_requires_it(coco):
    dataset = coco([rectangle(0, 0, 20, 20)])
    assert len(dataset.vocab.objects) == 5
    with pytest.raises(CocoError, match="stuff_only"):
        coco([rectangle(0, 0, 20, 20)], stuff_only=True)


@pytest.mark.parametrize("option, why", [("mask_size", "resolution"), ("normalize_images", "always"), ("crop", "leave it out")])
def test_an_unsupported_option_is_an_error_that_names_it(coco, option, why):
    with pytest.raises(TypeError, match=f"{option}.*{why}"):
        coco([rectangle(0, 0, 20, 20)], **{option: 16})


def test_an_unknown_category_is_an_error(coco):
    with pytest.raises(CocoError, match=r"instances.json: annotation 0 .*category 7"):
        coco([rectangle(0, 0, 20, 20, category=7)])


def test_files_with_conflicting_categories_are_an_error(coco, tmp_path, monkeypatch):
    monkeypatch.setattr(f"{__name__}.STUFF", [{"id": 3, "name": "grass"}])
    with pytest.raises(CocoError, match="stuff.json: category 3 is 'grass'"):
        coco([rectangle(0, 0, 20, 20)], [rectangle(0, 0, 20, 20, category=3)])
    monkeypatch.setattr(f"{__name__}.STUFF", [{"id": 92, "name": "cat"}])
    with pytest.raises(CocoError, match="stuff.json: category 92 is 'cat'"):
        coco([rectangle(0, 0, 20, 20)], [rectangle(0, 0, 20, 20, category=92)])


def test_a_category_with_two_names_is_an_error(coco, monkeypatch):
    monkeypatch.setattr(f"{__name__}.CATEGORIES", [{"id": 1, "name": "dog"}, {"id": 1, "name": "hound"}])
    with pytest.raises(CocoError, match="instances.json: category 1 is 'hound'"):
        coco([rectangle(0, 0, 20, 20)])


@pytest.mark.parametrize("id", [0, -1, "1", 10**9])
def test_an_invalid_category_id_is_an_error(coco, monkeypatch, id):
    monkeypatch.setattr(f"{__name__}.CATEGORIES", [{"id": id, "name": "dog"}])
    with pytest.raises(CocoError, match="instances.json: category .*id from 1 to"):
        coco([rectangle(0, 0, 20, 20)])


def test_annotations_of_unlisted_images_are_left_out_and_reported(coco):
    dataset = coco([rectangle(0, 0, 20, 20), rectangle(0, 0, 20, 20, image=77)])
    assert len(dataset) == 1 and len(dataset.graph(0).objects) == 1
    (problem,) = dataset.check()
    assert "1 annotations" in problem and "image 77" in problem


@pytest.mark.parametrize(
    "content, reason",
    [
        (None, "cannot be read"),
        ("", "is broken"),
        ('{"images": [', "is broken"),
        ("[]", "has no list of images"),
        ('{"images": [], "annotations": {}, "categories": []}', "has no list of annotations"),
        ('{"images": [{"id": 1}], "annotations": [], "categories": []}', "file_name"),
        ('{"images": [], "annotations": [], "categories": []}', "none of its 0 images"),
        ("\udcff", "is broken"),
    ],
)
def test_a_missing_or_broken_file_is_an_error_of_one_line(tmp_path, content, reason):
    path = tmp_path / "instances.json"
    if content is not None:
        path.write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(CocoError, match=f"instances.json.*{reason}") as error:
        COCOTrain(tmp_path, path, stuff_only=False)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("damage", [{"bbox": [1, 2, 3]}, {"bbox": None}, {"bbox": ["a"] * 4}, {"image_id": []}])
def test_an_annotation_in_another_format_is_an_error(coco, damage):
    with pytest.raises(CocoError, match="instances.json: .*COCO's format"):
        coco([{**rectangle(0, 0, 20, 20), **damage}])


@pytest.mark.parametrize(
    "segmentation", [None, 3, {}, [["a"] * 8], {"size": [HEIGHT, WIDTH], "counts": [1, 10**6]}, {"counts": "abc"}]
)
def test_an_error_names_the_mask_that_cannot_be_decoded(coco, segmentation):
    dataset = coco([{**rectangle(0, 0, 20, 20), "segmentation": segmentation}, rectangle(0, 0, 20, 20)])
    with pytest.raises(CocoError, match="1.png, annotation 0: .*decoded"):
        dataset.graph(0)
    assert any("annotation 0" in problem and "decoded" in problem for problem in dataset.check())


def test_a_missing_image_folder_is_an_error(tmp_path):
    with pytest.raises(CocoError, match="image_dir"):
        COCOTrain(tmp_path / "none", tmp_path / "instances.json", stuff_only=False)


def test_check_reports_missing_broken_and_wrong_images(coco, tmp_path):
    (tmp_path / "2.png").write_bytes(b"no image")
    Image.new("RGB", (9, 9)).save(tmp_path / "3.png")
    dataset = coco([rectangle(0, 0, 20, 20, image=image) for image in (1, 2, 3)])
    (tmp_path / "1.png").unlink()
    missing, broken, wrong_size = dataset.check()
    assert "1.png" in missing
    assert "2.png" in broken
    assert "3.png" in wrong_size and "60 x 40" in wrong_size
    with pytest.raises(ImageError, match="1.png"):
        dataset[0]


def sample(realdata, kind=COCOTrain, **options):
    folder = realdata / "coco_stuff_DERIVED"
    files = (folder / "annotations" / f"{kind}_train2017.json" for kind in ("instances", "stuff"))
    return kind(folder / "train2017", *files, **options)


def test_the_real_sample_has_the_published_vocabulary(realdata):
    vocab = sample(realdata).vocab
    counts = len(vocab.objects), len(vocab.predicates), len(vocab.attributes)
    assert counts == COCOTrain.published_vocabulary == (184, 7, 0)
    assert vocab.objects.count("NONE") == 11
    assert [vocab.objects[id] for id in (1, 90, 92, 182, 183)] == ["person", "toothbrush", "banner", "wood", "other"]


def test_samples_of_real_data_are_the_resized_photographs_with_valid_graphs(realdata):
    dataset = sample(realdata, image_size=64)
    assert len(dataset) == 7 and list(dataset.check()) == []
    for index, (image, graph) in enumerate(dataset):
        photograph = read_image(dataset.image_path(index)).resize((64, 64), Image.Resampling.BILINEAR)
        pixels = ((image + 1) * 127.5).round().permute(1, 2, 0).to(torch.uint8)
        assert torch.equal(pixels, torch.tensor(np.array(photograph)))
        assert image.dtype == torch.float32 and image.std() > 0.1
        assert 3 <= len(graph.objects) <= 8 and len(graph.triples) == len(graph.objects)
        assert isinstance(graph, SceneGraph) and None not in graph.boxes
        graph.validate(dataset.vocab)


def test_the_sky_is_above_the_sea_in_a_real_photograph(realdata):
    dataset = sample(realdata)
    index = next(i for i in range(len(dataset)) if {"sky-other", "sea"} <= set(dataset.graph(i).objects))
    triples = set()
    for dataset.epoch in range(10):
        graph = dataset.graph(index)
        triples |= {(graph.objects[s], predicate, graph.objects[o]) for s, predicate, o in graph.triples}
    assert ("sky-other", "above", "sea") in triples
    assert not triples & {("sky-other", "below", "sea"), ("sea", "above", "sky-other")}


def test_official_instances_with_crowds_and_unannotated_images_load(realdata):
    folder = realdata / "coco_instances_tiny_coco"
    for split, count in (
        ("train2017", 10),
        ("val2017", 4),
    ):  # counted independently: images with 3 to 8 boxes above 2 %
        path = folder / "annotations" / f"instances_{split}.json"
        dataset = COCOValidation(folder / "images" / split, path, stuff_only=False)
        assert len(dataset) == count and list(dataset.check()) == []
        assert len(dataset.vocab.objects) == 91


def test_panoptic_annotations_in_detection_format_load(realdata):
    folder = realdata / "coco_panopticapi" / "sample_data"
    path = folder / "panoptic_coco_detection_format.json"
    dataset = COCOValidation(folder / "input_images", path, stuff_only=False, max_objects_per_image=20)
    assert len(dataset) == 2 and list(dataset.check()) == []


def test_worker_processes_give_the_same_samples(realdata):
    dataset = sample(realdata, image_size=32)
    dataset.epoch = 3
    loaded = list(DataLoader(dataset, batch_size=None, num_workers=2))
    assert len(loaded) == len(dataset)
    for index, (image, graph) in enumerate(loaded):
        assert graph == dataset[index][1] and torch.equal(image, dataset[index][0])


def test_samples_can_be_collated(realdata):
    dataset = sample(realdata, image_size=32)
    image, objs, _, triples, obj_to_img, triple_to_img = collate([dataset[0], dataset[1]], dataset.vocab)
    count = len(dataset.graph(0).objects) + len(dataset.graph(1).objects)
    assert image.shape == (2, 3, 32, 32) and objs.shape == (count + 2,)
    assert triples.shape == (2 * count, 3) and obj_to_img.max() == triple_to_img.max() == 1
