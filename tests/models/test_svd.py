"""Image to clip with Stable Video Diffusion against the loop of diffusers' pipeline, on tiny networks with the same weights."""

import json

import pytest
import torch
from checkpoints.video_models import KL, UNET, make, to_sgm_unet

from ldm.checkpoints.architecture import find_architecture
from ldm.checkpoints.diffusers_layout import to_ldm_vae
from ldm.checkpoints.errors import CheckpointError
from ldm.models.diffusion import ddim
from ldm.models.diffusion.svd import ImageCondition, clip_conditioning, svd_denoiser, without_image
from ldm.models.svd import load_svd
from ldm.modules.conditioning import Conditioning
from ldm.util.errors import UserError

diffusers = pytest.importorskip("diffusers")
FRAMES = 3
SCHEDULER = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "v_prediction",
    "use_karras_sigmas": True,
    "sigma_min": 0.002,
    "sigma_max": 700.0,
    "timestep_spacing": "leading",
    "timestep_type": "continuous",
    "steps_offset": 1,
}
SETTINGS = UNET | {"addition_time_embed_dim": 256, "projection_class_embeddings_input_dim": 768}


@pytest.fixture(scope="module")
def networks():
    return make("UNetSpatioTemporalConditionModel", SETTINGS), make("AutoencoderKLTemporalDecoder", KL)


@pytest.fixture(scope="module")
def folder(networks, tmp_path_factory):
    path = tmp_path_factory.mktemp("svd")
    for name, network in zip(("unet", "vae"), networks):
        network.save_pretrained(path / name)
    diffusers.EulerDiscreteScheduler(**SCHEDULER).save_pretrained(path / "scheduler")
    (path / "model_index.json").write_text(json.dumps({"_class_name": "StableVideoDiffusionPipeline"}))
    return path


@pytest.fixture(scope="module")
def model(folder):
    return load_svd(folder)


@pytest.fixture(scope="module")
def image():
    generator = torch.Generator().manual_seed(2)
    return ImageCondition(
        torch.randn(1, 1, 24, generator=generator), torch.randn(1, 4, 8, 8, generator=generator), fps=8, motion=100
    )


@torch.no_grad()
def diffusers_clip(unet, image, noise, steps, guidance):
    """StableVideoDiffusionPipeline's loop: Euler steps of guided v, with a scale that rises from frame to frame."""
    scheduler = diffusers.EulerDiscreteScheduler(**SCHEDULER)
    scheduler.set_timesteps(steps)
    latents = noise * scheduler.init_noise_sigma
    ids = torch.tensor([[image.fps - 1, image.motion, image.noise]]).repeat(2, 1)
    tokens = torch.cat([torch.zeros_like(image.tokens), image.tokens])
    concat = torch.cat([torch.zeros_like(image.latents), image.latents])[:, None].repeat(1, FRAMES, 1, 1, 1)
    scale = torch.linspace(*guidance, FRAMES)[None, :, None, None, None]
    for t in scheduler.timesteps:
        rows = scheduler.scale_model_input(torch.cat([latents, latents]), t)
        plain, conditional = unet(torch.cat([rows, concat], dim=2), t, tokens, ids).sample.chunk(2)
        latents = scheduler.step(plain + scale * (conditional - plain), t, latents).prev_sample
    return latents


@torch.no_grad()
def test_a_clip_is_that_of_diffusers_pipeline(networks, model, image):
    noise = torch.randn(1, FRAMES, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    expected = diffusers_clip(networks[0], image, noise, steps=4, guidance=(1.0, 3.0))
    denoiser = svd_denoiser(model.unet, model.schedule, image, FRAMES, (1.0, 3.0))
    ours = ddim.sample(denoiser, model.schedule.ddim(4), noise.flatten(0, 1)).unflatten(0, (1, FRAMES))
    assert (ours - expected).abs().max() < 1e-3 * expected.abs().max()  # sigma 700 magnifies rounding in float32
    for change in ({"guidance": (1.0, 1.0)}, {"image": image._replace(motion=10)}, {"image": image._replace(fps=24)}):
        other = svd_denoiser(
            **{"unet": model.unet, "schedule": model.schedule, "image": image, "frames": FRAMES} | change
        )
        other = ddim.sample(other, model.schedule.ddim(4), noise.flatten(0, 1)).unflatten(0, (1, FRAMES))
        assert (other - expected).abs().max() > 1e-2 * expected.abs().max(), change


def test_a_file_of_svd_loads_as_the_folder_does(networks, model, tmp_path):
    unet, vae = (network.state_dict() for network in networks)
    state = {f"model.diffusion_model.{key}": value for key, value in to_sgm_unet(unet).items()}
    first_stage = {key: value for key, value in to_ldm_vae(vae).items() if not key.startswith("quant_conv")}
    state |= {f"first_stage_model.{key}": value for key, value in first_stage.items()}
    state["conditioner.embedders.0.open_clip.model.visual.proj"] = torch.zeros(2, 2)
    torch.save({"state_dict": state}, path := tmp_path / "svd.ckpt")
    loaded = load_svd(path)
    assert loaded.unet.frames == 14 and model.unet.frames == 3  # num_frames of config.json
    ours, folders = loaded.unet.state_dict(), model.unet.state_dict()
    assert ours.keys() == folders.keys()
    assert all(torch.equal(ours[key], folders[key]) for key in ours)
    decoder, others = loaded.first_stage.decoder.state_dict(), model.first_stage.decoder.state_dict()
    assert all(torch.equal(decoder[key], others[key]) for key in others) and decoder.keys() == others.keys()
    torch.testing.assert_close(loaded.schedule.alphas_cumprod, model.schedule.alphas_cumprod)
    torch.testing.assert_close(loaded.unet.noise_levels, model.unet.noise_levels)


def test_the_scheduler_beside_the_weights_is_read(folder, tmp_path, networks):
    networks[0].save_pretrained(tmp_path / "unet")
    networks[1].save_pretrained(tmp_path / "vae")
    diffusers.EulerDiscreteScheduler(**SCHEDULER | {"sigma_max": 80.0}).save_pretrained(tmp_path / "scheduler")
    model = load_svd(tmp_path)
    assert float(model.schedule.sigmas()[-1]) == pytest.approx(80, rel=1e-6)
    assert float(model.unet.noise_levels[-1]) == pytest.approx(torch.tensor(80.0).log() / 4)
    file = tmp_path / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"sigma_max": "high"}))
    with pytest.raises(CheckpointError, match="sigma_max 'high'"):
        load_svd(tmp_path)


@torch.no_grad()
def test_samples_are_clips_of_pixels_and_each_clip_of_a_batch_has_its_image(model, image):
    two = image._replace(tokens=torch.cat([image.tokens, -image.tokens]), latents=torch.cat([image.latents] * 2))
    noise = torch.randn(1, FRAMES, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    clips = model.sample(two, FRAMES, noise.repeat(2, 1, 1, 1, 1), steps=3)
    assert clips.shape == (2, FRAMES, 3, 16, 16)
    alone = model.sample(image, FRAMES, noise, steps=3)
    torch.testing.assert_close(clips[:1], alone, atol=1e-3, rtol=1e-3)
    assert (clips[1] - alone[0]).abs().max() > 1e-2


def test_the_image_is_encoded_with_the_noise_that_is_stated(model):
    image, tokens = torch.zeros(1, 3, 16, 16), torch.zeros(1, 1, 24)
    torch.manual_seed(0)
    clean = model.condition(image, tokens, noise=0.0)
    torch.testing.assert_close(clean.latents, model.first_stage.encode(image))
    noisy = model.condition(image, tokens, noise=0.5)
    assert (noisy.latents - clean.latents).abs().max() > 1e-3 and noisy.noise == 0.5


def test_the_conditioning_has_a_row_for_each_frame_and_keeps_the_graph(image):
    graph = Conditioning.from_tokens(torch.randn(FRAMES, 2, 24))
    cond = clip_conditioning(image, FRAMES, graph)
    assert torch.equal(cond.tokens, graph.tokens) and cond.text.tokens.shape == (FRAMES, 1, 24)
    assert cond.text.vector.shape == (FRAMES, 768)
    null = without_image(cond)
    assert torch.equal(null.text.tokens, torch.zeros(FRAMES, 1, 24)) and torch.equal(null.text.vector, cond.text.vector)
    with pytest.raises(ValueError, match="clip_conditioning"):
        without_image(graph)


def test_a_program_that_asks_for_a_model_of_images_is_told_what_the_file_is(folder):
    with pytest.raises(CheckpointError, match="this is Stable Video Diffusion, which makes a clip of an image"):
        find_architecture(folder)


def test_what_is_no_svd_is_refused(tmp_path, model, image):
    network = diffusers.UNet2DConditionModel(
        block_out_channels=(32, 64), down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), cross_attention_dim=24,
    )  # fmt: skip
    network.save_pretrained(tmp_path / "unet")
    with pytest.raises(CheckpointError, match="not Stable Video Diffusion"):
        load_svd(tmp_path)
    with pytest.raises(UserError, match="0 frames"):
        svd_denoiser(model.unet, model.schedule, image, 0)
