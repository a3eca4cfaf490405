"""Checkpoints hold the trainable parameters, are written atomically, and are refused by a model that they do not fit."""

import pytest
import safetensors.torch
import torch
from tiny import tiny_model
from toy import toy

from ldm.checkpoints.reading import CheckpointError, read_state_dict
from ldm.checkpoints.saving import save_safetensors, trainable_state_dict


def test_a_tensor_of_another_size_is_refused_by_name():
    checkpoint, model = {}, tiny_model()
    model.on_save_checkpoint(checkpoint)
    name = "null_tokens"
    checkpoint["state_dict"][name] = checkpoint["state_dict"][name][..., :5]
    with pytest.raises(CheckpointError, match=name):
        model.on_load_checkpoint(checkpoint)


def test_the_trainable_parameters_are_saved_as_plain_safetensors(tmp_path):
    module = toy()
    module["a"].requires_grad_(False)
    tensors = trainable_state_dict(module)
    assert set(tensors) == {"b.weight", "b.bias"} and not any(tensor.requires_grad for tensor in tensors.values())
    save_safetensors(tmp_path / "new" / "adapters.safetensors", tensors, {"vocabulary": "{}"})
    read = safetensors.torch.load_file(tmp_path / "new" / "adapters.safetensors")
    assert read.keys() == tensors.keys() and all(torch.equal(read[key], tensors[key]) for key in tensors)
    with safetensors.safe_open(tmp_path / "new" / "adapters.safetensors", "pt") as file:
        assert file.metadata() == {"vocabulary": "{}"}


def test_a_saved_file_has_the_permissions_of_any_new_file(tmp_path):
    (tmp_path / "other").touch()
    save_safetensors(tmp_path / "adapters.safetensors", {"x": torch.ones(2)})
    assert (tmp_path / "adapters.safetensors").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_a_failed_save_leaves_the_previous_file_intact(tmp_path, monkeypatch):
    path = tmp_path / "adapters.safetensors"
    save_safetensors(path, {"x": torch.ones(2)})

    def fail(tensors, place, metadata):
        place.write_bytes(b"incomplete")
        raise OSError("disk full")

    monkeypatch.setattr(safetensors.torch, "save_file", fail)
    with pytest.raises(OSError, match="disk full"):
        save_safetensors(path, {"x": torch.zeros(2)})
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    assert torch.equal(read_state_dict(path)["x"], torch.ones(2))
