"""The tensors of TorchScript archives are read as torch.jit.load reads them, and nothing is executed."""

import pickle
import zipfile

import pytest
import torch
from torch import nn

from ldm.checkpoints import torchscript


class Inner(nn.Module):
    def __init__(self):
        super().__init__()
        self.proj = nn.Parameter(torch.randn(3, 4).half())
        self.conv = nn.Conv2d(3, 4, 2, bias=False)
        self.sliced = nn.Parameter(torch.randn(8, 6)[::2, 1::2])  # a view, with stride and offset

    def forward(self, x):
        return self.conv(x).mean() + self.proj.sum() + self.sliced.sum()


class Outer(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("input_resolution", torch.tensor(224))
        self.register_buffer("nothing", torch.zeros(0))
        self.inner = nn.Sequential(Inner())

    def forward(self, x):
        return self.inner(x)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_the_tensors_of_an_archive_equal_those_that_torch_reads(tmp_path):
    path = tmp_path / "model.pt"
    torch.jit.script(Outer()).save(path)
    assert torchscript.is_archive(path)
    theirs, ours = torch.jit.load(path).state_dict(), torchscript.read_state_dict(path)
    assert set(ours) == set(theirs) == set(Outer().state_dict())
    for key, tensor in theirs.items():
        assert ours[key].dtype == tensor.dtype and torch.equal(ours[key], tensor)


def test_a_file_of_torch_save_is_not_an_archive(tmp_path):
    torch.save({"a": torch.ones(2)}, tmp_path / "a.pt")
    (tmp_path / "b.pt").write_bytes(b"not a zip")
    assert not torchscript.is_archive(tmp_path / "a.pt") and not torchscript.is_archive(tmp_path / "b.pt")


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


def test_a_malicious_archive_is_not_executed(tmp_path):
    path, victim = tmp_path / "model.pt", tmp_path / "victim"
    pickled = pickle.dumps({"weight": Malicious(str(victim))}, protocol=2)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model/data.pkl", pickled)
        archive.writestr("model/constants.pkl", pickled)
    assert torchscript.is_archive(path)
    with pytest.raises(AttributeError):  # its top-level object is no module
        torchscript.read_state_dict(path)
    assert not victim.exists()
    pickle.loads(pickled)["weight"].close()
    assert victim.exists()  # the ordinary unpickler executes it
