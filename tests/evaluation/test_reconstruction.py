"""What a first stage loses, on first stages with a known answer."""

import math

import pytest
import torch

from ldm.evaluation.image_sets import ImageSetError
from ldm.evaluation.reconstruction import choose_images, measure


class Shifted:
    """A first stage whose reconstruction is brighter by some levels of 255."""

    def __init__(self, levels: float):
        self.levels = levels

    def encode(self, image):
        return image[..., ::8, ::8]

    def decode(self, z):
        return z.repeat_interleave(8, -1).repeat_interleave(8, -2) + self.levels / 127.5


def blocks(count: int, seed: int = 0):
    """uint8 (count,3,32,32), constant in blocks of 8 pixels."""
    values = torch.randint(20, 200, (count, 3, 4, 4), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    return values.repeat_interleave(8, -1).repeat_interleave(8, -2)


@pytest.mark.parametrize("levels", [1, 5, 20])
def test_psnr_is_that_of_the_error(levels):
    report = measure(Shifted(levels), blocks(4), range(4))
    assert report["psnr"] == pytest.approx(20 * math.log10(255 / levels)) and report["images"] == 4
    assert report["latent"] == [3, 4, 4] and report["ssim"] < 1
    low, high = report["psnr_95"]
    assert low == pytest.approx(high)


@pytest.mark.parametrize(
    "count, wanted, chosen", [(10, 3, [0, 4, 9]), (4, 9, [0, 1, 2, 3]), (1, 1, [0]), (300, 2, [0, 299])]
)
def test_images_are_chosen_evenly(count, wanted, chosen):
    assert choose_images(count, wanted) == chosen


def test_no_images_are_an_error():
    with pytest.raises(ImageSetError, match="no images"):
        measure(Shifted(1), blocks(1), [])
