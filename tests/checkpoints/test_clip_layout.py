"""CLIP in Hugging Face's layout gives transformers' embeddings, and its activation and heads are checked."""

import pytest
import torch
from clip_models import TOWER, embedding_error, save_clip
from diffusers_models import change_json
from safetensors.torch import load_file

from ldm.checkpoints.reading import CheckpointError
from ldm.modules.global_film import CLIPGlobalEncoder


@pytest.mark.parametrize("kind", ["CLIPVisionModelWithProjection", "CLIPModel"])
@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
def test_the_embedding_is_that_of_transformers_with_either_activation(tmp_path, kind, activation):
    model = save_clip(tmp_path, kind, hidden_act=activation)
    for place in (tmp_path, tmp_path / "model.safetensors"):
        for stated in ({}, {"quick_gelu": activation == "quick_gelu"}):
            encoder = CLIPGlobalEncoder({**TOWER, **stated}, pretrained=str(place))
            assert embedding_error(encoder, model) < 1e-5


def test_bin_files_shards_and_the_folder_of_a_pipeline_load(tmp_path):
    model = save_clip(tmp_path / "image_encoder")
    state = load_file(tmp_path / "image_encoder" / "model.safetensors")
    old = tmp_path / "old"
    old.mkdir()
    torch.save({**state, "vision_model.embeddings.position_ids": torch.arange(17)[None]}, old / "pytorch_model.bin")
    (old / "config.json").write_text((tmp_path / "image_encoder" / "config.json").read_text())
    model.save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    assert (tmp_path / "shards" / "model.safetensors.index.json").is_file()
    for place in (tmp_path, old, old / "pytorch_model.bin", tmp_path / "shards"):
        assert embedding_error(CLIPGlobalEncoder(TOWER, pretrained=str(place)), model) < 1e-5


def test_another_activation_than_the_config_states_is_refused_by_name(tmp_path):
    save_clip(tmp_path, hidden_act="gelu")
    with pytest.raises(CheckpointError, match="config.json: the activation of these weights is gelu, but quick_gelu"):
        CLIPGlobalEncoder({**TOWER, "quick_gelu": True}, pretrained=str(tmp_path))
    change_json(tmp_path / "config.json", hidden_act="gelu_new")
    with pytest.raises(CheckpointError, match="gelu_new"):
        CLIPGlobalEncoder(TOWER, pretrained=str(tmp_path))


def test_other_heads_than_the_config_states_are_refused_by_name(tmp_path):
    save_clip(tmp_path)
    with pytest.raises(CheckpointError, match="2 attention heads, but 1 by model_name"):
        CLIPGlobalEncoder({**TOWER, "head_width": 32}, pretrained=str(tmp_path))


def test_weights_without_settings_are_taken_with_a_warning(tmp_path, caplog):
    model = save_clip(tmp_path)
    (tmp_path / "config.json").unlink()
    assert embedding_error(CLIPGlobalEncoder({**TOWER, "quick_gelu": True}, pretrained=str(tmp_path)), model) < 1e-5
    assert any("no config.json" in record.getMessage() for record in caplog.records)


def test_settings_of_another_model_in_the_same_folder_are_no_settings(tmp_path):
    tower = CLIPGlobalEncoder(TOWER, init="random")
    torch.save({f"visual.{key}": value for key, value in tower.visual.state_dict().items()}, tmp_path / "clip.pt")
    (tmp_path / "config.json").write_text('{"_class_name": "UNet2DConditionModel", "act_fn": "silu"}')
    assert CLIPGlobalEncoder(TOWER, pretrained=str(tmp_path / "clip.pt")).embedding_dim == 16


def test_a_tower_without_projection_is_refused(tmp_path):
    save_clip(tmp_path, "CLIPVisionModel")
    with pytest.raises(CheckpointError, match="visual_projection"):
        CLIPGlobalEncoder(TOWER, pretrained=str(tmp_path))


def test_open_clips_own_settings_are_checked(tmp_path):
    tower = CLIPGlobalEncoder(TOWER, init="random")
    weights = {f"visual.{key}": value for key, value in tower.visual.state_dict().items()}
    torch.save(weights, tmp_path / "open_clip_pytorch_model.bin")
    (tmp_path / "open_clip_config.json").write_text('{"model_cfg": {"quick_gelu": true}}')
    assert CLIPGlobalEncoder(TOWER, pretrained=str(tmp_path)).embedding_dim == 16
    with pytest.raises(CheckpointError, match="open_clip_config.json.*quick_gelu"):
        CLIPGlobalEncoder({**TOWER, "quick_gelu": False}, pretrained=str(tmp_path))
