"""Pictures in the style of another one: groups of equal styles, and COCO's photographs with fields that say their look."""

import json
import random
from collections import Counter

import numpy as np
import pytest
import torch
from coco_files import rectangle, write_coco
from noise_vg import encoders_of

from ldm.data.cache import CachedDataset
from ldm.data.cache_writing import write_cache
from ldm.data.coco import COCOTrain, COCOValidation
from ldm.data.coco_annotations import CocoError
from ldm.data.style_groups import StyleGroups
from ldm.util.errors import ConfigError

STYLES = [5, 2, 5, 9, 5, 2]
LOOKS = (("sand", "bright"), ("sand", "dim"), ("sand", "bright"), ("floor", "bright"), ("sand", "bright"))


@pytest.fixture
def photographs(tmp_path):
    """photographs(kind, **options): five photographs, of which 0, 2 and 4 have one ground and light."""
    images = range(1, len(LOOKS) + 1)
    write_coco(tmp_path, [rectangle(5, 5, 20, 20, image=image) for image in images], images=images)
    path = tmp_path / "instances.json"
    data = json.loads(path.read_text())
    for image, (ground, light) in zip(data["images"], LOOKS):
        image |= {"ground": ground, "light": light}
    path.write_text(json.dumps(data))

    def make(kind=COCOValidation, **options):
        given = {"reference": True, "style_fields": ["ground", "light"], **options}
        return kind(tmp_path, path, stuff_only=False, min_objects_per_image=1, image_size=32, **given)

    return make


def test_another_picture_has_the_same_style_and_each_partner_is_drawn_equally_often():
    groups, rng = StyleGroups(np.array(STYLES)), random.Random(0)
    assert len(groups) == 3
    for index, style in enumerate(STYLES):
        partners = {other for other, value in enumerate(STYLES) if value == style} - {index} or {index}
        drawn = Counter(groups.another(index, rng) for _ in range(400))
        assert set(drawn) == partners and max(drawn.values()) < 1.4 * min(drawn.values())


def test_there_are_no_styles_without_pictures():
    assert len(StyleGroups(np.array([], dtype=int))) == 0


def test_a_reference_is_another_photograph_with_the_same_fields(photographs):
    dataset = photographs(COCOTrain)
    for dataset.epoch in range(20):
        drawn = [dataset.style_reference(index) for index in range(5)]
        assert drawn[0] in (2, 4) and drawn[2] in (0, 4) and drawn[4] in (0, 2) and (drawn[1], drawn[3]) == (1, 3)
    image, _, reference = dataset[0]
    assert torch.equal(reference, dataset[dataset.style_reference(0)][0]) and not torch.equal(image, reference)


def test_references_of_training_depend_on_the_epoch_and_those_of_validation_do_not(photographs):
    def drawn(dataset):
        found = []
        for dataset.epoch in range(8):
            found.append(dataset.style_reference(0))
        return set(found)

    assert drawn(photographs(COCOTrain)) == {2, 4} and len(drawn(photographs())) == 1


def test_a_field_that_is_no_style_field_does_not_part_photographs(photographs):
    assert {photographs(COCOTrain, seed=seed, style_fields=["ground"]).style_reference(1) for seed in range(40)} == {
        0,
        2,
        4,
    }


def test_without_reference_a_sample_has_two_parts_and_its_own_style(photographs):
    dataset = photographs(reference=False)
    assert len(dataset[0]) == 2 and dataset.style_reference(3) == 3


def test_relations_do_not_depend_on_references(photographs):
    with_reference, without = photographs(COCOTrain), photographs(COCOTrain, reference=False)
    assert [with_reference.graph(index) for index in range(5)] == [without.graph(index) for index in range(5)]


def test_a_cache_gives_a_photograph_the_style_of_its_reference(photographs, model, tmp_path):
    dataset = photographs()
    write_cache(dataset, tmp_path / "cache", *encoders_of(model))
    cached, own = (
        CachedDataset(dataset, tmp_path / "cache"),
        CachedDataset(photographs(reference=False), tmp_path / "cache"),
    )
    for index in range(5):
        assert torch.equal(cached[index][0].style, own[dataset.style_reference(index)][0].style)
        assert torch.equal(cached[index][0].z, own[index][0].z)


def test_references_without_style_fields_are_an_error(photographs):
    with pytest.raises(ConfigError, match="style_fields"):
        photographs(style_fields=[])


def test_a_style_field_that_an_image_lacks_is_an_error_that_names_both(photographs):
    with pytest.raises(CocoError, match=r"the image 1 has no 'lihgt'.*correct the name"):
        photographs(style_fields=["ground", "lihgt"])
