"""ICC profiles: applied on reading, ignored where they cannot be, and sRGB stated on writing."""

import io

import numpy as np
import pytest
from PIL import Image, ImageCms

from ldm.util.colour_profiles import srgb_chunk, to_srgb
from ldm.util.images import read_image

LAB = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))
COLOURS = np.array([[[250, 30, 20], [10, 200, 60], [128, 128, 128], [255, 255, 255]]], np.uint8)


def wide_gamut_profile() -> bytes:
    """sRGB's profile with its red and green primaries exchanged: a profile whose effect is known."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    description = data.find("sRGB".encode("utf-16-be"))
    while description >= 0:  # otherwise it would be taken for sRGB
        data[description : description + 8] = "test".encode("utf-16-be")
        description = data.find("sRGB".encode("utf-16-be"))
    tags = {bytes(data[i : i + 4]): i for i in range(132, 132 + 12 * int.from_bytes(data[128:132], "big"), 12)}
    for first, second in ((b"rXYZ", b"gXYZ"), (b"rTRC", b"gTRC")):
        i, j = tags[first] + 4, tags[second] + 4
        data[i : i + 8], data[j : j + 8] = data[j : j + 8], data[i : i + 8]
    return bytes(data)


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
@pytest.mark.parametrize("suffix", ["png", "webp"])
def test_the_embedded_profile_is_applied(tmp_path, mode, suffix):
    image = Image.fromarray(COLOURS).convert(mode)
    image.save(tmp_path / f"a.{suffix}", icc_profile=wide_gamut_profile(), lossless=True)
    read = np.asarray(read_image(tmp_path / f"a.{suffix}"))
    assert np.abs(read.astype(int) - COLOURS[..., [1, 0, 2]]).max() <= 2


def test_transparency_survives_the_conversion():
    image = Image.fromarray(COLOURS).convert("RGBA")
    image.putalpha(Image.fromarray(np.array([[0, 100, 200, 255]], np.uint8)))
    image.info["icc_profile"] = wide_gamut_profile()
    assert np.asarray(to_srgb(image))[..., 3].tolist() == [[0, 100, 200, 255]]


@pytest.mark.parametrize(
    "profile",
    [None, b"", b"no profile", ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(), LAB.tobytes()],
)
def test_without_a_usable_profile_or_with_srgb_the_pixels_stay(profile):
    image = Image.fromarray(COLOURS)
    image.info["icc_profile"] = profile
    assert np.array_equal(np.asarray(to_srgb(image)), COLOURS)


def test_png_files_are_marked_as_srgb():
    file = io.BytesIO()
    Image.fromarray(COLOURS).save(file, "PNG", pnginfo=srgb_chunk())
    assert b"sRGB\0" in file.getvalue() and np.array_equal(np.asarray(Image.open(file)), COLOURS)


def test_of_an_animation_the_first_frame_is_read_with_a_warning(tmp_path, caplog):
    first, second = Image.new("RGB", (4, 4), "red"), Image.new("RGB", (4, 4), "blue")
    first.save(tmp_path / "a.gif", save_all=True, append_images=[second])
    assert read_image(tmp_path / "a.gif").getpixel((0, 0))[0] > 200
    assert "2 frames" in caplog.text
