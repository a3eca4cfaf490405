"""The table in docs/checkpoints.md says of every form of published weights what happens, and that is what happens.

Each row names a form and its result: "loads, error 1e-5" is the largest difference to the reference's output, relative to its
largest value; anything else is (a part of) the sentence of the error. The functions below make each form and load it.
"""

import copy
import json
import re
from functools import partial
from pathlib import Path

import lora_files
import pytest
import torch
from clip_models import TOWER, embedding_error, save_clip
from diffusers_models import (
    INPAINTING,
    KL,
    SD2,
    SDXL,
    UNET,
    build_kl,
    build_unet,
    change_json,
    config_of,
    kl_ddconfig,
    latent_diffusion,
    save_pipeline,
    unet_and_kl,
)
from lora_files import outputs, pair, trained_unet, with_diffusers_lora
from safetensors.torch import load_file, save_file
from text_forms import TEXT_FORMS
from tiny import DATA
from toy import random_state

from ldm.checkpoints.diffusers_layout import to_ldm_unet
from ldm.checkpoints.loading import load_part
from ldm.checkpoints.reading import CheckpointError, read_state_dict
from ldm.checkpoints.saving import save_safetensors
from ldm.models.loading import load_model
from ldm.modules.cgip.cgip import CGIPModel
from ldm.modules.conditioning import Conditioning, TextTokens
from ldm.modules.diffusionmodules.unet_blocks import timestep_embedding
from ldm.modules.global_film import CLIPGlobalEncoder
from ldm.modules.lora_files import add_lora, diffusers_lora, kohya_lora

DOCS = Path(__file__).parents[2] / "docs" / "checkpoints.md"
WEIGHTS = "diffusion_pytorch_model"
FORMS = dict(TEXT_FORMS)
KL_PARAMS = {"embed_dim": 4, "ddconfig": kl_ddconfig(KL), "init": "random"}
RANDOM_FIRST_STAGE = {"first_stage_config": {"target": "ldm.models.autoencoder.AutoencoderKL", "params": KL_PARAMS}}


def form(name: str):
    """Registers a function(folder, networks) under the name that the table has; it returns the error to the reference."""

    def register(function):
        assert name not in FORMS
        FORMS[name] = function
        return function

    return register


def table() -> dict[str, str]:
    """The rows between the two markers in the documentation: form -> result, both without markup."""
    text = DOCS.read_text(encoding="utf-8").split("<!-- forms -->")[1]
    rows = (line.strip().strip("|").split(" | ") for line in text.splitlines() if line.startswith("| "))
    return {re.sub(r"[`]", "", name).strip(): result.replace("`", "").strip() for name, result in list(rows)[2:]}


@pytest.fixture(scope="module")
def networks():
    """The tiny U-Net and autoencoder of the installed diffusers whose weights are published in every form."""
    return unet_and_kl()


def relative_error(ours, theirs) -> float:
    return float((ours - theirs).abs().max() / theirs.abs().max())


def unet_error(source, networks) -> float:
    """Loads a U-Net from a file, folder or state dict, and compares it with diffusers'."""
    unet = build_unet(UNET)
    load_part(unet, source, "unet")
    torch.manual_seed(1)
    x, t, tokens = torch.randn(2, 4, 8, 8), torch.tensor([3, 700]), torch.randn(2, 5, 24)
    with torch.no_grad():
        return relative_error(unet(x, t, Conditioning.from_tokens(tokens)), networks[0](x, t, tokens).sample)


def ldm_state(networks, prefix="model.diffusion_model.") -> dict:
    return {prefix + key: value for key, value in to_ldm_unet(networks[0].state_dict()).items()}


def lit_ema(networks) -> dict:
    """The averages as LDM stores them, where the weights themselves are worth nothing."""
    names = {
        "model_ema.diffusion_model" + key.replace(".", ""): value for key, value in ldm_state(networks, "").items()
    }
    return {**names, "model_ema.decay": torch.tensor(0.99), "model_ema.num_updates": torch.tensor(3)}


# U-Nets that load


@form("diffusers: a pipeline's folder")
def pipeline(folder, networks):
    return unet_error(save_pipeline(folder, networks), networks)


@form("diffusers: the folder of the U-Net, or its file (.safetensors, .bin)")
def unet_folder(folder, networks):
    networks[0].save_pretrained(folder / "a")
    networks[0].save_pretrained(folder / "b", safe_serialization=False)
    places = (folder / "a", folder / "a" / f"{WEIGHTS}.safetensors", folder / "b", folder / "b" / f"{WEIGHTS}.bin")
    return max(unet_error(place, networks) for place in places)


@form("diffusers: shards with an index (.safetensors, .bin), or one of the shards")
def shards(folder, networks):
    networks[0].save_pretrained(folder / "a", max_shard_size="300KB")
    index = folder / "a" / f"{WEIGHTS}.safetensors.index.json"
    names = set(json.loads(index.read_text())["weight_map"].values())
    assert len(names) > 1
    (folder / "b").mkdir()
    content = {}
    for number, name in enumerate(sorted(names)):
        file = f"{WEIGHTS}-{number + 1:05}-of-{len(names):05}.bin"
        torch.save(part := load_file(folder / "a" / name), folder / "b" / file)
        content |= dict.fromkeys(part, file)
    (folder / "b" / f"{WEIGHTS}.bin.index.json").write_text(json.dumps({"weight_map": content}))
    places = (folder / "a", index, folder / "a" / sorted(names)[0], folder / "b")
    return max(unet_error(place, networks) for place in places)


def save_variant(folder, networks, variant, dtype=torch.float32):
    weights = {key: value.to(dtype) for key, value in networks[0].state_dict().items()}
    (folder / variant).mkdir()
    save_file(weights, folder / variant / f"{WEIGHTS}.{variant}.safetensors")
    return unet_error(folder / variant, networks)


@form("diffusers: variants non_ema and ema")
def variants(folder, networks):
    return max(save_variant(folder, networks, variant) for variant in ("non_ema", "ema"))


@form("diffusers: variants fp16 and bf16, with their rounded weights")
def rounded_variants(folder, networks):
    return max(
        save_variant(folder, networks, "fp16", torch.float16), save_variant(folder, networks, "bf16", torch.bfloat16)
    )


@form("diffusers: a variant in shards")
def variant_in_shards(folder, networks):
    networks[0].save_pretrained(folder, variant="fp16", max_shard_size="300KB")
    assert len(list(folder.glob("*-of-*"))) > 1
    return unet_error(folder, networks)


@form("LDM: .ckpt, .pt or .safetensors of the whole model or of the U-Net")
def ldm_files(folder, networks):
    state = ldm_state(networks)
    torch.save({"state_dict": {**state, "first_stage_model.x": torch.zeros(1)}}, folder / "whole.ckpt")
    torch.save(ldm_state(networks, ""), folder / "unet.pt")
    save_file(state, folder / "whole.safetensors")
    return max(unet_error(path, networks) for path in folder.iterdir())


@form("LDM: averages only, or the state dict of LitEma")
def averages_only(folder, networks):
    bare = {key.removeprefix("model_ema."): value for key, value in lit_ema(networks).items()}
    return max(unet_error(lit_ema(networks), networks), unet_error(bare, networks))


@form("LDM: averages of half of the parameters")
def half_averages(folder, networks):
    averages = lit_ema(networks)
    state = ldm_state(networks)
    for key in list(state)[::2]:
        del averages["model_ema." + key.removeprefix("model.").replace(".", "")]
    averaged = {
        key: torch.zeros_like(value) if index % 2 else value for index, (key, value) in enumerate(state.items())
    }
    return unet_error({**averaged, **averages}, networks)


@form("weights under ema, model_state_dict, model and the like, beside an optimizer")
def nested(folder, networks):
    weights, wrong = ldm_state(networks, ""), random_state(build_unet(UNET))
    torch.save({"model": wrong, "ema": weights, "opt": {"state": {}}, "step": torch.tensor(3)}, folder / "a.pt")
    torch.save({"model_state_dict": weights, "optimizer": {}}, folder / "b.pt")
    torch.save({"module": {f"module.{key}": value for key, value in weights.items()}, "lr": 3}, folder / "c.pt")
    return max(unet_error(path, networks) for path in folder.iterdir())


@form("prefixes module., _orig_mod. and model. in any order")
def prefixes(folder, networks):
    orders = (
        "module.",
        "_orig_mod.",
        "module._orig_mod.",
        "_orig_mod.module.",
        "model.",
        "module.model.",
        "model.module.",
    )
    states = [{f"module.unet.{key}": value for key, value in networks[0].state_dict().items()}]
    states.append(
        {key.replace("diffusion_model", "_orig_moddiffusion_model"): v for key, v in lit_ema(networks).items()}
    )
    for inner in ("", "model.diffusion_model.", "model.diffusion_model._orig_mod.", "model.module.diffusion_model."):
        states += [ldm_state(networks, outer + inner) for outer in orders]
    expected, unet = ldm_state(networks, ""), build_unet(UNET)
    for state in states:
        with torch.no_grad():
            next(unet.parameters()).zero_()
        assert len(load_part(unet, state, "unet").loaded) == len(expected)
        assert all(torch.equal(value, expected[key]) for key, value in unet.state_dict().items())
    return unet_error(states[-1], networks)


@form("as --ckpt: a folder of diffusers, with --config")
def folder_as_checkpoint(folder, networks):
    save_pipeline(folder / "pipeline", networks)
    (folder / "config.yaml").write_text(json.dumps({"model": config_of("nowhere"), "data": DATA}))
    model = load_model(folder / "pipeline", folder / "config.yaml")
    with torch.no_grad():
        image = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
        theirs = networks[1].encode(image).latent_dist.mode() * networks[1].config.scaling_factor
        return relative_error(model.encode(image), theirs)


# What lies beside the weights


def adopted(folder, networks, expected, unet=None, **scheduler) -> float:
    """Loads a folder with a config that leaves the schedule open, and compares alpha-bar with diffusers' scheduler."""
    import diffusers

    model = latent_diffusion(save_pipeline(folder, networks, **scheduler), unet)
    theirs = getattr(diffusers, expected).from_pretrained(folder / "scheduler")
    return relative_error(model.schedule.alphas_cumprod.float(), theirs.alphas_cumprod)


@form("scheduler_config.json: betas that the config leaves open")
def other_betas(folder, networks):
    ways = (
        {"beta_start": 0.0001, "beta_end": 0.02, "beta_schedule": "linear"},
        {"num_train_timesteps": 500},
        {"beta_schedule": "squaredcos_cap_v2"},
        {"trained_betas": [0.1, 0.2, 0.3]},
    )
    return max(adopted(folder / str(i), networks, "DDIMScheduler", **changes) for i, changes in enumerate(ways))


@form("scheduler_config.json: a scheduler that is not available here (said, and what stands in)")
def other_scheduler(folder, networks):
    return adopted(folder, networks, "PNDMScheduler", _class_name="PNDMScheduler")


@form("scheduler_config.json: betas other than the config states")
def refused_betas(folder, networks):
    latent_diffusion(save_pipeline(folder, networks), linear_start=0.0015)


def noise_of_v_error(model, networks) -> float:
    """The noise that a model predicts, against that of diffusers' output read as v."""
    torch.manual_seed(1)
    x, t, tokens = torch.randn(2, 4, 8, 8), torch.tensor([3, 700]), torch.randn(2, 5, 24)
    model.unet.context_local_mlp = torch.nn.Identity()
    a = model.schedule.alphas_cumprod[t].float().view(2, 1, 1, 1)
    with torch.no_grad():
        v = networks[0](x, t, tokens).sample
        return relative_error(model.denoiser(Conditioning.from_tokens(tokens))(x, t), a.sqrt() * v + (1 - a).sqrt() * x)


@form("scheduler_config.json: prediction_type v_prediction, which the config leaves open")
def v_prediction(folder, networks):
    model = latent_diffusion(save_pipeline(folder, networks, prediction_type="v_prediction"))
    return noise_of_v_error(model, networks)


@form("scheduler_config.json: rescale_betas_zero_snr with v_prediction")
def zero_snr(folder, networks):
    scheduler = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}
    return adopted(folder, networks, "DDIMScheduler", **scheduler)


@form("scheduler_config.json: rescale_betas_zero_snr with epsilon")
def zero_snr_of_noise(folder, networks):
    latent_diffusion(save_pipeline(folder, networks, rescale_betas_zero_snr=True))


@form("scheduler_config.json: prediction_type sample")
def sample_prediction(folder, networks):
    latent_diffusion(save_pipeline(folder, networks, prediction_type="sample"))


@form("scheduler_config.json: a prediction_type other than the config states")
def refused_prediction(folder, networks):
    latent_diffusion(save_pipeline(folder, networks, prediction_type="v_prediction"), parameterization="eps")


@form("scheduler_config.json: flow matching")
def flow_matching(folder, networks):
    latent_diffusion(save_pipeline(folder, networks, _class_name="FlowMatchEulerDiscreteScheduler"))


@form("LDM file: its own betas, which the config leaves open")
def own_betas(folder, networks):
    betas = torch.linspace(0.001**0.5, 0.015**0.5, 1000) ** 2
    save_file({**ldm_state(networks), "betas": betas}, folder / "model.safetensors")
    model = latent_diffusion(folder / "model.safetensors", **RANDOM_FIRST_STAGE)
    return relative_error(model.schedule.betas.float(), betas)


@form("LDM file: betas other than the config states")
def refused_own_betas(folder, networks):
    save_file({**ldm_state(networks), "betas": torch.full((1000,), 0.01)}, folder / "model.safetensors")
    latent_diffusion(folder / "model.safetensors", linear_start=0.0015, **RANDOM_FIRST_STAGE)


def ends_in_noise(folder, networks, marks: dict):
    betas = torch.linspace(0.001, 0.02, 1000)
    betas[-1] = 1
    save_file({**ldm_state(networks), **marks, "betas": betas}, folder / "model.safetensors")
    model = latent_diffusion(folder / "model.safetensors", **RANDOM_FIRST_STAGE)
    return relative_error(model.schedule.alphas_cumprod.float(), (1 - betas).cumprod(0))


@form("LDM file: betas that end in pure noise, marked as v-prediction")
def own_zero_snr(folder, networks):
    return ends_in_noise(folder, networks, {"v_pred": torch.tensor([])})


@form("LDM file: betas that end in pure noise, with nothing that marks it")
def unmarked_zero_snr(folder, networks):
    ends_in_noise(folder, networks, {})


@form("LDM file: marked as v-prediction (key v_pred, or modelspec.prediction_type) or as zero-terminal SNR (key ztsnr)")
def own_v_prediction(folder, networks):
    save_file(ldm_state(networks), folder / "a.safetensors", {"modelspec.prediction_type": "v"})
    marks = {"v_pred": torch.tensor([]), "ztsnr": torch.tensor([])}
    save_file({**ldm_state(networks), **marks}, folder / "b.safetensors")
    models = [latent_diffusion(folder / f"{name}.safetensors", {"num_heads": 4}, **RANDOM_FIRST_STAGE) for name in "ab"]
    assert not models[0].schedule.ends_in_noise and models[1].schedule.ends_in_noise
    return max(noise_of_v_error(model, networks) for model in models)


@form("vae/config.json: a scaling_factor that the config leaves open")
def scaling_factor(folder, networks):
    save_pipeline(folder, networks)
    change_json(folder / "vae" / "config.json", scaling_factor=0.13025)
    return abs(float(latent_diffusion(folder).scale_factor) / 0.13025 - 1)


@form("vae/config.json: a scaling_factor other than the config states")
def refused_scaling_factor(folder, networks):
    latent_diffusion(save_pipeline(folder, networks), scale_factor=0.13025)


@form("vae/config.json: shift_factor")
def shift_factor(folder, networks):
    save_pipeline(folder, networks)
    change_json(folder / "vae" / "config.json", shift_factor=0.1)
    latent_diffusion(folder)


@form("unet/config.json: heads that the config leaves open")
def open_heads(folder, networks):
    model = latent_diffusion(save_pipeline(folder, networks))  # with 4 heads, where the default of the config is 2
    torch.manual_seed(1)
    x, t, tokens = torch.randn(2, 4, 8, 8), torch.tensor([3, 700]), torch.randn(2, 5, 24)
    model.unet.context_local_mlp = torch.nn.Identity()
    with torch.no_grad():
        return relative_error(model.unet(x, t, Conditioning.from_tokens(tokens)), networks[0](x, t, tokens).sample)


@form("unet/config.json: heads other than the config states")
def refused_heads(folder, networks):
    latent_diffusion(save_pipeline(folder, networks), unet={"num_heads": 2})


@form("unet/config.json: another activation")
def other_activation(folder, networks):
    save_pipeline(folder, networks)
    change_json(folder / "unet" / "config.json", act_fn="mish")
    latent_diffusion(folder)


@form("unet/config.json: other channels")
def other_channels(folder, networks):
    save_pipeline(folder, networks)
    change_json(folder / "unet" / "config.json", block_out_channels=[64, 64])
    latent_diffusion(folder)


# Models of other kinds


def refused_shape(networks, key: str, shape: tuple) -> None:
    state = to_ldm_unet(networks[0].state_dict())
    unet_error({**state, key: torch.zeros(shape)}, networks)


def backbone_error(params: dict) -> float:
    """A U-Net of another architecture, from LDM's layout, against diffusers'."""
    import diffusers

    torch.manual_seed(0)
    theirs, unet = diffusers.UNet2DConditionModel(**params).eval(), build_unet(params)
    load_part(unet, {f"model.diffusion_model.{k}": v for k, v in to_ldm_unet(theirs.state_dict()).items()}, "unet")
    x, t, tokens = torch.randn(2, params["in_channels"], 8, 8), torch.tensor([3, 700]), torch.randn(2, 5, 24)
    pooled, sizes = torch.randn(2, 16), torch.full((2, 6), 64.0)
    text = TextTokens.from_tokens(tokens, torch.cat([pooled, timestep_embedding(sizes.flatten(), 8).view(2, -1)], 1))
    cond = Conditioning.from_text(text) if unet.vector_dim else Conditioning.from_tokens(tokens)
    with torch.no_grad():
        output = theirs(x, t, tokens, added_cond_kwargs={"text_embeds": pooled, "time_ids": sizes}).sample
        return relative_error(unet(x, t, cond), output)


for row, architecture in (
    ("Stable Diffusion 2, with a config of its architecture", SD2),
    ("Stable Diffusion XL, with a config of its architecture", SDXL),
    ("inpainting models (9 input channels), with a config of 9 input channels", INPAINTING),
):
    form(row)(lambda folder, networks, params=architecture: backbone_error(params))


@form("Stable Diffusion 2, with another config")
def sd2(folder, networks):
    refused_shape(networks, "input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight", (32, 1024))


@form("Stable Diffusion XL, with another config")
def sdxl(folder, networks):
    refused_shape(networks, "input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight", (32, 2048))


@form("inpainting models, with another config")
def inpainting(folder, networks):
    refused_shape(networks, "input_blocks.0.0.weight", (32, 9, 3, 3))


@form("the refiner of Stable Diffusion XL")
def refiner(folder, networks):
    refused_shape(networks, "input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight", (32, 1280))


@form("InstructPix2Pix (8 input channels)")
def pix2pix(folder, networks):
    unet = {**networks[0].state_dict(), "conv_in.weight": torch.zeros(32, 8, 3, 3)}
    (folder / "unet").mkdir()
    save_file(unet, folder / "unet" / f"{WEIGHTS}.safetensors")
    latent_diffusion(folder)


@form("ControlNet")
def controlnet(folder, networks):
    unet_error({"control_model.input_blocks.0.0.weight": torch.zeros(32, 4, 3, 3)}, networks)


@form("a LoRA as ckpt_path")
def lora_as_checkpoint(folder, networks):
    unet_error({"lora_unet_mid_block_attentions_0_proj_in.lora_down.weight": torch.zeros(4, 32)}, networks)


@form("the 16-channel autoencoder of Stable Diffusion 3 and FLUX")
def sixteen_channels(folder, networks):
    state = {**networks[1].state_dict(), "decoder.conv_in.weight": torch.zeros(64, 16, 3, 3)}
    load_part(build_kl(KL), state, "first_stage")


@form("SGDiff: a vocabulary of 10 predicates")
def ten_predicates(folder, networks):
    build = lambda predicates, **params: CGIPModel(184, predicates, width=8, layers=1, embed_dim=8, **params)  # noqa: E731
    state = {f"cond_stage_model.{key}": value for key, value in build(10).state_dict().items()}
    torch.save({"state_dict": state}, folder / "sgdiff.ckpt")
    build(7, ckpt_path=folder / "sgdiff.ckpt")


@form("sg2im: checkpoints of its image generator")
def sg2im(folder, networks):
    vocab = {"pred_idx_to_name": ["__in_image__", *"abcdefghi"], "object_idx_to_name": ["__image__", "sky"]}
    content = {"model_state": {"a": torch.zeros(1)}, "model_kwargs": {"vocab": vocab}, "args": {}}
    torch.save(content, folder / "coco64.pt")
    read_state_dict(folder / "coco64.pt")


# CLIP


@form("CLIP of Hugging Face: folder or file (.safetensors, .bin), quick_gelu or gelu by its config.json")
def clip(folder, networks):
    errors = []
    for activation in ("quick_gelu", "gelu"):
        model = save_clip(folder / activation, "CLIPModel", hidden_act=activation)
        torch.save(load_file(folder / activation / "model.safetensors"), folder / activation / "pytorch_model.bin")
        for name in ("", "model.safetensors", "pytorch_model.bin"):
            encoder = CLIPGlobalEncoder(TOWER, pretrained=str(folder / activation / name))
            errors.append(embedding_error(encoder, model))
    return max(errors)


@form("CLIP of Hugging Face: another activation than model_name states")
def clip_activation(folder, networks):
    save_clip(folder, hidden_act="gelu")
    CLIPGlobalEncoder({**TOWER, "quick_gelu": True}, pretrained=str(folder))


@form("CLIP of Hugging Face: without visual_projection")
def clip_without_projection(folder, networks):
    save_clip(folder, "CLIPVisionModel")
    CLIPGlobalEncoder(TOWER, pretrained=str(folder))


# LoRA


def lora_error(folder, networks, name: str) -> float:
    """Adds a LoRA to this project's U-Net and to diffusers' one, and compares their outputs."""
    pytest.importorskip("peft")
    unet = build_unet(UNET)
    load_part(unet, networks[0].state_dict(), "unet")
    save_file(lora_files.FORMS[name](lora_files.random_lora(networks[0])), folder / "lora.safetensors")
    add_lora(unet, folder / "lora.safetensors")
    return relative_error(*outputs(unet, with_diffusers_lora(networks[0], folder / "lora.safetensors")))


for row, layout in (
    ("LoRA of kohya (lora_unet_*), with alpha", "kohya with alpha"),
    ("LoRA of kohya (lora_unet_*), without alpha", "kohya"),
    ("LoRA of diffusers", "diffusers"),
    ("LoRA of diffusers before peft (lora.down, lora.up)", "diffusers before peft"),
):
    form(row)(partial(lora_error, name=layout))


@form("LoRA of peft (adapter_model.safetensors with adapter_config.json)")
def peft_lora(folder, networks):
    peft = pytest.importorskip("peft")
    unet = build_unet(UNET)
    load_part(unet, networks[0].state_dict(), "unet")
    config = peft.LoraConfig(r=2, lora_alpha=6, target_modules=["to_q", "to_v"], init_lora_weights=False)
    adapted = peft.get_peft_model(copy.deepcopy(networks[0]), config).eval()
    adapted.save_pretrained(folder)
    add_lora(unet, folder)
    return relative_error(*outputs(unet, adapted))


def refused_lora(folder, networks, state: dict) -> None:
    save_file(state, folder / "lora.safetensors")
    add_lora(build_unet(UNET), folder / "lora.safetensors")


@form("LoRA of layers that this U-Net has not")
def foreign_lora(folder, networks):
    refused_lora(folder, networks, pair("lora_unet_single_blocks_0_linear1", (2, 3), (3, 2)))


@form("LoRA of a text encoder only")
def text_lora(folder, networks):
    refused_lora(folder, networks, pair("lora_te_text_model_encoder_layers_0_mlp_fc1", (2, 3), (3, 2)))


@form("LoRA for Stable Diffusion XL or 2")
def sdxl_lora(folder, networks):
    layer = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
    refused_lora(folder, networks, pair(layer, (2, 2048), (32, 2)))


@form("LoHa, LoKr, DoRA and the like")
def loha(folder, networks):
    refused_lora(folder, networks, {"lora_unet_mid_block_attentions_0_proj_in.hada_w1_a": torch.zeros(2, 2)})


def exported_lora_error(folder, networks, write) -> float:
    pytest.importorskip("peft")
    unet = trained_unet(networks[0])
    save_safetensors(folder / "pytorch_lora_weights.safetensors", write(unet), {"format": "pt"})
    adapted = with_diffusers_lora(networks[0], folder / "pytorch_lora_weights.safetensors")
    return relative_error(*outputs(unet, adapted))


form("export --peft DIR: pytorch_lora_weights.safetensors, as diffusers loads it")(
    partial(exported_lora_error, write=diffusers_lora)
)
form("export --kohya FILE, as diffusers loads it")(partial(exported_lora_error, write=kohya_lora))


# Damaged folders


@form("an index whose shard is missing")
def missing_shard(folder, networks):
    networks[0].save_pretrained(folder, max_shard_size="300KB")
    sorted(folder.glob("*-00001-of-*"))[0].unlink()
    unet_error(folder, networks)


@form("a shard without its index")
def missing_index(folder, networks):
    networks[0].save_pretrained(folder, max_shard_size="300KB")
    (folder / f"{WEIGHTS}.safetensors.index.json").unlink()
    unet_error(sorted(folder.glob("*-00001-of-*"))[0], networks)


@form("a folder without weights in diffusers' layout")
def other_folder(folder, networks):
    (folder / "v1-5-pruned.ckpt").touch()
    unet_error(folder, networks)


def test_the_table_has_a_row_for_every_form_and_no_other():
    assert sorted(table()) == sorted(FORMS)


@pytest.mark.parametrize("name", FORMS)
def test_a_form_gives_the_result_that_the_table_states(name, tmp_path, networks):
    result = table()[name]
    if limit := re.fullmatch(r"loads, error (\S+)", result):
        assert FORMS[name](tmp_path, networks) <= float(limit[1])
        return
    pattern = re.escape(result.strip('"')).replace(r"\.\.\.", ".*").replace("…", ".*")
    with pytest.raises(CheckpointError, match=pattern) as caught:
        FORMS[name](tmp_path, networks)
    assert "\n" not in str(caught.value)
