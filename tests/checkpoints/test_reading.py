"""Checkpoints are read in every format, and files that are damaged or of another kind are refused in one sentence."""

import pickle
import re
import sys
import types
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn
from toy import assert_has_weights, random_state, toy

from ldm.checkpoints.loading import CheckpointError, load_part, read_state_dict


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize(
    "write",
    [
        lambda state, path: safetensors.torch.save_file(state, path),
        lambda state, path: torch.save(state, path),
        lambda state, path: torch.save({"state_dict": state, "epoch": 3}, path),
        lambda state, path: torch.save(OrderedDict(state), path, _use_new_zipfile_serialization=False),
        lambda state, path: torch.save({k: nn.Parameter(v) for k, v in state.items()}, path),
    ],
    ids=["safetensors", "torch", "lightning", "legacy", "parameters"],
)
def test_every_format_is_read_whatever_the_suffix(tmp_path, write, dtype):
    state = {key: value.to(dtype) for key, value in random_state(toy()).items()}
    write(state, tmp_path / "weights.any")
    read = read_state_dict(tmp_path / "weights.any")
    assert read.keys() == state.keys()
    assert all(torch.equal(read[key], state[key]) and read[key].dtype == dtype for key in state)
    module = toy()
    load_part(module, tmp_path / "weights.any", "unet")
    assert_has_weights(module, {key: value.float() for key, value in state.items()})
    assert module.weights_from == str(tmp_path / "weights.any")


@pytest.mark.parametrize("zipped", [True, False])
def test_views_and_tensors_that_share_memory_are_read_correctly(tmp_path, zipped):
    base = torch.arange(12.0).reshape(3, 4)
    state = {"base": base, "column": base[:, 1], "transposed": base.T, "long": torch.arange(3), "empty": torch.empty(0)}
    torch.save(state, tmp_path / "views.pt", _use_new_zipfile_serialization=zipped)
    read = read_state_dict(tmp_path / "views.pt")
    assert read.keys() == state.keys() and all(torch.equal(read[key], state[key]) for key in state)


def write_lightning_1_checkpoint(path, zipped: bool, monkeypatch) -> dict:
    """Writes a checkpoint as Lightning 1.x did; its classes can be imported while it is written, and not afterwards."""
    library = types.ModuleType("lightning_one")

    class ModelCheckpoint:
        pass

    class AttributeDict(dict):
        def __init__(self, *args):
            super().__init__(*args)
            self.touched = True

    for made in (ModelCheckpoint, AttributeDict):
        made.__module__, made.__qualname__ = "lightning_one", made.__name__
        setattr(library, made.__name__, made)
    monkeypatch.setitem(sys.modules, "lightning_one", library)
    state = OrderedDict(random_state(toy()))
    state._metadata = OrderedDict({"": {"version": 1}})
    torch.save(
        {
            "epoch": 7,
            "pytorch-lightning_version": "1.4.2",
            "callbacks": {ModelCheckpoint: {"score": np.float64(0.25), "set": {np.float32(1.5), ModelCheckpoint()}}},
            "hyper_parameters": AttributeDict({"lr": np.int64(3), "args": types.SimpleNamespace(a=[ModelCheckpoint])}),
            "state_dict": state,
        },
        path,
        _use_new_zipfile_serialization=zipped,
    )
    monkeypatch.delitem(sys.modules, "lightning_one")
    return state


@pytest.mark.parametrize("zipped", [True, False])
def test_a_checkpoint_of_lightning_1_loads_without_its_classes(tmp_path, zipped, monkeypatch):
    path = tmp_path / "model.ckpt"
    state = write_lightning_1_checkpoint(path, zipped, monkeypatch)
    with pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=True)
    module = toy()
    load_part(module, path, "unet")
    assert_has_weights(module, state)
    assert "lightning_one" not in sys.modules


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_a_truncated_file_is_refused_in_one_sentence(tmp_path, kind):
    complete, truncated = tmp_path / "complete", tmp_path / "truncated"
    if kind == "safetensors":
        safetensors.torch.save_file(random_state(toy()), complete)
    else:
        torch.save(random_state(toy()), complete, _use_new_zipfile_serialization=kind == "zip")
    content = complete.read_bytes()
    for length in [0, 1, 7, 8, 9, *range(16, len(content), max(1, len(content) // 40)), len(content) - 1]:
        truncated.write_bytes(content[:length])
        with pytest.raises(CheckpointError, match=re.escape(str(truncated))) as caught:
            read_state_dict(truncated)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content, reason",
    [
        (b"", "neither"),
        (b"just some text", "neither"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 4\n", "LFS pointer or a web page"),
        (b"<!DOCTYPE html><html>Sign in</html>", "LFS pointer or a web page"),
        (b"\x80\x02not a pickle", "cannot be read"),
        (pickle.dumps({"a": 1}), "cannot be read"),
    ],
)
def test_a_file_of_another_kind_is_refused_with_the_reason(tmp_path, content, reason):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(CheckpointError, match=reason):
        read_state_dict(tmp_path / "file")


def test_a_zip_archive_of_a_checkpoint_must_be_unpacked(tmp_path):
    with zipfile.ZipFile(tmp_path / "vq-f8.zip", "w") as archive:
        archive.writestr("model.ckpt", b"")
    with pytest.raises(CheckpointError, match="unpack"):
        read_state_dict(tmp_path / "vq-f8.zip")


@pytest.mark.parametrize("content", [[1, 2], {"state_dict": None}, {"state_dict": {"a": 1}}, {}, torch.zeros(2)])
def test_a_file_without_a_state_dict_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match="no state dict"):
        read_state_dict(tmp_path / "other.pt")


def test_a_missing_file_or_folder_is_refused_with_where_to_get_it(tmp_path):
    with pytest.raises(CheckpointError, match="vq-f8"):
        load_part(toy(), tmp_path / "model.ckpt", "first_stage")
    with pytest.raises(CheckpointError, match=r"vae/diffusion_pytorch_model\.safetensors"):
        load_part(toy(), tmp_path, "first_stage")
