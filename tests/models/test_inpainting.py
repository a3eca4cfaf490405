"""U-Nets of inpainting: the mask and the masked latent as further inputs, diffusers' latents, and edits with them."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

sys.path.append(str(Path(__file__).parents[1] / "checkpoints"))
from diffusers_models import INPAINTING, KL, latent_diffusion, save_pipeline
from text_models import text_model, write_tokenizer
from tiny import demo_batch, tiny_model

from ldm.checkpoints.sidecars import read_sidecars
from ldm.checkpoints.trained_with import spacing_of
from ldm.editing.options import EditOptions, EditRequest
from ldm.editing.pipeline import edit
from ldm.editing.plan import make_plan
from ldm.models.diffusion.prediction import with_inputs
from ldm.models.diffusion.samplers import get_sampler
from ldm.models.diffusion.spacing import Spacing
from ldm.models.loading import load_model
from ldm.modules.conditioning import Conditioning
from ldm.util.errors import UserError

SCALE = 0.18215


@pytest.fixture(scope="module")
def networks():
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    return diffusers.UNet2DConditionModel(**INPAINTING).eval(), diffusers.AutoencoderKL(**KL).eval()


@pytest.fixture(scope="module")
def model(networks, tmp_path_factory):
    model = latent_diffusion(save_pipeline(tmp_path_factory.mktemp("inpainting"), networks), {"in_channels": 9})
    model.unet.context_local_mlp = nn.Identity()
    return model


def painted_box() -> torch.Tensor:
    """A mask in pixels, 1 in a box that is a whole number of latent cells."""
    mask = torch.zeros(1, 1, 16, 16)
    mask[..., 4:10, 2:8] = 1
    return mask


@torch.no_grad()
def test_mask_and_masked_latent_are_diffusers_and_give_its_latents(networks, model):
    """As StableDiffusionInpaintPipeline makes them: image * (mask < 0.5), its latent, and the mask at the latent's size."""
    import diffusers

    unet, vae = networks
    generator = torch.Generator().manual_seed(1)
    image, tokens = torch.rand(1, 3, 16, 16, generator=generator) * 2 - 1, torch.randn(1, 5, 24, generator=generator)
    mask = painted_box()
    small = torch.nn.functional.interpolate(mask, size=(8, 8))
    masked = vae.encode(image * (mask < 0.5)).latent_dist.mode() * SCALE
    inputs = model.inpainting_inputs(image, small)
    torch.testing.assert_close(inputs, torch.cat([small, masked], dim=1), rtol=0, atol=1e-5)

    scheduler = diffusers.DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False
    )
    scheduler.register_to_config(steps_offset=1)
    scheduler.set_timesteps(10)
    noise = torch.randn(1, 4, 8, 8, generator=generator)
    theirs = noise
    for t in scheduler.timesteps:
        prediction = unet(torch.cat([theirs, small, masked], dim=1), t, tokens).sample
        theirs = scheduler.step(prediction, t, theirs).prev_sample

    def sampled(inputs):
        from ldm.models.diffusion import ddim

        denoiser = model.denoiser(Conditioning.from_tokens(tokens), inputs=inputs)
        return ddim.sample(denoiser, model.schedule.ddim(10), noise)

    assert (sampled(inputs) - theirs).abs().max() <= 1e-4
    for wrong in (inputs.roll(1, dims=1), torch.cat([1 - small, masked], dim=1), None):  # negative controls
        assert (sampled(wrong) - theirs).abs().max() > 1e-2


@torch.no_grad()
@pytest.mark.parametrize("sampler", ["ddim", "dpm++"])
def test_the_whole_inpainting_pipeline_of_diffusers_gives_the_same_latents(sampler, tmp_path):
    """With its masked latent as the mode, which this project takes where diffusers draws one at random."""
    diffusers, transformers = pytest.importorskip("diffusers"), pytest.importorskip("transformers")
    torch.manual_seed(0)
    unet = diffusers.UNet2DConditionModel(**INPAINTING | {"cross_attention_dim": 32}).eval()
    vae, tower = diffusers.AutoencoderKL(**KL).eval(), text_model(hidden_act="quick_gelu")
    pad = {"pad_token": "<|endoftext|>", "model_max_length": 77}
    parts = {"tokenizer": transformers.CLIPTokenizer.from_pretrained(write_tokenizer(tmp_path), **pad)}
    betas = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    if sampler == "ddim":
        scheduler = diffusers.DDIMScheduler(**betas, clip_sample=False, set_alpha_to_one=False, steps_offset=1)
    else:
        scheduler = diffusers.DPMSolverMultistepScheduler(**betas)
    parts |= {"unet": unet, "vae": vae, "text_encoder": tower, "scheduler": scheduler}
    none = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    pipeline = diffusers.StableDiffusionInpaintPipeline(**parts, **none)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.save_pretrained(tmp_path / "pipeline")
    model = load_model(tmp_path / "pipeline")
    spacing = Spacing(**spacing_of(read_sidecars(tmp_path / "pipeline").scheduler))

    generator = torch.Generator().manual_seed(1)
    image, noise = torch.rand(1, 3, 16, 16, generator=generator) * 2 - 1, torch.randn(1, 4, 8, 8, generator=generator)
    mask = painted_box()
    masked = vae.encode(image * (mask < 0.5)).latent_dist.mode() * SCALE
    arguments = {"height": 16, "width": 16, "strength": 1.0, "num_inference_steps": 4, "guidance_scale": 5.0}
    arguments |= {"mask_image": mask, "masked_image_latents": masked, "latents": noise, "output_type": "latent"}
    theirs = pipeline("a cat", image, negative_prompt="blurry", **arguments).images

    def sampled(inputs):
        cond = Conditioning.from_text(model.encode_texts(["a cat"]))
        denoiser = model.denoiser(cond, 5.0, 5.0, inputs=inputs, negative="blurry")
        method = get_sampler(sampler)
        schedule = method.make_schedule(replace(model.schedule, spacing=spacing), 4)
        return method.sample(denoiser, schedule, noise, 0.0, None)

    inputs = model.inpainting_inputs(image, torch.nn.functional.interpolate(mask, size=(8, 8)))
    assert (sampled(inputs) - theirs).abs().max() <= 1e-4 * theirs.abs().max()
    assert (sampled(None) - theirs).abs().max() > 1e-2 * theirs.abs().max()  # negative control


@torch.no_grad()
def test_without_a_photograph_the_whole_image_is_painted(networks, model):
    inputs = model.all_painted()
    blank = networks[1].encode(torch.zeros(1, 3, 16, 16)).latent_dist.mode() * SCALE
    assert inputs.shape == (1, 5, 8, 8) and (inputs[:, 0] == 1).all()
    torch.testing.assert_close(inputs[:, 1:], blank, rtol=0, atol=1e-5)
    tokens = torch.zeros(2, 5, 24)
    x, t = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([3, 700])
    whole = model.denoiser(Conditioning.from_tokens(tokens))(x, t)
    assert torch.equal(whole, model.denoiser(Conditioning.from_tokens(tokens), inputs=inputs)(x, t))


def test_inputs_repeat_for_rows_of_source_and_target():
    seen = []
    predict = with_inputs(lambda x, t, **options: seen.append((x, options)) or x[:, :4], torch.ones(1, 5, 8, 8))
    predict(torch.zeros(2, 4, 8, 8), torch.tensor([1, 1]), control=None)
    assert seen[0][0].shape == (2, 9, 8, 8) and seen[0][0][:, 4:].min() == 1 and seen[0][1] == {"control": None}


# Edits


@pytest.fixture(scope="module")
def painter():
    """A tiny model with a U-Net of inpainting, whose calls are recorded."""
    from tiny import MODEL

    torch.manual_seed(0)
    unet = {**MODEL["params"]["unet_config"]["params"], "in_channels": 9}
    model = tiny_model(unet_config={**MODEL["params"]["unet_config"], "params": unet}).eval()
    model.calls = []
    forward = model.unet.forward

    def recorded(x, *args, **kwargs):
        model.calls.append(x.detach().clone())
        return forward(x, *args, **kwargs)

    model.unet.forward = recorded
    return model


def test_an_edit_gives_the_u_net_its_region_and_the_photograph_without_it(painter, scene):
    photograph, source, graph = scene
    painter.calls.clear()
    result = edit(painter, EditRequest(photograph, graph, source), EditOptions(steps=3))
    assert result.settings["method"] == "noise" and len(painter.calls) >= 3
    box = graph.boxes[0]
    mask = painter.calls[-1][0, 4]
    assert set(mask.unique().tolist()) <= {0.0, 1.0}
    assert mask[int((box[1] + box[3]) / 2 * 8), int((box[0] + box[2]) / 2 * 8)] == 1
    image = result.source.image
    pixels = torch.nn.functional.interpolate(mask[None, None], image.shape[-2:])
    expected = painter.encode(image * (pixels < 0.5))
    torch.testing.assert_close(painter.calls[-1][:1, 5:], expected)
    assert all(torch.equal(call[:, 4:], painter.calls[-1][:, 4:]) for call in painter.calls[-3:])


@pytest.mark.parametrize("method", ["ddim", "fixed-point", "bdia", "direct", "null", "ddpm"])
def test_other_methods_than_noise_are_refused_by_name(painter, scene, method):
    photograph, source, graph = scene
    with pytest.raises(UserError, match=f"method {method} .*inpainting U-Net.*use the method noise"):
        make_plan(EditRequest(photograph, graph, source), EditOptions(method=method), painter)


def test_noise_is_the_default_even_where_everything_may_change(painter, scene):
    photograph, _, graph = scene
    assert make_plan(EditRequest(photograph, graph), EditOptions(), painter).options.method == "noise"


def test_an_inpainting_u_net_is_trained_with_the_whole_image_painted(painter):
    painter.calls.clear()
    losses, _ = painter.losses(demo_batch(2), torch.Generator().manual_seed(0))
    assert losses.isfinite().all()
    (x,) = painter.calls
    assert x.shape == (2, 9, 8, 8) and (x[:, 4] == 1).all()
