"""TorchScript archives: their tensors come out, as torch.jit.load finds them, and nothing runs."""

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
        self.sliced = nn.Parameter(torch.randn(8, 6)[::2, 1::2])  # a view: stride and offset

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
def test_an_archive_gives_the_tensors_that_torch_itself_would(tmp_path):
    path = tmp_path / "model.pt"
    torch.jit.script(Outer()).save(path)
    assert torchscript.is_archive(path)
    theirs, ours = torch.jit.load(path).state_dict(), torchscript.read_state_dict(path)
    assert set(ours) == set(theirs) == set(Outer().state_dict())
    for key, tensor in theirs.items():
        assert ours[key].dtype == tensor.dtype and torch.equal(ours[key], tensor)


def test_what_torch_save_writes_is_no_archive(tmp_path):
    torch.save({"a": torch.ones(2)}, tmp_path / "a.pt")
    (tmp_path / "b.pt").write_bytes(b"not a zip")
    assert not torchscript.is_archive(tmp_path / "a.pt") and not torchscript.is_archive(tmp_path / "b.pt")


class Hostile:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


def test_a_hostile_archive_runs_nothing(tmp_path):
    path, victim = tmp_path / "model.pt", tmp_path / "victim"
    pickled = pickle.dumps({"weight": Hostile(str(victim))}, protocol=2)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model/data.pkl", pickled)
        archive.writestr("model/constants.pkl", pickled)
    assert torchscript.is_archive(path)
    with pytest.raises(AttributeError):  # its top is no module
        torchscript.read_state_dict(path)
    assert not victim.exists()
    pickle.loads(pickled)["weight"].close()
    assert victim.exists()  # so it would have
