"""Size, sharpness, exposure and perceptual hashes of pictures."""

import io

import numpy as np
import pytest
from PIL import Image
from pile import mirrored, picture

from ldm.curation.measures import differing_bits, measure, perceptual_hash, sharpness


def bits(first, second) -> int:
    return int(differing_bits(np.uint64(first), np.uint64(second)))


def recompressed(image: Image.Image, quality: int) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file).convert("RGB")


@pytest.mark.parametrize("seed", range(5))
def test_a_hash_stays_near_after_recompression_and_resizing(seed):
    image = picture(seed)
    original = measure(image).hash
    assert bits(original, measure(recompressed(image, 50)).hash) <= 4
    assert bits(original, measure(image.resize((240, 240), Image.Resampling.BICUBIC)).hash) <= 4


def test_hashes_of_different_pictures_differ_in_about_half_of_the_bits():
    hashes = np.array([measure(picture(seed)).hash for seed in range(30)], np.uint64)
    distances = differing_bits(hashes[:, None], hashes[None])[np.triu_indices(30, 1)]
    assert 28 < distances.mean() < 36 and distances.min() > 10


def test_the_mirrored_hash_is_that_of_the_mirror_image():
    image = picture(3)
    assert measure(image).mirrored == measure(mirrored(image)).hash
    assert bits(measure(image).hash, measure(image).mirrored) > 12


def test_differing_bits_are_those_that_python_counts():
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 2**63, 50, np.uint64), rng.integers(0, 2**63, 50, np.uint64)
    assert differing_bits(a, b).tolist() == [(int(x) ^ int(y)).bit_count() for x, y in zip(a, b)]


def test_a_hash_sets_half_of_its_bits():
    assert int(perceptual_hash(np.asarray(picture(1).convert("L").resize((64, 64))))).bit_count() == 32


def test_sharpness_of_a_checkerboard_is_exact():
    board = np.indices((8, 8)).sum(0) % 2 * 10.0  # the Laplacian is +40 or -40, in equal numbers
    assert sharpness(board) == pytest.approx(1600)
    assert sharpness(np.full((8, 8), 7.0)) == 0 and sharpness(np.zeros((2, 9))) == 0


def test_blur_lowers_sharpness_and_exposure_is_that_of_the_pixels():
    image = picture(2)
    assert measure(image.resize((24, 24)).resize((96, 96))).sharpness < measure(image).sharpness / 2
    half = Image.fromarray(np.repeat(np.uint8([[0] * 32 + [255] * 32]), 64, 0)).convert("RGB")
    measures = measure(half)
    assert (measures.brightness, measures.contrast, measures.clipped) == pytest.approx((0.5, 0.5, 1.0))
    assert measures.size == (64, 64)
