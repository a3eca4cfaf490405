"""AnimateDiff's motion modules on a published Stable Diffusion 1, as the temporal layers of a VideoDiffusion."""

import pytest
import torch
from checkpoints.diffusers_models import KL, UNET, save_pipeline
from checkpoints.video_models import randomised
from text_models import text_model

from ldm.graph.scene_graph import SceneGraph
from ldm.models.diffusion.ddim import sample
from ldm.models.diffusion.video import VideoDiffusion
from ldm.modules.temporal_animatediff import MotionModules

diffusers = pytest.importorskip("diffusers")
pytest.importorskip("transformers")
FRAMES = 3


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sd1")
    torch.manual_seed(0)
    save_pipeline(folder, (diffusers.UNet2DConditionModel(**UNET).eval(), diffusers.AutoencoderKL(**KL).eval()))
    text_model(hidden_size=24, intermediate_size=96).save_pretrained(folder / "text_encoder")
    torch.save(randomised(MotionModules((32, 64), frames=8)).state_dict(), folder / "mm_sd.ckpt")
    return str(folder), str(folder / "mm_sd.ckpt")


@pytest.fixture(scope="module")
def model(files):
    return VideoDiffusion(files[0], frames=FRAMES, shared_noise=0.0, motion=files[1]).eval()


def clip_of(model, frames=FRAMES):
    cond = model.condition([SceneGraph(("fox", "tree"))] * frames)
    noise = model.noise(frames, torch.Generator().manual_seed(0))
    with torch.no_grad():
        return sample(model.denoiser(cond, 1.0, 1.0, frames), model.schedule.ddim(2), noise)


def test_a_clip_of_a_graph_is_sampled_and_its_frames_see_each_other(model):
    clip = clip_of(model)
    assert clip.shape == (FRAMES, 4, 8, 8)
    model.temporal.set_clip(1)
    cond = model.condition([SceneGraph(("fox", "tree"))] * FRAMES)
    noise = model.noise(FRAMES, torch.Generator().manual_seed(0))
    with torch.no_grad():
        alone = sample(model.image.denoiser(cond), model.schedule.ddim(2), noise)
    assert (clip - alone).abs().max() > 1e-3


def test_only_the_motion_modules_train(model):
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trainable and all(name.startswith("temporal.") for name in trainable)
    assert model.temporal.weights_from.endswith("mm_sd.ckpt")


def test_clips_longer_than_the_modules_know_are_refused(files):
    with pytest.raises(ValueError, match="1 to 8"):
        VideoDiffusion(files[0], frames=9, motion=files[1])
