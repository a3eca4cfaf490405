"""Fixtures that find the published numbers and the small real samples, or skip with a reason."""

import importlib.util
import json
import signal
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import pytest
import torch
from safetensors import safe_open

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"

torch.set_num_threads(2)
# A shell's job in the background is deaf to Ctrl-C, and so would be every program that a test stops by it.
signal.signal(signal.SIGINT, signal.default_int_handler)


class Parity(NamedTuple):
    """One published computation: constructor arguments, state dict (float32), inputs, outputs."""

    params: dict
    weights: dict
    inputs: dict
    outputs: dict


@pytest.fixture
def load_script():
    """load_script(name) -> the module of scripts/<name>.py, loaded anew."""

    def load(name: str) -> ModuleType:
        spec = importlib.util.spec_from_file_location(f"script_{name}", ROOT / "scripts" / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load


@pytest.fixture
def realdata() -> Path:
    """The folder of small real samples (VG, COCO, CLEVR, graphs)."""
    folder = SHARED / "realdata"
    if not folder.is_dir():
        pytest.skip(f"the real samples are not beside the checkout ({folder})")
    return folder


@pytest.fixture
def parity_dir() -> Path:
    """The folder of numbers that the published code computed."""
    folder = SHARED / "parity"
    if not folder.is_dir():
        pytest.skip(f"the published numbers are not beside the checkout ({folder})")
    return folder


@pytest.fixture
def parity(parity_dir):
    """parity(name) -> Parity, from <name>.safetensors."""

    def read(name: str) -> Parity:
        groups = {"weights": {}, "in": {}, "out": {}}
        with safe_open(parity_dir / f"{name}.safetensors", "pt") as file:
            params = json.loads(file.metadata()["params"])
            for key in file.keys():
                group, rest = key.split(".", 1)
                groups[group][rest] = file.get_tensor(key)
        weights = {key: value.float() for key, value in groups["weights"].items()}
        return Parity(params, weights, groups["in"], groups["out"])

    return read


@pytest.fixture
def manifest(parity_dir):
    """manifest(name) -> {key: shape} of a full-size published checkpoint."""
    return lambda name: json.loads((parity_dir / f"manifest_{name}.json").read_text())


def assert_close_to_published(ours: torch.Tensor, theirs: torch.Tensor, tolerance: float = 1e-5):
    """max |ours - theirs| <= tolerance * max |theirs|."""
    error = (ours - theirs).abs().max() / theirs.abs().max()
    assert error <= tolerance, f"relative error {error:.2e}"
