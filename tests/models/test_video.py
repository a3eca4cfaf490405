"""The video model: what it begins as, what trains, its noise, its checkpoints, and that it learns a motion."""

import copy

import numpy as np
import pytest
import torch
from tiny import DATA, losses_and_gradients, tiny_model

from ldm.data.clips import DrawnClips
from ldm.graph.batch import collate
from ldm.models.diffusion.video import VideoDiffusion, to_steps
from ldm.models.export import export_adapters
from ldm.models.video_loading import load_video_model
from ldm.modules import conditioning
from ldm.synthetic.shapes import VOCAB
from ldm.util.errors import UserError

FRAMES = 4
PARAMS = {"frames": FRAMES, "head_channels": 16, "shared_noise": 0.5}


@pytest.fixture(scope="module")
def image_model(tmp_path_factory):
    """The checkpoint of a tiny image model."""
    torch.manual_seed(0)
    saved = {}
    tiny_model().on_save_checkpoint(saved)
    path = tmp_path_factory.mktemp("image") / "last.ckpt"
    torch.save(saved, path)
    return path


@pytest.fixture
def model(image_model):
    torch.manual_seed(1)
    return VideoDiffusion(f"{image_model}", **PARAMS)


def batch(clips=2):
    data = DrawnClips(clips, FRAMES)
    samples = [data[index] for index in range(clips * FRAMES)]
    return collate([(torch.nn.functional.avg_pool2d(image, 2), graph) for image, graph in samples], VOCAB)


def test_untrained_it_is_bit_equal_to_the_image_model_frame_by_frame(model):
    graphs = DrawnClips(1, FRAMES).storyboard(0).graphs()
    cond, x, t = (
        model.condition(graphs),
        model.noise(FRAMES, torch.Generator().manual_seed(0)),
        torch.full((FRAMES,), 400),
    )
    with torch.no_grad():
        assert torch.equal(model.denoiser(cond, 2.0, 2.0)(x, t), model.image.denoiser(cond, 2.0, 2.0)(x, t))


def test_only_the_temporal_layers_train_and_all_of_them_have_a_gradient_by_the_second_step(model):
    optimizer = torch.optim.SGD(model.temporal.parameters(), lr=0.1)
    for _ in range(2):
        _, gradients = losses_and_gradients(model, batch())
        optimizer.step()
    assert all(gradient.abs().max() > 0 for gradient in gradients.values())
    assert set(gradients) == {name for name, _ in model.named_parameters() if name.startswith("temporal.")}


def test_the_image_model_stays_in_evaluation_mode(model):
    model.train()
    assert model.temporal.training and not model.image.training


def test_all_frames_of_a_clip_have_one_timestep_and_noise_that_is_shared_to_the_given_share(model):
    t, noise = model.draw(
        torch.zeros(400 * FRAMES, 4, 8, 8), {"generator": torch.Generator().manual_seed(0), "device": "cpu"}
    )
    clips = noise.unflatten(0, (-1, FRAMES))
    assert (t.view(-1, FRAMES) == t.view(-1, FRAMES)[:, :1]).all() and len(t.unique()) > 100
    assert float((clips[:, 0] * clips[:, 3]).mean()) == pytest.approx(PARAMS["shared_noise"], abs=0.02)
    assert float(noise.var()) == pytest.approx(1, abs=0.02)


def test_graphs_and_styles_are_dropped_for_whole_clips(model):
    model.graph_drop = 0.5
    random = {"generator": torch.Generator().manual_seed(6), "device": "cpu"}
    cond = model.training_conditioning(batch(6), 6 * FRAMES, random)
    dropped = (cond.mask.sum(1) == 1).view(6, FRAMES)  # the null graph is one token
    assert (dropped == dropped[:, :1]).all() and dropped.any() and not dropped.all()


def test_a_batch_that_is_not_whole_clips_is_refused(model):
    with pytest.raises(ValueError, match="batch_size"):
        model.losses(collate([DrawnClips(1, FRAMES)[i] for i in range(3)], VOCAB))


def saved_model(model, image_model):
    saved = {}
    model.vocab = VOCAB
    params = {"image_model": f"{image_model}", **PARAMS}
    model.config = {
        "model": {"target": "ldm.models.diffusion.video.VideoDiffusion", "params": params},
        "data": copy.deepcopy(DATA),
    }
    model.on_save_checkpoint(saved)
    return saved


def test_a_checkpoint_holds_the_temporal_layers_alone_and_loads_with_their_averages(model, image_model, tmp_path):
    with torch.no_grad():
        for parameter in model.temporal.parameters():
            parameter.add_(0.1)
    model.model_ema.update(model)
    saved = saved_model(model, image_model)
    assert all(name.startswith(("temporal.", "model_ema.", "scale_factor")) for name in saved["state_dict"])
    torch.save(saved, tmp_path / "last.ckpt")
    for path in (tmp_path / "last.ckpt", tmp_path / "video.safetensors"):
        if path.suffix == ".safetensors":
            export_adapters(tmp_path / "last.ckpt", path)
        loaded = load_video_model(path)
        assert loaded.is_trained and loaded.vocab == VOCAB
        for name in model.model_ema.names:  # exported weights have 16 bits
            torch.testing.assert_close(
                loaded.get_parameter(name), model.model_ema.average(name), rtol=1e-3, atol=1e-6, check_dtype=False
            )
        trained = loaded.temporal.blocks[0].mix_factor
        assert (trained - model.temporal.blocks[0].mix_factor).abs().min() > 1e-3 and not trained.requires_grad
        with torch.no_grad():
            x, graphs = (
                loaded.noise(FRAMES, torch.Generator().manual_seed(0)),
                DrawnClips(1, FRAMES).storyboard(0).graphs(),
            )
            cond = loaded.condition(graphs)
            eps = loaded.denoiser(cond)(x, torch.full((FRAMES,), 10))
            alone = loaded.image.denoiser(cond)(x, torch.full((FRAMES,), 10))
        assert not torch.equal(eps, alone)


def test_an_image_model_is_loaded_as_one_of_clips_that_are_made_frame_by_frame(image_model, caplog):
    loaded = load_video_model(image_model)
    assert not loaded.is_trained and "without temporal layers" in caplog.text
    noise = loaded.noise(3, torch.Generator().manual_seed(0))
    assert torch.equal(noise[0], noise[2])


def test_a_file_of_something_else_is_refused(tmp_path):
    (tmp_path / "other.ckpt").write_bytes(b"nothing")
    with pytest.raises(UserError, match="damaged"):
        load_video_model(tmp_path / "other.ckpt")
    with pytest.raises(ValueError, match="shared_noise"):
        VideoDiffusion("unused", shared_noise=2)


@pytest.mark.slow
def test_it_learns_how_a_pattern_moves(model):
    """A blob that moves by a cell per frame over a fixed background: after training, the noise of frame 2 is predicted better from
    frames 1 and 3 than the image model predicts it."""
    torch.manual_seed(0)
    x0 = torch.zeros(8, FRAMES, 4, 8, 8)
    for clip in range(8):
        for frame in range(FRAMES):
            x0[clip, frame, :, clip % 4 : clip % 4 + 2, frame : frame + 2] = 2.0
    x0 = x0.flatten(0, 1)
    cond = conditioning.cat(*[model.image.null()] * len(x0))
    optimizer = torch.optim.Adam(model.temporal.parameters(), lr=3e-3)

    def loss(seed):
        random = {"generator": torch.Generator().manual_seed(seed), "device": "cpu"}
        t, noise = model.draw(x0, random)
        return (model.prediction(model.schedule.add_noise(x0, noise, t), t, cond) - noise).square().mean()

    with torch.no_grad():
        before = float(np.mean([float(loss(1000 + i)) for i in range(4)]))
    for step in range(60):
        optimizer.zero_grad()
        loss(step).backward()
        optimizer.step()
    with torch.no_grad():
        after = float(np.mean([float(loss(1000 + i)) for i in range(4)]))
    assert after < 0.6 * before


def test_boxes_are_moved_to_the_image_models_steps_without_a_change_of_size():
    boxes = torch.tensor([[0.1, 0.33, 0.4, 0.63], [0.74, 0.0, 1.0, 0.26], [0, 0, 1, 1], [-1, -1, -1, -1]])
    moved = to_steps(boxes, 0.25)
    expected = torch.tensor([[0.0, 0.25, 0.3, 0.55], [0.74, 0.0, 1.0, 0.26], [0, 0, 1, 1], [-1, -1, -1, -1]])
    torch.testing.assert_close(moved, expected)
    assert to_steps(boxes, None) is boxes


def test_above_the_given_share_of_timesteps_the_layers_do_nothing_and_are_not_trained(image_model):
    model = VideoDiffusion(f"{image_model}", **PARAMS, temporal_until=0.5)
    with torch.no_grad():
        for parameter in model.temporal.parameters():
            parameter.add_(0.1)
        cond = model.condition(DrawnClips(1, FRAMES).storyboard(0).graphs())
        x = model.noise(FRAMES, torch.Generator().manual_seed(0))
        same = [
            torch.equal(
                model.denoiser(cond)(x, torch.full((FRAMES,), t)),
                model.image.denoiser(cond)(x, torch.full((FRAMES,), t)),
            )
            for t in (499, 500)
        ]
    assert same == [False, True]
    t, _ = model.draw(
        torch.zeros(200 * FRAMES, 4, 8, 8), {"generator": torch.Generator().manual_seed(0), "device": "cpu"}
    )
    assert 450 < int(t.max()) < 500


def test_sampling_may_begin_with_noise_that_is_shared_more_than_in_training(image_model):
    model = VideoDiffusion(f"{image_model}", **PARAMS, sampling_noise=1.0)
    noise = model.noise(FRAMES, torch.Generator().manual_seed(0))
    assert torch.equal(noise[0], noise[-1]) and model.shared_noise == 0.5
