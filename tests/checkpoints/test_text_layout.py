"""Text towers load from every form of file that holds them; what does not fit, or is of another tower, is refused."""

import json

import pytest
import torch
from safetensors.torch import save_file
from text_models import (
    PROMPTS,
    ldm_clip_keys,
    open_clip_keys,
    sd1_encoder,
    sd2_encoder,
    text_model,
    xl_encoder,
    xl_second,
)

from ldm.checkpoints.errors import CheckpointError
from ldm.checkpoints.text_layout import tower_state


@pytest.fixture(scope="module")
def clip():
    return text_model(hidden_act="quick_gelu")


@pytest.fixture(scope="module")
def open_clip():
    return text_model("CLIPTextModelWithProjection", seed=1, hidden_act="gelu")


def unet_keys() -> dict:
    return {"model.diffusion_model.out.2.bias": torch.zeros(4), "betas": torch.zeros(3)}


def test_ldms_file_of_sd1_loads_from_safetensors_and_ckpt(tmp_path, clip):
    expected = sd1_encoder(clip.state_dict()).encode(PROMPTS)
    state = unet_keys() | ldm_clip_keys(clip)
    state["cond_stage_model.transformer.text_model.embeddings.position_ids"] = torch.arange(77)[None]
    save_file(state, tmp_path / "v1.safetensors")
    torch.save({"state_dict": state, "global_step": 1}, tmp_path / "v1.ckpt")
    for name in ("v1.safetensors", "v1.ckpt"):
        encoder = sd1_encoder(tmp_path / name)
        assert torch.equal(encoder.encode(PROMPTS), expected) and encoder.weights_from == str(tmp_path / name)


def test_ldms_file_of_sd2_loads(tmp_path, open_clip):
    expected = sd2_encoder(open_clip.state_dict()).encode(PROMPTS)
    save_file(unet_keys() | open_clip_keys(open_clip, "cond_stage_model.model."), tmp_path / "v2.safetensors")
    assert torch.equal(sd2_encoder(tmp_path / "v2.safetensors").encode(PROMPTS), expected)


def test_stabilitys_file_of_sdxl_loads_both_towers_and_transposes_no_projection(tmp_path, clip, open_clip):
    state = unet_keys() | ldm_clip_keys(clip, "conditioner.embedders.0.")
    state |= open_clip_keys(open_clip, "conditioner.embedders.1.model.")
    save_file(state, tmp_path / "xl.safetensors")
    encoder = xl_encoder(tmp_path / "xl.safetensors")
    expected = xl_encoder()
    expected.embedders[0].load_weights(clip.state_dict())
    expected.embedders[1].load_weights(open_clip.state_dict())
    ours, theirs = encoder(PROMPTS), expected(PROMPTS)
    assert torch.equal(ours.tokens, theirs.tokens) and torch.equal(ours.vector, theirs.vector)


def test_a_pipelines_folder_its_text_folder_and_its_files_load(tmp_path, clip, open_clip):
    clip.save_pretrained(tmp_path / "text_encoder")
    open_clip.save_pretrained(tmp_path / "text_encoder_2")
    old = tmp_path / "old"
    old.mkdir()
    torch.save(clip.state_dict(), old / "pytorch_model.bin")
    expected = sd1_encoder(clip.state_dict()).encode(PROMPTS)
    folder = tmp_path / "text_encoder"
    for place in (tmp_path, folder, folder / "model.safetensors", old, old / "pytorch_model.bin"):
        assert torch.equal(sd1_encoder(place).encode(PROMPTS), expected), place
    xl = xl_encoder(tmp_path)
    second = xl_second(open_clip.state_dict()).encode_with_pooled(PROMPTS)
    assert torch.equal(xl(PROMPTS).vector[:, :24], second[2])


def test_a_single_tower_of_open_clip_loads_with_and_without_its_image_tower(tmp_path, open_clip):
    expected = sd2_encoder(open_clip.state_dict()).encode(PROMPTS)
    for prefix in ("", "text."):  # open_clip's CLIP and its CustomTextCLIP
        state = open_clip_keys(open_clip, prefix) | {"visual.proj": torch.zeros(2, 2)}
        torch.save(state, tmp_path / "open_clip_pytorch_model.bin")
        assert torch.equal(sd2_encoder(tmp_path / "open_clip_pytorch_model.bin").encode(PROMPTS), expected)


def test_half_precision_weights_load(tmp_path, clip):
    state = {key: value.half() for key, value in ldm_clip_keys(clip).items()}
    save_file(state, tmp_path / "half.safetensors")
    ours, theirs = (
        sd1_encoder(source).encode(PROMPTS) for source in (tmp_path / "half.safetensors", clip.state_dict())
    )
    assert 0 < (ours - theirs).abs().max() / theirs.abs().max() < 2e-2 and ours.dtype == torch.float32


def test_a_file_without_text_encoder_is_refused_by_name(tmp_path):
    save_file(unet_keys(), tmp_path / "unet.safetensors")
    with pytest.raises(CheckpointError, match=r"unet.safetensors: holds no text encoder; name a Stable Diffusion"):
        sd1_encoder(tmp_path / "unet.safetensors")


def test_a_file_of_sd1_has_no_second_tower(tmp_path, clip):
    save_file(ldm_clip_keys(clip), tmp_path / "v1.safetensors")
    assert tower_state(ldm_clip_keys(clip), 1) == {}
    with pytest.raises(CheckpointError, match="holds no text encoder 2; name a Stable Diffusion XL"):
        xl_encoder(tmp_path / "v1.safetensors")


def test_missing_and_unexpected_keys_are_errors_that_name_them(clip):
    state = ldm_clip_keys(clip)
    key = "cond_stage_model.transformer.text_model.encoder.layers.1.mlp.fc1.bias"
    lacking = {name: value for name, value in state.items() if name != key}
    with pytest.raises(CheckpointError, match=r"1 missing: transformer.resblocks.1.mlp.c_fc.bias"):
        sd1_encoder(lacking)
    with pytest.raises(CheckpointError, match="1 unexpected: strange.weight"):
        sd1_encoder(state | {"cond_stage_model.transformer.text_model.strange.weight": torch.zeros(1)})


def test_settings_beside_the_weights_that_differ_are_refused_by_name(tmp_path, clip):
    folder = tmp_path / "text_encoder"
    clip.save_pretrained(folder)
    with pytest.raises(CheckpointError, match="the activation is quick_gelu, not gelu"):
        sd2_encoder(tmp_path, layer="last")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_attention_heads": 4}))
    with pytest.raises(CheckpointError, match="attention heads are 4, not 2"):
        sd1_encoder(tmp_path)
    (folder / "config.json").write_text(json.dumps(config))
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / "tokenizer" / "special_tokens_map.json").write_text('{"pad_token": "!"}')
    with pytest.raises(CheckpointError, match="the padding token is 0, not 49407"):
        sd1_encoder(tmp_path)
    (tmp_path / "tokenizer" / "special_tokens_map.json").write_text('{"pad_token": {"content": "<|endoftext|>"}}')
    assert sd1_encoder(tmp_path).weights_from == str(tmp_path)
