"""PSNR and SSIM against closed forms, torchmetrics and scikit-image."""

import math

import numpy as np
import pytest
import torch
from PIL import Image
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

from ldm.util.image_similarity import mask_outside, psnr, ssim

GREY = np.full((64, 64, 3), 100, np.uint8)
NOISE = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
WAVES = 128 + 60 * np.sin(np.arange(64) / 5)[None, :, None] + 40 * np.cos(np.arange(64) / 7)[:, None, None]
WAVES = WAVES.repeat(3, 2).astype(np.uint8)
NOISY_WAVES = (0.7 * WAVES + 0.3 * NOISE).astype(np.uint8)
NO_PIXEL = np.zeros((64, 64), bool)


def batch(*images) -> torch.Tensor:  # uint8 (B,3,H,W)
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)


# Masks ---------------------------------------------------------------------------------------------------------------


def test_mask_outside_excludes_every_pixel_that_a_box_touches():
    mask = mask_outside([(0.25, 0.5, 0.5, 1.0), None], 8)
    expected = np.ones((8, 8), bool)
    expected[4:8, 2:4] = False
    assert (mask == expected).all()
    assert not mask_outside([(0.26, 0.26, 0.49, 0.49)], 8)[2:4, 2:4].any()
    assert mask_outside([], 8).all()


def test_mask_outside_grows_boxes_by_a_share_of_the_side():
    expected = np.ones((8, 8), bool)
    expected[3:8, 1:5] = False
    assert (mask_outside([(0.25, 0.5, 0.5, 1.0)], 8, grow=1 / 8) == expected).all()


# PSNR ----------------------------------------------------------------------------------------------------------------


def test_psnr_of_a_constant_error_is_its_closed_form():
    assert psnr(GREY, GREY + 10) == pytest.approx(20 * math.log10(25.5))
    assert psnr(GREY, GREY) == math.inf


def test_psnr_compares_the_pixels_of_the_mask_only():
    other = GREY + 10
    other[:32] = 250
    mask = mask_outside([(0, 0, 1, 0.5)], 64)
    assert psnr(GREY, other, mask) == pytest.approx(20 * math.log10(25.5))
    assert math.isnan(psnr(GREY, other, NO_PIXEL))


def test_psnr_of_tensors_is_that_of_arrays_in_any_value_range():
    expected = [psnr(WAVES, NOISY_WAVES), psnr(GREY, GREY + 10)]
    first, second = batch(WAVES, GREY), batch(NOISY_WAVES, GREY + 10)
    assert psnr(first, second).tolist() == pytest.approx(expected, abs=1e-9)
    pair = first.double() / 127.5 - 1, second.double() / 127.5 - 1
    assert psnr(*pair, value_range=(-1, 1)).tolist() == pytest.approx(expected, abs=1e-9)


def test_psnr_clips_tensors_to_their_value_range():
    white = torch.ones(1, 3, 8, 8)
    assert psnr(white, 3 * white, value_range=(-1, 1)).item() == math.inf


def test_psnr_of_a_batch_equals_torchmetrics():
    first, second = batch(WAVES, NOISE), batch(NOISY_WAVES, WAVES)
    expected = peak_signal_noise_ratio(first.double(), second.double(), 255.0, reduction="none", dim=(1, 2, 3))
    assert torch.allclose(psnr(first, second), expected, atol=1e-9)


# SSIM ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("border", ["normalise", "reflect", "crop"])
def test_ssim_of_two_even_images_is_its_closed_form(border):
    c1 = (0.01 * 255) ** 2
    expected = (2 * 100 * 150 + c1) / (100**2 + 150**2 + c1)
    assert ssim(GREY, GREY + 50, border=border) == pytest.approx(expected)
    assert ssim(NOISE, NOISE, border=border) == pytest.approx(1)


def test_ssim_with_reflected_border_equals_torchmetrics():
    first, second = batch(WAVES, NOISE), batch(NOISY_WAVES, WAVES)
    expected = structural_similarity_index_measure(first.double(), second.double(), data_range=255.0, reduction="none")
    assert torch.allclose(ssim(first, second, border="reflect"), expected, atol=1e-10)


def test_ssim_with_cropped_border_equals_scikit_image():
    metrics = pytest.importorskip("skimage.metrics")
    protocol = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    for other in (NOISY_WAVES, NOISE):
        expected = metrics.structural_similarity(WAVES, other, data_range=255, channel_axis=2, **protocol)
        assert ssim(WAVES, other, border="crop") == pytest.approx(expected, abs=1e-12)


def test_ssim_with_cropped_border_is_the_mean_over_the_windows_inside_the_image():
    """Wang et al. 2004, eq. 13, window by window in numpy, so that it runs without scikit-image."""
    distance = np.arange(-5, 6)
    window = np.exp(-(distance[:, None] ** 2 + distance[None, :] ** 2) / (2 * 1.5**2))[..., None]
    window /= window.sum()
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    values = []
    for y in range(54):
        for x in range(54):
            a, b = (image[y : y + 11, x : x + 11].astype(float) for image in (WAVES, NOISY_WAVES))
            mean_a, mean_b = ((window * pixels).sum((0, 1)) for pixels in (a, b))
            variance_a, variance_b = (
                (window * (pixels - mean) ** 2).sum((0, 1)) for pixels, mean in ((a, mean_a), (b, mean_b))
            )
            covariance = (window * (a - mean_a) * (b - mean_b)).sum((0, 1))
            luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
            values.append(luminance * (2 * covariance + c2) / (variance_a + variance_b + c2))
    assert ssim(WAVES, NOISY_WAVES, border="crop") == pytest.approx(np.mean(values), abs=1e-12)


def test_pixels_outside_of_the_mask_do_not_change_ssim():
    mask = mask_outside([(0.2, 0.2, 0.6, 0.6)], 64)
    changed = WAVES.copy()
    changed[~mask] = NOISE[~mask]
    for border in ("normalise", "reflect", "crop"):
        expected = ssim(WAVES, NOISY_WAVES, mask, border=border)
        assert ssim(changed, NOISY_WAVES, mask, border=border) == pytest.approx(expected, abs=1e-12)
    assert ssim(changed, WAVES, mask) == pytest.approx(1)
    assert ssim(changed, WAVES) < 0.9
    assert math.isnan(ssim(WAVES, NOISE, NO_PIXEL))


def test_ssim_of_pictures_and_tensors_is_that_of_arrays():
    expected = ssim(WAVES, NOISY_WAVES)
    assert ssim(Image.fromarray(WAVES), Image.fromarray(NOISY_WAVES)) == expected
    first, second = batch(WAVES, NOISE), batch(NOISY_WAVES, NOISE)
    assert ssim(first, second).tolist() == pytest.approx([expected, 1], abs=1e-12)
    pair = first.double() / 127.5 - 1, second.double() / 127.5 - 1
    assert ssim(*pair, value_range=(-1, 1)).tolist() == pytest.approx([expected, 1], abs=1e-9)
