"""Images of texts, sampled from noise by a model that was trained on text; each depends on its own text and seed alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from PIL import Image
from torch import Tensor

from ldm.models.diffusion.ddim import gaussian_noise
from ldm.models.diffusion.ddpm import LatentDiffusion
from ldm.models.diffusion.samplers import get_sampler
from ldm.models.preprocess import noise_generator
from ldm.modules import conditioning
from ldm.modules.conditioning import Conditioning
from ldm.modules.diffusionmodules.openaimodel import UNetModel
from ldm.modules.lora import merge_lora
from ldm.sampling.sample import worker_pool
from ldm.sampling.text_options import Prompt, TextOptions, words_of
from ldm.util.errors import UserError
from ldm.util.images import to_image

ROWS, LARGE = 4, 64 * 64  # images of a forward pass on a GPU; latents of more pixels than that are sampled one by one


def image_size(model: LatentDiffusion, options: TextOptions) -> tuple[int, int]:
    """Height and width of the images in pixels. Raises UserError for a size that the U-Net's levels do not divide."""
    factor = model.first_stage_model.downsampling
    step = factor * 2 ** (cast(UNetModel, model.unet).levels - 1)
    default = model.latent_size * factor
    sizes = {"height": options.height or default, "width": options.width or default}
    for name, size in sizes.items():
        if size % step:
            near = max(step, round(size / step) * step)
            raise UserError(f"{name} {size}: this model takes multiples of {step}; choose {near}")
    return sizes["height"], sizes["width"]


def refuse_without_text(model: LatentDiffusion) -> None:
    """Raises UserError for a model that reads no text."""
    if model.text_stage_model is None:
        raise UserError(
            "this model has no text encoder (text_stage_config): sample from graphs with --sg, or name a Stable Diffusion 1, 2 "
            "or XL as --ckpt"
        )


def sample_texts(
    model: LatentDiffusion, prompts: Sequence[Prompt], seeds: Sequence[int], options: TextOptions = TextOptions()
) -> list[Image.Image]:
    """Samples one image of each prompt.

    Args:
        prompts: the texts.
        seeds: of the initial noise of each image.
        options: shared by all.

    Raises:
        UserError: the model reads no text, has no tiny autoencoder to decode with, or does not take the size.
    """
    refuse_without_text(model)
    if options.quick_decode and model.preview_model is None:
        raise UserError(
            "--quick-decode: this model's config names no tiny autoencoder (preview_config); leave the flag out"
        )
    height, width = image_size(model, options)
    factor = model.first_stage_model.downsampling
    shape = (model.channels, height // factor, width // factor)
    rows = 1 if model.device.type == "cpu" or shape[1] * shape[2] > LARGE else ROWS
    chunks = [slice(start, start + rows) for start in range(0, len(prompts), rows)]
    with worker_pool(model.device) as pool:
        plain = model.with_unet(merge_lora(model.unet))  # merged on one thread too, since bits depend on it
        passes = [pool.submit(_sample_pass, plain, prompts[c], seeds[c], options, shape, rows) for c in chunks]
        return [image for future in passes for image in future.result()]


@torch.no_grad()
def sample_latents(
    model: LatentDiffusion,
    prompts: Sequence[Prompt],
    noise: Tensor,
    options: TextOptions = TextOptions(),
    generators: Sequence[torch.Generator] | None = None,
) -> Tensor:  # (B,C,h,w) -> (B,C,h,w)
    """Samples latents of B prompts from noise.

    Args:
        prompts: B of them.
        noise: the initial latents.
        options: sampler, guidance and how long prompts are read.
        generators: B sources of the noise that `eta` adds.
    """
    factor = model.first_stage_model.downsampling
    cond, null = condition_on_texts(model, prompts, options, (noise.shape[2] * factor, noise.shape[3] * factor))
    denoiser = model.denoiser(cond, options.scale, options.scale, null=null)
    sampler = get_sampler(options.sampler)
    schedule = sampler.make_schedule(model.schedule, options.steps)
    return sampler.sample(denoiser, schedule, noise, options.eta, generators)


def condition_on_texts(
    model: LatentDiffusion, prompts: Sequence[Prompt], options: TextOptions, size: tuple[int, int]
) -> tuple[Conditioning, Conditioning]:
    """The conditioning of B prompts, and that of their negative prompts; graph and style are the null ones in both."""
    texts, negatives = words_of(prompts, options)
    chunked = options.long_prompt == "chunk"
    blank = conditioning.cat(*[Conditioning.from_tokens(model.null_tokens, model.null_style)] * len(texts))
    encoded = model.encode_texts(texts, size=size, chunked=chunked)
    against = model.encode_texts(negatives, negative=True, size=size, chunked=chunked)
    return blank._replace(text=encoded), blank._replace(text=against)


def _sample_pass(model, prompts, seeds, options: TextOptions, shape: tuple[int, int, int], rows: int) -> list:
    """One forward pass of `rows` rows: the last prompt is repeated, its copies are discarded."""
    wanted, more = len(prompts), rows - len(prompts)
    generators = [noise_generator(seed) for seed in [*seeds, *seeds[-1:] * more]]
    noise = gaussian_noise((rows, *shape), generators).to(model.device)
    z = sample_latents(model, [*prompts, *prompts[-1:] * more], noise, options, generators)
    decode = model.preview if options.quick_decode else model.decode
    with torch.no_grad():
        return [to_image(decode(row)[0]) for row in z[:wanted].split(1)]
