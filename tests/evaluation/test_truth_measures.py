"""Nearness to a true result: on pictures whose differences are known."""

import math

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import adapted_model

from ldm.evaluation.truth_measures import (
    changed_pixels,
    compare_with_truth,
    feature_distance,
    patch_features,
    shadow_follows,
)

SIDE = 32
BOX = (0.25, 0.25, 0.5, 0.5)


def grey(*patches, level=100):
    """A grey image with patches ((rows, columns), level)."""
    pixels = np.full((SIDE, SIDE, 3), level, np.uint8)
    for (rows, columns), value in patches:
        pixels[rows, columns] = value
    return Image.fromarray(pixels)


THING, SHADOW = (slice(8, 16), slice(8, 16)), (slice(12, 16), slice(16, 28))
SOURCE = grey((THING, 200), (SHADOW, 60))
TRUTH = grey()


def test_changed_pixels_are_those_beyond_the_noise():
    changed = changed_pixels(grey((THING, 109), (SHADOW, 108)), TRUTH)
    assert changed.sum() == 64 and changed[THING].all()


def test_psnr_counts_the_changed_region_alone():
    changed = changed_pixels(SOURCE, TRUTH)
    result = grey((THING, 110), ((slice(0, 4), slice(None)), 0))
    error = 100 * 64 / changed.sum()
    assert compare_with_truth(result, TRUTH, changed)["truth_psnr"] == pytest.approx(10 * math.log10(255**2 / error))
    assert compare_with_truth(TRUTH, TRUTH, changed) == {"truth_psnr": 99.0, "truth_ssim": pytest.approx(1)}
    assert compare_with_truth(result, TRUTH, np.zeros((SIDE, SIDE), bool)) == {}


@pytest.mark.parametrize(
    "result, follows", [(TRUTH, True), (SOURCE, False), (grey((SHADOW, 60)), False), (grey((THING, 200)), True)]
)
def test_a_shadow_that_stays_is_told_from_one_that_goes(result, follows):
    assert shadow_follows(result, SOURCE, TRUTH, changed_pixels(SOURCE, TRUTH), [BOX]) is follows


def test_without_changes_outside_the_boxes_there_is_no_shadow():
    source = grey((THING, 200))
    assert shadow_follows(source, source, TRUTH, changed_pixels(source, TRUTH), [BOX]) is None


def test_feature_distance_is_weighted_by_changed_pixels():
    a, b = torch.zeros(4, 4, 2), torch.zeros(4, 4, 2)
    a[..., 0] = b[..., 0] = 1
    b[1, 1], b[3, 3] = torch.tensor([0.0, 1.0]), torch.tensor([-1.0, 0.0])
    changed = np.zeros((SIDE, SIDE), bool)
    changed[8:16, 8:24] = True  # patches (1, 1) and (1, 2)
    assert feature_distance(a, b, changed) == pytest.approx(0.5)


def test_patch_features_are_those_of_the_models_image_tower():
    features = patch_features(adapted_model().eval())
    assert features is not None
    first, second = features(SOURCE), features(TRUTH)
    assert first.ndim == 3 and first.shape[0] == first.shape[1]
    assert torch.equal(first, features(SOURCE)) and not torch.equal(first, second)
