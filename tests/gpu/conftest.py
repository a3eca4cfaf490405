"""What a GPU computes, held against the CPU. `GPU_TESTS_DEVICE=cpu pytest -m gpu` rehearses the tests without a GPU."""

import os
from pathlib import Path

import pytest
import torch
from tiny import DATA, MODEL

from ldm.checkpoints.shipped import shipped_adapters
from ldm.models.loading import load_model
from ldm.models.runtime import prepare_for_inference

REHEARSAL = "GPU_TESTS_DEVICE"


@pytest.hookimpl(tryfirst=True)  # before items are selected by their markers
def pytest_collection_modifyitems(items):
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.gpu)


def pytest_terminal_summary(terminalreporter):
    """Prints what tests recorded by `record_property("figure", ...)`."""
    reports = terminalreporter.stats.get("passed", [])
    figures = [text for report in reports for name, text in report.user_properties if name == "figure"]
    if figures:
        terminalreporter.section("figures")
        terminalreporter.write_line("\n".join(sorted(figures)))


@pytest.fixture(scope="session")
def device() -> str:
    """The GPU's name in torch; skips the test where there is none."""
    if REHEARSAL not in os.environ and not torch.cuda.is_available():
        pytest.skip(f"needs a GPU that torch can use; {REHEARSAL}=cpu rehearses it on the CPU")
    return os.environ.get(REHEARSAL, "cuda:0")


@pytest.fixture(scope="module")
def reference():
    """The shipped model on the CPU, with plain convolutions."""
    model = load_model(shipped_adapters("flat"))
    prepare_for_inference(model, "cpu", low_memory=True)
    return model


@pytest.fixture(scope="module")
def model(device):
    return load_model(shipped_adapters("flat"), device=device)


@pytest.fixture(scope="session")
def on_gpu(device) -> bool:
    """Whether this is no rehearsal."""
    return device != "cpu"


@pytest.fixture(scope="session")
def gpus_flag(on_gpu) -> str:
    """The value of trainer.py's --gpus."""
    return "0," if on_gpu else "cpu"


@pytest.fixture(autouse=True)
def exact_kernels():
    """cuDNN without TF32, so that float32 means float32; what a test switches on is switched off again."""
    with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
        yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def numbers_of_the_cpu(monkeypatch):
    """Random numbers are drawn on the CPU and moved to the device, so that a model draws the same on both."""
    for name in ("rand", "randn", "randint"):
        draw = getattr(torch, name)

        def draw_on_cpu(*args, draw=draw, device=None, **kwargs):
            return draw(*args, **kwargs).to(device or "cpu")

        monkeypatch.setattr(torch, name, draw_on_cpu)


@pytest.fixture
def tiny_config() -> dict:
    """A config of the tiny model and drawn scenes, which logs no images."""
    settings = {"progress_bar_refresh_rate": 0, "num_sanity_val_steps": 0}
    callbacks = {"image_logger": {"params": {"batch_frequency": 2, "log_images_kwargs": {"steps": 2}}}}
    lightning = {"trainer": settings, "callbacks": callbacks}
    return {"model": {**MODEL, "base_learning_rate": 1e-3}, "data": DATA, "lightning": lightning}
