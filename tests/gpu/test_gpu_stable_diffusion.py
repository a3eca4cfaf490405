"""Memory of edits with Stable Diffusion 1, 2 and XL at full size, next to what `benchmark.py --estimate` calculates."""

import gc

import pytest
import torch

from ldm.editing import EditOptions, EditRequest, edit
from ldm.models.runtime import prepare_for_inference
from ldm.profiling.estimate import CONFIGS, estimate
from ldm.profiling.workload import Workload

SIZES = dict(zip(CONFIGS, ("sd1", "sd2", "sdxl"), strict=True))
DRAWN = ("kaiming_uniform_", "xavier_uniform_", "uniform_", "normal_", "trunc_normal_")  # of torch.nn.init
SMALL_CARD = 12e9  # bytes
RATIO = (0.95, 1.2)  # of the measured peak to the calculated one, which knows no workspaces of cuDNN and cuBLAS


@pytest.fixture
def random_model(monkeypatch, device):
    """random_model(size) -> a model in float32 on the CPU, with weights drawn on the GPU, which is faster for billions of them."""

    def build(size: str):
        for name in DRAWN:
            monkeypatch.setattr(torch.nn.init, name, lambda tensor, *args, **kwargs: tensor)
        model = Workload(size).make_model().eval().requires_grad_(False)
        model.model_ema = None  # which models that are loaded for edits lack
        model.to(device)
        for parameter in model.parameters():
            parameter.normal_(0, 0.02)
        for parameter in model.unet.out[-1].parameters():
            parameter.zero_()  # predicts no noise, so that nothing diverges
        return model.to("cpu")

    return build


def peak_of_edit(model, size: str) -> int:
    """Peak of the GPU's memory in bytes, weights included."""
    photograph, source, target = Workload(size).edit_example()
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    edit(model, EditRequest(photograph, target, source), EditOptions(steps=2))
    return torch.cuda.max_memory_allocated()


@pytest.mark.parametrize("name", CONFIGS)
def test_an_edit_with_stable_diffusion_takes_the_memory_that_is_calculated(
    name, random_model, device, on_gpu, record_property
):
    if not on_gpu:
        pytest.skip("measures the memory of a GPU; models of this size take minutes on a CPU")
    calculated = estimate(name, "fp16")
    others = torch.cuda.memory_allocated()
    model = random_model(SIZES[name])
    for low_memory, expected in ((False, calculated.edit), (True, calculated.low_memory_edit)):
        prepare_for_inference(model, device, "fp16", low_memory)
        peak = peak_of_edit(model, SIZES[name]) - others
        way = ", --low-memory" if low_memory else ""
        record_property("figure", f"{name}, fp16{way}: peak {peak / 1e9:.2f} GB, calculated {expected / 1e9:.2f} GB")
        assert RATIO[0] < peak / expected < RATIO[1]
        assert peak < SMALL_CARD or not low_memory
