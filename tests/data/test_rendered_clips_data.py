"""Clips of rendered scenes as data sets, on two clips of four frames, made of pictures with their records."""

import json
from pathlib import Path

import numpy as np
import pytest
from noise_vg import encoders_of
from PIL import Image
from tiny import tiny_model

from ldm.data.cache import CachedDataset
from ldm.data.cache_writing import write_cache
from ldm.data.protocols import ClipDataset, HasStyleReferences, SceneGraphDataset
from ldm.data.rendered_clips import RenderedClips
from ldm.evaluation.clip_sources import RenderedClipSource, find_clips
from ldm.graph.storyboard import moves
from ldm.synthetic.rendered.records import INDEX, RenderedError
from ldm.util.errors import ConfigError, UserError

SOURCE = Path(__file__).parent / "rendered" / "shard-00001" / INDEX
WAYS = {7: 0.02, 8: 0.1}  # of the first thing from frame to frame, in shares of the picture, by clip


@pytest.fixture
def root(tmp_path):
    """A folder whose first thing moves to the right in each clip."""
    shard = tmp_path / "clips" / "shard-00000"
    shard.mkdir(parents=True)
    lines = []
    for seed, step in WAYS.items():
        record = json.loads(SOURCE.read_text().splitlines()[0])
        record["scene"]["seed"] = seed
        count = len(record["boxes"])
        style = f"{seed:06d}_style.webp"
        lines.append(record | {"file": style})
        Image.new("RGB", (128, 128), (seed, 0, 0)).save(shard / style, lossless=True)
        for frame in range(4):
            box = [0.1 + step * frame, 0.4, 0.3 + step * frame, 0.6]
            name = f"{seed:06d}_{frame:02d}.webp"
            clip = {"frame": frame, "things": [*range(count)], "reference": style}
            lines.append(record | {"file": name, "boxes": [box, *record["boxes"][1:]], "clip": clip})
            Image.new("RGB", (128, 128), (seed, 40 * frame, 0)).save(shard / name, lossless=True)
    (shard / INDEX).write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path / "clips"


def damage(root: Path, change) -> None:
    index = root / "shard-00000" / INDEX
    records = [json.loads(line) for line in index.read_text().splitlines()]
    index.write_text("".join(json.dumps(record) + "\n" for record in change(records)))


def test_frames_in_a_row_are_a_clip(root):
    data = RenderedClips(root, frames=4)
    assert isinstance(data, (ClipDataset, SceneGraphDataset)) and isinstance(data, HasStyleReferences)
    assert (len(data), data.clips, RenderedClips(root, 4, max_samples=1).clips) == (8, 2, 1)
    image, graph, reference = data[6]
    expected = (np.array([8, 80, 0]) / 127.5 - 1)[:, None, None]
    assert np.abs(image.numpy() - expected).max() < 0.02 and image.shape == (3, 128, 128)
    assert np.abs(reference.numpy()[1] + 1).max() < 0.02  # the first frame has no green
    assert graph.boxes[0] == pytest.approx((0.3, 0.4, 0.5, 0.6)) and graph.ids[0] == "0"
    with pytest.raises(IndexError):
        data[8]


def test_a_storyboard_has_a_keyframe_at_each_frame_and_its_moves_are_known(root):
    data = RenderedClips(root, frames=4)
    board = data.storyboard(1)
    assert [keyframe.at for keyframe in board.keyframes] == [0, 1, 2, 3]
    assert moves(board) == pytest.approx([0.3] + [0] * (len(board.keyframes[0].graph.objects) - 1))
    assert board.graphs()[2].boxes == data.graph(6, (128, 128)).boxes


def test_the_benchmark_takes_clips_in_which_something_moves_by_two_latent_cells(root):
    source = find_clips("rendered", f"{root}", 4)
    assert isinstance(source, RenderedClipSource) and source.count() == 1
    assert source.clip(0)[1].getpixel((5, 5))[1] == pytest.approx(40, abs=2)
    assert source.style(0).getpixel((5, 5))[1] == 0


@pytest.mark.parametrize(
    "scenes, folder, message",
    [
        ("rendered", None, "name a folder of clips with --tasks"),
        ("more_shapes", None, "there are no clips of these scenes"),
        ("shapes", "somewhere", "leave it out"),
        ("nothing", None, "unknown world 'nothing'"),
    ],
)
def test_scenes_without_clips_are_refused(scenes, folder, message):
    with pytest.raises(UserError, match=message):
        find_clips(scenes, folder, 4)


def test_cached_frames_have_the_style_of_their_clips_first_frame(root, tmp_path):
    data, model = RenderedClips(root, frames=4, image_size=32), tiny_model()
    write_cache(data, tmp_path / "cache", *encoders_of(model))
    cached = CachedDataset(data, tmp_path / "cache")
    latents = [cached[index][0] for index in range(8)]
    assert np.array_equal(latents[3].style, latents[0].style) and not np.array_equal(latents[4].style, latents[0].style)


def test_a_clip_with_a_missing_frame_is_named(root):
    damage(root, lambda records: records[:-1])
    with pytest.raises(RenderedError, match="the clip 8 has 3 frames, where clips of 4 are read"):
        RenderedClips(root, frames=4)


def test_a_folder_without_clips_says_how_to_render_some():
    with pytest.raises(
        RenderedError, match="has no clips; render some there with scripts/render_scenes.py --frames 16"
    ):
        RenderedClips(SOURCE.parent.parent)


def test_a_missing_folder_says_how_to_render_clips_there(tmp_path):
    with pytest.raises(RenderedError, match=r"--out \S+/clips --frames 8$"):
        RenderedClips(tmp_path / "clips", frames=8)


@pytest.mark.parametrize(
    "clip",
    [
        {"frame": 0, "things": [0], "reference": "a.webp"},
        {"frame": 0, "things": [0, 0, 0, 0], "reference": "a.webp"},
        {"frame": "0", "things": [0, 1, 2, 3], "reference": "a.webp"},
        {"frame": 0, "things": [0, 1, 2, 3], "reference": "../a.webp"},
        {"frame": 0, "things": 3, "reference": "a.webp"},
        ["frame"],
    ],
)
def test_a_damaged_place_in_a_clip_is_named_with_its_line(clip, root):
    damage(root, lambda records: [*records[:2], records[2] | {"clip": clip}, *records[3:]])
    with pytest.raises(RenderedError, match="line 3 is damaged"):
        RenderedClips(root, frames=4)


def test_numbers_out_of_range_are_refused(root):
    with pytest.raises(ConfigError, match="RenderedClips: frames"):
        RenderedClips(root, frames=0)
