"""Stable Diffusion without a config: the architecture from keys and shapes, what decides the rest, and an edit of a photograph."""

import json

import pytest
import torch
from diffusers_models import BACKBONES, KL, SD2, SDXL, UNET, change_json, save_pipeline
from paths import ROOT
from safetensors.torch import save_file
from text_models import ldm_clip_keys, open_clip_keys, text_model

from ldm.checkpoints import architecture
from ldm.checkpoints.architecture import find_architecture, kind_of, unet_params
from ldm.checkpoints.diffusers_layout import to_ldm_unet, to_ldm_vae
from ldm.checkpoints.errors import CheckpointError
from ldm.checkpoints.kinds import CONTEXTS
from ldm.graph.batch import encode
from ldm.graph.graph_files import write_graphs
from ldm.graph.scene_graph import SceneGraph
from ldm.models.diffusion import published
from ldm.models.loading import load_model
from ldm.modules.diffusionmodules.openaimodel import UNetModel
from ldm.util.config import instantiate_from_config, plain, read_config
from ldm.util.errors import UserError

diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")
TOWER = {"hidden_size": 24, "intermediate_size": 96}
FOX, CAT = (
    SceneGraph((name, "tree"), ((0.1, 0.4, 0.4, 0.9), (0.5, 0.0, 1.0, 0.9)), ((), ()), ((0, "near", 1),))
    for name in ("fox", "very photorealistic cat")
)


def networks(params):
    torch.manual_seed(0)
    return diffusers.UNet2DConditionModel(**params).eval(), diffusers.AutoencoderKL(**KL).eval()


@pytest.fixture(scope="module")
def parts():
    """U-Net, first stage and text tower of a tiny Stable Diffusion 1."""
    return *networks(UNET), text_model(**TOWER)


@pytest.fixture(scope="module")
def folder(parts, tmp_path_factory):
    folder = save_pipeline(tmp_path_factory.mktemp("sd1"), parts[:2])
    parts[2].save_pretrained(folder / "text_encoder")
    return folder


def sd2_folder(path, **scheduler):
    folder = save_pipeline(path, networks(SD2), **scheduler)
    text_model(hidden_act="gelu", **TOWER).save_pretrained(folder / "text_encoder")
    return folder


def sd2_file(path):
    """A file of Stability's, which states nothing beside the weights, and its text tower."""
    unet, vae = networks(SD2)
    tower = text_model(hidden_act="gelu", **TOWER)
    state = ldm_state((unet, vae, tower))
    state = {key: value for key, value in state.items() if not key.startswith("cond_stage")}
    state |= {key: value.clone() for key, value in open_clip_keys(tower, "cond_stage_model.model.").items()}
    save_file(state, path)
    return path, tower


def ldm_state(parts) -> dict:
    unet, vae, tower = parts
    state = {f"model.diffusion_model.{key}": value for key, value in to_ldm_unet(unet.state_dict()).items()}
    state |= {f"first_stage_model.{key}": value for key, value in to_ldm_vae(vae.state_dict()).items()}
    return {key: value.contiguous() for key, value in (state | ldm_clip_keys(tower)).items()}


# Architectures


@pytest.mark.parametrize("name", BACKBONES)
def test_the_keys_and_shapes_of_a_unet_tell_its_architecture(name):
    state = to_ldm_unet(networks(BACKBONES[name])[0].state_dict())
    params = unet_params(state)
    ours = UNetModel(**params | {"defaults": {"num_heads": 2}})
    assert {key: value.shape for key, value in ours.state_dict().items()} == {k: v.shape for k, v in state.items()}
    expected = {"SD 1": "1", "SD 2": "2", "SDXL": "XL", "inpainting": "1"}[name]
    assert kind_of(params)[0] == f"Stable Diffusion {expected}"


@pytest.mark.parametrize("name, kind", [("sd1", "1"), ("sd2", "2"), ("sdxl", "XL")])
def test_the_published_unets_are_recognised_with_their_heads(name, kind):
    config = dict(plain(read_config(ROOT / "configs" / f"{name}_vg.yaml").model.params.unet_config))
    adapters = ("film_embedding_dim", "lora_rank", "context_local_dim", "graph_attention")
    config["params"] = {key: value for key, value in config["params"].items() if key not in adapters}
    with torch.device("meta"):
        published = instantiate_from_config(config)
        params = unet_params(published.state_dict())
        ours = UNetModel(**params)
    shapes = [{key: value.shape for key, value in unet.state_dict().items()} for unet in (ours, published)]
    assert shapes[0] == shapes[1] and ours.heads == published.heads
    assert kind_of(params)[0] == f"Stable Diffusion {kind}"


def test_a_folder_and_a_file_of_ldm_give_the_same_model(folder, parts, tmp_path):
    save_file(ldm_state(parts), tmp_path / "v1-5.safetensors")
    models = load_model(folder), load_model(tmp_path / "v1-5.safetensors")
    x, t = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([500])
    tokens = [model.condition(encode([FOX], model.vocab)).text.tokens for model in models]
    with torch.no_grad():
        ids = transformers_ids("fox near tree")
        expected = parts[2](ids).last_hidden_state
        eps = [model.denoiser(model.condition(encode([FOX], model.vocab)))(x, t) for model in models]
        theirs = parts[0](x, t, expected).sample
    torch.testing.assert_close(tokens[0], expected, rtol=0, atol=1e-4)
    torch.testing.assert_close(eps[0], theirs, rtol=0, atol=1e-4)
    assert models[0].latent_size == 8 and models[1].latent_size == 64
    assert models[0].schedule.betas[0] == pytest.approx(0.00085)
    # the file has no settings: its heads are those of Stable Diffusion 1, and with them the output another
    assert models[1].unet.heads == {0: 8, 1: 8} and not torch.allclose(eps[1], theirs, atol=1e-4)


def transformers_ids(text):
    from ldm.graph.text_tokens import END, tokenize

    return tokenize(text).ids(END)


# What decides the prediction


def test_what_was_decided_and_by_what_is_recorded(folder):
    decided = load_model(folder).decided
    assert decided[0].startswith("Stable Diffusion 1: its U-Net has cross-attention to tokens of width 24")
    assert decided[1].startswith("latents of 8 x 8: ") and decided[1].endswith("config.json")
    assert decided[3].startswith("prediction eps: ") and decided[3].endswith("scheduler_config.json")
    assert decided[-1] == "reads graphs as text"


def test_a_scheduler_file_states_v_prediction_and_another_option_is_refused(tmp_path):
    folder = sd2_folder(tmp_path, prediction_type="v_prediction")
    model = load_model(folder)
    assert model.schedule.prediction == "v" and model.decided[0].startswith("Stable Diffusion 2")
    with pytest.raises(CheckpointError, match="trained for parameterization 'v'"):
        load_model(folder, prediction="eps")


def test_the_option_decides_where_nothing_is_stated(folder, parts, tmp_path):
    save_file(ldm_state(parts), tmp_path / "model.safetensors")
    model = load_model(tmp_path / "model.safetensors", prediction="v")
    assert model.schedule.prediction == "v" and "prediction v: --prediction" in model.decided
    plain_model = load_model(tmp_path / "model.safetensors")
    assert "prediction eps: that of Stable Diffusion 1, since nothing states another" in plain_model.decided


def test_an_sd2_that_nothing_decides_asks_for_the_option(tmp_path, monkeypatch):
    """The U-Net of the real widths is not built; those of this one are taken for them."""
    monkeypatch.setitem(CONTEXTS, 24, "Stable Diffusion 2")
    monkeypatch.setattr(architecture, "HEAD_WIDTH", 16)
    monkeypatch.setattr(published, "probe_prediction", lambda *args: (None, 0.7))
    path, _ = sd2_file(tmp_path / "v2.safetensors")
    with pytest.raises(CheckpointError, match=r"does not tell; pass --prediction eps \(its base model\) or v"):
        load_model(path)
    assert load_model(path, prediction="v").schedule.prediction == "v"


def test_a_mark_in_the_file_decides(parts, tmp_path):
    save_file(ldm_state(parts) | {"v_pred": torch.tensor([])}, tmp_path / "model.safetensors")
    model = load_model(tmp_path / "model.safetensors")
    assert f"prediction v: {tmp_path / 'model.safetensors'}" in model.decided


# Refusals


def test_a_whole_model_is_needed(parts, tmp_path):
    state = ldm_state(parts)
    save_file({k: v for k, v in state.items() if not k.startswith("first_stage")}, tmp_path / "half.safetensors")
    with pytest.raises(CheckpointError, match="holds no first stage"):
        load_model(tmp_path / "half.safetensors")
    save_file({k: v for k, v in state.items() if not k.startswith("cond_stage")}, tmp_path / "ldm.safetensors")
    assert find_architecture(tmp_path / "ldm.safetensors") is None
    with pytest.raises(CheckpointError, match="name their config too"):
        load_model(tmp_path / "ldm.safetensors")


def test_models_of_other_kinds_are_refused_by_name(tmp_path):
    save_file({"lora_unet_mid_block.lora_up.weight": torch.zeros(2, 2)}, tmp_path / "lora.safetensors")
    with pytest.raises(CheckpointError, match="this is a LoRA"):
        load_model(tmp_path / "lora.safetensors")
    torch.manual_seed(0)
    refiner = diffusers.UNet2DConditionModel(**UNET | {"cross_attention_dim": 1280})
    state = {f"model.diffusion_model.{key}": value for key, value in to_ldm_unet(refiner.state_dict()).items()}
    save_file({key: value.contiguous() for key, value in state.items()}, tmp_path / "refiner.safetensors")
    refiner.save_pretrained(tmp_path / "folder" / "unet")
    for path in (tmp_path / "refiner.safetensors", tmp_path / "folder"):
        with pytest.raises(CheckpointError, match="this is the refiner of Stable Diffusion XL, which is not supported"):
            load_model(path)


def test_the_option_prediction_is_for_models_without_a_config(checkpoint):
    with pytest.raises(UserError, match="--prediction v: only for a Stable Diffusion without config"):
        load_model(checkpoint, prediction="v")


# SDXL


def test_sdxl_is_built_with_both_text_towers(tmp_path):
    params = SDXL | {"cross_attention_dim": 48, "projection_class_embeddings_input_dim": 24 + 6 * 256}
    params |= {"addition_time_embed_dim": 256}
    folder = save_pipeline(tmp_path, networks(params))
    text_model(**TOWER).save_pretrained(folder / "text_encoder")
    text_model("CLIPTextModelWithProjection", hidden_act="gelu", **TOWER).save_pretrained(folder / "text_encoder_2")
    model = load_model(folder)
    cond = model.condition(encode([FOX], model.vocab))
    assert cond.text.tokens.shape == (1, 77, 48) and cond.text.vector.shape == (1, 24 + 6 * 256)
    assert model.decided[0].startswith("Stable Diffusion XL: its U-Net has a label embedding")
    assert not model.null().text.tokens.any() and model.first_stage_model.force_upcast
    with torch.no_grad():
        eps = model.denoiser(cond, 3.0, 3.0)(torch.randn(1, 4, 8, 8), torch.tensor([500]))
    assert eps.isfinite().all()


def test_a_file_of_sd2_has_one_layer_more_than_its_folder(tmp_path):
    path, tower = sd2_file(tmp_path / "v2.safetensors")
    found = find_architecture(path)
    assert found.text["arch"]["layers"] == tower.config.num_hidden_layers == 3
    assert find_architecture(sd2_folder(tmp_path / "folder")).text["arch"]["layers"] == 4


# The program


@pytest.fixture
def edit_photograph(load_script, tmp_path, monkeypatch, scene):
    monkeypatch.chdir(tmp_path)
    scene[0].save("photo.png")
    write_graphs("source.json", [FOX])
    write_graphs("edited.json", [CAT])
    words = ["--ref", "photo.png", "--source-sg", "source.json", "--sg", "edited.json", "--outdir", "out"]
    return lambda *options: load_script("ddim_invert_edit").main([*words, "--steps", "2", "--device", "cpu", *options])


def test_a_photograph_is_edited_without_config_and_training(edit_photograph, folder, tmp_path, capsys):
    assert edit_photograph("--ckpt", str(folder), "--steer", "0.3") == 0
    said = capsys.readouterr().out
    assert "goes by text; photograph: 'fox near tree'" in said and "very photorealistic cat near tree" in said
    record = json.loads((tmp_path / "out" / "record.json").read_text())
    assert record["decided"][0].startswith("Stable Diffusion 1") and record["settings"]["graph_scale"] == 7.5
    assert record["captions"] == ["fox near tree", "very photorealistic cat near tree"]


def test_an_inpainting_model_goes_by_the_method_noise_alone(edit_photograph, parts, tmp_path, capsys):
    torch.manual_seed(0)
    unet = diffusers.UNet2DConditionModel(**BACKBONES["inpainting"]).eval()
    folder = save_pipeline(tmp_path / "inpainting", (unet, parts[1]))
    parts[2].save_pretrained(folder / "text_encoder")
    assert edit_photograph("--ckpt", str(folder)) == 0
    assert edit_photograph("--ckpt", str(folder), "--method", "ddim") == 2
    (error,) = [line for line in capsys.readouterr().err.splitlines() if "method ddim" in line]
    assert "use the method noise" in error


def test_a_damaged_setting_is_one_sentence(edit_photograph, parts, tmp_path, capsys):
    folder = save_pipeline(tmp_path / "damaged", parts[:2])
    parts[2].save_pretrained(folder / "text_encoder")
    change_json(folder / "unet" / "config.json", act_fn="mish")
    assert edit_photograph("--ckpt", str(folder)) == 2
    assert "act_fn is 'mish'" in capsys.readouterr().err.strip().splitlines()[-1]
