"""Fixtures that find the published numbers and the small real samples, or skip with a reason."""

import importlib.util
import json
import logging
import os
import signal
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

# Idle OpenMP threads sleep instead of spinning, which makes tests many times faster when other processes share the cores.
# OpenMP reads it when torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from parity import read_parity
from paths import ROOT, SHARED
from tiny import randomize_trainable, tiny_model

from ldm.data.demo import DemoValidation
from ldm.synthetic.shapes import render

torch.set_num_threads(2)
# A shell's job in the background is deaf to Ctrl-C, and so would be every program that a test stops by it.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def restored_logging():
    """A program that a test runs in this process configures the logger of `ldm` (ldm.util.cli), for that test only."""
    logger = logging.getLogger("ldm")
    handlers, level = list(logger.handlers), logger.level
    yield
    logger.handlers[:] = handlers
    logger.setLevel(level)


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
    """The folder ../shared/parity: outputs and weights of the published code, and key manifests of full-size checkpoints."""
    folder = SHARED / "parity"
    if not folder.is_dir():
        pytest.skip(f"the larger set of published outputs is not beside the checkout ({folder})")
    return folder


@pytest.fixture(params=["small", "large"])
def parity(request):
    """parity(name) -> Parity of a published module: from tests/parity_small, and from ../shared/parity where that exists."""
    if request.param == "small":
        return lambda name: read_parity(ROOT / "tests" / "parity_small" / f"{name}.safetensors")
    folder = request.getfixturevalue("parity_dir")
    return lambda name: read_parity(folder / f"{name}_small.safetensors")


@pytest.fixture
def diffusers_parity(parity_dir):
    """diffusers_parity(name) -> Parity of a module of diffusers, which only ../shared/parity holds."""
    return lambda name: read_parity(parity_dir / f"diffusers_{name}_small.safetensors")


@pytest.fixture
def manifest(parity_dir):
    """manifest(name) -> {key: shape} of a full-size published checkpoint."""
    return lambda name: json.loads((parity_dir / f"manifest_{name}.json").read_text())


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory) -> Path:
    """checkpoints/last.ckpt in the log folder of a run: a tiny model whose adapters have an effect."""
    torch.manual_seed(0)
    model = tiny_model()
    randomize_trainable(model, std=0.05)
    model.model_ema.update(model)
    saved = {}
    model.on_save_checkpoint(saved)
    folder = tmp_path_factory.mktemp("run") / "checkpoints"
    folder.mkdir()
    torch.save(saved, folder / "last.ckpt")
    return folder / "last.ckpt"


@pytest.fixture
def scene():
    """A photograph 50 wide and 30 high, its graph, and the graph with the first object replaced."""
    graph, background = DemoValidation(8).scene(3)
    photograph = render(graph, background, 64).resize((50, 30))
    other = "square" if graph.objects[0] != "square" else "circle"
    return photograph, graph, replace(graph, objects=(other, *graph.objects[1:]))
