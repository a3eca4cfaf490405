"""Photographs of every mode, whole and broken."""

import pickle

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile

from ldm.util.images import ImageError, find_image_error, read_image, resize_square, to_image, to_tensor, find_image_errors

RAMP = np.tile(np.linspace(0, 255, 64, dtype=np.uint8), (48, 1))  # (48,64), dark to light


@pytest.fixture
def save(tmp_path):
    def save(image, name, **options):
        image.save(tmp_path / name, **options)
        return tmp_path / name

    return save


@pytest.mark.parametrize("mode, kind", [("L", "jpg"), ("CMYK", "jpg"), ("RGBA", "png"), ("LA", "png"), ("P", "gif")])
def test_every_mode_reads_as_the_same_grey_ramp(save, mode, kind):
    read = read_image(save(Image.fromarray(RAMP).convert(mode), f"ramp.{kind}"))
    assert read.mode == "RGB" and read.size == (64, 48)
    assert np.abs(np.asarray(read).astype(int) - RAMP[..., None]).max() <= 4


def test_sixteen_bits_are_scaled_and_not_clipped(save):
    path = save(Image.fromarray(RAMP.astype(np.uint16) * 257), "deep.png")
    assert np.array_equal(np.asarray(read_image(path))[..., 1], RAMP)


@pytest.mark.parametrize("hidden, ground, seen", [((0, 0, 0, 0), {}, 255), ((255, 255, 255, 0), {"ground": "black"}, 0)])
def test_transparency_is_laid_on_white_and_a_masks_on_black(save, hidden, ground, seen):
    clear = np.zeros((4, 4, 4), dtype=np.uint8)
    clear[:] = hidden
    clear[0] = (10, 20, 30, 255)
    pixels = np.asarray(read_image(save(Image.fromarray(clear), "clear.png"), **ground))
    assert (pixels[0] == (10, 20, 30)).all() and (pixels[1:] == seen).all()


def test_exif_orientation_is_applied_only_where_asked_for(save):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by a quarter to display
    path = save(Image.fromarray(RAMP), "turned.jpg", exif=exif)
    assert read_image(path).size == (64, 48)
    assert read_image(path, upright=True).size == (48, 64)


@pytest.mark.parametrize("name", ["cut.jpg", "cut.png"])
def test_a_truncated_image_is_read_as_far_as_it_goes_and_reported(save, name):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    path = save(Image.fromarray(noise), name)
    whole = np.asarray(read_image(path))
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    cut = np.asarray(read_image(path))
    assert np.array_equal(cut[:16], whole[:16]) and not np.array_equal(cut, whole)
    assert "truncated" in find_image_error(path)
    assert not ImageFile.LOAD_TRUNCATED_IMAGES


@pytest.mark.parametrize("content, why", [(None, "no such file"), (b"", "not an image"), (b"<html>", "not an image")])
def test_what_is_no_image_is_an_error_that_names_it(tmp_path, content, why):
    path = tmp_path / "photo.jpg"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ImageError, match=f"photo.jpg: .*{why}") as error:
        read_image(path)
    assert str(pickle.loads(pickle.dumps(error.value))) == str(error.value)
    assert why in find_image_error(path)


def test_trouble_comes_in_the_order_of_the_files(save, tmp_path):
    good = save(Image.fromarray(RAMP), "good.png")
    trouble = list(find_image_errors([tmp_path / "b.png", good, tmp_path / "a.png"]))
    assert [sentence.split(": ")[0] for sentence in trouble] == [str(tmp_path / "b.png"), str(tmp_path / "a.png")]


def test_black_is_minus_one_and_white_is_one_and_channels_come_first():
    image = Image.new("RGB", (3, 2), (0, 255, 51))
    tensor = to_tensor(image)
    assert tensor.shape == (3, 2, 3) and tensor.dtype == torch.float32
    assert torch.allclose(tensor[:, 0, 0], torch.tensor([-1.0, 1.0, -0.6]))


def test_an_image_survives_the_way_to_a_tensor_and_back():
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    assert np.array_equal(np.asarray(to_image(to_tensor(Image.fromarray(pixels)))), pixels)


def test_what_leaves_the_range_is_clipped():
    assert np.asarray(to_image(torch.tensor([[[-3.0]], [[0.0]], [[3.0]]]))).tolist() == [[[0, 128, 255]]]


def test_a_square_keeps_a_constant_image_constant():
    assert (np.asarray(resize_square(Image.new("RGB", (40, 9), (7, 8, 9)), 16)) == np.full((16, 16, 3), (7, 8, 9))).all()
