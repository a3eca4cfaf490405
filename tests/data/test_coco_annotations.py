"""Reading COCO's annotation files: which images and objects pass the filter, and what is wrong with broken files."""

import logging

import pytest
from coco_files import rectangle

from ldm.data.coco import COCOTrain
from ldm.data.coco_annotations import CocoError
from ldm.util.errors import UserError

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools, on numpy 2


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


def test_an_unknown_category_is_an_error(coco):
    with pytest.raises(CocoError, match=r"instances.json: annotation 0 .*category 7"):
        coco([rectangle(0, 0, 20, 20, category=7)])


@pytest.mark.parametrize("id, name", [(3, "grass"), (92, "cat")])
def test_files_with_conflicting_categories_are_an_error(coco, id, name):
    stuff = [rectangle(0, 0, 20, 20, category=id)]
    with pytest.raises(CocoError, match=f"stuff.json: category {id} is '{name}'"):
        coco([rectangle(0, 0, 20, 20)], stuff, stuff_categories=[{"id": id, "name": name}])


def test_a_category_with_two_names_is_an_error(coco):
    with pytest.raises(CocoError, match="instances.json: category 1 is 'hound'"):
        coco([rectangle(0, 0, 20, 20)], categories=[{"id": 1, "name": "dog"}, {"id": 1, "name": "hound"}])


@pytest.mark.parametrize("id", [-1, 1.5, "one", True, 10**9])
def test_an_invalid_category_id_is_an_error(coco, id):
    with pytest.raises(CocoError, match="instances.json: .*(id from 0 to|not a whole number)"):
        coco([rectangle(0, 0, 20, 20)], categories=[{"id": id, "name": "dog"}])


@pytest.mark.parametrize("name", [None, "", "  ", "a\nb", "__image__", "NONE"])
def test_a_category_name_that_no_graph_can_have_is_an_error(coco, name):
    with pytest.raises(CocoError, match="instances.json: category 1 is"):
        coco([rectangle(0, 0, 20, 20)], categories=[{"id": 1, "name": name}])


@pytest.mark.parametrize("kind", [float, str, "{}.0".format])
def test_numbers_may_be_text_or_whole_floats(coco, kind):
    item = rectangle(3, 4, 20, 30, category=kind(3), image=kind(2))
    item["bbox"] = [kind(number) for number in item["bbox"]]
    categories = [{"id": kind(1), "name": "dog"}, {"id": 3, "name": "cat"}]
    dataset = coco([item], categories=categories)
    assert (
        dataset.vocab
        == coco([rectangle(3, 4, 20, 30)], categories=[{"id": 1, "name": "dog"}, {"id": 3, "name": "cat"}]).vocab
    )
    plain = coco([rectangle(3, 4, 20, 30, category=3, image=2)])
    assert dataset.graph(0) == plain.graph(0)


def test_image_ids_may_be_names(coco):
    assert coco([rectangle(0, 0, 20, 20, image="b")], images=("a", "b")).image_path(0).name == "b.png"


def test_one_image_id_for_two_files_is_an_error(coco):
    with pytest.raises(CocoError, match="image 1 is listed twice, as 1.png and 01.png"):
        coco([rectangle(0, 0, 20, 20)], images=(1, "01"))


def test_categories_numbered_from_0_are_shifted_and_that_is_said(coco, caplog):
    categories = [{"id": 0, "name": "dog"}, {"id": 1, "name": "cat"}]
    with caplog.at_level(logging.INFO):
        dataset = coco(
            [rectangle(0, 0, 20, 20, category=0), rectangle(0, 0, 30, 30, category=1)], categories=categories
        )
    assert dataset.vocab.objects == ("__image__", "dog", "cat") and dataset.graph(0).objects == ("dog", "cat")
    assert list(dataset.check()) == []
    (message,) = [record.getMessage() for record in caplog.records]
    assert "instances.json" in message and "numbered from 0" in message


def test_stuff_that_clashes_with_shifted_categories_is_an_error(coco):
    categories = [{"id": 0, "name": "dog"}, {"id": 1, "name": "cat"}]
    with pytest.raises(CocoError, match="stuff.json: category 2 is 'grass'"):
        coco([], [], categories=categories, stuff_categories=[{"id": 2, "name": "grass"}])


@pytest.mark.parametrize(
    "box",
    [
        [0, 0, 0, 20],
        [0, 0, -5, 20],
        [60, 0, 20, 20],
        [0, -30, 20, 30],
        [float("nan"), 0, 9, 9],
        [0, 0, float("inf"), 9],
    ],
)
def test_boxes_that_are_empty_or_outside_of_the_image_are_dropped_and_counted(coco, caplog, box):
    with caplog.at_level(logging.INFO):
        dataset = coco([rectangle(0, 0, 20, 20), {**rectangle(0, 0, 20, 20, category=3), "bbox": box}])
    assert dataset.graph(0).objects == ("dog",)
    assert "1 annotations, such as 1, have a box" in caplog.text
    assert dataset.summary() == "1 objects (1 with boxes outside of the image left out)"
    assert list(dataset.check()) == []


def test_names_match_whatever_their_unicode_form(coco):
    decomposed = {"id": 1, "name": "cafe\u0301"}
    dataset = coco([rectangle(0, 0, 20, 20)], categories=[decomposed], instance_whitelist=["caf\u00e9"])
    assert dataset.graph(0).objects == ("caf\u00e9",)
    with pytest.raises(CocoError, match="another category has its id or name"):
        coco([rectangle(0, 0, 20, 20)], categories=[decomposed, {"id": 2, "name": "caf\u00e9"}])


def test_a_byte_order_mark_is_read_over(coco, tmp_path):
    dataset = coco([rectangle(0, 0, 20, 20)])
    path = tmp_path / "instances.json"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert COCOTrain(tmp_path, path, stuff_only=False, min_objects_per_image=1).vocab == dataset.vocab


def test_annotations_of_unlisted_images_are_left_out_and_reported(coco):
    dataset = coco([rectangle(0, 0, 20, 20), rectangle(0, 0, 20, 20, image=77)])
    assert len(dataset) == 1 and len(dataset.graph(0).objects) == 1
    (problem,) = dataset.check()
    assert "1 annotations" in problem and "image 77" in problem


@pytest.mark.parametrize(
    "content, reason",
    [
        (None, "cannot be read"),
        ("", "invalid JSON"),
        ('{"images": [', "invalid JSON"),
        ("[]", "has no list of images"),
        ('{"images": [], "annotations": {}, "categories": []}', "has no list of annotations"),
        ('{"images": [{"id": 1}], "annotations": [], "categories": []}', "file_name"),
        ('{"images": [], "annotations": [], "categories": []}', "none of its 0 images"),
        ("\udcff", "not UTF-8"),
    ],
)
def test_a_missing_or_broken_file_is_an_error_of_one_line(tmp_path, content, reason):
    path = tmp_path / "instances.json"
    if content is not None:
        path.write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(CocoError, match=f"instances.json.*{reason}") as error:
        COCOTrain(tmp_path, path, stuff_only=False)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "damage", [{"bbox": [1, 2, 3]}, {"bbox": None}, {"bbox": ["a"] * 4}, {"image_id": []}, {"category_id": 1.5}]
)
def test_an_annotation_in_another_format_is_an_error(coco, damage):
    with pytest.raises(CocoError, match="instances.json: .*COCO's format"):
        coco([{**rectangle(0, 0, 20, 20), **damage}])


def test_every_bad_annotation_file_is_read_or_one_sentence(realdata, bad_inputs):
    sentences = []
    for path in sorted((bad_inputs / "coco").glob("*.json")):
        try:
            dataset = COCOTrain(realdata / "coco_stuff_DERIVED/train2017", path, stuff_only=False, image_size=8)
            for index in range(len(dataset)):
                dataset[index]
        except UserError as error:
            sentences.append(str(error))
    assert len(sentences) >= 2 and not any("\n" in sentence for sentence in sentences)
