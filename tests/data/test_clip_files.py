"""Clips as files: what is written is read again, and what cannot be written or read is said in a sentence."""

import numpy as np
import pytest
from PIL import Image

from ldm.data.clip_files import is_clip, read_clip, refuse_format, write_clip
from ldm.util.errors import UserError

FPS = 8
RAMP = np.linspace(0, 255, 32).astype(np.uint8)


def frames(count=6, size=(32, 24)):
    """Smooth pictures of which each has another brightness."""
    width, height = size
    grid = np.stack([np.tile(RAMP[:width], (height, 1)), np.tile(RAMP[:height, None], (1, width)), np.zeros((height, width), np.uint8)], -1)  # fmt: skip
    pictures = []
    for number in range(count):
        grid = grid.copy()
        grid[..., 2] = 40 * number
        pictures.append(Image.fromarray(grid.astype(np.uint8)))
    return pictures


@pytest.mark.parametrize("name", ["clip.webp", "folder"])
def test_every_pixel_is_kept_by_webp_and_by_a_folder(tmp_path, name):
    write_clip(tmp_path / name, frames(), FPS)
    clip = read_clip(tmp_path / name)
    assert all(np.array_equal(a, b) for a, b in zip(clip.frames, frames())) and len(clip.frames) == 6
    assert clip.fps is None if name == "folder" else clip.fps == pytest.approx(FPS)


@pytest.mark.parametrize("name, error", [("clip.mp4", 6), ("clip.webm", 6), ("clip.gif", 20)])
def test_compressed_forms_keep_the_number_the_rate_and_nearly_the_colours_of_frames(tmp_path, name, error):
    if not name.endswith("gif"):
        pytest.importorskip("av")
    write_clip(tmp_path / name, frames(), FPS)
    clip = read_clip(tmp_path / name)
    assert len(clip.frames) == 6 and clip.fps == pytest.approx(FPS, rel=0.05)
    differences = [np.abs(np.asarray(a, int) - np.asarray(b, int)).mean() for a, b in zip(clip.frames, frames())]
    assert max(differences) < error


@pytest.mark.parametrize("name", ["clip.webp", "clip.gif"])
def test_equal_frames_are_as_many_when_they_are_read(tmp_path, name):
    a, *_, b = frames(6)
    write_clip(tmp_path / name, [a, a, a, b, b, a], FPS)
    clip = read_clip(tmp_path / name)
    same = [np.abs(np.asarray(frame, int) - np.asarray(a, int)).mean() < 20 for frame in clip.frames]
    assert same == [True, True, True, False, False, True] and clip.fps == pytest.approx(FPS)


def test_a_video_of_odd_size_is_written(tmp_path):
    pytest.importorskip("av")
    write_clip(tmp_path / "clip.mp4", frames(3, (31, 17)), FPS)
    assert read_clip(tmp_path / "clip.mp4").frames[0].size == (32, 18)


def test_a_shorter_clip_replaces_a_longer_one_in_a_folder(tmp_path):
    write_clip(tmp_path / "folder", frames(6), FPS)
    write_clip(tmp_path / "folder", frames(4), FPS)
    assert len(read_clip(tmp_path / "folder").frames) == 4


def test_animations_videos_and_folders_are_clips_and_pictures_are_not(tmp_path):
    write_clip(tmp_path / "clip.webp", frames(), FPS)
    frames()[0].save(tmp_path / "picture.webp")
    assert is_clip(tmp_path / "clip.webp") and is_clip(tmp_path) and is_clip("clip.mp4")
    assert not is_clip(tmp_path / "picture.webp") and not is_clip(tmp_path / "missing.gif") and not is_clip("a.png")


@pytest.mark.parametrize("name, words", [("clip.mp5", ".mp4"), ("clip.png", ".webp")])
def test_an_unknown_format_is_refused_before_anything_is_computed(name, words):
    with pytest.raises(UserError, match=words):
        refuse_format(name)


def test_a_broken_animation_is_refused(tmp_path):
    (tmp_path / "clip.gif").write_bytes(b"GIF89a nothing")
    with pytest.raises(UserError, match="broken, or not an animation"):
        read_clip(tmp_path / "clip.gif")


def test_the_rate_of_an_animation_whose_note_states_none_is_that_of_its_frames(tmp_path):
    first, *others = frames(3)
    for note in (b"fps=0", b"fps=.", b"made by hand"):
        first.save(tmp_path / "clip.gif", save_all=True, append_images=others, duration=100, comment=note)
        assert read_clip(tmp_path / "clip.gif").fps == pytest.approx(10)


def test_frames_of_different_sizes_are_refused(tmp_path):
    frames()[0].save(tmp_path / "0.png")
    frames()[0].resize((8, 8)).save(tmp_path / "1.png")
    with pytest.raises(UserError, match="8 x 8 and of 32 x 24"):
        read_clip(tmp_path)
