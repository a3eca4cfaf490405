"""Clips of storyboards: windows, clips that begin with an image, seeds, and what is refused."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import tiny_model

from ldm.evaluation.clip_benchmark import sample_frames
from ldm.evaluation.clip_measures import flicker, measure_clip
from ldm.graph.scene_graph import SceneGraph
from ldm.graph.storyboard import Keyframe, Storyboard, read_storyboard
from ldm.graph.validation import GraphError
from ldm.models.diffusion.schedule import NoiseSchedule
from ldm.models.diffusion.video import VideoDiffusion
from ldm.models.diffusion.windows import beginning_with, over_windows
from ldm.models.video_loading import load_video_model
from ldm.sampling import clips
from ldm.sampling.clips import default_clip_options, sample_clip
from ldm.sampling.options import SampleOptions
from ldm.util.errors import UserError
from ldm.util.images import to_image

ROOT = Path(__file__).parents[2]
FAST = SampleOptions(steps=2)


def storyboard(frames=6):
    start, end = (0, 0.4, 0.4, 0.8), (0.6, 0.4, 1, 0.8)
    keyframes = [
        Keyframe(at, SceneGraph(("circle", "square"), (box, None), (("red",), ("blue",)), (), ("a", "b")))
        for at, box in ((0, start), (frames - 1, end))
    ]
    return Storyboard(frames, tuple(keyframes))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A video model of 4 frames with random temporal layers beside a tiny image model."""
    torch.manual_seed(0)
    image = tiny_model()
    saved = {}
    image.on_save_checkpoint(saved)
    path = tmp_path_factory.mktemp("image") / "last.ckpt"
    torch.save(saved, path)
    video = VideoDiffusion(f"{path}", frames=4, head_channels=16).eval()
    with torch.no_grad():
        for parameter in video.temporal.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    return video


def arrays(frames):
    return [np.asarray(frame) for frame in frames]


def test_a_seed_gives_the_same_clip_twice_and_another_one_another(model):
    a, b, c = (arrays(sample_clip(model, storyboard(4), seed, FAST)) for seed in (1, 1, 2))
    assert len(a) == 4 and all(map(np.array_equal, a, b)) and not any(map(np.array_equal, a, c))


@pytest.mark.parametrize("frames", [1, 3, 4, 9])
def test_a_clip_has_as_many_frames_as_its_storyboard(model, frames):
    board = storyboard(frames) if frames > 1 else Storyboard.still(storyboard().keyframes[0].graph, 1)
    assert len(sample_clip(model, board, 0, FAST)) == frames


def test_after_a_clip_the_image_model_is_one_of_images_again(model):
    sample_clip(model, storyboard(4), 0, FAST)
    assert model.temporal.clip == 1


def test_a_clip_begins_with_the_given_image_as_the_autoencoder_returns_it(model):
    first = to_image(torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(3)) * 2 - 1)
    frames = arrays(sample_clip(model, storyboard(4), 0, FAST, first=first))
    with torch.no_grad():
        image = torch.from_numpy(np.asarray(first).copy()).permute(2, 0, 1)[None] / 127.5 - 1
        again = np.asarray(to_image(model.image.decode(model.image.encode(image))[0]))
    assert np.array_equal(frames[0], again)
    assert not np.array_equal(frames[1], arrays(sample_clip(model, storyboard(4), 0, FAST))[1])


def test_without_a_style_all_frames_take_that_of_frame_0_sampled_by_itself(model):
    board = storyboard(4)
    alone = sample_clip(model, Storyboard.still(board.graphs()[0], 1), 5, FAST)[0]
    default, styled = sample_clip(model, board, 5, FAST), sample_clip(model, board, 5, FAST, style=alone)
    assert all(map(np.array_equal, arrays(default), arrays(styled)))
    other = sample_clip(model, board, 5, FAST, style=Image.new("RGB", (32, 32), "red"))
    assert not np.array_equal(arrays(default)[1], arrays(other)[1])


def test_a_known_first_frame_is_on_its_noise_level_at_every_step_and_is_returned():
    schedule = NoiseSchedule.linear(1000, 0.0015, 0.0195).ddim(5)
    first, noise = torch.randn(2, 1, 4, 2, 2).unbind()
    seen = []

    def denoiser(x, t):
        seen.append(x[:1])
        return torch.zeros_like(x)

    predict = beginning_with(denoiser, first, noise, schedule)
    for t, a in zip(schedule.timesteps, schedule.alphas):
        eps = predict(torch.randn(3, 4, 2, 2), torch.full((3,), int(t)))
        torch.testing.assert_close(seen[-1], (a.sqrt() * first + (1 - a).sqrt() * noise).float())
        assert torch.equal(eps[:1], noise) and not eps[1:].any()


def test_windows_that_agree_give_what_one_window_over_all_gives():
    windows = Storyboard.still(SceneGraph(("circle",)), 11).windows(4, 2)
    x, t = torch.randn(11, 4, 2, 2), torch.full((11,), 7)
    torch.testing.assert_close(over_windows([lambda x, t: 2 * x] * len(windows), windows)(x, t), 2 * x)


def test_where_windows_overlap_the_nearer_middle_counts_more():
    windows = [range(0, 4), range(2, 6)]
    parts = [lambda x, t: torch.zeros_like(x), lambda x, t: torch.ones_like(x)]
    mixed = over_windows(parts, windows)(torch.zeros(6, 1, 1, 1), torch.zeros(6))
    torch.testing.assert_close(mixed.flatten(), torch.tensor([0, 0, 1 / 3, 2 / 3, 1, 1]))


def test_options_of_text_and_unknown_names_are_refused(model):
    with pytest.raises(UserError, match="steer"):
        sample_clip(model, storyboard(4), 0, SampleOptions(steer=0.2))
    unknown = Storyboard.from_json(json.loads('{"frames": 4, "keyframes": [{"at": 0, "objects": ["dragon"]}]}'))
    with pytest.raises(GraphError, match="dragon"):
        sample_clip(model, unknown, 0, FAST)


def test_the_clip_of_the_storyboard_that_ships_shows_it_in_every_frame():
    video, board = load_video_model(), read_storyboard(ROOT / "data/flat/storyboard.json")
    options = SampleOptions(**default_clip_options(video, {}))
    frames = sample_clip(video, board, 0, options, style=Image.open(ROOT / "data/flat/example.png"))
    cell = 1 / video.image.latent_size
    measured = measure_clip(board, frames, "shapes", cell)
    assert measured["in_place"] == 1 and measured["kept_objects"] == measured["objects"] == 3
    alone = sample_frames(video, board, options, Image.open(ROOT / "data/flat/example.png"), 0)
    assert flicker(board, frames, cell) < min(1.8, flicker(board, alone, cell))


@pytest.mark.parametrize("keyframes, listed", [(7, 6), (8, 7), (16, 7)])
def test_a_panel_lists_the_changes_of_the_first_keyframes(keyframes, listed, monkeypatch):
    graph = SceneGraph(("circle",), ((0.0, 0.0, 0.5, 0.5),), ids=("a",))
    moved = [replace(graph, boxes=((0.02 * at, 0.0, 0.5 + 0.02 * at, 0.5),)) for at in range(keyframes)]
    board = Storyboard(keyframes, tuple(Keyframe(at, each) for at, each in enumerate(moved)))
    shown = []
    monkeypatch.setattr(clips.plots, "film_panel", lambda rows, sentences, columns: shown.extend(sentences))
    clips.clip_panel(board, [Image.new("RGB", (8, 8))] * keyframes)
    assert len(shown) == listed and shown[0].startswith("frame 1: move")
    assert shown[-1] == (f"and {keyframes - 7} more keyframe{'s' * (keyframes > 8)}" if keyframes > 7 else shown[-1])
