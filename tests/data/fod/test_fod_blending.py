"""Poisson blending against closed forms and a second solver."""

import numpy as np
import pytest

from ldm.data.fod.blending import blend

H, W = 20, 24


def plane(a, b, c, shape=(H, W)):
    y, x = np.mgrid[: shape[0], : shape[1]]
    return np.repeat((a * x + b * y + c)[..., None], 3, 2).round().astype(np.uint8)


def test_a_patch_of_another_brightness_takes_that_of_the_target():
    target = plane(3, 2, 40)
    patch = target[4:14, 6:18].astype(int) + 60
    assert np.array_equal(blend(target, patch.astype(np.uint8), (6, 4)), target)


def test_a_patch_without_gradients_becomes_a_harmonic_surface():
    target = plane(4, 5, 20)
    assert np.array_equal(blend(target, np.full((9, 11, 3), 200, np.uint8), (5, 3)), target)  # a plane is harmonic


def test_a_detail_of_the_patch_keeps_its_contrast():
    target, patch = np.full((H, W, 3), 90, np.uint8), np.full((12, 12, 3), 180, np.uint8)
    patch[5:7, 5:7] = 130
    result = blend(target, patch, (4, 4))
    assert np.array_equal(result[9:11, 9:11], np.full((2, 2, 3), 40)) and (result == 90).sum() == 3 * (H * W - 4)


def test_the_result_solves_the_equation_of_every_inner_pixel():
    rng = np.random.default_rng(0)
    target, patch = (
        rng.integers(100, 140, (H, W, 3)).astype(np.uint8),
        rng.integers(100, 140, (8, 9, 3)).astype(np.uint8),
    )
    result = blend(target, patch, (7, 6)).astype(float)
    values = np.full((8, 9, 3), 0.0)
    values[:] = target[6:14, 7:16]
    for _ in range(4000):  # Jacobi's iteration
        around = values[:-2, 1:-1] + values[2:, 1:-1] + values[1:-1, :-2] + values[1:-1, 2:]
        p = patch.astype(float)
        guide = 4 * p[1:-1, 1:-1] - p[:-2, 1:-1] - p[2:, 1:-1] - p[1:-1, :-2] - p[1:-1, 2:]
        values[1:-1, 1:-1] = (around + guide) / 4
    assert np.abs(result[6:14, 7:16] - values.clip(0, 255)).max() <= 0.5 + 1e-6
    untouched = np.ones((H, W), bool)
    untouched[7:13, 8:15] = False
    assert np.array_equal(result[untouched], target[untouched])


@pytest.mark.parametrize("corner, shape", [((-1, 0), (5, 5)), ((0, 16), (5, 5)), ((20, 0), (5, 5)), ((0, 0), (2, 9))])
def test_a_patch_that_does_not_fit_is_an_error(corner, shape):
    with pytest.raises(ValueError, match="does not fit"):
        blend(plane(1, 1, 9), np.zeros((*shape, 3), np.uint8), corner)
