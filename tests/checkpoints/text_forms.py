"""Forms of text encoders and tiny autoencoders for the table in docs/checkpoints.md; see test_forms.py."""

import shutil

import torch
from diffusers_models import save_pipeline
from safetensors.torch import save_file
from text_models import (
    PROMPTS,
    ldm_clip_keys,
    open_clip_keys,
    sd1_encoder,
    sd2_encoder,
    text_model,
    xl_encoder,
)

from ldm.graph.text_tokens import END, tokenize
from ldm.models.loading import load_model
from ldm.models.tiny_autoencoder import TinyAutoencoder
from ldm.modules.conditioning import Conditioning


def clip():
    return text_model(hidden_act="quick_gelu")


def open_clip():
    return text_model("CLIPTextModelWithProjection", seed=1, hidden_act="gelu")


def states(model, padding: int):
    ids = torch.cat([tokenize(text).ids(padding) for text in PROMPTS])
    return model(ids, output_hidden_states=True)


def error(ours, theirs) -> float:
    return float((ours - theirs).abs().max() / theirs.abs().max())


def sd1_error(source) -> float:
    return error(sd1_encoder(source).encode(PROMPTS), states(clip(), END).last_hidden_state)


def xl_error(source) -> float:
    text, second = xl_encoder(source)(PROMPTS), states(open_clip(), 0)
    tokens = torch.cat([states(clip(), END).hidden_states[-2], second.hidden_states[-2]], dim=-1)
    return max(error(text.tokens, tokens), error(text.vector[:, :24], second.text_embeds))


def of_ldm(folder, networks):
    model = open_clip()
    norm = getattr(model, "text_model", model).final_layer_norm
    save_file(ldm_clip_keys(clip()), folder / "v1.safetensors")
    save_file(open_clip_keys(model, "cond_stage_model.model."), folder / "v2.safetensors")
    second = error(sd2_encoder(folder / "v2.safetensors").encode(PROMPTS), norm(states(model, 0).hidden_states[-2]))
    return max(sd1_error(folder / "v1.safetensors"), second)


def of_sdxl(folder, networks):
    state = ldm_clip_keys(clip(), "conditioner.embedders.0.")
    save_file(state | open_clip_keys(open_clip(), "conditioner.embedders.1.model."), folder / "xl.safetensors")
    return xl_error(folder / "xl.safetensors")


def of_diffusers(folder, networks):
    clip().save_pretrained(folder / "text_encoder")
    open_clip().save_pretrained(folder / "text_encoder_2")
    torch.save(clip().state_dict(), folder / "pytorch_model.bin")
    places = (
        folder,
        folder / "text_encoder",
        folder / "text_encoder" / "model.safetensors",
        folder / "pytorch_model.bin",
    )
    return max(xl_error(folder), *map(sd1_error, places))


def other_activation(folder, networks):
    clip().save_pretrained(folder / "text_encoder")
    (folder / "tokenizer").mkdir()
    (folder / "tokenizer" / "special_tokens_map.json").write_text('{"pad_token": "<|endoftext|>"}')
    sd2_encoder(folder)


def without_text(folder, networks):
    save_file({"model.diffusion_model.out.2.bias": torch.zeros(4)}, folder / "unet.safetensors")
    sd1_encoder(folder / "unet.safetensors")


def tiny_networks():
    import diffusers

    torch.manual_seed(0)
    return diffusers.AutoencoderTiny().eval().requires_grad_(False)


def tiny_halves(model) -> dict[str, dict]:
    """The published files of both halves; the decoder's numbers count its clamp."""
    halves: dict[str, dict] = {"encoder": {}, "decoder": {}}
    for half, state in halves.items():
        for key, value in getattr(model, half).layers.state_dict().items():
            number, _, rest = key.partition(".")
            state[f"{int(number) + (half == 'decoder')}.{rest}"] = value
    return halves


def tiny(folder, networks):
    model = tiny_networks()
    halves = tiny_halves(model)
    model.save_pretrained(folder / "vae")
    for half, state in halves.items():
        torch.save(state, folder / f"taesd_{half}.pth")
    whole = {f"{half}.{key}": value for half, state in halves.items() for key, value in state.items()}
    save_file(whole, folder / "taesd.safetensors")
    z = torch.randn(1, 4, 3, 3)
    places = (folder, folder / "taesd_decoder.pth", folder / "taesd.safetensors")
    return max(error(TinyAutoencoder(ckpt_path=str(place)).decode(z), model.decode(z).sample) for place in places)


def tiny_half(folder, networks):
    torch.save(tiny_halves(tiny_networks())["encoder"], folder / "taesd_encoder.pth")
    TinyAutoencoder(ckpt_path=str(folder / "taesd_encoder.pth"))


def without_config(folder, networks):
    """A pipeline whose folder alone tells all: the U-Net's output for a text is diffusers'."""
    tower = text_model(hidden_act="quick_gelu", hidden_size=24, intermediate_size=96)
    save_pipeline(folder, networks)
    tower.save_pretrained(folder / "text_encoder")
    model, ids = load_model(folder), tokenize("a cat").ids(END)
    x, t = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1)), torch.tensor([500])
    with torch.no_grad():
        ours = model.unet(x, t, Conditioning.from_text(model.encode_texts(["a cat"])))
        return error(ours, networks[0](x, t, tower(ids).last_hidden_state).sample)


def half_without_config(folder, networks):
    save_pipeline(folder, networks)
    shutil.rmtree(folder / "vae")
    text_model(hidden_act="quick_gelu", hidden_size=24, intermediate_size=96).save_pretrained(folder / "text_encoder")
    load_model(folder)


TEXT_FORMS = {
    "as --ckpt, without --config: Stable Diffusion 1, 2 or XL, a file or folder of all parts": without_config,
    "as --ckpt, without --config: a U-Net and text encoder without first stage": half_without_config,
    "text encoder of LDM: cond_stage_model.* of Stable Diffusion 1 and 2": of_ldm,
    "text encoders of Stability's SDXL: conditioner.embedders.*": of_sdxl,
    "text encoders of diffusers: text_encoder/ and text_encoder_2/, folder or file (.safetensors, .bin)": of_diffusers,
    "text encoder: other settings beside the weights than the config states": other_activation,
    "text encoder: a file without one": without_text,
    "tiny autoencoders (TAESD): two files, one file, or diffusers' folder": tiny,
    "tiny autoencoders: one half without the other": tiny_half,
}
