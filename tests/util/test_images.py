"""Reading of image files of every mode, intact and broken, and conversion to tensors and back."""

import pickle

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile
from PIL.PngImagePlugin import PngInfo

from ldm.util.images import (
    ImageError,
    find_image_error,
    find_image_errors,
    read_image,
    resize_square,
    to_image,
    to_tensor,
)

RAMP = np.tile(np.linspace(0, 255, 64, dtype=np.uint8), (48, 1))  # (48,64), dark to light


@pytest.fixture
def save(tmp_path):
    def save(image, name, **options):
        image.save(tmp_path / name, **options)
        return tmp_path / name

    return save


@pytest.mark.parametrize("mode, kind", [("L", "jpg"), ("CMYK", "jpg"), ("RGBA", "png"), ("LA", "png"), ("P", "gif")])
def test_an_image_of_every_mode_reads_as_the_same_grey_ramp(save, mode, kind):
    read = read_image(save(Image.fromarray(RAMP).convert(mode), f"ramp.{kind}"))
    assert read.mode == "RGB" and read.size == (64, 48)
    assert np.abs(np.asarray(read).astype(int) - RAMP[..., None]).max() <= 4


def test_sixteen_bit_values_are_scaled_and_not_clipped(save):
    path = save(Image.fromarray(RAMP.astype(np.uint16) * 257), "deep.png")
    assert np.array_equal(np.asarray(read_image(path))[..., 1], RAMP)


@pytest.mark.parametrize(
    "hidden, options, level", [((0, 0, 0, 0), {}, 255), ((255, 255, 255, 0), {"background": "black"}, 0)]
)
def test_transparent_pixels_show_the_background_colour(save, hidden, options, level):
    clear = np.zeros((4, 4, 4), dtype=np.uint8)
    clear[:] = hidden
    clear[0] = (10, 20, 30, 255)
    pixels = np.asarray(read_image(save(Image.fromarray(clear), "clear.png"), **options))
    assert (pixels[0] == (10, 20, 30)).all() and (pixels[1:] == level).all()


def test_exif_orientation_is_applied_on_request_only(save):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by a quarter to display
    path = save(Image.fromarray(RAMP), "turned.jpg", exif=exif)
    assert read_image(path).size == (64, 48)
    assert read_image(path, upright=True).size == (48, 64)


@pytest.mark.parametrize("name", ["cut.jpg", "cut.png"])
def test_a_truncated_image_is_read_as_far_as_possible_and_reported(save, name):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    path = save(Image.fromarray(noise), name)
    intact = np.asarray(read_image(path))
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    cut = np.asarray(read_image(path))
    assert np.array_equal(cut[:16], intact[:16]) and not np.array_equal(cut, intact)
    assert "truncated" in find_image_error(path)
    assert not ImageFile.LOAD_TRUNCATED_IMAGES


@pytest.mark.parametrize("content, why", [(None, "no such file"), (b"", "not an image"), (b"<html>", "not an image")])
def test_a_file_that_is_no_image_is_an_error_that_names_it(tmp_path, content, why):
    path = tmp_path / "photo.jpg"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ImageError, match=f"photo.jpg: .*{why}") as error:
        read_image(path)
    assert str(pickle.loads(pickle.dumps(error.value))) == str(error.value)
    assert why in find_image_error(path)


def test_find_image_errors_keeps_the_order_of_the_files(save, tmp_path):
    good = save(Image.fromarray(RAMP), "good.png")
    errors = list(find_image_errors([tmp_path / "b.png", good, tmp_path / "a.png"]))
    assert [sentence.split(": ")[0] for sentence in errors] == [str(tmp_path / "b.png"), str(tmp_path / "a.png")]


def test_tensors_have_channels_first_and_range_from_minus_one_to_one():
    image = Image.new("RGB", (3, 2), (0, 255, 51))
    tensor = to_tensor(image)
    assert tensor.shape == (3, 2, 3) and tensor.dtype == torch.float32
    assert torch.allclose(tensor[:, 0, 0], torch.tensor([-1.0, 1.0, -0.6]))


def test_to_image_inverts_to_tensor():
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    assert np.array_equal(np.asarray(to_image(to_tensor(Image.fromarray(pixels)))), pixels)


def test_to_image_clips_values_outside_of_the_range():
    assert np.asarray(to_image(torch.tensor([[[-3.0]], [[0.0]], [[3.0]]]))).tolist() == [[[0, 128, 255]]]


def test_resize_square_keeps_a_constant_image_constant():
    assert (
        np.asarray(resize_square(Image.new("RGB", (40, 9), (7, 8, 9)), 16)) == np.full((16, 16, 3), (7, 8, 9))
    ).all()


@pytest.mark.parametrize("megabytes", [2, 65])
def test_a_png_with_a_long_compressed_text_is_read_and_reported_by_neither_check(tmp_path, megabytes):
    info = PngInfo()
    info.add_text("comment", "a" * (megabytes << 20), zip=True)
    Image.fromarray(RAMP).save(tmp_path / "text.png", pnginfo=info)
    assert np.array_equal(np.asarray(read_image(tmp_path / "text.png").convert("L")), RAMP)
    assert list(find_image_errors([tmp_path / "text.png"])) == []
