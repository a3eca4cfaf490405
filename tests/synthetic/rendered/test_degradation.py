"""Degradations of pictures in batches."""

import io
import random

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from ldm.synthetic.rendered.degradation import ThrowawayAutoencoder, blur, compress, degrade, reconstruction_loss


def smooth_pictures(count: int) -> torch.Tensor:  # (B,3,128,128)
    torch.manual_seed(0)
    return F.interpolate(torch.rand(count, 3, 12, 12), size=(128, 128), mode="bicubic").clamp(0, 1)


@pytest.mark.parametrize("quality", [40, 75, 95])
def test_compression_is_that_of_jpeg(quality):
    picture = smooth_pictures(1)
    pixels = (255 * picture[0]).round().byte().permute(1, 2, 0).numpy()
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality, subsampling="4:2:0")
    expected = np.asarray(Image.open(file), float)
    ours = 255 * compress(picture, torch.full((1, 1, 1, 1), float(quality)))[0].permute(1, 2, 0).numpy()
    lost = np.abs(pixels - expected).mean()
    assert np.abs(ours - expected).mean() < max(1.0, 0.5 * lost)  # decoders smooth chroma, each in its own way


def test_blur_keeps_means_and_what_is_plain():
    plain = torch.full((1, 3, 32, 32), 0.3)
    assert torch.allclose(blur(plain), plain)
    point = torch.zeros(1, 3, 9, 9)
    point[:, :, 4, 4] = 1
    assert torch.allclose(blur(point).sum((2, 3)), torch.ones(1, 3))


def test_degraded_pictures_are_near_the_originals_and_each_has_its_own_changes():
    pictures = smooth_pictures(1).expand(16, -1, -1, -1)
    degraded = degrade(pictures, random.Random(0))
    assert degraded.shape == pictures.shape and degraded.min() >= 0 and degraded.max() <= 1
    errors = (degraded - pictures).abs().mean((1, 2, 3))
    assert errors.max() < 0.08
    assert len(set(errors.tolist())) == 16


def test_the_autoencoder_reduces_the_side_to_an_eighth_and_learns():
    torch.manual_seed(0)
    autoencoder, pictures = ThrowawayAutoencoder(), smooth_pictures(1)[:, :, :32, :32]
    assert autoencoder.encoder(pictures).shape == (1, 4, 4, 4)
    assert reconstruction_loss(pictures, pictures) == 0
    reconstruction_loss(autoencoder(pictures), pictures).backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in autoencoder.parameters())
