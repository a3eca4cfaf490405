"""Parts of pictures are found in the whole."""

import numpy as np
import pytest
from pile import central_crop, picture

from ldm.curation.crops import find_crop, normalised_correlation
from ldm.curation.measures import measure


def thumbnail(image) -> np.ndarray:
    return measure(image).thumbnail


@pytest.mark.parametrize("share", [0.5, 0.65, 0.85])
def test_a_crop_is_found_in_its_place(share):
    image = picture(11, (192, 192))
    correlation, place = find_crop(thumbnail(image), thumbnail(central_crop(image, share, (0.1, 0.05))))
    assert correlation > 0.95
    assert place == pytest.approx((0.1, 0.05, 0.1 + share, 0.05 + share), abs=0.04)


def test_a_wide_crop_of_a_tall_picture_is_found():
    image = picture(5, (120, 200))
    crop = image.crop((10, 90, 110, 150))
    correlation, place = find_crop(thumbnail(image), thumbnail(crop), (0.6, 100 / 60))
    assert correlation > 0.9
    assert place == pytest.approx((10 / 120, 90 / 200, 110 / 120, 150 / 200), abs=0.05)


def test_other_pictures_are_no_crops():
    pictures = [thumbnail(picture(seed)) for seed in range(8)]
    found = [find_crop(a, b)[0] for i, a in enumerate(pictures) for j, b in enumerate(pictures) if i != j]
    assert max(found) < 0.85


def test_a_flat_picture_is_a_part_of_nothing():
    assert find_crop(thumbnail(picture(0)), np.full((64, 64), 90, np.uint8))[0] == 0
    assert find_crop(np.full((64, 64), 90, np.uint8), thumbnail(picture(0)))[0] == 0


def test_normalised_correlation_is_numpys_corrcoef_of_each_window():
    rng = np.random.default_rng(0)
    whole, template = rng.uniform(0, 255, (13, 11)), rng.uniform(0, 255, (4, 5))
    expected = [
        [np.corrcoef(whole[y : y + 4, x : x + 5].ravel(), template.ravel())[0, 1] for x in range(7)] for y in range(10)
    ]
    np.testing.assert_allclose(normalised_correlation(whole, template), expected, atol=1e-6)
