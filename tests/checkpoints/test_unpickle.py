"""Malicious checkpoints: nothing in them is executed, and their tensors can still be read."""

import os
import pickle
import zipfile
from collections import OrderedDict

import pytest
import torch
from torch import nn
from toy import random_state, toy

from ldm.checkpoints import unpickle
from ldm.checkpoints.loading import CheckpointError, read_state_dict


class Call:
    """Its pickle calls a function."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


def malicious_values(marker) -> dict:
    touch = f"open({str(marker)!r}, 'w')"
    return {
        "os.system": Call(os.system, f"touch {marker}"),
        "eval": Call(eval, touch),
        "exec": Call(exec, touch),
        "open": Call(open, str(marker), "w"),
        "in a call's argument": Call(OrderedDict, [["key", Call(eval, touch)]]),
        "in a list in a tuple": ([{"key": Call(eval, touch)}],),
    }


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("place", malicious_values("x"))
def test_a_malicious_file_is_not_executed_and_its_tensors_are_read(tmp_path, place, zipped):
    marker, path = tmp_path / "marker", tmp_path / "malicious.ckpt"
    state = random_state(toy())
    malicious = malicious_values(marker)[place]
    torch.save(
        {"before": malicious, "state_dict": {**state, "malicious": malicious}, "callbacks": {"k": malicious}},
        path,
        _use_new_zipfile_serialization=zipped,
    )
    read = read_state_dict(path)
    assert not marker.exists()
    assert read.keys() == state.keys() and all(torch.equal(read[key], state[key]) for key in state)
    torch.load(path, weights_only=False)
    assert marker.exists(), "the file is harmless, so this test proves nothing"


def write_zip(path, content: bytes, **more: bytes):
    """Writes a pickle in torch's zip format."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, data in {"data.pkl": content, "version": b"3\n", "byteorder": b"little", **more}.items():
            archive.writestr(f"archive/{name}", data)


MALICIOUS_OPCODES = {
    "REDUCE": b"cos\nsystem\n(S'%s'\ntR.",
    "INST": b"(S'%s'\nios\nsystem\n.",
    "OBJ": b"(cos\nsystem\nS'%s'\no.",
    "NEWOBJ": b"\x80\x02csubprocess\nPopen\n(S'%s'\nNNNNNNI01\nt\x81.",
    "NEWOBJ_EX": b"\x80\x04csubprocess\nPopen\n(S'%s'\nt}S'shell'\nI01\ns\x92.",
    "STACK_GLOBAL": b"\x80\x04\x8c\x02os\x8c\x06system\x93(S'%s'\ntR.",
    "getattr": b"c__builtin__\ngetattr\n(c__builtin__\n__import__\n(S'os'\ntRS'system'\ntR(S'%s'\ntR.",
}


@pytest.mark.parametrize("opcode", MALICIOUS_OPCODES)
def test_every_opcode_that_calls_a_function_is_harmless(tmp_path, opcode):
    marker, path = tmp_path / "marker", tmp_path / "malicious.ckpt"
    content = MALICIOUS_OPCODES[opcode] % f"touch {marker}".encode()
    write_zip(path, content)
    with pytest.raises(CheckpointError, match="no state dict"):
        read_state_dict(path)
    assert not marker.exists()


def test_the_malicious_opcodes_are_executed_by_the_ordinary_unpickler(tmp_path):
    for opcode in ("REDUCE", "INST", "OBJ", "STACK_GLOBAL", "getattr"):
        marker = tmp_path / opcode
        pickle.loads(MALICIOUS_OPCODES[opcode] % f"touch {marker}".encode())
        assert marker.exists(), opcode


@pytest.mark.parametrize(
    "target",
    [
        "ctorch\nTensor\n",
        "ccollections\nOrderedDict\n",
        "ctorch._utils\n_rebuild_tensor_v2\n",
        "ctorch\nFloatStorage\n",
    ],
)
def test_a_file_cannot_set_attributes_of_existing_objects(tmp_path, target):
    write_zip(tmp_path / "malicious.ckpt", target.encode() + b"(N}S'poisoned'\nI1\nstb.")
    with pytest.raises(CheckpointError):
        read_state_dict(tmp_path / "malicious.ckpt")
    for touched in (
        torch.Tensor,
        torch._utils._rebuild_tensor_v2,
        *unpickle.CALLS.values(),
        torch.FloatStorage,
        torch.serialization.StorageType,
    ):
        assert not hasattr(touched, "poisoned")


def test_a_torchscript_program_is_not_executed(tmp_path, monkeypatch):
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), tmp_path / "program.pt")
    monkeypatch.setattr(torch.jit, "load", lambda *_, **__: pytest.fail("the program was executed"))
    with pytest.raises(CheckpointError, match="TorchScript"):
        read_state_dict(tmp_path / "program.pt")
